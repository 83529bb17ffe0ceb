/*
 * compat.h
 *		Differences between PostgreSQL 15 and 19, all of them.
 */
#ifndef RATELIMIT_COMPAT_H
#define RATELIMIT_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "ratelimit needs PostgreSQL 15 or later"
#endif

#ifndef PG_INT128_TYPE
#error "ratelimit needs a compiler with 128-bit integers"
#endif

#endif							/* RATELIMIT_COMPAT_H */
