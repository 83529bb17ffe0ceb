/*
 * core/clock.c
 *		The clocks, and a secret number.
 *
 * Buckets in memory refill by the monotonic clock.  Buckets in the table go by the
 * wall clock (table/owed.c).  So do periods in both stores, because a day begins when
 * the calendar says so.
 */
#include "postgres.h"

#include "core/clock.h"
#include "utils/timestamp.h"

/* Microseconds since 1970, by the wall clock. */
int64
wall_clock_us(void)
{
	return GetCurrentTimestamp() +
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/* Has the period of a bucket with this refill been over for so many microseconds? */
bool
period_is_over(double refill, int64 grace)
{
	return wall_clock_us() >= period_end_of(refill) + grace;
}

/* A secret number, from which hashes of names that callers choose start. */
uint64
secret_seed(void)
{
	uint64		seed;

	if (!pg_strong_random(&seed, sizeof(seed)))
		seed = (uint64) monotonic_ns();
	return seed;
}
