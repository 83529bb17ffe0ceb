/*
 * core/clock.c
 *		The monotonic clock, and a secret number.
 *
 * Buckets in memory refill by this clock.  Buckets in the table go by the wall clock,
 * which is not here (table/owed.c).
 */
#include "postgres.h"

#include "core/clock.h"

/* A secret number, from which hashes of names that callers choose start. */
uint64
secret_seed(void)
{
	uint64		seed;

	if (!pg_strong_random(&seed, sizeof(seed)))
		seed = (uint64) monotonic_ns();
	return seed;
}
