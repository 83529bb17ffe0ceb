/*
 * core/clock.c
 *		The monotonic clock, and a secret number.
 *
 * Buckets in memory refill by this clock.  Buckets in the table go by the wall clock,
 * which is not here (table/owed.c).
 */
#include "postgres.h"

#include <dlfcn.h>

#include "core/clock.h"
#include "core/hot.h"

/*
 * The kernel's own clock_gettime(), in the vdso.  Calling it through libc touches two
 * more pages of data and one of code that little else in a server uses.
 */
int			(*read_clock) (clockid_t, struct timespec *) hot_data = clock_gettime;

void
clock_init(void)
{
#ifdef __linux__
	static const char *const names[] = {"__vdso_clock_gettime", "__kernel_clock_gettime"};
	void	   *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	struct timespec now;

	for (int i = 0; vdso && i < lengthof(names); i++)
	{
		int			(*found) (clockid_t, struct timespec *) = dlsym(vdso, names[i]);

		if (found && found(CLOCK_MONOTONIC, &now) == 0)
			read_clock = found;
	}
#endif
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
