/*
 * violations/count.h
 *		Counting violations in shared memory.  See violations/count.c.
 */
#ifndef RATELIMIT_VIOLATIONS_COUNT_H
#define RATELIMIT_VIOLATIONS_COUNT_H

#include "core/names.h"
#include "violations/gateway.h"

/* The most violations that may be added at once. */
#define MAX_VIOLATIONS_ADDED (INT64CONST(1) << 40)

extern void violations_expect(const BucketId *id);
extern void violations_add_saved(const BucketId *id, const Gateway *gateway, int64 n,
								 int64 at);
extern bool violations_add(const BucketId *id, int64 n, int64 now);

#endif							/* RATELIMIT_VIOLATIONS_COUNT_H */
