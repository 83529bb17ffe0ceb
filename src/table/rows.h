/*
 * table/rows.h
 *		A bucket's row in rate_limit_buckets: see table/rows.c.
 */
#ifndef RATELIMIT_ROWS_H
#define RATELIMIT_ROWS_H

#include "table/open.h"
#include "table/tuple.h"

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
extern bool rows_deleted_here(Rows *rows, const BucketId *id);

#endif							/* RATELIMIT_ROWS_H */
