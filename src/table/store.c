/*
 * table/store.c
 *		Buckets in the unlogged table rate_limit_buckets.
 *
 * One row per bucket, changed in place and at once, whatever becomes of the caller's
 * transaction: table/rows.c.  The row says what the bucket owed (see core/bucket.h) at
 * updated_at, under which parameters; a row that has become full again equals none.
 * Which buckets are here, and not in shared memory: memory/spill.c.
 *
 * Rows are trusted with nothing: whatever stands in one, the call is decided and
 * the row repaired, with a warning that names the key.
 *
 * A row is made holding its key's lock, a heavyweight lock that is held no longer
 * than that, so no two sessions make rows of one bucket.  Who decides several calls
 * together makes the rows that are missing first, full, one after the other, and then
 * locks the pages that they are on, in the order of their numbers.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "memory/consume.h"
#include "memory/databases.h"
#include "memory/place.h"
#include "memory/spill.h"
#include "memory/together.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "table/clean.h"
#include "table/owed.h"
#include "table/sql.h"
#include "table/store.h"
#include "utils/timestamp.h"

/* Where no worker comes, one new row in so many cleans some pages. */
#define CLEAN_EVERY			16

/* Advisory locks have 1 or 2 there, violations/flush.c has 3: this one locks keys. */
#define KEY_LOCK_CLASS		4

/*
 * Rows
 */

static void
warn_repaired(const BucketId *id)
{
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("repaired the bucket of key \"%.*s\", limiter \"%.*s\"",
					id->key_len, id->key, id->limiter_len, id->limiter),
			 errdetail("Its row in rate_limit_buckets made no sense.")));
}

/*
 * Decide a call, at a time, on a row, whose page is locked exclusively, or, if it is
 * not null, let the bucket owe what "set" says; and write it, unless it is not to be
 * applied.  Did the row make sense?
 */
static bool
change_row(Rows *rows, RowRef *ref, TimestampTz now, const BucketRule *rule,
		   const Owed *set, bool apply, Decision *decision)
{
	Row			row;
	bool		sane;

	rows_read(ref, &row);
	sane = row_make_sense(&row, now, rule);
	decision->in_table = true;
	decision->owed = set ? *set : row_owed(&row, now, rule);
	if (!apply)
	{
		Owed		owed = decision->owed;

		decision->allowed = bucket_take(rule, &owed);
		return sane;
	}
	decision->allowed = bucket_take(rule, &decision->owed);
	/* a denied call leaves the row as it is, unless its parameters are new */
	if (sane && !set && row.capacity == rule->capacity && row.refill == rule->refill &&
		(!decision->allowed || rule->take == 0))
		return true;
	row.capacity = rule->capacity;
	row.refill = rule->refill;
	row.owed = decision->owed;
	row.updated_at = Max(now, row.updated_at);
	rows_write(rows, ref, &row);
	return sane;
}

/*
 * Making rows
 */

/* What became of an attempt to make a bucket's row. */
typedef enum MakeResult
{
	MADE,
	FOUND,						/* there is one, and its page is locked */
	ELSEWHERE,					/* the bucket does not belong here any more */
	IN_MEMORY					/* it is to be made there: rule 6 of memory/spill.c */
} MakeResult;

/*
 * Any role can look at the locks that are held, so nothing of the secret hash may be
 * in them.  Keys that collide wait for each other's rows to be made, for a moment.
 */
static void
lock_key(const BucketId *id, LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId,
						 hash_bytes((const unsigned char *) id->key, id->key_len),
						 hash_bytes((const unsigned char *) id->limiter, id->limiter_len),
						 KEY_LOCK_CLASS);
	(void) LockAcquire(tag, ExclusiveLock, false, false);
}

static void
unlock_key(const LOCKTAG *tag)
{
	(void) LockRelease(tag, ExclusiveLock, false);
}

static void
making_failed(int code, Datum partition)
{
	spill_end_row(DatumGetInt32(partition));
}

/*
 * Make a row of a bucket that owes so much.  The caller has not found one, and holds
 * the key's lock.
 */
static MakeResult
make_row(Rows *rows, const BucketId *id, const BucketRule *rule, Owed owed, RowRef *ref)
{
	int			partition;
	Row			row;
	Decision	unused;

	if (rows_get(rows, id, true, ref))
		return FOUND;
	row.capacity = rule->capacity;
	row.refill = rule->refill;
	row.owed = owed;
	row.updated_at = GetCurrentTimestamp();
	if (!memory_attached())
	{
		rows_insert(rows, id, &row);
		return MADE;
	}

	if (memory_peek(id, rule, &unused))
		return ELSEWHERE;
	if (IsInParallelMode())
		return IN_MEMORY;
	partition = memory_partition(id->hash);
	if (!spill_begin_row(partition))
		return ELSEWHERE;
	PG_ENSURE_ERROR_CLEANUP(making_failed, Int32GetDatum(partition));
	{
		rows_insert(rows, id, &row);
	}
	PG_END_ENSURE_ERROR_CLEANUP(making_failed, Int32GetDatum(partition));
	spill_end_row(partition);
	return MADE;
}

/* Where no worker comes, who makes rows also deletes some. */
static void
clean_now_and_then(void)
{
	static uint32 made = 0;

	if (!my_shared_database() && ++made % CLEAN_EVERY == 0)
		table_clean_some();
}

/*
 * Decisions
 */

/* The same for a bucket that was found to have no row: it is full. */
static MakeResult
consume_without_row(Rows *rows, const BucketId *id, const BucketRule *rule,
					const Owed *set, Decision *decision, bool *sane)
{
	MakeResult	result;
	RowRef		ref;
	LOCKTAG		tag;
	Decision	unused;

	decision->in_table = true;
	decision->owed = set ? *set : 0;
	decision->allowed = bucket_take(rule, &decision->owed);
	/* there is nothing to write if it stays full, unless it has moved meanwhile */
	if (decision->owed == 0)
		return memory_attached() && memory_peek(id, rule, &unused) ? ELSEWHERE : FOUND;

	lock_key(id, &tag);
	result = make_row(rows, id, rule, decision->owed, &ref);
	if (result == FOUND)
	{
		*sane = change_row(rows, &ref, GetCurrentTimestamp(), rule, set, true, decision);
		rows_release(&ref);
	}
	else if (result == IN_MEMORY)
	{
		decision->in_table = false;
		if (set)
			(void) memory_set(id, rule, *set, PLACE_HERE);
		else
			(void) memory_place(id, rule, 0, PLACE_HERE, decision);
	}
	unlock_key(&tag);
	return result;
}

/*
 * Decide a call, or, if it is not null, let the bucket owe what "set" says.
 * False if the bucket does not belong here any more.
 */
static bool
consume_or_set(const BucketId *id, const BucketRule *rule, const Owed *set,
			   Decision *decision)
{
	Rows		rows;
	RowRef		ref;
	MakeResult	result = FOUND;
	bool		sane = true;

	rows_open(&rows, RowExclusiveLock);
	if (rows_get(&rows, id, true, &ref))
	{
		sane = change_row(&rows, &ref, GetCurrentTimestamp(), rule, set, true, decision);
		rows_release(&ref);
	}
	else
	{
		result = consume_without_row(&rows, id, rule, set, decision, &sane);
	}
	rows_close(&rows);
	if (!sane)
		warn_repaired(id);
	if (result == MADE)
		clean_now_and_then();
	return result != ELSEWHERE;
}

/*
 * Decide a call.  False if the bucket does not belong here any more: it is to be
 * looked for in shared memory again.  Without shared memory not in a parallel query.
 */
bool
table_consume(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	return consume_or_set(id, rule, NULL, decision);
}

/* Let the bucket owe so much, under a rule that takes nothing; or false, likewise. */
bool
table_set(const BucketId *id, const BucketRule *rule, Owed owed)
{
	Decision	decision;

	return consume_or_set(id, rule, &owed, &decision);
}

/* What the bucket owes now under the rule; false if it has no row. */
bool
table_peek(const BucketId *id, const BucketRule *rule, Owed *owed)
{
	Rows		rows;
	RowRef		ref;
	bool		found;

	rows_open(&rows, AccessShareLock);
	found = rows_get(&rows, id, false, &ref);
	if (found)
	{
		TimestampTz now = GetCurrentTimestamp();
		Row			row;

		rows_read(&ref, &row);
		rows_release(&ref);
		(void) row_make_sense(&row, now, rule);
		*owed = row_owed(&row, now, rule);
	}
	rows_close(&rows);
	return found;
}

/*
 * Put tokens back, by the parameters of the bucket's row; how many it had room
 * for.  False if it has no row, or if that cannot be told without waiting for the
 * table or for a statement that is changing the row, which are only waited for if
 * asked for.
 */
bool
table_give(const BucketId *id, double tokens, double *given, bool wait)
{
	Rows		rows;
	RowRef		ref;
	bool		found;

	if (wait)
		rows_open(&rows, RowExclusiveLock);
	else if (!rows_open_if_free(&rows, RowExclusiveLock))
		return false;
	found = wait ? rows_get(&rows, id, true, &ref) : rows_get_if_free(&rows, id, &ref);
	if (found)
	{
		BucketRule	own;
		Row			row;
		Owed		owed;

		rows_read(&ref, &row);
		owed = row_owed_by_itself(&row, tokens, &own);
		row.owed = bucket_give(&own, owed);
		row.updated_at = Max(GetCurrentTimestamp(), row.updated_at);
		rows_write(&rows, &ref, &row);
		rows_release(&ref);
		*given = row.owed > 0 ? tokens : Min(tokens, bucket_lacks(&own, owed));
	}
	rows_close(&rows);
	return found;
}

/* Make the bucket full.  Has it a row, and was it not full? */
bool
table_reset(const BucketId *id)
{
	Rows		rows;
	RowRef		ref;
	bool		living = false;

	rows_open(&rows, RowExclusiveLock);
	if (rows_get(&rows, id, true, &ref))
	{
		BucketRule	own;
		Row			row;

		rows_read(&ref, &row);
		living = row_owed_by_itself(&row, 0, &own) > 0;
		/* deleting it is the worker's, or the cleaner's, job */
		row.owed = 0;
		rows_write(&rows, &ref, &row);
		rows_release(&ref);
	}
	rows_close(&rows);
	return living;
}

/*
 * At the start of the server, memory may have been loaded with a bucket that has a
 * row as well: then memory is to have the emptier of the two, and the row nothing.
 */
void
table_merge(const BucketId *id)
{
	Rows		rows;
	RowRef		ref;
	BucketRule	any;
	Decision	unused;
	bool		busy = true;

	bucket_rule(&any, 1, 0, 0);
	if (!memory_peek(id, &any, &unused))
		return;
	rows_open(&rows, RowExclusiveLock);
	for (int round = 0; busy && rows_get(&rows, id, true, &ref); round++)
	{
		BucketRule	own;
		Row			row;
		Owed		owed;
		MoveResult	result = MOVED;

		rows_read(&ref, &row);
		owed = row_owed_by_itself(&row, 0, &own);
		if (owed > 0)
			result = memory_move_in(id, &own, owed, !spill_memory_newer(), true);
		if (owed > 0 && result == MOVED)
		{
			row.owed = 0;
			rows_write(&rows, &ref, &row);
		}
		rows_release(&ref);
		busy = result == MOVE_BUSY;
		if (busy)
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(Min(round, 1000));
		}
	}
	rows_close(&rows);
}

/*
 * Several at once
 */

/* The calls on buckets in the table, and those on others. */
typedef struct Split
{
	BucketCall *calls[MAX_CALLS];	/* in the table */
	RowRef		refs[MAX_CALLS];
	bool		sane[MAX_CALLS];
	int			n;
	BucketCall *others;			/* copies */
	int			n_others;
	PartitionSet locked;		/* for the others */
	LOCKTAG		tags[MAX_CALLS];	/* of keys that have no row, and get none */
	int			n_tags;
} Split;

/*
 * See to it that the bucket of each call that is thought to be in the table has a
 * row; false if it turns out that some are not there.
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
		lock_key(&call->id, &tag);
		result = make_row(rows, &call->id, &call->rule, 0, &ref);
		if (result == FOUND)
			rows_release(&ref);
		if (result == IN_MEMORY)
		{
			/* until it is there */
			split->tags[split->n_tags++] = tag;
			call->decision.in_table = false;
			continue;
		}
		unlock_key(&tag);
		if (result == ELSEWHERE)
		{
			call->decision.in_table = false;
			all_here = false;
		}
	}
	return all_here;
}

static int
compare_pages(const void *a, const void *b)
{
	BlockNumber x = BufferGetBlockNumber(((const RowRef *) a)->buffer);
	BlockNumber y = BufferGetBlockNumber(((const RowRef *) b)->buffer);

	return x < y ? -1 : x > y;
}

/* Lock, or unlock, the pages of n rows. */
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

/* The rows' pages are locked: decide, all or nothing. */
static AllResult
decide_split(Rows *rows, Split *split, PlaceMode mode)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		allowed = true;

	for (int i = 0; i < split->n; i++)
	{
		BucketCall *call = split->calls[i];

		split->sane[i] = change_row(rows, &split->refs[i], now, &call->rule, NULL, false,
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
		(void) change_row(rows, &split->refs[i], now, &split->calls[i]->rule, NULL, true,
						  &split->calls[i]->decision);
	return ALL_DECIDED;
}

/* One try: pin and lock the rows, and decide if all of them are there. */
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

/* Tell calls from each other by where their buckets are. */
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

/* The other way round: the copies have been decided, or say where buckets are. */
static void
join_calls(BucketCall *calls, int n, const Split *split)
{
	for (int i = 0, j = 0; i < n; i++)
		if (!calls[i].decision.in_table)
			calls[i].decision = split->others[j++].decision;
}

/*
 * Decide calls on different buckets, all or nothing; decision.in_table says which of
 * them are in the table.  False if that is not so any more; it has been corrected.
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
		unlock_key(&split->tags[--split->n_tags]);
	rows_close(&rows);

	for (int i = 0; result == ALL_DECIDED && i < split->n; i++)
		if (!split->sane[i])
			warn_repaired(&split->calls[i]->id);
	pfree(split->others);
	pfree(split);
	return result == ALL_DECIDED;
}

/*
 * All rows
 */

/* Which buckets are to be full. */
typedef struct ResetAll
{
	const char *limiter;		/* NULL: all but blocks */
	int			limiter_len;
	int64		living;
} ResetAll;

static RowFate
reset_row(const BucketId *id, const Row *row, bool changing, void *arg)
{
	ResetAll   *all = arg;
	BucketRule	own;
	Row			copy = *row;

	if (all->limiter ? (id->limiter_len != all->limiter_len ||
						memcmp(id->limiter, all->limiter, all->limiter_len) != 0) :
		*id->limiter == BLOCK_PREFIX)
		return ROW_KEEP;
	if (!changing && row_owed_by_itself(&copy, 0, &own) > 0)
		all->living++;
	return ROW_DELETE;
}

/* Delete all rows but blocks, or those of a limiter; how many were living. */
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
		(void) rows_visit_page(&rows, page, true, reset_row, &all);
	}
	rows_close(&rows);
	return all.living;
}

/* The living buckets of a page. */
typedef struct PageViews
{
	int			n;
	BucketView	views[MaxHeapTuplesPerPage];
} PageViews;

static RowFate
view_row(const BucketId *id, const Row *row, bool changing, void *arg)
{
	PageViews  *page = arg;
	BucketView *view = &page->views[page->n];
	BucketRule	own;
	Row			copy = *row;

	view->owed = row_owed_by_itself(&copy, 0, &own);
	if (view->owed <= 0)
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

/* Call show() for each living bucket in the table. */
void
table_views(void (*show) (const BucketView *view, void *arg), void *arg)
{
	PageViews  *views;
	Rows		rows;
	BlockNumber pages;

	if (RecoveryInProgress() || !sql_available())
		return;
	views = palloc(sizeof(PageViews));
	rows_open(&rows, AccessShareLock);
	pages = rows_pages(&rows);
	for (BlockNumber page = 0; page < pages; page++)
	{
		CHECK_FOR_INTERRUPTS();
		views->n = 0;
		(void) rows_visit_page(&rows, page, false, view_row, views);
		for (int i = 0; i < views->n; i++)
			show(&views->views[i], arg);
	}
	rows_close(&rows);
	pfree(views);
}
