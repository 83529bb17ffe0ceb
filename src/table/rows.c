/*
 * table/rows.c
 *		Rows of the unlogged table rate_limit_buckets, read and changed in place.
 *
 * Consuming is not transactional: a limit that a rollback could undo would be no
 * limit, and a row that stayed locked to the end of its caller's transaction would
 * keep everybody else from the bucket.  So a call does not UPDATE a bucket's row.
 * It finds the row through the primary key's index, locks the page that the row is
 * on, and overwrites the numbers in the row.  Whoever comes next sees them as soon
 * as the page is unlocked, whatever becomes of the caller's transaction.  Nothing is
 * left that a vacuum would have to remove, and nobody waits for a transaction.
 *
 * The numbers have a fixed size and stand behind the names, which never change, so
 * the row keeps its length and its index entries stay right.
 *
 * Making a row takes three steps: insert it as usual, with the current transaction
 * as its inserter; insert its index entries; mark it as frozen, which makes it
 * visible to everybody, and permanent, at once.  An error before the last step
 * leaves a row of an aborted transaction, which is as good as none.  Callers see to
 * it that no two sessions make a row of one bucket at the same time.
 *
 * Deleting a row sets its inserter to an invalid transaction, as PostgreSQL itself
 * does with a speculative insertion that it takes back.  The row is dead for
 * everybody at once, and pruning and vacuum remove it and its index entries.  A page
 * that was marked as all-visible loses that mark, as for any deletion.
 *
 * A person may change the table with ordinary statements meanwhile.  A row that
 * such a statement has changed or deleted is waited for; one that is only locked is
 * not, as its contents are not the locker's.
 *
 * An unlogged table needs no WAL.  If it was ALTERed to be a logged one, each change
 * logs the image of the page.
 *
 * What a page's lock protects: all bytes of the rows on it.  Nothing may throw,
 * allocate or wait for a heavyweight lock while it is held.  It is an LWLock, so
 * that interrupts are held off as well.  Pages are locked in the order of their
 * numbers by those who lock several.
 *
 * This file knows neither shared memory nor what the numbers mean: table/store.c.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/multixact.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/visibilitymap.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "table/rows.h"
#include "table/sql.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* The columns.  The names come first, then the numbers. */
enum
{
	COLUMN_LIMITER = 1,
	COLUMN_KEY,
	COLUMN_CAPACITY,
	COLUMN_REFILL,
	COLUMN_OWED,
	COLUMN_UPDATED_AT,
	COLUMN_OWED_HIGH
};
#define N_NAMES		COLUMN_KEY
#define N_COLUMNS	COLUMN_OWED_HIGH

static const Oid column_types[N_COLUMNS] = {
	TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, INT8OID, TIMESTAMPTZOID, INT8OID
};

/* The numbers as they stand in a row. */
typedef struct Numbers
{
	double		capacity;
	double		refill;
	int64		owed;			/* below OWED_UNIT */
	TimestampTz updated_at;
	int64		owed_high;		/* in OWED_UNITs */
} Numbers;

#define OWED_UNIT	INT64CONST(1000000000000000000)

/* The table whose form is known to be right, and its primary key's index. */
static struct
{
	bool		valid;
	bool		changed;		/* while it was looked at */
	Oid			relid;
	Oid			index;
}			form;

static void
invalidate(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == form.relid)
	{
		form.valid = false;
		form.changed = true;
	}
}

void
rows_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

/*
 * Opening
 */

pg_noreturn static void
fail_form(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table rate_limit_buckets has been altered: %s", what),
			 errhint("Undo the change, or drop extension ratelimit and create it again.")));
}

/*
 * Values are written past the executor, so what the executor would have to do may
 * not exist: other columns in indexes, triggers, other types.
 */
static void
check_form(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *indexes;
	ListCell   *cell;
	Oid			primary = InvalidOid;

	if (form.valid && form.relid == RelationGetRelid(rel))
		return;
	/* not valid after an error, nor after an invalidation during what follows */
	form.valid = false;
	form.changed = false;
	form.relid = RelationGetRelid(rel);

	if (rel->rd_rel->relkind != RELKIND_RELATION ||
		rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		fail_form("it is no ordinary table");
	if (desc->natts < N_COLUMNS)
		fail_form("columns are missing");
	for (int i = 0; i < N_COLUMNS; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (column->attisdropped || column->atttypid != column_types[i] ||
			!column->attnotnull)
			fail_form("columns have other types, or may be null");
		if (column->atttypid == TEXTOID && column->attcollation != C_COLLATION_OID)
			fail_form("its names have another collation");
	}
	for (int i = N_COLUMNS; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && TupleDescAttr(desc, i)->attnotnull)
			fail_form("it has a further column that may not be null");
	if (rel->trigdesc != NULL)
		fail_form("it has triggers");
	if (desc->constr && desc->constr->num_check > 0)
		fail_form("it has CHECK constraints");

	indexes = RelationGetIndexList(rel);
	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index def = index->rd_index;
		bool		names_only = RelationGetIndexExpressions(index) == NIL &&
			RelationGetIndexPredicate(index) == NIL;

		for (int i = 0; i < def->indnatts; i++)
			names_only &= def->indkey.values[i] == COLUMN_LIMITER ||
				def->indkey.values[i] == COLUMN_KEY;
		if (def->indisprimary && def->indnkeyatts == N_NAMES && def->indisvalid &&
			def->indkey.values[0] == COLUMN_LIMITER &&
			def->indkey.values[1] == COLUMN_KEY)
			primary = lfirst_oid(cell);
		index_close(index, AccessShareLock);
		if (!names_only)
			fail_form("it has an index on columns other than limiter and key");
	}
	list_free(indexes);
	if (!OidIsValid(primary))
		fail_form("its primary key is missing");
	form.index = primary;
	form.valid = !form.changed;
}

static void
open_locked(Rows *rows, LOCKMODE mode)
{
	rows->mode = mode;
	rows->rel = table_open(sql_relid(SQL_BUCKETS), NoLock);
	check_form(rows->rel);
	rows->index = index_open(form.index, mode);
}

/* Open the table, as strongly locked as that, until rows_close(). */
void
rows_open(Rows *rows, LOCKMODE mode)
{
	sql_require(SQL_BUCKETS);
	sql_lock(SQL_BUCKETS, mode);
	open_locked(rows, mode);
}

/* The same if that needs no waiting; else false. */
bool
rows_open_if_free(Rows *rows, LOCKMODE mode)
{
	sql_require(SQL_BUCKETS);
	if (!sql_lock_if_free(SQL_BUCKETS, mode))
		return false;
	open_locked(rows, mode);
	return true;
}

/* Nothing stays locked: what was written is not the transaction's. */
void
rows_close(Rows *rows)
{
	index_close(rows->index, rows->mode);
	table_close(rows->rel, rows->mode);
}

/*
 * One row
 */

static HeapTupleHeader
tuple_of(const RowRef *ref)
{
	Page		page = BufferGetPage(ref->buffer);

	return (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, ref->offset));
}

/* The name that begins at *at of the tuple's data; *at goes on behind it. */
static const char *
next_name(char *data, Size *at, int *len)
{
	char	   *value;

	*at = att_align_pointer(*at, TYPALIGN_INT, -1, data + *at);
	value = data + *at;
	*at = att_addlength_pointer(*at, -1, value);
	/* nobody's name is as long as to be stored in another way */
	if (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value))
	{
		*len = 0;
		return value;
	}
	*len = VARSIZE_ANY_EXHDR(value);
	return VARDATA_ANY(value);
}

/* Where the tuple's names and numbers are. */
static char *
take_apart(HeapTupleHeader tuple, const char **limiter, int *limiter_len,
		   const char **key, int *key_len)
{
	char	   *data = (char *) tuple + tuple->t_hoff;
	Size		at = 0;

	*limiter = next_name(data, &at, limiter_len);
	*key = next_name(data, &at, key_len);
	return data + att_align_nominal(at, TYPALIGN_DOUBLE);
}

static char *
numbers_of(HeapTupleHeader tuple)
{
	const char *limiter;
	const char *key;
	int			limiter_len;
	int			key_len;

	return take_apart(tuple, &limiter, &limiter_len, &key, &key_len);
}

static bool
tuple_is(HeapTupleHeader tuple, const BucketId *id)
{
	const char *limiter;
	const char *key;
	int			limiter_len;
	int			key_len;

	(void) take_apart(tuple, &limiter, &limiter_len, &key, &key_len);
	return limiter_len == id->limiter_len && key_len == id->key_len &&
		memcmp(limiter, id->limiter, limiter_len) == 0 &&
		memcmp(key, id->key, key_len) == 0;
}

/* The row's page is locked. */
static RowState
tuple_state(Rows *rows, Buffer buffer, OffsetNumber offset, TransactionId *changed_by)
{
	HeapTupleData tuple;
	Page		page = BufferGetPage(buffer);
	ItemId		item;
	TransactionId xid;

	if (offset > PageGetMaxOffsetNumber(page))
		return ROW_GONE;
	item = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(item))
		return ROW_GONE;
	ItemPointerSet(&tuple.t_self, BufferGetBlockNumber(buffer), offset);
	tuple.t_tableOid = RelationGetRelid(rows->rel);
	tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple.t_len = ItemIdGetLength(item);
	/* as of any command: what this transaction has done by hand counts as done */
	switch (HeapTupleSatisfiesUpdate(&tuple, PG_UINT32_MAX, buffer))
	{
		case TM_Ok:
			return ROW_LIVES;
		case TM_BeingModified:
			if (HEAP_XMAX_IS_LOCKED_ONLY(tuple.t_data->t_infomask))
				return ROW_LIVES;
			xid = HeapTupleHeaderGetUpdateXid(tuple.t_data);
			/* of a change that was rolled back others may have been lockers, and still be */
			if (!TransactionIdIsInProgress(xid) && !TransactionIdDidCommit(xid))
				return ROW_LIVES;
			if (changed_by)
				*changed_by = xid;
			return ROW_CHANGING;
		case TM_Invisible:
			/* somebody's statement is inserting it, or it is dead */
			if (changed_by)
				*changed_by = InvalidTransactionId;
			return HeapTupleHeaderXminInvalid(tuple.t_data) ||
				HeapTupleHeaderXminCommitted(tuple.t_data) ? ROW_GONE : ROW_CHANGING;
		default:
			return ROW_GONE;
	}
}

/* A name as a text. */
typedef union NameText
{
	int32		header;			/* aligns it */
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

/* The next row, which is pinned until the next call; false if there is none. */
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
 * Find and pin the bucket's row, as of now; false if there is none.  It may be gone
 * by the time that its page is locked.
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
		/* the names do not change, and the line pointer cannot while it is pinned */
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

void
rows_lock(RowRef *ref, bool write)
{
	LockBuffer(ref->buffer, write ? BUFFER_LOCK_EXCLUSIVE : BUFFER_LOCK_SHARE);
}

/* What is with the row?  Its page is locked. */
RowState
rows_state(Rows *rows, const RowRef *ref, const BucketId *id,
		   TransactionId *changed_by)
{
	RowState	state = tuple_state(rows, ref->buffer, ref->offset, changed_by);

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
 * Find the bucket's row and lock its page; false if there is none.  Who only reads
 * does not wait for a statement that is changing the row.
 */
bool
rows_get(Rows *rows, const BucketId *id, bool write, RowRef *ref)
{
	return get_row(rows, id, write, true, ref);
}

/* The same to write, but also false if a statement is changing the row. */
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

static void
read_numbers(HeapTupleHeader tuple, Row *row)
{
	Numbers		numbers;

	memcpy(&numbers, numbers_of(tuple), sizeof(numbers));
	row->capacity = numbers.capacity;
	row->refill = numbers.refill;
	row->updated_at = numbers.updated_at;
	row->owed = (Owed) numbers.owed_high * OWED_UNIT + numbers.owed;
	if (numbers.owed < 0 || numbers.owed_high < 0 || row->owed > BUCKET_OWED_MAX)
		row->owed = -1;
}

static void
make_numbers(Numbers *numbers, const Row *row)
{
	numbers->capacity = row->capacity;
	numbers->refill = row->refill;
	numbers->updated_at = row->updated_at;
	numbers->owed = (int64) row->owed;
	numbers->owed_high = 0;
	if (unlikely(row->owed >= OWED_UNIT))
	{
		numbers->owed = (int64) (row->owed % OWED_UNIT);
		numbers->owed_high = (int64) (row->owed / OWED_UNIT);
	}
}

/* Read the row, whose page is locked. */
void
rows_read(const RowRef *ref, Row *row)
{
	read_numbers(tuple_of(ref), row);
}

/* The page has been changed, in a critical section. */
static void
page_changed(Rows *rows, Buffer buffer)
{
	MarkBufferDirty(buffer);
	if (RelationNeedsWAL(rows->rel))
		log_newpage_buffer(buffer, true);
}

/* Overwrite the row, whose page is locked exclusively. */
void
rows_write(Rows *rows, RowRef *ref, const Row *row)
{
	Numbers		numbers;
	char	   *place = numbers_of(tuple_of(ref));

	make_numbers(&numbers, row);
	START_CRIT_SECTION();
	memcpy(place, &numbers, sizeof(numbers));
	page_changed(rows, ref->buffer);
	END_CRIT_SECTION();
}

/*
 * Making and deleting rows
 */

static void
insert_index_entries(Rows *rows, HeapTuple tuple, const Datum *values)
{
	List	   *indexes = RelationGetIndexList(rows->rel);
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);
		Datum		entry[INDEX_MAX_KEYS];
		bool		nulls[INDEX_MAX_KEYS] = {false};

		if (index->rd_index->indisready)
		{
			for (int i = 0; i < index->rd_index->indnatts; i++)
				entry[i] = values[index->rd_index->indkey.values[i] - 1];
			index_insert(index, entry, nulls, &tuple->t_self, rows->rel,
						 index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
						 false, BuildIndexInfo(index));
		}
		index_close(index, RowExclusiveLock);
	}
	list_free(indexes);
}

/* Make the tuple, which this transaction has inserted, everybody's. */
static void
freeze(Rows *rows, ItemPointer tid)
{
	RowRef		ref;

	ref.buffer = ReadBuffer(rows->rel, ItemPointerGetBlockNumber(tid));
	ref.offset = ItemPointerGetOffsetNumber(tid);
	rows_lock(&ref, true);
	START_CRIT_SECTION();
	HeapTupleHeaderSetXminFrozen(tuple_of(&ref));
	page_changed(rows, ref.buffer);
	END_CRIT_SECTION();
	rows_release(&ref);
}

/*
 * Has this transaction deleted a row of the bucket by an ordinary statement?  Only one
 * that has a number can have.
 */
static bool
deleted_here(Rows *rows, const BucketId *id)
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

/*
 * Make the bucket's row.  There is none, and nobody else is making it.  Not in a
 * parallel query.
 *
 * If this transaction has deleted one by hand, which a rollback would bring back, the
 * new one is the transaction's as well.  Others wait for the one that was deleted.
 */
void
rows_insert(Rows *rows, const BucketId *id, const Row *row)
{
	TupleDesc	desc = RelationGetDescr(rows->rel);
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	Numbers		numbers;
	HeapTuple	tuple;
	bool		deleted = deleted_here(rows, id);

	make_numbers(&numbers, row);
	memset(nulls, true, desc->natts * sizeof(bool));
	memset(nulls, false, N_COLUMNS * sizeof(bool));
	/* cppcheck-suppress duplicateExpression ; COLUMN_LIMITER is 1 */
	values[COLUMN_LIMITER - 1] = PointerGetDatum(cstring_to_text_with_len(id->limiter, id->limiter_len));
	values[COLUMN_KEY - 1] = PointerGetDatum(cstring_to_text_with_len(id->key, id->key_len));
	values[COLUMN_CAPACITY - 1] = Float8GetDatum(numbers.capacity);
	values[COLUMN_REFILL - 1] = Float8GetDatum(numbers.refill);
	values[COLUMN_OWED - 1] = Int64GetDatum(numbers.owed);
	values[COLUMN_UPDATED_AT - 1] = TimestampTzGetDatum(numbers.updated_at);
	values[COLUMN_OWED_HIGH - 1] = Int64GetDatum(numbers.owed_high);

	tuple = heap_form_tuple(desc, values, nulls);
	heap_insert(rows->rel, tuple, GetCurrentCommandId(true), 0, NULL);
	insert_index_entries(rows, tuple, values);
	if (!deleted)
		freeze(rows, &tuple->t_self);

	heap_freetuple(tuple);
	/* cppcheck-suppress duplicateExpression ; COLUMN_LIMITER is 1 */
	pfree(DatumGetPointer(values[COLUMN_LIMITER - 1]));
	pfree(DatumGetPointer(values[COLUMN_KEY - 1]));
	pfree(values);
	pfree(nulls);
}

/* Delete a row, whose page is locked, and its part of the visibility map pinned. */
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
	page_changed(rows, buffer);
	END_CRIT_SECTION();
}

/*
 * Pages
 */

BlockNumber
rows_pages(Rows *rows)
{
	return RelationGetNumberOfBlocks(rows->rel);
}

/*
 * Lock the page exclusively.  If it is all-visible its part of the visibility map is
 * pinned, which may read it from disk, so it comes before.
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

/*
 * Call visit() for each row of a page, which is locked meanwhile, exclusively if
 * rows are to be deleted.  How many were.
 */
int
rows_visit_page(Rows *rows, BlockNumber number, bool write, RowVisitor visit,
				void *arg)
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
		RowState	state = tuple_state(rows, buffer, offset, NULL);
		const char *limiter;
		const char *key;
		int			limiter_len;
		int			key_len;
		BucketId	id;
		Row			row;

		if (state == ROW_GONE)
			continue;
		(void) take_apart(tuple_of(&ref), &limiter, &limiter_len, &key, &key_len);
		if (!names_valid(limiter, limiter_len, key, key_len))
			continue;
		make_bucket_id(&id, MyDatabaseId, limiter, limiter_len, key, key_len);
		rows_read(&ref, &row);
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
