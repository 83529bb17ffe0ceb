/*
 * memory/consume.h
 *		Deciding calls on buckets that are in shared memory: see memory/consume.c.
 */
#ifndef RATELIMIT_MEMORY_CONSUME_H
#define RATELIMIT_MEMORY_CONSUME_H

#include "core/call.h"

extern bool memory_consume(const BucketId *id, const BucketRule *rule,
						   Decision *decision);
extern bool memory_peek(const BucketId *id, const BucketRule *rule,
						Decision *decision);

#endif							/* RATELIMIT_MEMORY_CONSUME_H */
