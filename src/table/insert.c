/*
 * table/insert.c
 *		Making a row of rate_limit_buckets that everybody sees at once.
 *
 * It takes three steps: insert the row as usual, with the current transaction as its
 * inserter; insert its index entries; mark it as frozen.  The last step makes it
 * visible to everybody, and permanent, at once.  An error before that step leaves a
 * row of an aborted transaction, which nobody sees and which vacuum removes.
 *
 * Callers ensure that no two sessions make a row of one bucket at the same time
 * (table/make.c).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "table/insert.h"
#include "table/rows.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

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

/* Make the tuple, which this transaction has inserted, visible to everybody. */
static void
freeze(Rows *rows, ItemPointer tid)
{
	RowRef		ref;

	ref.buffer = ReadBuffer(rows->rel, ItemPointerGetBlockNumber(tid));
	ref.offset = ItemPointerGetOffsetNumber(tid);
	rows_lock(&ref, true);
	START_CRIT_SECTION();
	HeapTupleHeaderSetXminFrozen(tuple_of(&ref));
	page_changed(rows->rel, ref.buffer);
	END_CRIT_SECTION();
	rows_release(&ref);
}

/*
 * Make the bucket's row.  The caller knows that the bucket has no row and that nobody
 * else is making one.  A parallel query must not call this.
 *
 * If this transaction has deleted the bucket's row with an ordinary statement, a
 * rollback would bring that row back.  So the new row is not frozen then: it stays
 * this transaction's, and the same rollback takes it away.  Until the transaction
 * ends, other sessions wait for the row that was deleted.
 */
void
rows_insert(Rows *rows, const BucketId *id, const Row *row)
{
	TupleDesc	desc = RelationGetDescr(rows->rel);
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	Numbers		numbers;
	HeapTuple	tuple;
	bool		deleted = rows_deleted_here(rows, id);

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

