/*
 * violations/stats.h
 *		Counts of decisions, per limiter: see violations/stats.c.
 */
#ifndef RATELIMIT_STATS_H
#define RATELIMIT_STATS_H

#include "port/atomics.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

typedef enum StatsCount
{
	COUNT_ALLOWED,
	COUNT_DENIED,
	COUNT_SHADOWED,				/* would have been denied */
	COUNT_OVERFLOWED,			/* decided in the table for lack of room */
	N_COUNTS
} StatsCount;

extern Size stats_size(void);
extern void stats_startup(void *memory, LWLock *lock, bool found);
extern void stats_set_limiter(const char *limiter, int len);
extern void stats_copy(void);
extern bool stats_get(int *at, const char **limiter, int *len, uint64 *counts);
extern void stats_reset(void);
extern void stats_forget_database(Oid database, bool dropped);

extern pg_atomic_uint64 *stats_current; /* counts; NULL: nothing does */

/* Count one call of the limiter last set. */
static inline void
stats_count(StatsCount what)
{
	/* nobody else writes to it */
	if (likely(stats_current))
		pg_atomic_write_u64(&stats_current[what],
							pg_atomic_read_u64(&stats_current[what]) + 1);
}

#pragma GCC visibility pop

#endif							/* RATELIMIT_STATS_H */
