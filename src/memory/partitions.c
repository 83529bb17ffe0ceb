/*
 * memory/partitions.c
 *		Partitions of shared memory, and their locks.
 */
#include "postgres.h"

#include "memory/partitions.h"
#include "memory/slots.h"
#include "memory/wait.h"

bool
memory_attached(void)
{
	return store.header != NULL;
}

int
memory_partitions(void)
{
	return store.partitions;
}

int
memory_partition(uint64 hash)
{
	return hash & (store.partitions - 1);
}

/* May wait, and so be cancelled: the caller holds no other partition's lock. */
void
memory_lock_partition(int partition)
{
	for (int round = 0; !memory_try_lock_partition(partition); round++)
		give_way(round);
}

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
