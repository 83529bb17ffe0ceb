/*
 * table/tuple.c
 *		A row of rate_limit_buckets as it lies on its page: where its names and
 *		numbers are, what the numbers say, and whether the row is alive.
 *
 * The numbers have a fixed size and follow the names, which never change.  So a row
 * whose numbers are overwritten keeps its length, and its index entries stay right.
 *
 * The names are short and stored as they are.  Only a statement written by hand can
 * have them compressed; no bucket has such a row.
 *
 * The bytes of a row are protected by the lock of its page (table/rows.c).  This file
 * takes no locks, and does not know what the numbers mean for a call (table/owed.c).
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xloginsert.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "table/tuple.h"
#include "utils/rel.h"

/* The row's tuple, on its pinned page. */
HeapTupleHeader
tuple_of(const RowRef *ref)
{
	Page		page = BufferGetPage(ref->buffer);

	return (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, ref->offset));
}

/* Return the name that begins at *at of the tuple's data; move *at behind it. */
static const char *
next_name(char *data, Size *at, int *len)
{
	char	   *value;

	*at = att_align_pointer(*at, TYPALIGN_INT, -1, data + *at);
	value = data + *at;
	*at = att_addlength_pointer(*at, -1, value);
	/* a valid name is too short to be stored in another way */
	if (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value))
	{
		*len = 0;
		return value;
	}
	*len = VARSIZE_ANY_EXHDR(value);
	return VARDATA_ANY(value);
}

/* Find the tuple's names, and return the address of its numbers. */
char *
tuple_take_apart(HeapTupleHeader tuple, const char **limiter, int *limiter_len,
				 const char **key, int *key_len)
{
	char	   *data = (char *) tuple + tuple->t_hoff;
	Size		at = 0;

	*limiter = next_name(data, &at, limiter_len);
	*key = next_name(data, &at, key_len);
	return data + att_align_nominal(at, TYPALIGN_DOUBLE);
}

/* The address of the tuple's numbers. */
char *
tuple_numbers(HeapTupleHeader tuple)
{
	const char *limiter;
	const char *key;
	int			limiter_len;
	int			key_len;

	return tuple_take_apart(tuple, &limiter, &limiter_len, &key, &key_len);
}

/* Has the tuple these names? */
bool
tuple_is(HeapTupleHeader tuple, const BucketId *id)
{
	const char *limiter;
	const char *key;
	int			limiter_len;
	int			key_len;

	(void) tuple_take_apart(tuple, &limiter, &limiter_len, &key, &key_len);
	return limiter_len == id->limiter_len && key_len == id->key_len &&
		memcmp(limiter, id->limiter, limiter_len) == 0 &&
		memcmp(key, id->key, key_len) == 0;
}

/*
 * Is the row alive?  The caller has locked its page.  While an uncommitted statement
 * is changing it, *changed_by is that statement's transaction, or invalid where it is
 * not known, as for one that is inserting the row.
 */
RowState
tuple_state(Relation rel, const RowRef *ref, TransactionId *changed_by)
{
	HeapTupleData tuple;
	Page		page = BufferGetPage(ref->buffer);
	ItemId		item;
	TransactionId xid;

	if (ref->offset > PageGetMaxOffsetNumber(page))
		return ROW_GONE;
	item = PageGetItemId(page, ref->offset);
	if (!ItemIdIsNormal(item))
		return ROW_GONE;
	ItemPointerSet(&tuple.t_self, BufferGetBlockNumber(ref->buffer), ref->offset);
	tuple.t_tableOid = RelationGetRelid(rel);
	tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple.t_len = ItemIdGetLength(item);
	/* what this transaction has changed by hand counts, whichever command it was */
	switch (HeapTupleSatisfiesUpdate(&tuple, PG_UINT32_MAX, ref->buffer))
	{
		case TM_Ok:
			return ROW_LIVES;
		case TM_BeingModified:
			if (HEAP_XMAX_IS_LOCKED_ONLY(tuple.t_data->t_infomask))
				return ROW_LIVES;
			xid = HeapTupleHeaderGetUpdateXid(tuple.t_data);
			/* the change was rolled back: what remains in progress are lockers */
			if (!TransactionIdIsInProgress(xid) && !TransactionIdDidCommit(xid))
				return ROW_LIVES;
			if (changed_by)
				*changed_by = xid;
			return ROW_CHANGING;
		case TM_Invisible:
			/* a statement of another session is inserting the row, or it is dead */
			if (changed_by)
				*changed_by = InvalidTransactionId;
			return HeapTupleHeaderXminInvalid(tuple.t_data) ||
				HeapTupleHeaderXminCommitted(tuple.t_data) ? ROW_GONE : ROW_CHANGING;
		default:
			return ROW_GONE;
	}
}

/* Read the tuple's numbers. */
void
tuple_read(HeapTupleHeader tuple, Row *row)
{
	Numbers		numbers;

	memcpy(&numbers, tuple_numbers(tuple), sizeof(numbers));
	row->capacity = numbers.capacity;
	row->refill = numbers.refill;
	row->updated_at = numbers.updated_at;
	row->owed = (Owed) numbers.owed_high * OWED_UNIT + numbers.owed;
	if (numbers.owed < 0 || numbers.owed_high < 0 || row->owed > BUCKET_OWED_MAX)
		row->owed = -1;
}

/* Bring the numbers into the form in which a row stores them. */
void
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

/* Note that the page has been changed.  Called in a critical section. */
void
page_changed(Relation rel, Buffer buffer)
{
	MarkBufferDirty(buffer);
	if (RelationNeedsWAL(rel))
		log_newpage_buffer(buffer, true);
}
