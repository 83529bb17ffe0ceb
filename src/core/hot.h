/*
 * core/hot.h
 *		Keeping together the variables that every call needs.
 *
 * A call spends more time waiting for cache lines and pages than on anything else.
 * So the variables of a backend that every call needs are marked as hot_data, which
 * places them side by side.
 */
#ifndef RATELIMIT_HOT_H
#define RATELIMIT_HOT_H

#ifdef __ELF__
#define hot_data	__attribute__((section("ratelimit_hot")))
#else
#define hot_data
#endif

#endif							/* RATELIMIT_HOT_H */
