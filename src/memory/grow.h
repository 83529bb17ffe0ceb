/*
 * memory/grow.h
 *		Growing of partitions: see memory/grow.c.
 */
#ifndef RATELIMIT_MEMORY_GROW_H
#define RATELIMIT_MEMORY_GROW_H

#include "core/call.h"

extern bool grow_partition(int partition);
extern bool claim_or_grow(const BucketId *id, uint32 groups, uint32 *claimed,
						  uint64 *words);

#endif							/* RATELIMIT_MEMORY_GROW_H */
