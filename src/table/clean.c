/*
 * table/clean.c
 *		Going through the table of buckets: deleting rows that are full again, moving
 *		others back to shared memory as far as there is room, and clearing the marks
 *		of partitions that have no rows (memory/spill.c).
 *
 * The worker does this a page at a time.  Each page is locked for no longer than its
 * rows take, and nobody waits for more than that.  A round looks at a bounded number
 * of pages, and the next round continues from there.  The first round after the start
 * of the server goes through the whole table, because calls take the long way until
 * it is done.  A partition's mark is cleared when rounds have reached the end of the
 * table without having seen a row of that partition.
 *
 * A bucket is moved while its row's page is locked: it is made in memory, and then
 * the row is deleted.  So a caller that has found the row, and waits for the page,
 * finds the row gone and starts again.
 *
 * Without shared memory there is no worker.  Then the sessions that make rows also
 * delete some of the rows that are full, from a few pages anywhere in the table.
 *
 * The layout of pages and how a row is deleted are not here, but in table/pages.c.
 */
#include "postgres.h"

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
#include "table/pages.h"
#include "utils/rel.h"

/*
 * Pages that a round looks at (128 MB), unless it deletes a tenth as many rows as it
 * keeps.
 */
#define ROUND_PAGES		16384

/* Pages that it looks at before it unlocks the table for a moment (1 MB). */
#define LOCKED_PAGES	128

/* How often the first pass tries to move a page's rows; this takes up to 5 ms. */
#define BUSY_TRIES		100

/* How many pages a session cleans at a time if there is no worker ... */
#define SOME_PAGES		16

/* ... each time it has made so many rows. */
#define CLEAN_EVERY		16

/* A walk through the whole table, page by page, which may take several rounds. */
typedef struct Pass
{
	SpillLook	look;
	PartitionSet no_room;		/* partitions found without room in this round */
	bool		first;			/* the first walk since the server started */
	bool		busy;			/* a row was kept because memory was in use */
	bool		unsettled;		/* that was so until BUSY_TRIES were used up */
	BlockNumber page;			/* where to continue */
	/* of this round: */
	int64		visited;		/* pages */
	int64		living;			/* rows that were kept */
	int64		deleted;
} Pass;

/* Keep, delete or move a row, whose page is locked. */
static RowFate
visit_row(const BucketId *id, const Row *row, bool changing, void *arg)
{
	Pass	   *pass = arg;
	int			partition = memory_partition(id->hash);
	Row			copy = *row;
	BucketRule	own;
	Owed		owed = row_owed_by_itself(&copy, 0, &own);

	/* a block must be noticed before it can be anywhere else */
	if (pass->first && owed > 0 && limiter_is_block(id->limiter, id->limiter_len))
		block_noticed(id, owed);
	if (!changing && owed == 0)
		return ROW_DELETE;

	/*
	 * If both the table and memory have the bucket, memory's is right, or, at the
	 * start, the emptier of the two.  Once a partition has no room, only the first
	 * pass looks whether memory has the bucket.
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

/* Begin to go through the whole table. */
static void
begin_pass(Pass *pass, SharedDatabase *mine, const Rows *rows)
{
	mine->clean_file = relation_file(rows->rel);
	pass->page = 0;
	spill_look(&pass->look);
}

/*
 * Visit a page.  In the first pass memory may have a row's bucket as well, and
 * fuller.  Then memory must take over what the row says before the database counts as
 * known.  That needs locks that others hold for a moment, so it is tried several
 * times.
 */
static void
visit_page(Pass *pass, Rows *rows)
{
	for (int i = 0;; i++)
	{
		CHECK_FOR_INTERRUPTS();
		pass->busy = false;
		pass->deleted += rows_visit_page(rows, pass->page, true, NULL, visit_row, pass);
		if (!pass->first || !pass->busy)
			return;
		if (i == BUSY_TRIES)
			break;
		pg_usleep(Min(i, 1000));
	}
	pass->unsettled = true;
}

/*
 * Go through some pages, from the pass's present page on, with the table locked as
 * calls lock it.  Returns false at the end of the table.  If the table has been
 * rewritten meanwhile, rows may have moved to pages that were visited already, so the
 * pass begins anew.
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
 * The worker's job: one round.  What it changes does not depend on its transaction.
 * It makes calls wait only for a page's lock, or for memory's, for a moment.  It does
 * not keep the table locked for long, because calls queue behind anybody who waits
 * for a stronger lock.
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
	/* if this round fails, what it has seen is lost, so the pass begins anew */
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
 * Is the database's table empty, without a single page?  Then there is nothing to go
 * through, and the database is known from now on.  Otherwise this asks for a worker.
 * A transaction that has itself emptied or made the table, and so holds its strongest
 * lock, does not count it as empty, because a rollback may bring rows back.
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

/* Visitor that keeps only rows of buckets that are not full. */
static RowFate
delete_if_full(const BucketId *id, const Row *row, bool changing, void *arg)
{
	Row			copy = *row;
	BucketRule	own;

	return !changing && row_owed_by_itself(&copy, 0, &own) == 0 ? ROW_DELETE : ROW_KEEP;
}

/* Delete rows that are full again from a few pages, at a random place. */
static void
clean_some(void)
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
			(void) rows_visit_page(&rows, page, true, NULL, delete_if_full, NULL);
	}
	rows_close(&rows);
}

/*
 * A row has been made.  If there is no worker, a session that makes rows also deletes
 * some.  The caller has no page locked.
 */
void
table_clean_now_and_then(void)
{
	static uint32 made = 0;

	if (!my_shared_database() && ++made % CLEAN_EVERY == 0)
		clean_some();
}
