/*
 * core/clock.h
 *		The clocks, and a secret number: see core/clock.c.
 */
#ifndef RATELIMIT_CLOCK_H
#define RATELIMIT_CLOCK_H

#include <time.h>

#include "core/bucket.h"
#include "datatype/timestamp.h"

extern uint64 secret_seed(void);
extern int64 wall_clock_us(void);
extern bool period_is_over(double refill, int64 grace);
extern bool period_is_stale(double refill);

/*
 * What stands for the end of a period in the place of a refill: see core/bucket.h.
 * An end that is too far away to be told is infinity.
 */
static inline double
refill_of_end(TimestampTz end)
{
	double		us = (double) end +
		(double) ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);

	return -Max(Min(us, PERIOD_END_MAX), 1);
}

static inline TimestampTz
end_of_refill(double refill)
{
	if (-refill >= PERIOD_END_MAX)
		return DT_NOEND;
	return period_end_of(refill) -
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/* Nanoseconds, by a clock that is never set and is the same in every process. */
static inline int64
monotonic_ns(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

#endif							/* RATELIMIT_CLOCK_H */
