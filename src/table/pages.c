/*
 * table/pages.c
 *		Visiting the rows of a page of rate_limit_buckets, and deleting those that the
 *		visitor does not want to keep.
 *
 * Deleting a row sets its inserter to an invalid transaction, as PostgreSQL itself
 * does when it takes back a speculative insertion.  The row is dead for everybody at
 * once, and pruning and vacuum remove it and its index entries.  A page that was
 * marked as all-visible loses that mark, as with any deletion.
 *
 * The page stays locked while its rows are visited (table/rows.c says what that lock
 * means), so a visitor must not throw, allocate or wait.  Which rows to delete, and
 * which pages to visit, is the caller's business: table/clean.c, table/all.c.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/transam.h"
#include "access/visibilitymap.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "table/pages.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * Delete a row.  The caller has locked its page exclusively, and pinned the page's
 * part of the visibility map if the page is all-visible.
 */
static void
delete_row(Rows *rows, Buffer buffer, OffsetNumber offset, Buffer map)
{
	RowRef		ref = {buffer, offset};
	Page		page = BufferGetPage(buffer);
	HeapTupleHeader tuple = tuple_of(&ref);
	TransactionId prune_xid = rows->rel->rd_rel->relfrozenxid;
	bool		was_visible = PageIsAllVisible(page);

	if (TransactionIdPrecedes(prune_xid, TransactionXmin))
		prune_xid = TransactionXmin;
	START_CRIT_SECTION();
	if (was_visible)
	{
		PageClearAllVisible(page);
		visibilitymap_clear(rows->rel, BufferGetBlockNumber(buffer), map,
							VISIBILITYMAP_VALID_BITS);
	}
	PageSetPrunable(page, prune_xid);
	tuple->t_infomask &= ~(HEAP_XMAX_BITS | HEAP_MOVED | HEAP_XMIN_FROZEN);
	tuple->t_infomask |= HEAP_XMIN_INVALID | HEAP_XMAX_INVALID;
	tuple->t_infomask2 &= ~HEAP_KEYS_UPDATED;
	HeapTupleHeaderSetXmin(tuple, InvalidTransactionId);
	ItemPointerSet(&tuple->t_ctid, BufferGetBlockNumber(buffer), offset);
	if (was_visible && RelationNeedsWAL(rows->rel))
	{
		LockBuffer(map, BUFFER_LOCK_EXCLUSIVE);
		log_newpage_buffer(map, false);
		LockBuffer(map, BUFFER_LOCK_UNLOCK);
	}
	page_changed(rows->rel, buffer);
	END_CRIT_SECTION();
}

/* How many pages the table has now. */
BlockNumber
rows_pages(Rows *rows)
{
	return RelationGetNumberOfBlocks(rows->rel);
}

/*
 * Lock the page exclusively.  If it is all-visible, its part of the visibility map
 * has to be pinned before, because pinning may read from disk.  The page may become
 * all-visible between the two steps, so this looks again after locking.
 */
static void
lock_page(Rows *rows, Buffer buffer, Buffer *map)
{
	BlockNumber page = BufferGetBlockNumber(buffer);

	for (;;)
	{
		if (PageIsAllVisible(BufferGetPage(buffer)))
			visibilitymap_pin(rows->rel, page, map);
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (!PageIsAllVisible(BufferGetPage(buffer)) ||
			(BufferIsValid(*map) && visibilitymap_pin_ok(page, *map)))
			return;
		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	}
}

/* Is the bucket of these names wanted?  If there is no filter, all are. */
static bool
is_wanted(const BucketFilter *filter, const char *limiter, int limiter_len,
		  const char *key, int key_len)
{
	if (!filter)
		return true;
	if (filter->blocks && (limiter_len == 0 || *limiter != BLOCK_PREFIX))
		return false;
	return !filter->key ||
		(key_len == filter->key_len && memcmp(key, filter->key, key_len) == 0);
}

/*
 * Call visit() for each row of a page that the filter, which may be NULL, lets through.
 * The page stays locked meanwhile, exclusively if rows may be deleted ("write").
 * Returns how many rows were deleted.
 */
int
rows_visit_page(Rows *rows, BlockNumber number, bool write, const BucketFilter *filter,
				RowVisitor visit, void *arg)
{
	Buffer		map = InvalidBuffer;
	Buffer		buffer = ReadBuffer(rows->rel, number);
	Page		page = BufferGetPage(buffer);
	int			deleted = 0;

	if (write)
		lock_page(rows, buffer, &map);
	else
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
	for (OffsetNumber offset = FirstOffsetNumber;
		 !PageIsNew(page) && offset <= PageGetMaxOffsetNumber(page); offset++)
	{
		RowRef		ref = {buffer, offset};
		RowState	state = tuple_state(rows->rel, &ref, NULL);
		const char *limiter;
		const char *key;
		int			limiter_len;
		int			key_len;
		BucketId	id;
		Row			row;

		if (state == ROW_GONE)
			continue;
		(void) tuple_take_apart(tuple_of(&ref), &limiter, &limiter_len, &key, &key_len);
		if (!is_wanted(filter, limiter, limiter_len, key, key_len) ||
			!names_valid(limiter, limiter_len, key, key_len))
			continue;
		make_bucket_id(&id, MyDatabaseId, limiter, limiter_len, key, key_len);
		tuple_read(tuple_of(&ref), &row);
		if (visit(&id, &row, state == ROW_CHANGING, arg) == ROW_DELETE && write &&
			state == ROW_LIVES)
		{
			delete_row(rows, buffer, offset, map);
			deleted++;
		}
	}
	UnlockReleaseBuffer(buffer);
	if (BufferIsValid(map))
		ReleaseBuffer(map);
	for (int i = 0; i < deleted; i++)
		pgstat_count_heap_delete(rows->rel);
	return deleted;
}
