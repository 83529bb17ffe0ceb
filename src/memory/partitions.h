/*
 * memory/partitions.h
 *		Partitions of shared memory: see memory/partitions.c.
 */
#ifndef RATELIMIT_MEMORY_PARTITIONS_H
#define RATELIMIT_MEMORY_PARTITIONS_H

#define MAX_PARTITIONS	128

typedef struct PartitionSet
{
	uint64		bits[MAX_PARTITIONS / 64];
} PartitionSet;

extern bool memory_attached(void);
extern int	memory_partitions(void);
extern int	memory_partition(uint64 hash);
extern void memory_lock_partition(int partition);
extern bool memory_try_lock_partition(int partition);
extern void memory_unlock_partition(int partition);

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

#endif							/* RATELIMIT_MEMORY_PARTITIONS_H */
