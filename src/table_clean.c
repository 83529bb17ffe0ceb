/*
 * table_clean.c
 *		Going through the table of buckets: rows that are full again are deleted,
 *		others move back to shared memory as far as there is room, and the marks of
 *		partitions without rows are cleared (spill.c).
 *
 * The worker does this a page at a time, each locked for no longer than its rows
 * take: nobody waits for more than that.  A round looks at a bounded number of pages
 * and the next round goes on from there, but the first one after the start of the
 * server goes through the whole table, as calls take the long way until then.  A
 * partition's mark is cleared when rounds have come to the table's end without having
 * seen a row of it.
 *
 * Moving a bucket: with the row's page locked, it is made in memory and the row is
 * deleted.  So whoever has found the row, and waits for the page, finds it gone and
 * starts anew.
 *
 * Where no worker comes, without preloading, those who make rows delete a few of
 * those that are full, anywhere in the table.
 */
#include "ratelimit.h"

#include "access/xlog.h"
#include "block.h"
#include "common/pg_prng.h"
#include "databases.h"
#include "miscadmin.h"
#include "sql.h"
#include "table_store.h"
#include "utils/memutils.h"

/* Pages that a round looks at, 128 MB, unless it deletes a tenth of the rows. */
#define ROUND_PAGES		16384

/* Pages that are cleaned at a time where no worker comes. */
#define SOME_PAGES		16

/* A look at the whole table, page by page, while the worker goes on with it. */
typedef struct Pass
{
	SpillLook	look;
	PartitionSet no_room;		/* in memory, for this round */
	bool		first;			/* since the server started */
	int			living;			/* rows that stay, of this round */
} Pass;

/* Whether to keep, delete or move a row; its page is locked. */
static RowFate
visit_row(const BucketId *id, const Row *row, bool changing, void *arg)
{
	Pass	   *pass = arg;
	int			partition = shmem_partition(id->hash);
	Row			copy = *row;
	BucketRule	own;
	Decision	unused;
	Owed		owed = table_row_owed(&copy, 0, &own);

	/* for a block: before it can be anywhere else */
	if (pass->first && owed > 0 && id->limiter_len > 1 && *id->limiter == BLOCK_PREFIX)
		block_noticed(id, owed);
	if (!changing)
	{
		if (owed == 0)
			return ROW_DELETE;
		/* where both have it: memory, or, at the start, the emptier one */
		if (shmem_peek(id, &own, &unused))
		{
			if (!pass->first || spill_memory_newer() || shmem_raise(id, &own, owed))
				return ROW_DELETE;
		}
		else if (!partition_set_has(&pass->no_room, partition))
		{
			if (shmem_set(id, &own, owed, PLACE_IF_ROOM))
				return ROW_DELETE;
			partition_set_add(&pass->no_room, partition);
		}
	}
	partition_set_add(&pass->look.with_rows, partition);
	pass->living++;
	return ROW_KEEP;
}

/*
 * The worker's job.  It holds no lock on the table that a call would wait for, and
 * needs no transaction of its own for what it changes.
 */
void
table_clean(void)
{
	SharedDatabase *mine = my_shared_database();
	Rows		rows;
	Pass	   *pass;
	BlockNumber pages;
	BlockNumber page;
	int64		deleted = 0;
	BlockNumber visited = 0;

	if (!mine || !spill_any())
		return;
	pass = palloc0(sizeof(Pass));
	pass->first = !spill_known();
	rows_open(&rows, RowExclusiveLock);
	pages = rows_pages(&rows);
	page = mine->clean_page;
	if (pass->first || page >= pages)
		page = 0;
	if (page == 0)
		spill_look(&pass->look);
	else
		pass->look = mine->look;

	for (; page < pages; page++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!pass->first && ++visited > ROUND_PAGES && deleted * 10 < pass->living)
			break;
		deleted += rows_visit_page(&rows, page, true, visit_row, pass);
	}
	rows_close(&rows);

	mine->clean_page = page < pages ? page : 0;
	mine->look = pass->look;
	if (page >= pages)
	{
		spill_clear(&pass->look);
		if (pass->first)
			spill_set_known();
	}
	pfree(pass);
}

/*
 * Has the database's table not a single page?  Then there is nothing to go through.
 * Asks for a worker if it has.
 */
bool
table_find_empty(void)
{
	Rows		rows;
	SpillLook	look;
	bool		empty;

	spill_look(&look);
	rows_open(&rows, AccessShareLock);
	empty = rows_pages(&rows) == 0;
	rows_close(&rows);
	if (empty)
	{
		spill_clear(&look);
		spill_set_known();
	}
	else
		databases_wake_launcher();
	return empty;
}

static RowFate
delete_if_full(const BucketId *id, const Row *row, bool changing, void *arg)
{
	Row			copy = *row;
	BucketRule	own;

	return !changing && table_row_owed(&copy, 0, &own) == 0 ? ROW_DELETE : ROW_KEEP;
}

/* Delete rows that are full again from a few pages, wherever they are. */
void
table_clean_some(void)
{
	Rows		rows;
	BlockNumber pages;

	rows_open(&rows, RowExclusiveLock);
	pages = rows_pages(&rows);
	if (pages > 0)
	{
		BlockNumber page = (BlockNumber) pg_prng_uint64_range(&pg_global_prng_state, 0, pages - 1);
		BlockNumber end = Min((uint64) page + SOME_PAGES, pages);

		for (; page < end; page++)
			(void) rows_visit_page(&rows, page, true, delete_if_full, NULL);
	}
	rows_close(&rows);
}
