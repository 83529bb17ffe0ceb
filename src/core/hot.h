/*
 * core/hot.h
 *		What every call needs of a backend's own data lies side by side, as a call waits
 *		for cache lines and pages longer than for anything else.
 */
#ifndef RATELIMIT_HOT_H
#define RATELIMIT_HOT_H

#ifdef __ELF__
#define hot_data	__attribute__((section("ratelimit_hot")))
#else
#define hot_data
#endif

#endif							/* RATELIMIT_HOT_H */
