/*
 * load.c
 *		load MEGABYTES: nanoseconds that a load takes from so much shared memory, at
 *		random, each depending on the one before: what a call that finds its bucket
 *		far away waits for at least.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define LINE	64
#define LOADS	3000000

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	size_t		n = (argc > 1 ? atof(argv[1]) : 1) * 1024 * 1024 / LINE;
	char	   *memory = mmap(NULL, n * LINE, PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint32_t   *order = malloc(n * sizeof(uint32_t));
	volatile uint32_t at = 0;
	double		began = 0;

	if (n == 0 || memory == MAP_FAILED || !order)
		return 1;

	/* one round through all lines, in an order by chance: each names the next one */
	for (size_t i = 0; i < n; i++)
		order[i] = i;
	for (size_t i = n - 1; i > 0; i--)
	{
		size_t		other = random() % (i + 1);
		uint32_t	swap = order[i];

		order[i] = order[other];
		order[other] = swap;
	}
	for (size_t i = 0; i < n; i++)
		*(uint32_t *) (memory + (size_t) order[i] * LINE) = order[(i + 1) % n];

	for (int round = 0; round < 2; round++)
	{
		began = seconds();
		for (int i = 0; i < LOADS; i++)
			at = *(volatile uint32_t *) (memory + (size_t) at * LINE);
	}
	printf("%.1f\n", (seconds() - began) * 1e9 / LOADS);
	return 0;
}
