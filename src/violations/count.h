/*
 * violations/count.h
 *		Counting violations: see violations/count.c.
 */
#ifndef RATELIMIT_VIOLATIONS_COUNT_H
#define RATELIMIT_VIOLATIONS_COUNT_H

#include "core/names.h"

#define OTHER_KEY			"(other)"

/* The most that may be added at once. */
#define MAX_VIOLATIONS_ADDED (INT64CONST(1) << 40)

/* The most that one key can have pending. */
#define MAX_VIOLATIONS_PENDING (INT64CONST(1) << 43)

extern void violations_expect(const BucketId *id);
extern bool violations_add(const BucketId *id, int64 n, int64 now);

#endif							/* RATELIMIT_VIOLATIONS_COUNT_H */
