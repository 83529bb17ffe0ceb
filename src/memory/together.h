/*
 * memory/together.h
 *		Calls on several buckets in shared memory: see memory/together.c.
 */
#ifndef RATELIMIT_MEMORY_TOGETHER_H
#define RATELIMIT_MEMORY_TOGETHER_H

#include "core/call.h"
#include "memory/partitions.h"
#include "memory/place.h"

extern bool memory_consume_all(BucketCall *calls, int n, PlaceMode mode, bool apply);
extern AllResult memory_try_all(BucketCall *calls, int n, PlaceMode mode, bool apply,
								PartitionSet *locked);
pg_noreturn extern void memory_fail_no_room(int n);

#endif							/* RATELIMIT_MEMORY_TOGETHER_H */
