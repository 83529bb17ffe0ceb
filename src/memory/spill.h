/*
 * memory/spill.h
 *		Which partitions of shared memory have spilled: see memory/spill.c.
 */
#ifndef RATELIMIT_MEMORY_SPILL_H
#define RATELIMIT_MEMORY_SPILL_H

#include "memory/databases.h"

extern bool spill_known(void);
extern bool spill_memory_newer(void);
extern void spill_set_known(void);
extern bool spill_is_set(int partition);
extern void spill_mark(int partition);
extern bool spill_any(void);
extern bool spill_begin_row(int partition);
extern void spill_end_row(int partition);
extern void spill_look(SpillLook *look);
extern void spill_clear(const SpillLook *look);

#endif							/* RATELIMIT_MEMORY_SPILL_H */
