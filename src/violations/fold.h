/*
 * violations/fold.h
 *		Folding violations: see violations/fold.c.
 */
#ifndef RATELIMIT_VIOLATIONS_FOLD_H
#define RATELIMIT_VIOLATIONS_FOLD_H

#include "core/saved_file.h"
#include "datatype/timestamp.h"

extern TimestampTz violation_wall_time(int64 then);
extern void track_entry(uint32 at, int64 count_now);
extern void fold_entry(uint32 at, int64 count_now, bool make);
extern void violations_fold(void);
extern void violations_fold_to_save(Saving *saving);
extern long violations_fold_wait(void);
extern void violations_set_window(void);

#endif							/* RATELIMIT_VIOLATIONS_FOLD_H */
