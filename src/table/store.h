/*
 * table/store.h
 *		Buckets in rate_limit_buckets: one at a time (table/store.c), several together
 *		(table/together.c), and all of them (table/all.c).
 */
#ifndef RATELIMIT_TABLE_STORE_H
#define RATELIMIT_TABLE_STORE_H

#include "core/call.h"
#include "memory/place.h"
#include "storage/block.h"

/* Pages of the table that are still to be looked at: see table/all.c. */
typedef struct TablePages
{
	BlockNumber next;
	BlockNumber end;
	BlockNumber step;			/* 1: each of them; 2: every second one */
} TablePages;

extern bool table_consume(const BucketId *id, const BucketRule *rule,
						  Decision *decision);
extern bool table_set(const BucketId *id, const BucketRule *rule, Owed owed);
extern bool table_consume_all(BucketCall *calls, int n, PlaceMode mode);
extern bool table_peek(const BucketId *id, const BucketRule *rule, Owed *owed);
extern bool table_give(const BucketId *id, double tokens, double *given, bool wait);
extern bool table_settle(const BucketId *id, double reserved, double used, double *left);
extern bool table_reset(const BucketId *id);
extern int64 table_reset_all(const char *limiter, int limiter_len);
extern void table_merge(const BucketId *id);
extern void table_all_pages(TablePages *pages);
extern void table_views(TablePages *pages, BlockNumber n, const BucketFilter *filter,
						void (*show) (const BucketView *view, void *arg), void *arg);

#endif							/* RATELIMIT_TABLE_STORE_H */
