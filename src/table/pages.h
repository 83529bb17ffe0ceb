/*
 * table/pages.h
 *		The rows of a page of rate_limit_buckets: see table/pages.c.
 */
#ifndef RATELIMIT_TABLE_PAGES_H
#define RATELIMIT_TABLE_PAGES_H

#include "core/call.h"
#include "storage/block.h"
#include "table/open.h"
#include "table/tuple.h"

/* What becomes of a row that has been visited. */
typedef enum RowFate
{
	ROW_KEEP,
	ROW_DELETE
} RowFate;

/*
 * A visitor is called for each row of a page, which is locked, so it must not throw,
 * allocate or wait.  A row that an uncommitted statement changes is kept, whatever
 * the visitor returns.
 */
typedef RowFate (*RowVisitor) (const BucketId *id, const Row *row, bool changing,
							   void *arg);

extern BlockNumber rows_pages(Rows *rows);
extern int	rows_visit_page(Rows *rows, BlockNumber number, bool write,
							const BucketFilter *filter, RowVisitor visit, void *arg);

#endif							/* RATELIMIT_TABLE_PAGES_H */
