/*
 * core/clock.c
 *		The clock of shared memory, and secret numbers.
 */
#include "postgres.h"

#include "core/clock.h"

/* What hashes of names that callers choose start from: nobody else can know it. */
uint64
secret_seed(void)
{
	uint64		seed;

	if (!pg_strong_random(&seed, sizeof(seed)))
		seed = (uint64) monotonic_ns();
	return seed;
}
