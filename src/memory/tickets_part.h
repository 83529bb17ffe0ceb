/*
 * memory/tickets_part.h
 *		The memory of slots, as a part, and showing it: see memory/tickets_part.c.
 */
#ifndef RATELIMIT_MEMORY_TICKETS_PART_H
#define RATELIMIT_MEMORY_TICKETS_PART_H

#include "core/parts.h"
#include "memory/slot_call.h"

extern const Part semaphores_part;

extern uint32 semaphores_views(void);
extern bool semaphores_view(uint32 at, Oid database, SlotsView *view);

#endif							/* RATELIMIT_MEMORY_TICKETS_PART_H */
