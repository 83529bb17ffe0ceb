/*
 * table/together.c
 *		Deciding several calls together, all or nothing, if some of their buckets are
 *		in the table.
 *
 * The others are in shared memory: memory/together.c decides those, while the pages
 * of the rows stay locked.
 *
 * Rows that are missing are made first, one after the other, as rows of buckets that
 * nothing has been taken from (table/make.c).  Then all rows are pinned, and the
 * pages that they are on are locked in the order of their numbers, and after these
 * the partitions of memory.  If a row turns out to be gone, or a statement is
 * changing it, everything is unlocked and the calls are tried again.
 */
#include "postgres.h"

#include "core/compat.h"
#include "memory/partitions.h"
#include "memory/place.h"
#include "memory/together.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "table/change.h"
#include "table/clean.h"
#include "table/make.h"
#include "table/store.h"
#include "utils/timestamp.h"

/* The calls, divided by whether their buckets are in the table or in memory. */
typedef struct Split
{
	BucketCall *calls[MAX_CALLS];	/* in the table */
	RowRef		refs[MAX_CALLS];
	bool		repaired[MAX_CALLS];
	int			n;
	BucketCall *others;			/* copies of the calls on buckets in memory */
	int			n_others;
	PartitionSet locked;		/* partitions to lock for them */
	LOCKTAG		tags[MAX_CALLS];	/* of keys locked until memory has the bucket */
	int			n_tags;
	int			n_made;			/* rows that were made for the calls */
} Split;

/*
 * Ensure that each bucket that is thought to be in the table has a row.  Returns
 * false if some buckets turn out not to belong in the table; their calls are
 * corrected.
 */
static bool
make_rows(Rows *rows, BucketCall *calls, int n, Split *split)
{
	bool		all_here = true;

	for (int i = 0; i < n; i++)
	{
		BucketCall *call = &calls[i];
		RowRef		ref;
		LOCKTAG		tag;
		MakeResult	result;

		if (!call->decision.in_table)
			continue;
		if (rows_pin(rows, &call->id, &ref))
		{
			rows_unpin(&ref);
			continue;
		}
		make_lock_key(&call->id, &tag);
		result = make_row(rows, &call->id, &call->rule, call->absent, &ref);
		if (result == FOUND)
			rows_release(&ref);
		if (result == IN_MEMORY)
		{
			/* the key stays locked until the bucket is there */
			split->tags[split->n_tags++] = tag;
			call->decision.in_table = false;
			continue;
		}
		make_unlock_key(&tag);
		if (result == MADE)
			split->n_made++;
		if (result == ELSEWHERE)
		{
			/* or its rule is stale */
			call->decision.in_table = !memory_attached();
			all_here = false;
		}
	}
	return all_here;
}

/* qsort comparator: by page */
static int
compare_pages(const void *a, const void *b)
{
	BlockNumber x = BufferGetBlockNumber(((const RowRef *) a)->buffer);
	BlockNumber y = BufferGetBlockNumber(((const RowRef *) b)->buffer);

	return x < y ? -1 : x > y;
}

/*
 * Lock or unlock the pages of n rows, each page once, in the order of their numbers.
 */
static void
lock_pages(const RowRef *refs, int n, bool lock)
{
	RowRef		ordered[MAX_CALLS];

	memcpy(ordered, refs, n * sizeof(RowRef));
	qsort(ordered, n, sizeof(RowRef), compare_pages);
	for (int i = 0; i < n; i++)
	{
		if (i > 0 && compare_pages(&ordered[i - 1], &ordered[i]) == 0)
			continue;
		if (lock)
			rows_lock(&ordered[i], true);
		else
			rows_unlock(&ordered[i]);
	}
}

/* Decide, all or nothing.  The rows' pages are locked. */
static AllResult
decide_split(Rows *rows, Split *split, PlaceMode mode)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		allowed = true;

	for (int i = 0; i < split->n; i++)
	{
		BucketCall *call = split->calls[i];

		(void) row_change(rows, &split->refs[i], now, &call->rule, NULL, false,
						  &call->decision);
		allowed &= call->decision.allowed;
	}
	if (split->n_others > 0)
	{
		AllResult	result = memory_try_all(split->others, split->n_others, mode, allowed,
										   &split->locked);

		if (result != ALL_DECIDED)
			return result;
		for (int i = 0; i < split->n_others; i++)
			allowed &= split->others[i].decision.allowed;
	}
	for (int i = 0; allowed && i < split->n; i++)
		split->repaired[i] = !row_change(rows, &split->refs[i], now,
										 &split->calls[i]->rule, NULL, true,
										 &split->calls[i]->decision);
	return ALL_DECIDED;
}

/* Try once: pin and lock the rows, and decide if all of them are there. */
static AllResult
try_split(Rows *rows, Split *split, PlaceMode mode)
{
	AllResult	result = ALL_DECIDED;
	TransactionId changed_by = InvalidTransactionId;
	int			n_pinned = 0;

	while (n_pinned < split->n &&
		   rows_pin(rows, &split->calls[n_pinned]->id, &split->refs[n_pinned]))
		n_pinned++;
	if (n_pinned < split->n)
		result = ALL_BUSY;
	else
	{
		lock_pages(split->refs, split->n, true);
		for (int i = 0; i < split->n && result == ALL_DECIDED; i++)
			if (rows_state(rows, &split->refs[i], &split->calls[i]->id,
						   &changed_by) != ROW_LIVES)
				result = ALL_BUSY;
		if (result == ALL_DECIDED)
			result = decide_split(rows, split, mode);
		lock_pages(split->refs, split->n, false);
	}
	while (n_pinned > 0)
		rows_unpin(&split->refs[--n_pinned]);
	if (TransactionIdIsValid(changed_by))
		XactLockTableWait(changed_by, NULL, NULL, XLTW_None);
	return result;
}

/* Divide the calls by where their buckets are. */
static void
split_calls(BucketCall *calls, int n, Split *split)
{
	split->n = split->n_others = 0;
	for (int i = 0; i < n; i++)
	{
		if (calls[i].decision.in_table)
			split->calls[split->n++] = &calls[i];
		else
			split->others[split->n_others++] = calls[i];
	}
}

/* Copy back what has been decided, or found out, about the calls in memory. */
static void
join_calls(BucketCall *calls, int n, const Split *split)
{
	for (int i = 0, j = 0; i < n; i++)
		if (!calls[i].decision.in_table)
			calls[i].decision = split->others[j++].decision;
}

/*
 * Decide calls on different buckets, all or nothing.  decision.in_table says which of
 * the buckets are in the table.  Returns false if some have moved meanwhile; in_table
 * has been corrected then.
 */
bool
table_consume_all(BucketCall *calls, int n, PlaceMode mode)
{
	Rows		rows;
	Split	   *split = palloc0(sizeof(Split));
	AllResult	result = ALL_BUSY;

	split->others = palloc(n * sizeof(BucketCall));
	rows_open(&rows, RowExclusiveLock);
	for (int round = 0;; round++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!make_rows(&rows, calls, n, split))
		{
			result = ALL_ELSEWHERE;
			break;
		}
		injection_point("ratelimit-rows-made");
		split_calls(calls, n, split);
		result = try_split(&rows, split, mode);
		if (result == ALL_DECIDED || result == ALL_ELSEWHERE)
		{
			join_calls(calls, n, split);
			break;
		}
		if (result == ALL_NO_ROOM)
			memory_fail_no_room(n);
		if (result == ALL_BUSY && round > 10)
			pg_usleep(Min(round, 1000));
	}
	while (split->n_tags > 0)
		make_unlock_key(&split->tags[--split->n_tags]);
	rows_close(&rows);

	for (int i = 0; result == ALL_DECIDED && i < split->n; i++)
		if (split->repaired[i])
			row_warn_repaired(&split->calls[i]->id);
	while (split->n_made-- > 0)
		table_clean_now_and_then();
	pfree(split->others);
	pfree(split);
	return result == ALL_DECIDED;
}
