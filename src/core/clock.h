/*
 * core/clock.h
 *		The clocks, and a secret number: see core/clock.c.
 */
#ifndef RATELIMIT_CLOCK_H
#define RATELIMIT_CLOCK_H

#include <time.h>

extern uint64 secret_seed(void);
extern int64 wall_clock_us(void);
extern bool period_is_over(double refill, int64 grace);

/* Nanoseconds, by a clock that is never set and is the same in every process. */
static inline int64
monotonic_ns(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

#endif							/* RATELIMIT_CLOCK_H */
