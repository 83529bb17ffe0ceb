/*
 * table/tuple.h
 *		A row of rate_limit_buckets as it lies on its page: see table/tuple.c.
 */
#ifndef RATELIMIT_TABLE_TUPLE_H
#define RATELIMIT_TABLE_TUPLE_H

#include "access/htup.h"
#include "core/bucket.h"
#include "core/names.h"
#include "datatype/timestamp.h"
#include "storage/buf.h"
#include "storage/off.h"
#include "utils/relcache.h"

/* The columns: first the names, then the numbers. */
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

/* The numbers as they are stored in a row. */
typedef struct Numbers
{
	double		capacity;
	double		refill;
	int64		owed;			/* below OWED_UNIT */
	TimestampTz updated_at;
	int64		owed_high;		/* in OWED_UNITs */
} Numbers;

/* What a row says of its bucket. */
typedef struct Row
{
	double		capacity;
	double		refill;
	Owed		owed;			/* at updated_at; -1: more than any bucket can owe */
	TimestampTz updated_at;
} Row;

/* Where a row is.  Its page is pinned, and locked where a function says so. */
typedef struct RowRef
{
	Buffer		buffer;
	OffsetNumber offset;
} RowRef;

typedef enum RowState
{
	ROW_LIVES,
	ROW_CHANGING,				/* an uncommitted statement is changing it */
	ROW_GONE
} RowState;

extern HeapTupleHeader tuple_of(const RowRef *ref);
extern char *tuple_take_apart(HeapTupleHeader tuple, const char **limiter,
							  int *limiter_len, const char **key, int *key_len);
extern char *tuple_numbers(HeapTupleHeader tuple);
extern bool tuple_is(HeapTupleHeader tuple, const BucketId *id);
extern RowState tuple_state(Relation rel, const RowRef *ref,
							TransactionId *changed_by);
extern void tuple_read(HeapTupleHeader tuple, Row *row);
extern void make_numbers(Numbers *numbers, const Row *row);
extern void page_changed(Relation rel, Buffer buffer);

#endif							/* RATELIMIT_TABLE_TUPLE_H */
