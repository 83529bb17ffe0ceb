/*
 * memory/partitions.h
 *		Partitions of shared memory: see memory/partitions.c.
 */
#ifndef RATELIMIT_MEMORY_PARTITIONS_H
#define RATELIMIT_MEMORY_PARTITIONS_H

#include "memory/partition_set.h"

extern bool memory_attached(void);
extern int	memory_partitions(void);
extern int	memory_partition(uint64 hash);
extern void memory_lock_partition(int partition);
extern bool memory_try_lock_partition(int partition);
extern void memory_unlock_partition(int partition);

#endif							/* RATELIMIT_MEMORY_PARTITIONS_H */
