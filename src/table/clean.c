/*
 * table/clean.c
 *		Going through the table of buckets: rows that are full again are deleted,
 *		others move back to shared memory as far as there is room, and the marks of
 *		partitions without rows are cleared (memory/spill.c).
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
#include "postgres.h"

#include "access/xlog.h"
#include "common/pg_prng.h"
#include "core/compat.h"
#include "memory/block_filter.h"
#include "memory/databases.h"
#include "memory/partitions.h"
#include "memory/place.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "table/clean.h"
#include "table/owed.h"
#include "table/sql.h"
#include "utils/rel.h"

/* Pages that a round looks at, 128 MB, unless it deletes a tenth of the rows. */
#define ROUND_PAGES		16384

/* Pages that it looks at before it lets go of the table for a moment, 1 MB. */
#define LOCKED_PAGES	128

/* How often to try to move a page's rows in the first pass; takes up to 5 ms. */
#define BUSY_TRIES		100

/* Pages that are cleaned at a time where no worker comes. */
#define SOME_PAGES		16

/* A look at the whole table, page by page, while the worker goes on with it. */
typedef struct Pass
{
	SpillLook	look;
	PartitionSet no_room;		/* in memory, for this round */
	bool		first;			/* since the server started */
	bool		busy;			/* a row was kept as memory was in use just then */
	bool		unsettled;		/* for too long */
	BlockNumber page;			/* where to go on */
	/* of this round: */
	int64		visited;		/* pages */
	int64		living;			/* rows that stay */
	int64		deleted;
} Pass;

/* Whether to keep, delete or move a row; its page is locked. */
static RowFate
visit_row(const BucketId *id, const Row *row, bool changing, void *arg)
{
	Pass	   *pass = arg;
	int			partition = memory_partition(id->hash);
	Row			copy = *row;
	BucketRule	own;
	Owed		owed = row_owed_by_itself(&copy, 0, &own);

	/* for a block: before it can be anywhere else */
	if (pass->first && owed > 0 && id->limiter_len > 1 && *id->limiter == BLOCK_PREFIX)
		block_noticed(id, owed);
	if (!changing && owed == 0)
		return ROW_DELETE;

	/*
	 * Where both have it: memory, or, at the start, the emptier one.  Once a partition
	 * has no room, only the first pass looks whether memory has it.
	 */
	if (!changing && (pass->first || !partition_set_has(&pass->no_room, partition)))
		switch (memory_move_in(id, &own, owed, pass->first && !spill_memory_newer(),
							  !partition_set_has(&pass->no_room, partition)))
		{
			case MOVED:
				return ROW_DELETE;
			case MOVE_NO_ROOM:
				partition_set_add(&pass->no_room, partition);
				break;
			case MOVE_BUSY:
				pass->busy = true;
				break;
		}
	partition_set_add(&pass->look.with_rows, partition);
	pass->living++;
	return ROW_KEEP;
}

/* Begin a look at the whole table. */
static void
begin_pass(Pass *pass, SharedDatabase *mine, const Rows *rows)
{
	mine->clean_file = relation_file(rows->rel);
	pass->page = 0;
	spill_look(&pass->look);
}

/*
 * In the first pass memory may have the row's bucket as well, and fuller: then it has to
 * take over what the row says before the database is known.  That needs locks that
 * others hold for a moment, so it is tried again.
 */
static void
visit_page(Pass *pass, Rows *rows)
{
	for (int i = 0;; i++)
	{
		CHECK_FOR_INTERRUPTS();
		pass->busy = false;
		pass->deleted += rows_visit_page(rows, pass->page, true, visit_row, pass);
		if (!pass->first || !pass->busy)
			return;
		if (i == BUSY_TRIES)
			break;
		pg_usleep(Min(i, 1000));
	}
	pass->unsettled = true;
}

/*
 * Go through some pages, from where the pass is, with the table locked as calls lock
 * it; false if it has come to the end.  If the table has been rewritten meanwhile, rows
 * may have gone to pages that were looked at already: then the pass begins anew.
 */
static bool
visit_pages(Pass *pass, SharedDatabase *mine)
{
	Rows		rows;
	BlockNumber end;
	bool		more;

	rows_open(&rows, RowExclusiveLock);
	if (mine->clean_file != relation_file(rows.rel))
		begin_pass(pass, mine, &rows);
	end = rows_pages(&rows);
	more = end > pass->page + LOCKED_PAGES;
	if (more)
		end = pass->page + LOCKED_PAGES;
	for (; pass->page < end; pass->page++)
		visit_page(pass, &rows);
	rows_close(&rows);
	return more;
}

/*
 * The worker's job.  It needs no transaction of its own for what it changes, and holds
 * no lock that a call would wait for.  As who wants a stronger lock has calls wait
 * behind it, it does not keep the table's lock for long.
 */
void
table_clean(void)
{
	SharedDatabase *mine = my_shared_database();
	Pass	   *pass;
	bool		more;

	if (!mine || !spill_any())
		return;
	pass = palloc0(sizeof(Pass));
	pass->first = !spill_known();
	if (pass->first || mine->clean_page == 0)
		mine->clean_file = InvalidOid;	/* begin */
	else
	{
		pass->look = mine->look;
		pass->page = mine->clean_page;
	}
	/* should this round fail, what it has seen is lost: then the pass begins anew */
	mine->clean_page = 0;
	do
	{
		more = visit_pages(pass, mine);
		pass->visited += LOCKED_PAGES;
	} while (more && (pass->first || pass->visited < ROUND_PAGES ||
					  pass->deleted * 10 >= pass->living));

	if (more)
	{
		mine->look = pass->look;
		mine->clean_page = pass->page;
	}
	else
	{
		spill_clear(&pass->look);
		if (pass->first && !pass->unsettled)
			spill_set_known();
	}
	pfree(pass);
}

/*
 * Has the database's table not a single page?  Then there is nothing to go through.
 * Asks for a worker if it has.  A transaction that has emptied or made the table
 * itself, and so has it locked, may bring rows back by a rollback.
 */
bool
table_find_empty(void)
{
	Rows		rows;
	SpillLook	look;
	bool		empty;

	spill_look(&look);
	rows_open(&rows, AccessShareLock);
	empty = rows_pages(&rows) == 0 &&
		!CheckRelationLockedByMe(rows.rel, AccessExclusiveLock, true);
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

	return !changing && row_owed_by_itself(&copy, 0, &own) == 0 ? ROW_DELETE : ROW_KEEP;
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
