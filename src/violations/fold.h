/*
 * violations/fold.h
 *		Telling episodes and flags of violations.  See violations/fold.c.
 */
#ifndef RATELIMIT_VIOLATIONS_FOLD_H
#define RATELIMIT_VIOLATIONS_FOLD_H

#include "core/saved_file.h"
#include "datatype/timestamp.h"

extern int64 wall_clock_ahead(void);
extern void track_entry(uint32 at, int64 count_now);
extern void fold_entry(uint32 at, int64 count_now, int64 ahead, bool make);
extern void violations_fold(void);
extern void violations_fold_to_save(Saving *saving);
extern long violations_fold_wait(void);
extern void violations_set_window(void);

/* The time of the wall clock at a time of the monotonic one. */
static inline TimestampTz
wall_time(int64 then, int64 ahead)
{
	return then / 1000 + ahead;
}

#endif							/* RATELIMIT_VIOLATIONS_FOLD_H */
