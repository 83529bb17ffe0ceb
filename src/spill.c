/*
 * spill.c
 *		Which partitions of shared memory have buckets in the table.
 *
 * A bucket is in exactly one place.  Per database and partition there is one
 * mark: while it is set, a key of that database that is not found in the
 * partition has its bucket in rate_limit_buckets; while it is not, in shared
 * memory or nowhere.  This file keeps the marks; the tiers themselves are in
 * shmem_store.c and table_store.c.  The rules:
 *
 * 1. A bucket is made in memory holding its partition's lock, with the mark not
 *	  set.  A mark is set holding the partition's lock, when there is no room.
 *
 * 2. A row is written holding ROW SHARE lock, or stronger, on the table until the
 *	  transaction ends, and only if afterwards the key is still not in memory and
 *	  the mark still set.
 *
 * 3. The worker takes EXCLUSIVE lock on the table, which waits for all who wrote
 *	  rows, those of prepared transactions included, and keeps everybody from rule
 *	  2.  Then it may move a bucket: make it in memory, mark or not, and delete its
 *	  row.  And it may clear the mark, holding the partition's lock, if a snapshot
 *	  taken since shows no row left.
 *
 * So whoever writes a row knows that the mark stays set until the row is seen by
 * the worker, and that nobody makes the bucket in memory meanwhile.  There is one
 * exception: a transaction that cannot write the table.  It takes over the bucket
 * from its row into memory, which leaves the row out of date:
 *
 * 4. Who takes over a bucket holds SHARE lock on the key's lock (table_lock_key()),
 *	  who writes a row ROW EXCLUSIVE lock, until the transaction ends.  Both look
 *	  into memory again once they have it.  So a taker sees all that was taken from
 *	  the row, and a writer finds what was taken over.  The worker deletes the row.
 *
 * Rows that were there before the server started (the table survives a clean
 * restart, and a time without preloading) are found by the first caller of each
 * database: it looks through the table and marks their partitions, see
 * table_find_spilled().  Should a row be of a bucket that the saved state has as
 * well, memory keeps the emptier of the two.  The marks of a clean restart are
 * there before that (snapshot.c).  On a standby the table cannot be read, nor have
 * rows.
 *
 * A database without an entry (databases.c) keeps every bucket in the table.
 */
#include "ratelimit.h"

#include "databases.h"

/* Has the table been looked through since the server started? */
bool
spill_known(void)
{
	SharedDatabase *mine = my_shared_database();

	return !mine || pg_atomic_read_u32(&mine->known) != 0;
}

/*
 * Where both memory and the table have a bucket: is what was loaded into memory
 * when the server started the newer for certain?
 */
bool
spill_memory_newer(void)
{
	SharedDatabase *mine = my_shared_database();

	return mine && mine->memory_newer;
}

/* The table has been looked through; these partitions may have rows. */
void
spill_set_known(const PartitionSet *with_rows)
{
	SharedDatabase *mine = my_shared_database();

	if (!mine)
		return;
	for (int i = 0; i < MAX_PARTITIONS / 64; i++)
		pg_atomic_fetch_or_u64(&mine->marks[i], with_rows->bits[i]);
	pg_atomic_write_u32(&mine->known, 1);
}

/* Is the partition marked?  Certain under its lock, or the table's (rule 2). */
bool
spill_is_set(int partition)
{
	SharedDatabase *mine = my_shared_database();

	return !mine ||
		(pg_atomic_read_u64(&mine->marks[partition / 64]) >> (partition % 64) & 1);
}

/* Mark the partition, whose lock the caller holds. */
void
spill_mark(int partition)
{
	SharedDatabase *mine = my_shared_database();

	if (mine)
		pg_atomic_fetch_or_u64(&mine->marks[partition / 64],
							   (uint64) 1 << (partition % 64));
}

/* Is any partition marked? */
bool
spill_any(void)
{
	for (int i = 0; i < shmem_partitions(); i++)
		if (spill_is_set(i))
			return true;
	return false;
}

/* Clear the marks of all partitions without rows, see rule 3. */
void
spill_clear(const PartitionSet *with_rows)
{
	SharedDatabase *mine = my_shared_database();

	if (!mine)
		return;
	for (int i = 0; i < shmem_partitions(); i++)
	{
		if (!spill_is_set(i) || partition_set_has(with_rows, i))
			continue;
		shmem_lock_partition(i);
		pg_atomic_fetch_and_u64(&mine->marks[i / 64], ~((uint64) 1 << (i % 64)));
		shmem_unlock_partition(i);
	}
}
