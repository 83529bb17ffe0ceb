/*
 * line.c
 *		line own|shared NANOSECONDS: what a compare-and-swap costs a thread on one
 *		processor while a thread on another does the same: each on a cache line of its
 *		own, or both on one.  Each thread works for so many nanoseconds between two
 *		swaps.  Prints the nanoseconds of one swap and the work.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SWAPS	2000000

static struct
{
	_Alignas(256) _Atomic uint64_t word;
}			line[2];
static _Atomic int ready = 0;
static _Atomic int done = 0;
static int	shared;
static long work;				/* turns of a loop */
static double result;

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
be_busy(long turns)
{
	for (volatile long i = 0; i < turns; i++)
		;
}

static void
swap(_Atomic uint64_t *word)
{
	uint64_t	seen = atomic_load(word);

	while (!atomic_compare_exchange_weak(word, &seen, seen + 1))
		;
}

static void *
run(void *arg)
{
	int			me = (int) (intptr_t) arg;
	_Atomic uint64_t *word = &line[shared ? 0 : me].word;
	cpu_set_t	mine;
	double		began;

	CPU_ZERO(&mine);
	CPU_SET(me, &mine);
	if (sched_setaffinity(0, sizeof(mine), &mine) != 0)
		exit(1);
	for (ready++; ready < 2;)
		;
	began = seconds();
	for (int i = 0; i < SWAPS; i++)
	{
		be_busy(work);
		swap(word);
	}
	if (me == 0)
		result = (seconds() - began) * 1e9 / SWAPS;
	/* the other one still has somebody beside it when the first has ended */
	for (done++; done < 2;)
		swap(word);
	return NULL;
}

int
main(int argc, char **argv)
{
	pthread_t	threads[2];
	double		began;

	if (argc != 3)
		return 1;
	shared = strcmp(argv[1], "shared") == 0;
	began = seconds();
	be_busy(10000000);
	work = (long) (atof(argv[2]) * 10000000 / ((seconds() - began) * 1e9));
	for (intptr_t i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, run, (void *) i) != 0)
			return 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("%.1f\n", result);
	return 0;
}
