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

/*
 * Is this the refill of a call in a period that has been over for so long that the
 * bucket of that period, which is absent, may have been given up because it was over?
 *
 * The call read the clock some time ago.  If it now made the bucket anew, the allowance
 * of that period would be handed out twice.  Who gives a bucket up reads the clock
 * before, and who makes one reads it after the search that has not found it, so one of
 * the two sees the other.
 */
bool
period_is_stale(double refill)
{
	return bucket_in_period(refill) && period_is_over(refill, PERIOD_GRACE);
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
