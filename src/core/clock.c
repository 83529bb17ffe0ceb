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
 * Is this the refill of a call whose period has been over for so long that its
 * bucket, which is absent, may have been given up for that reason?
 *
 * Such a call read the clock some time ago.  If it made the bucket anew, the
 * allowance of that period would be handed out twice.  A process that gives a bucket
 * up has read the clock before it does so.  A process that makes a bucket reads the
 * clock here, after it has searched for the bucket, and with the lock that keeps
 * others from making it.  So if the bucket was given up before that search, the clock
 * shows it here.
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
