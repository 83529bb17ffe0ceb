/*
 * table/rows.c
 *		Finding a bucket's row in rate_limit_buckets, and reading or overwriting its
 *		numbers in place.
 *
 * Consuming is not transactional: a limit that a rollback could undo would be no
 * limit, and a row that stayed locked until the end of its caller's transaction would
 * keep everybody else from the bucket.  So a call does not UPDATE a bucket's row.  It
 * finds the row through the primary key's index, locks the page that the row is on,
 * and overwrites the numbers in the row.  The next caller sees them as soon as the
 * page is unlocked, whatever becomes of the first one's transaction.  This leaves
 * nothing that a vacuum would have to remove, and nobody waits for the transaction of
 * a call.
 *
 * A person may change the table with ordinary statements meanwhile.  A writer waits
 * for a statement that has changed or deleted its row.  It does not wait for one that
 * has only locked the row, because that does not reserve the row's contents.
 *
 * An unlogged table needs no WAL.  If it was ALTERed to be a logged one, each change
 * logs the image of the page.
 *
 * The lock of a page protects all bytes of the rows on it.  It is an LWLock, so it
 * also holds off interrupts.  While one is held, our code must not throw, allocate or
 * wait for a heavyweight lock.  (Asking the server whether a row is alive may read
 * pages of pg_xact or pg_multixact, as it does in an UPDATE.)  Whoever locks several
 * pages locks them in the order of their numbers.
 *
 * This file does not make rows (table/insert.c) or delete them (table/pages.c), and
 * does not know what their numbers mean (table/owed.c).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "core/compat.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "table/rows.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

/* A name as a text. */
typedef union NameText
{
	int32		header;			/* aligns the union */
	char		bytes[VARHDRSZ + MAX_KEY_LEN + 1];
} NameText;

/* A search for a bucket's row in the primary key's index. */
typedef struct Search
{
	NameText	limiter;
	NameText	key;
	ScanKeyData keys[N_NAMES];
	TupleTableSlot *slot;
	IndexScanDesc scan;
} Search;

static void
begin_search(Search *search, Rows *rows, const BucketId *id, Snapshot snapshot)
{
	SET_VARSIZE(&search->limiter, VARHDRSZ + id->limiter_len);
	memcpy(VARDATA(&search->limiter), id->limiter, id->limiter_len);
	SET_VARSIZE(&search->key, VARHDRSZ + id->key_len);
	memcpy(VARDATA(&search->key), id->key, id->key_len);
	ScanKeyEntryInitialize(&search->keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ,
						   PointerGetDatum(&search->limiter));
	ScanKeyEntryInitialize(&search->keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(&search->key));

	search->slot = table_slot_create(rows->rel, NULL);
	search->scan = begin_index_scan(rows->rel, rows->index, snapshot, N_NAMES);
	index_rescan(search->scan, search->keys, N_NAMES, NULL, 0);
}

/* Find the next row, pinned until the next call; false if there are no more. */
static bool
search_next(Search *search, RowRef *ref)
{
	if (!index_getnext_slot(search->scan, ForwardScanDirection, search->slot))
		return false;
	ref->buffer = ((BufferHeapTupleTableSlot *) search->slot)->buffer;
	ref->offset = ItemPointerGetOffsetNumber(&search->slot->tts_tid);
	return true;
}

static void
end_search(Search *search)
{
	index_endscan(search->scan);
	ExecDropSingleTupleTableSlot(search->slot);
}

/*
 * Find and pin the bucket's row, as of now; false if the bucket has no row.  The row
 * may be gone by the time that its page is locked.
 */
bool
rows_pin(Rows *rows, const BucketId *id, RowRef *ref)
{
	Search		search;
	bool		found;

	begin_search(&search, rows, id, SnapshotSelf);
	found = search_next(&search, ref);
	if (found)
	{
		/* names never change, and a line pointer does not while its page is pinned */
		if (!tuple_is(tuple_of(ref), id))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the row of key \"%.*s\", limiter \"%.*s\" in rate_limit_buckets cannot be used",
							id->key_len, id->key, id->limiter_len, id->limiter),
					 errdetail("Its names are compressed, so it was written by hand."),
					 errhint("Delete the row.")));
		IncrBufferRefCount(ref->buffer);
	}
	end_search(&search);
	return found;
}

/* Lock the page of the row, which is pinned. */
void
rows_lock(RowRef *ref, bool write)
{
	LockBuffer(ref->buffer, write ? BUFFER_LOCK_EXCLUSIVE : BUFFER_LOCK_SHARE);
}

/* Is this the bucket's row, and alive?  Its page is locked: see tuple_state(). */
RowState
rows_state(Rows *rows, const RowRef *ref, const BucketId *id,
		   TransactionId *changed_by)
{
	RowState	state = tuple_state(rows->rel, ref, changed_by);

	return state == ROW_LIVES && !tuple_is(tuple_of(ref), id) ? ROW_GONE : state;
}

void
rows_unlock(RowRef *ref)
{
	LockBuffer(ref->buffer, BUFFER_LOCK_UNLOCK);
}

void
rows_unpin(RowRef *ref)
{
	ReleaseBuffer(ref->buffer);
}

/* Find the bucket's row and lock its page, as the two functions below say. */
static bool
get_row(Rows *rows, const BucketId *id, bool write, bool wait, RowRef *ref)
{
	while (rows_pin(rows, id, ref))
	{
		TransactionId changed_by = InvalidTransactionId;
		RowState	state;

		rows_lock(ref, write);
		state = rows_state(rows, ref, id, &changed_by);
		if (state == ROW_LIVES || (state == ROW_CHANGING && !write))
			return true;
		rows_release(ref);
		if (state == ROW_CHANGING && !wait)
			return false;
		if (state == ROW_CHANGING && TransactionIdIsValid(changed_by))
			XactLockTableWait(changed_by, NULL, NULL, XLTW_None);
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

/*
 * Find the bucket's row and lock its page; false if the bucket has no row.  A writer
 * waits for a statement that is changing the row, a reader does not.
 */
bool
rows_get(Rows *rows, const BucketId *id, bool write, RowRef *ref)
{
	return get_row(rows, id, write, true, ref);
}

/* The same for a writer, but return false if a statement is changing the row. */
bool
rows_get_if_free(Rows *rows, const BucketId *id, RowRef *ref)
{
	return get_row(rows, id, true, false, ref);
}

void
rows_release(RowRef *ref)
{
	UnlockReleaseBuffer(ref->buffer);
}

/* Read the numbers of the row, whose page is locked. */
void
rows_read(const RowRef *ref, Row *row)
{
	tuple_read(tuple_of(ref), row);
}

/* Overwrite the numbers of the row, whose page is locked exclusively. */
void
rows_write(Rows *rows, RowRef *ref, const Row *row)
{
	Numbers		numbers;
	char	   *place = tuple_numbers(tuple_of(ref));

	make_numbers(&numbers, row);
	START_CRIT_SECTION();
	memcpy(place, &numbers, sizeof(numbers));
	page_changed(rows->rel, ref->buffer);
	END_CRIT_SECTION();
}

/*
 * Has this transaction deleted a row of the bucket with an ordinary statement?  A
 * transaction without an ID cannot have.
 */
bool
rows_deleted_here(Rows *rows, const BucketId *id)
{
	Search		search;
	RowRef		ref;
	bool		found = false;

	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	begin_search(&search, rows, id, SnapshotAny);
	while (!found && search_next(&search, &ref))
	{
		HeapTupleHeader tuple = tuple_of(&ref);

		rows_lock(&ref, false);
		found = !(tuple->t_infomask & HEAP_XMAX_INVALID) &&
			!HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask) &&
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(tuple));
		rows_unlock(&ref);
	}
	end_search(&search);
	return found;
}
