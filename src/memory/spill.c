/*
 * memory/spill.c
 *		Which partitions of shared memory have spilled, that is, have buckets in the
 *		table.
 *
 * A bucket is in exactly one place.  There is one mark for each database and
 * partition.  While it is set, a key of that database that is not found in the
 * partition has its bucket in rate_limit_buckets; while it is not set, the bucket is
 * in shared memory or nowhere.  This file keeps the marks; the stores themselves are
 * in memory/slots.h and table/store.c.  The rules are:
 *
 * 1. A bucket is made in memory with its partition's lock held and the mark not set.
 *	  A mark is set with the partition's lock held, if there is no room.
 *
 * 2. A row is made with the key's lock held (table/make.c), which is held no longer
 *	  than that.  With that lock held, the maker looks for the row once more.
 *
 * 3. Before the maker makes the row it announces it (spill_begin_row()), and then
 *	  looks at the mark.  If the mark is not set any more, it makes no row and starts
 *	  anew.  Then it looks for the bucket in memory once more, and makes the row only
 *	  if it is not there.
 *
 * 4. A row that is there is its bucket.  It is deleted only with the lock of its page
 *	  held, when the bucket is full, or when it has been made in memory, mark or not:
 *	  that is what the worker does with rows for which there is room (table/clean.c).
 *
 * 5. The worker clears a mark if it has gone through the whole table and has seen no
 *	  row of the partition, and if none was announced since it began.  With the
 *	  partition's lock held it clears the mark, then looks at the announcements, and
 *	  sets the mark again if there is a new one.
 *
 * 6. A parallel query cannot make rows.  There, with the key's lock held, the bucket
 *	  is made in memory if it has no row, mark or not.
 *
 * Why no bucket is in two places:
 *
 * - Between rules 3 and 5.  The announcement of a row and the clearing of a mark are
 *	 each followed by a full barrier, and then by a look at what the other side
 *	 writes.  So at least one side sees the other: either the maker of the row finds
 *	 the mark cleared, or the worker finds the announcement and sets the mark again.
 *	 The barriers are explicit, because an atomic operation that is a load-acquire and
 *	 a store-release (ARM64 without LSE) lets a later load be done before its store
 *	 can be seen, although PostgreSQL calls it a full barrier.  Meanwhile nobody makes
 *	 a bucket in memory by rule 1, because the worker holds the partition's lock.
 *
 * - Between rules 1 and 3.  Until the row is announced, the mark may be cleared, the
 *	 bucket made in memory, and the mark set again.  So the look into memory comes
 *	 after the announcement.
 *
 * - A row that was announced before the worker began to go through the table was
 *	 either complete by then, in which case the worker sees it, or it was in flight,
 *	 which the count says, in which case the mark stays.
 *
 * - Between rules 2 and 4.  A caller finds no row and afterwards, with the key's lock
 *	 held, no bucket in memory.  A worker that deleted the row in between had made the
 *	 bucket in memory before it unlocked the page, and the caller has since locked
 *	 that page, or the index page beside it.  So the caller finds the bucket, unless
 *	 the bucket is full again by now, which equals an absent one.
 *
 * - A caller that has found a row locks its page and looks at the row again.  If the
 *	 row is there, it is the bucket (rule 4).
 *
 * When the server starts, the table may have rows: it survives a clean restart, and a
 * time without shared memory.  So all marks are set at first.  If the table has no page,
 * the first caller clears them, by rule 5; otherwise the launcher at once starts a
 * worker, which goes through the table.  Until then the database is not "known":
 * there may be buckets that are both in memory, loaded from the file, and in a row,
 * and blocks that the filter does not know (decide/blocks.c).  So until then every
 * call takes the long way, and first moves what its row says to memory
 * (table_merge()).
 *
 * On a standby the table cannot be read, and cannot have rows.
 *
 * A database without an entry (memory/databases.c) keeps every bucket in the table.
 */
#include "postgres.h"

#include "memory/databases.h"
#include "memory/partitions.h"
#include "memory/spill.h"

#define ONE_ANNOUNCED	(UINT64CONST(1) << 32)

/*
 * Has the table been gone through since the server started?  If so, the caller also
 * sees everything that was noticed on the way.
 */
bool
spill_known(void)
{
	SharedDatabase *mine = my_shared_database();

	if (!mine)
		return true;
	if (pg_atomic_read_u32(&mine->known) == 0)
		return false;
	/* pairs with the barrier in spill_set_known() */
	pg_read_barrier();
	return true;
}

/*
 * If both memory and the table have a bucket, is the one that was loaded into memory
 * when the server started certain to be the newer one?
 */
bool
spill_memory_newer(void)
{
	SharedDatabase *mine = my_shared_database();

	return mine && mine->memory_newer;
}

/* Note that the table has been gone through. */
void
spill_set_known(void)
{
	SharedDatabase *mine = my_shared_database();

	/* blocks that were noticed and buckets that were raised are seen before */
	pg_write_barrier();
	if (mine)
		pg_atomic_write_u32(&mine->known, 1);
}

/*
 * Is the partition marked?  The answer is certain with the partition's lock held, or
 * after a row has been announced.
 */
bool
spill_is_set(int partition)
{
	SharedDatabase *mine = my_shared_database();

	return !mine ||
		(pg_atomic_read_u64(&mine->marks[partition / 64]) >> (partition % 64) & 1);
}

/* Mark the partition.  The caller holds its lock. */
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
	for (int i = 0; i < memory_partitions(); i++)
		if (spill_is_set(i))
			return true;
	return false;
}

/*
 * The entry in which spill_begin_row() has announced a row, or NULL.  It is kept
 * because a database without an entry may have one by the time of spill_end_row().
 */
static SharedDatabase *announced = NULL;

/*
 * Announce that a bucket of the partition is going to be made as a row;
 * spill_end_row() must follow.  Return false, with nothing announced, if the row must
 * not be made.
 */
bool
spill_begin_row(int partition)
{
	SharedDatabase *mine = my_shared_database();

	announced = mine;
	if (!mine)
		return true;
	pg_atomic_fetch_add_u64(&mine->rows[partition], ONE_ANNOUNCED + 1);
	/* pairs with the barrier in spill_clear() */
	pg_memory_barrier();
	if (spill_is_set(partition))
		return true;
	spill_end_row(partition);
	return false;
}

/* Take the announcement back, as the row is there or has failed. */
void
spill_end_row(int partition)
{
	if (announced)
		pg_atomic_fetch_sub_u64(&announced->rows[partition], 1);
	announced = NULL;
}

/* Note what has been announced so far.  The caller then goes through the table. */
void
spill_look(SpillLook *look)
{
	SharedDatabase *mine = my_shared_database();

	memset(look, 0, sizeof(*look));
	for (int i = 0; mine && i < MAX_PARTITIONS; i++)
		look->rows[i] = pg_atomic_read_u64(&mine->rows[i]);
	/* the table is read after that */
	pg_memory_barrier();
}

/* Clear the marks of partitions of which no row was found since the look: rule 5. */
void
spill_clear(const SpillLook *look)
{
	SharedDatabase *mine = my_shared_database();

	if (!mine)
		return;
	for (int i = 0; i < memory_partitions(); i++)
	{
		pg_atomic_uint64 *marks = &mine->marks[i / 64];
		uint64		mark = (uint64) 1 << (i % 64);

		if (!spill_is_set(i) || partition_set_has(&look->with_rows, i) ||
			(uint32) look->rows[i] != 0 ||
			pg_atomic_read_u64(&mine->rows[i]) != look->rows[i])
			continue;
		memory_lock_partition(i);
		pg_atomic_fetch_and_u64(marks, ~mark);
		/* pairs with the barrier in spill_begin_row() */
		pg_memory_barrier();
		if (pg_atomic_read_u64(&mine->rows[i]) != look->rows[i])
			pg_atomic_fetch_or_u64(marks, mark);
		memory_unlock_partition(i);
	}
}
