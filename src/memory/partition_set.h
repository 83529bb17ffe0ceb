/*
 * memory/partition_set.h
 *		Sets of partitions of shared memory.
 */
#ifndef RATELIMIT_MEMORY_PARTITION_SET_H
#define RATELIMIT_MEMORY_PARTITION_SET_H

#define MAX_PARTITIONS	128

/* A bit for each partition, from the lowest on. */
typedef struct PartitionSet
{
	uint64		bits[MAX_PARTITIONS / 64];
} PartitionSet;

static inline void
partition_set_add(PartitionSet *set, int partition)
{
	set->bits[partition / 64] |= (uint64) 1 << (partition % 64);
}

static inline bool
partition_set_has(const PartitionSet *set, int partition)
{
	return set->bits[partition / 64] >> (partition % 64) & 1;
}

#endif							/* RATELIMIT_MEMORY_PARTITION_SET_H */
