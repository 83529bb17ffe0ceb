/*
 * table/rows.h
 *		Rows of rate_limit_buckets, read and changed in place: see table/rows.c.
 */
#ifndef RATELIMIT_ROWS_H
#define RATELIMIT_ROWS_H

#include "core/bucket.h"
#include "core/names.h"
#include "datatype/timestamp.h"
#include "storage/block.h"
#include "storage/buf.h"
#include "storage/lockdefs.h"
#include "storage/off.h"
#include "utils/relcache.h"

/* The table and its primary key's index, open and locked. */
typedef struct Rows
{
	Relation	rel;
	Relation	index;
	LOCKMODE	mode;
} Rows;

/* What a row says of its bucket. */
typedef struct Row
{
	double		capacity;
	double		refill;
	Owed		owed;			/* at updated_at; -1: no bucket can owe that */
	TimestampTz updated_at;
} Row;

/* Where a row is: its page is pinned, and locked where that is said. */
typedef struct RowRef
{
	Buffer		buffer;
	OffsetNumber offset;
} RowRef;

typedef enum RowState
{
	ROW_LIVES,
	ROW_CHANGING,				/* somebody's statement is changing it */
	ROW_GONE
} RowState;

/* What becomes of a row that was visited. */
typedef enum RowFate
{
	ROW_KEEP,
	ROW_DELETE
} RowFate;

/*
 * Called for each row of a page, which is locked: must not throw, allocate or wait.
 * A row that somebody's statement is changing is to be kept.
 */
typedef RowFate (*RowVisitor) (const BucketId *id, const Row *row, bool changing,
							   void *arg);

extern void rows_init(void);
extern void rows_open(Rows *rows, LOCKMODE mode);
extern bool rows_open_if_free(Rows *rows, LOCKMODE mode);
extern void rows_close(Rows *rows);
extern bool rows_pin(Rows *rows, const BucketId *id, RowRef *ref);
extern void rows_lock(RowRef *ref, bool write);
extern RowState rows_state(Rows *rows, const RowRef *ref, const BucketId *id,
						   TransactionId *changed_by);
extern void rows_unlock(RowRef *ref);
extern void rows_unpin(RowRef *ref);
extern bool rows_get(Rows *rows, const BucketId *id, bool write, RowRef *ref);
extern bool rows_get_if_free(Rows *rows, const BucketId *id, RowRef *ref);
extern void rows_release(RowRef *ref);
extern void rows_read(const RowRef *ref, Row *row);
extern void rows_write(Rows *rows, RowRef *ref, const Row *row);
extern void rows_insert(Rows *rows, const BucketId *id, const Row *row);
extern BlockNumber rows_pages(Rows *rows);
extern int	rows_visit_page(Rows *rows, BlockNumber page, bool write,
							RowVisitor visit, void *arg);

#endif							/* RATELIMIT_ROWS_H */
