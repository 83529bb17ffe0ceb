/*
 * memory/partitions.c
 *		Partitions of shared memory, and their locks.
 *
 * This is what the other floors need to know of partitions.  What is in them, and
 * what their locks are for, is in memory/slots.h.
 */
#include "postgres.h"

#include "memory/partitions.h"
#include "memory/slots.h"
#include "memory/wait.h"

/* Is there shared memory? */
bool
memory_attached(void)
{
	return store.header != NULL;
}

/* How many partitions there are. */
int
memory_partitions(void)
{
	return store.partitions;
}

/* The partition of a key with this hash. */
int
memory_partition(uint64 hash)
{
	return hash & (store.partitions - 1);
}

/*
 * Lock a partition.  This may wait, and so be cancelled: the caller must hold no
 * other partition's lock.
 */
void
memory_lock_partition(int partition)
{
	for (int round = 0; !memory_try_lock_partition(partition); round++)
		give_way(round);
}

/* Lock a partition without waiting.  Return false if its lock is not free. */
bool
memory_try_lock_partition(int partition)
{
	return LWLockConditionalAcquire(&store.locks[partition].lock, LW_EXCLUSIVE);
}

void
memory_unlock_partition(int partition)
{
	LWLockRelease(&store.locks[partition].lock);
}
