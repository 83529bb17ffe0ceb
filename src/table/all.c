/*
 * table/all.c
 *		All buckets in the table at once: making them full, and showing the living
 *		ones.
 *
 * The table is gone through a page at a time (table/pages.c), so no call waits for
 * more than a page.  A row that is made meanwhile may be missed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "core/clock.h"
#include "table/owed.h"
#include "table/pages.h"
#include "table/sql.h"
#include "table/store.h"

/* Which buckets become full. */
typedef struct ResetAll
{
	const char *limiter;		/* NULL: all except blocks */
	int			limiter_len;
	int64		living;			/* how many were not full */
} ResetAll;

/* Visitor that deletes the rows of these buckets. */
static RowFate
reset_row(const BucketId *id, const Row *row, bool changing, void *arg)
{
	ResetAll   *all = arg;
	BucketRule	own;
	Row			copy = *row;

	if (all->limiter ?
		(plain_limiter_len(id->limiter, id->limiter_len) != all->limiter_len ||
		 memcmp(id->limiter, all->limiter, all->limiter_len) != 0) :
		*id->limiter == BLOCK_PREFIX)
		return ROW_KEEP;
	if (!changing && row_owed_by_itself(&copy, 0, &own) > 0)
		all->living++;
	return ROW_DELETE;
}

/*
 * Delete the rows of a limiter, or, if it is null, all rows except blocks.  Returns
 * how many buckets were not full.
 */
int64
table_reset_all(const char *limiter, int limiter_len)
{
	ResetAll	all = {limiter, limiter_len, 0};
	Rows		rows;
	BlockNumber pages;

	rows_open(&rows, RowExclusiveLock);
	pages = rows_pages(&rows);
	for (BlockNumber page = 0; page < pages; page++)
	{
		CHECK_FOR_INTERRUPTS();
		(void) rows_visit_page(&rows, page, true, NULL, reset_row, &all);
	}
	rows_close(&rows);
	return all.living;
}

/*
 * Looking
 */

/* The living buckets of a page. */
typedef struct PageViews
{
	int			n;
	BucketView	views[MaxHeapTuplesPerPage];
} PageViews;

/* Visitor that adds the row's bucket to the page's views, and keeps the row. */
static RowFate
view_row(const BucketId *id, const Row *row, bool changing, void *arg)
{
	PageViews  *page = arg;
	BucketView *view = &page->views[page->n];
	BucketRule	own;
	Row			copy = *row;

	view->owed = row_owed_by_itself(&copy, 0, &own);
	if (view->owed <= 0 ||
		(bucket_in_period(copy.refill) && period_is_over(copy.refill, 0)))
		return ROW_KEEP;
	view->limiter_len = id->limiter_len;
	memcpy(view->limiter, id->limiter, id->limiter_len);
	view->key_len = id->key_len;
	memcpy(view->key, id->key, id->key_len);
	view->capacity = copy.capacity;
	view->refill = copy.refill;
	page->n++;
	return ROW_KEEP;
}

/* Begin with the first page, and take every page that the table has now. */
void
table_all_pages(TablePages *pages)
{
	Rows		rows;

	pages->next = 0;
	pages->end = 0;
	pages->step = 1;
	if (RecoveryInProgress() || !sql_available())
		return;
	rows_open(&rows, AccessShareLock);
	pages->end = rows_pages(&rows);
	rows_close(&rows);
}

/* Call show() for each living bucket of the next n pages that is wanted. */
void
table_views(TablePages *pages, BlockNumber n, const BucketFilter *filter,
			void (*show) (const BucketView *view, void *arg), void *arg)
{
	PageViews  *views;
	Rows		rows;

	if (pages->next >= pages->end)
		return;
	views = palloc(sizeof(PageViews));
	rows_open(&rows, AccessShareLock);
	/* it may have been truncated */
	pages->end = Min(pages->end, rows_pages(&rows));
	for (; n > 0 && pages->next < pages->end; n--, pages->next += pages->step)
	{
		CHECK_FOR_INTERRUPTS();
		views->n = 0;
		(void) rows_visit_page(&rows, pages->next, false, filter, view_row, views);
		for (int i = 0; i < views->n; i++)
			show(&views->views[i], arg);
	}
	rows_close(&rows);
	pfree(views);
}
