/*
 * violations/stats.h
 *		Counts of decisions, per limiter.  See violations/stats.c.
 */
#ifndef RATELIMIT_STATS_H
#define RATELIMIT_STATS_H

#include "core/compat.h"
#include "core/parts.h"
#include "port/atomics.h"

typedef enum StatsCount
{
	COUNT_ALLOWED,
	COUNT_DENIED,
	COUNT_SHADOWED,				/* would have been denied without shadow mode */
	COUNT_OVERFLOWED,			/* decided in the table for lack of room */
	N_COUNTS
} StatsCount;

extern const Part stats_part;

extern void stats_set_limiter(const char *limiter, int len);
extern void stats_copy(void);
extern bool stats_get(int *at, const char **limiter, int *len, uint64 *counts);
extern void stats_reset(void);

extern hidden_data pg_atomic_uint64 *stats_current; /* counts; NULL: nothing is counted */

/* Count one call of the limiter last set. */
static inline void
stats_count(StatsCount what)
{
	/* a read and a write suffice, as no other process writes to this line */
	if (likely(stats_current))
		pg_atomic_write_u64(&stats_current[what],
							pg_atomic_read_u64(&stats_current[what]) + 1);
}

#endif							/* RATELIMIT_STATS_H */
