/*
 * table_store.c
 *		Buckets in the unlogged table rate_limit_buckets.
 *
 * One row per bucket, decided under its row lock in the caller's transaction.
 * The row says what the bucket owed (see bucket.h) at updated_at, under which
 * parameters; a row that has become full again equals none and may be deleted by
 * anybody.
 *
 * The clock is the wall clock, cut to the microsecond of a timestamptz: it is
 * the only one that means the same after a restart.  It may be set back; for a
 * bucket time then stands still until the clock is past updated_at again, unless
 * that is so far ahead that the row cannot be trusted.
 *
 * Rows are trusted with nothing: whatever stands in one, the call is decided and
 * the row repaired, with a warning that names the key.
 *
 * Callers have no rights on the table; see sql.c for how statements run.
 */
#include "ratelimit.h"

#include <ctype.h>
#include <math.h>

#include "access/table.h"
#include "access/xlog.h"
#include "block.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "databases.h"
#include "miscadmin.h"
#include "sql.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A row that claims to be from later than this has to be wrong. */
#define MAX_AHEAD			(10 * USECS_PER_SEC)

/* Where no worker comes, one new row in so many cleans so many pages. */
#define CLEAN_EVERY			16
#define CLEAN_PAGES			16

/* Advisory locks have 1 or 2 there, flush.c has 3, wait.c 5: this one locks keys. */
#define KEY_LOCK_CLASS		4
#define KEY_LOCKS			16	/* few: a transaction may come to hold them all */

/* After so many new rows in a row the next one is taken for new. */
#define GUESS_NEW_AFTER		4

/* How long the worker may hold up callers by waiting for the table. */
#define CLEAN_LOCK_TIMEOUT	"100ms"

/* The rows that are full again, as a condition on columns of the table "b". */
#define IS_FULL \
	"CASE WHEN b.owed OPERATOR(pg_catalog.<=) 0 THEN true" \
	" WHEN b.refill OPERATOR(pg_catalog.>) 0 AND pg_catalog.isfinite(b.updated_at)" \
	"  AND b.capacity OPERATOR(pg_catalog.<=)" \
	"   (LEAST(b.refill, 1e9) OPERATOR(pg_catalog.*) 1e15::pg_catalog.float8)" \
	" THEN b.owed OPERATOR(pg_catalog.<=)" \
	"  (pg_catalog.extract('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) b.updated_at)" \
	"   OPERATOR(pg_catalog.*) 1000000000)" \
	" ELSE false END"

static SqlStatement lock_row = {
	"SELECT b.capacity, b.refill, b.owed, b.updated_at FROM %1$s.rate_limit_buckets b"
	" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2 FOR UPDATE",
	2, {TEXTOID, TEXTOID}
};
static SqlStatement read_row = {
	"SELECT b.capacity, b.refill, b.owed, b.updated_at FROM %1$s.rate_limit_buckets b"
	" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2",
	2, {TEXTOID, TEXTOID}
};
static SqlStatement insert_row = {
	"INSERT INTO %1$s.rate_limit_buckets (limiter, key, capacity, refill, owed, updated_at)"
	" VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
	6, {TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, NUMERICOID, TIMESTAMPTZOID}
};
static SqlStatement update_row = {
	"UPDATE %1$s.rate_limit_buckets b SET capacity = $3, refill = $4, owed = $5, updated_at = $6"
	" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2",
	6, {TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, NUMERICOID, TIMESTAMPTZOID}
};
static SqlStatement delete_row = {
	"DELETE FROM %1$s.rate_limit_buckets b"
	" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2"
	" RETURNING b.capacity, b.refill, b.owed, b.updated_at",
	2, {TEXTOID, TEXTOID}
};
static SqlStatement delete_all = {
	"WITH deleted AS (DELETE FROM %1$s.rate_limit_buckets b"
	"  WHERE pg_catalog.left(b.limiter, 1) OPERATOR(pg_catalog.<>) ':'"
	"  AND ($1 IS NULL OR b.limiter OPERATOR(pg_catalog.=) $1)"
	"  RETURNING " IS_FULL " AS is_full)"
	" SELECT 1 FROM deleted WHERE NOT is_full",
	1, {TEXTOID}
};
static SqlStatement read_all = {
	"SELECT b.capacity, b.refill, b.owed, b.updated_at, b.limiter, b.key"
	" FROM %1$s.rate_limit_buckets b",
	0, {0}
};
static SqlStatement read_some = {
	"SELECT b.capacity, b.refill, b.owed, b.updated_at, b.limiter, b.key"
	" FROM %1$s.rate_limit_buckets b ORDER BY pg_catalog.random() LIMIT 5000",
	0, {0}
};
static SqlStatement clean_pages = {
	"DELETE FROM %1$s.rate_limit_buckets WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
	" SELECT b.ctid FROM %1$s.rate_limit_buckets b"
	" WHERE b.ctid OPERATOR(pg_catalog.>=) $1 AND b.ctid OPERATOR(pg_catalog.<) $2"
	" AND " IS_FULL " FOR UPDATE SKIP LOCKED))",
	2, {TIDOID, TIDOID}
};
static SqlStatement clean_all = {
	"DELETE FROM %1$s.rate_limit_buckets WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
	" SELECT b.ctid FROM %1$s.rate_limit_buckets b"
	" WHERE " IS_FULL " FOR UPDATE SKIP LOCKED))",
	0, {0}
};

/* One row, as read. */
typedef struct Row
{
	double		capacity;
	double		refill;
	Owed		owed;			/* at updated_at */
	TimestampTz updated_at;
	bool		repaired;		/* it made no sense as it was */
} Row;

/*
 * Rows
 */

static Datum
owed_to_numeric(Owed owed)
{
	char		buf[48];
	char	   *p = buf + sizeof(buf) - 1;

	*p = '\0';
	do
	{
		*--p = '0' + (int) (owed % 10);
		owed /= 10;
	} while (owed > 0);
	return DirectFunctionCall3(numeric_in, CStringGetDatum(p),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* What a numeric says is owed; -1 if no bucket can owe that. */
static Owed
numeric_to_owed(Datum value)
{
	char	   *s = DatumGetCString(DirectFunctionCall1(numeric_out, value));
	Owed		owed = 0;

	if (!isdigit((unsigned char) *s))
		return -1;				/* negative, NaN or infinite */
	for (; isdigit((unsigned char) *s); s++)
	{
		owed = owed * 10 + (*s - '0');
		if (owed > BUCKET_OWED_MAX)
			return -1;
	}
	return owed;
}

/* The wall clock that decides: whole microseconds. */
static TimestampTz
wall_clock(void)
{
	return GetCurrentTimestamp();
}

/*
 * Read the n-th result row, columns capacity, refill, owed, updated_at, and
 * make sense of it.  What it cannot tell is taken from the rule, or, lacking
 * one, leaves a full bucket.
 */
static Row
parse_row(uint64 n, TimestampTz now, const BucketRule *rule)
{
	HeapTuple	tuple = SPI_tuptable->vals[n];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	Row			row = {0};
	bool		isnull[4];
	Datum		values[4];

	for (int i = 0; i < 4; i++)
		values[i] = SPI_getbinval(tuple, desc, i + 1, &isnull[i]);

	row.capacity = isnull[0] ? 0 : DatumGetFloat8(values[0]);
	row.refill = isnull[1] ? -1 : DatumGetFloat8(values[1]);
	row.owed = isnull[2] ? -1 : numeric_to_owed(values[2]);
	row.updated_at = isnull[3] ? DT_NOEND : DatumGetTimestampTz(values[3]);

	if (!isfinite(row.capacity) || row.capacity <= 0 ||
		!isfinite(row.refill) || row.refill < 0)
	{
		row.capacity = rule ? rule->capacity : 1;
		row.refill = rule ? rule->refill : 0;
		row.owed = 0;
		row.repaired = true;
	}
	else
	{
		BucketRule	own;

		bucket_rule(&own, row.capacity, row.refill, 0);
		if (row.owed < 0)
		{
			row.owed = 0;
			row.repaired = true;
		}
		/* a microsecond in a million, for rounding */
		else if (row.owed > own.window + (own.window >> 20) + 1000 + BUCKET_DEBT_MAX)
		{
			row.owed = own.window;
			row.repaired = true;
		}
	}
	if (TIMESTAMP_NOT_FINITE(row.updated_at) || row.updated_at > now + MAX_AHEAD)
	{
		row.updated_at = now;
		row.repaired = true;
	}
	return row;
}

/* What the row's bucket owes now under a rule. */
static Owed
row_owed(const Row *row, TimestampTz now, const BucketRule *rule)
{
	Owed		elapsed = Max((Owed) now - row->updated_at, 0) * 1000;
	Owed		owed;

	owed = bucket_refilled(bucket_timed(row->capacity, row->refill),
						   row->owed, elapsed);
	if (row->capacity != rule->capacity || row->refill != rule->refill)
		owed = bucket_carry(row->capacity, row->refill, owed, rule);
	return owed;
}

/* Whose bucket the n-th row of read_all is; false if it can be nobody's. */
static bool
row_id(uint64 n, BucketId *id)
{
	bool		isnull;
	text	   *limiter;
	text	   *key;

	limiter = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[n],
										   SPI_tuptable->tupdesc, 5, &isnull));
	key = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[n],
									   SPI_tuptable->tupdesc, 6, &isnull));
	if (!names_valid(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter),
					 VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)))
		return false;
	make_bucket_id(id, MyDatabaseId, VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter),
				   VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	return true;
}

static void
key_values(const BucketId *id, Datum *values)
{
	values[0] = PointerGetDatum(cstring_to_text_with_len(id->limiter, id->limiter_len));
	values[1] = PointerGetDatum(cstring_to_text_with_len(id->key, id->key_len));
}

static void
warn_repaired(const BucketId *id)
{
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("repaired the bucket of key \"%.*s\", limiter \"%.*s\"",
					id->key_len, id->key, id->limiter_len, id->limiter),
			 errdetail("Its row in rate_limit_buckets made no sense.")));
}

/* Delete rows that are full again from a few pages, wherever they are. */
static void
clean_some_pages(void)
{
	Relation	rel;
	BlockNumber pages;
	BlockNumber first;
	ItemPointerData from;
	ItemPointerData to;
	Datum		values[2];

	rel = table_open(sql_relid(SQL_BUCKETS), AccessShareLock);
	pages = RelationGetNumberOfBlocks(rel);
	table_close(rel, NoLock);
	if (pages == 0)
		return;
	first = (BlockNumber) pg_prng_uint64_range(&pg_global_prng_state, 0, pages - 1);
	ItemPointerSet(&from, first, 0);
	ItemPointerSet(&to, first + Min(CLEAN_PAGES, MaxBlockNumber - first), 0);
	values[0] = PointerGetDatum(&from);
	values[1] = PointerGetDatum(&to);
	sql_execute(&clean_pages, values, NULL, false);
}

/* Can this transaction write the table? */
bool
table_writable(void)
{
	return !XactReadOnly && !IsInParallelMode();
}

static void
key_lock_tag(const BucketId *id, LOCKTAG *tag)
{
	memset(tag, 0, sizeof(*tag));
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (id->hash % KEY_LOCKS), 0,
						 KEY_LOCK_CLASS);
}

/* Lock the key against those who take over, or write, its bucket: spill.c, rule 4. */
static void
table_lock_key(const BucketId *id, LOCKMODE mode, LOCKTAG *tag)
{
	key_lock_tag(id, tag);
	(void) LockAcquire(tag, mode, false, false);
}

/*
 * Decide a call, or, if it is not null, let the bucket owe what "set" says.
 * False if the bucket does not belong here any more.
 */
static bool
consume_or_set(const BucketId *id, const BucketRule *rule, const Owed *set,
			   Decision *decision)
{
	static uint32 inserted = 0;
	static int	new_in_a_row = 0;
	SqlCaller	caller = sql_begin();
	Datum		values[6];
	bool		new;
	bool		here = true;
	/* new keys come in floods: then a row is not looked for, but inserted at once */
	bool		guess = !set && rule->take > 0 && new_in_a_row >= GUESS_NEW_AFTER;

	sql_lock(SQL_BUCKETS, RowExclusiveLock);
	if (shmem_attached())
	{
		LOCKTAG		tag;

		table_lock_key(id, RowExclusiveLock, &tag);
	}
	key_values(id, values);
	values[2] = Float8GetDatum(rule->capacity);
	values[3] = Float8GetDatum(rule->refill);
	for (;; guess = false)
	{
		TimestampTz now;

		CHECK_FOR_INTERRUPTS();
		new = guess;
		if (!guess)
		{
			sql_execute(&lock_row, values, NULL, false);
			new = SPI_processed == 0;
		}
		now = wall_clock();		/* after waiting for the lock */

		if (shmem_attached() &&
			(shmem_peek(id, rule, decision) ||
			 !spill_is_set(shmem_partition(id->hash))))
		{
			if (guess)
				continue;
			/* the row, if it is there, is out of date */
			if (!new)
				sql_execute(&delete_row, values, NULL, false);
			here = false;
			break;
		}
		decision->in_table = true;
		decision->owed = set ? *set : 0;
		if (new)
		{
			decision->allowed = bucket_take(rule, &decision->owed);
			if (decision->owed == 0 && guess)
				continue;
			if (decision->owed == 0)
				break;
			values[4] = owed_to_numeric(decision->owed);
			values[5] = TimestampTzGetDatum(now);
			sql_execute(&insert_row, values, NULL, false);
		}
		else
		{
			Row			row = parse_row(0, now, rule);

			if (row.repaired)
				warn_repaired(id);
			if (!set)
				decision->owed = row_owed(&row, now, rule);
			decision->allowed = bucket_take(rule, &decision->owed);
			/* a denied call leaves the row as it is, but for new parameters */
			if (!row.repaired && !set && row.capacity == rule->capacity &&
				row.refill == rule->refill &&
				(!decision->allowed || rule->take == 0))
				break;
			values[4] = owed_to_numeric(decision->owed);
			values[5] = TimestampTzGetDatum(Max(now, row.updated_at));
			sql_execute(&update_row, values, NULL, false);
		}
		/* none inserted: there is one, or somebody else was first */
		if (SPI_processed > 0)
			break;
	}
	new_in_a_row = new ? Min(new_in_a_row + 1, GUESS_NEW_AFTER) : 0;

	/*
	 * Cleaning locks rows of other keys.  In a transaction block they would stay
	 * locked, and where rows are not to have changed since, it might fail.
	 */
	if (new && here && decision->owed > 0 && !my_shared_database() &&
		!sql_in_transaction_block() && !IsolationUsesXactSnapshot() &&
		++inserted % CLEAN_EVERY == 0)
		clean_some_pages();
	sql_end(caller);
	return here;
}

/*
 * Decide a call.  Anything that can go wrong in a transaction can go wrong here.
 * False if the bucket does not belong here any more: it is to be looked for in
 * shared memory again.
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

/* What the bucket owes now under the rule; 0 if it has no row. */
Owed
table_peek(const BucketId *id, const BucketRule *rule)
{
	SqlCaller	caller = sql_begin();
	Datum		values[2];
	Owed		owed = 0;

	/* as strongly as for the call that may follow: see sql_lock() */
	sql_lock(SQL_BUCKETS, table_writable() ? RowExclusiveLock : AccessShareLock);
	key_values(id, values);
	sql_push_latest_snapshot();
	sql_execute(&read_row, values, NULL, true);
	PopActiveSnapshot();
	if (SPI_processed > 0)
	{
		TimestampTz now = wall_clock();
		Row			row = parse_row(0, now, rule);

		owed = row_owed(&row, now, rule);
	}
	sql_end(caller);
	return owed;
}

/*
 * Decide a call in a transaction that cannot write the table: the bucket lives in
 * shared memory from now on, if need be in the place of another one.
 */
void
table_take_over(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	LOCKTAG		tag;
	Owed		owed = 0;

	table_lock_key(id, ShareLock, &tag);
	if (!shmem_consume(id, rule, decision))
	{
		if (spill_is_set(shmem_partition(id->hash)))
			owed = table_peek(id, rule);
		(void) shmem_place(id, rule, owed, PLACE_HERE, decision);
	}
	(void) LockRelease(&tag, ShareLock, false);
}

static void
unlock_keys(const LOCKTAG *tags, int n)
{
	while (n-- > 0)
		(void) LockRelease(&tags[n], ShareLock, false);
}

/*
 * Lock the keys as takers do, all of them; how many locks.  Writers lock keys in
 * any order, and until they end: while we hold some, we wait for none.
 */
static int
lock_keys(const BucketCall *calls, int n, LOCKTAG *tags)
{
	LOCKTAG		wanted[KEY_LOCKS];
	int			n_wanted = 0;
	int			first = 0;

	for (int i = 0; i < n; i++)
	{
		LOCKTAG		tag;
		int			j;

		key_lock_tag(&calls[i].id, &tag);
		for (j = 0; j < n_wanted; j++)
			if (memcmp(&wanted[j], &tag, sizeof(tag)) == 0)
				break;
		if (j == n_wanted)
			wanted[n_wanted++] = tag;
	}
	for (;;)
	{
		int			n_locked = 0;
		int			next = first;

		CHECK_FOR_INTERRUPTS();
		do
		{
			if (LockAcquire(&wanted[next], ShareLock, false, n_locked > 0) ==
				LOCKACQUIRE_NOT_AVAIL)
				break;
			tags[n_locked++] = wanted[next];
			next = (next + 1) % n_wanted;
		} while (n_locked < n_wanted);
		if (n_locked == n_wanted)
			return n_locked;
		unlock_keys(tags, n_locked);
		first = next;
	}
}

/* Likewise, on several buckets, all or nothing. */
void
table_take_all_over(BucketCall *calls, int n)
{
	LOCKTAG		tags[KEY_LOCKS];
	int			n_locked = lock_keys(calls, n, tags);

	for (int i = 0; i < n; i++)
		calls[i].absent = spill_is_set(shmem_partition(calls[i].id.hash)) ?
			table_peek(&calls[i].id, &calls[i].rule) : 0;
	(void) shmem_consume_all(calls, n, PLACE_HERE, true);
	unlock_keys(tags, n_locked);
}

/* Likewise, but let it owe so much, whatever it owed. */
void
table_take_over_set(const BucketId *id, const BucketRule *rule, Owed owed)
{
	LOCKTAG		tag;

	table_lock_key(id, ShareLock, &tag);
	(void) shmem_set(id, rule, owed, PLACE_HERE);
	(void) LockRelease(&tag, ShareLock, false);
}

/*
 * Put tokens back, by the parameters of the bucket's row; how many it had room
 * for.  False if it has no row.
 */
bool
table_give(const BucketId *id, double tokens, double *given)
{
	SqlCaller	caller = sql_begin();
	Datum		values[6];
	bool		found;
	Row			row;
	BucketRule	own;
	Decision	decision;

	sql_lock(SQL_BUCKETS, RowExclusiveLock);
	if (shmem_attached())
	{
		LOCKTAG		tag;

		table_lock_key(id, RowExclusiveLock, &tag);
	}
	key_values(id, values);
	sql_execute(&lock_row, values, NULL, false);
	found = SPI_processed > 0;
	if (found)
	{
		row = parse_row(0, wall_clock(), NULL);
		bucket_rule(&own, row.capacity, row.refill, tokens);
		/* a row whose bucket was taken over is out of date */
		found = !shmem_attached() || !shmem_peek(id, &own, &decision);
		if (!found)
			sql_execute(&delete_row, values, NULL, false);
	}
	if (found)
	{
		TimestampTz now = wall_clock();
		Owed		owed;
		Owed		left;

		if (row.repaired)
			warn_repaired(id);
		owed = row_owed(&row, now, &own);
		left = bucket_give(&own, owed);
		*given = left > 0 ? tokens : Min(tokens, bucket_lacks(&own, owed));
		values[2] = Float8GetDatum(row.capacity);
		values[3] = Float8GetDatum(row.refill);
		values[4] = owed_to_numeric(left);
		values[5] = TimestampTzGetDatum(Max(now, row.updated_at));
		sql_execute(&update_row, values, NULL, false);
	}
	sql_end(caller);
	return found;
}

/* Delete the bucket's row.  Was there one, and not full? */
bool
table_reset(const BucketId *id)
{
	SqlCaller	caller = sql_begin();
	Datum		values[2];
	bool		living = false;

	sql_lock(SQL_BUCKETS, RowExclusiveLock);
	if (shmem_attached())
	{
		LOCKTAG		tag;

		table_lock_key(id, RowExclusiveLock, &tag);
	}
	key_values(id, values);
	sql_execute(&delete_row, values, NULL, false);
	if (SPI_processed > 0)
	{
		TimestampTz now = wall_clock();
		Row			row = parse_row(0, now, NULL);
		BucketRule	own;

		bucket_rule(&own, row.capacity, row.refill, 0);
		living = row_owed(&row, now, &own) > 0;
	}
	sql_end(caller);
	return living;
}

/* Delete all rows but blocks, or those of a limiter; how many. */
int64
table_reset_all(const char *limiter, int limiter_len)
{
	SqlCaller	caller = sql_begin();
	Datum		values[1] = {0};
	int64		deleted;

	sql_lock(SQL_BUCKETS, RowExclusiveLock);
	if (limiter)
		values[0] = PointerGetDatum(cstring_to_text_with_len(limiter, limiter_len));
	sql_execute(&delete_all, values, limiter ? NULL : "n", false);
	deleted = (int64) SPI_processed;
	sql_end(caller);
	return deleted;
}

/* For whom table_views() shows buckets. */
typedef struct Viewer
{
	void		(*show) (const BucketView *view, void *arg);
	void	   *arg;
} Viewer;

static void
view_row(uint64 n, void *arg)
{
	Viewer	   *viewer = arg;
	TimestampTz now = wall_clock();
	Row			row = parse_row(n, now, NULL);
	BucketRule	own;
	BucketView	view;
	BucketId	id;

	if (!row_id(n, &id))
		return;
	view.limiter_len = id.limiter_len;
	memcpy(view.limiter, id.limiter, id.limiter_len);
	view.key_len = id.key_len;
	memcpy(view.key, id.key, id.key_len);
	view.capacity = row.capacity;
	view.refill = row.refill;
	bucket_rule(&own, row.capacity, row.refill, 0);
	view.owed = row_owed(&row, now, &own);
	if (view.owed > 0)
		viewer->show(&view, viewer->arg);
}

/* Call show() for each living bucket in the table. */
void
table_views(void (*show) (const BucketView *view, void *arg), void *arg)
{
	Viewer		viewer = {show, arg};
	SqlCaller	caller;

	/* the extension may be half gone, or this a standby */
	if (RecoveryInProgress() || !sql_available())
		return;
	caller = sql_begin();
	sql_lock(SQL_BUCKETS, AccessShareLock);
	sql_each(&read_all, view_row, &viewer);
	sql_end(caller);
}

/*
 * Together with shared memory
 */

static void
visit_row(uint64 n, void *set)
{
	BucketId	id;
	TimestampTz now = wall_clock();
	bool		newer = !spill_known() && !spill_memory_newer();
	bool		is_block;
	Row			row;
	BucketRule	own;

	if (!row_id(n, &id))
		return;
	partition_set_add(set, shmem_partition(id.hash));
	is_block = id.limiter_len > 1 && id.limiter[0] == BLOCK_PREFIX;
	if (!newer && !is_block)
		return;
	row = parse_row(n, now, NULL);
	bucket_rule(&own, row.capacity, row.refill, 0);
	if (is_block)
		block_noticed(&id, row_owed(&row, now, &own));
	if (newer)
		(void) shmem_raise(&id, &own, row_owed(&row, now, &own));
}

/*
 * The partitions of shared memory whose buckets have rows.  Blocks are noticed on
 * the way: those from before the server started, and those of prepared
 * transactions from then, which may come to be seen at any time.  So are, the first
 * time, buckets that were loaded from an older file and taken from in the table
 * since, while the server ran without this library: what was taken counts.
 */
static PartitionSet
partitions_with_rows(void)
{
	PartitionSet set = {{0}};

	sql_each(&read_all, visit_row, &set);
	return set;
}

/*
 * Mark the partitions that have rows from before the server started.  Rows of a
 * prepared transaction cannot be seen, but show in its lock: then any partition
 * may have some.
 */
void
table_find_spilled(void)
{
	SqlCaller	caller = sql_begin();
	PartitionSet set;
	bool		locked;

	/* the snapshot of a parallel query may be older than the lock */
	locked = !IsInParallelMode() && sql_lock_if_free(SQL_BUCKETS, ShareLock);
	if (!locked)
		sql_lock(SQL_BUCKETS, AccessShareLock);
	sql_push_latest_snapshot();
	set = partitions_with_rows();
	PopActiveSnapshot();
	if (locked)
		UnlockRelationOid(sql_relid(SQL_BUCKETS), ShareLock);
	else
		memset(&set, 0xff, sizeof(set));
	sql_end(caller);
	spill_set_known(&set);
}

/*
 * Move buckets back to shared memory, as far as there is room, and delete their
 * rows.  Holding EXCLUSIVE lock on the table: nobody else has a row locked or
 * changed, and whoever comes later looks into shared memory again.
 */
static void
move_to_memory(void)
{
	SPITupleTable *rows;
	uint64		n;

	/* any of them: those for which there is no room must not be in the way */
	sql_execute(&read_some, NULL, NULL, false);
	rows = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		BucketId	id;
		BucketRule	rule;
		Owed		owed;
		Decision	decision;
		Datum		values[2];
		TimestampTz now = wall_clock();
		Row			row;

		CHECK_FOR_INTERRUPTS();
		SPI_tuptable = rows;
		row = parse_row(i, now, NULL);
		if (!row_id(i, &id))
			continue;
		if (row.repaired)
			warn_repaired(&id);
		bucket_rule(&rule, row.capacity, row.refill, 0);
		owed = row_owed(&row, now, &rule);
		if (!shmem_peek(&id, &rule, &decision) &&
			!shmem_place(&id, &rule, owed, PLACE_IF_ROOM, &decision))
			continue;
		key_values(&id, values);
		sql_execute(&delete_row, values, NULL, false);
	}
}

static bool
lock_table(void *arg)
{
	SetConfigOption("lock_timeout", CLEAN_LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	sql_lock(SQL_BUCKETS, ExclusiveLock);
	return true;
}

/*
 * Delete the rows that are full again, move others back to shared memory, and
 * clear the marks of partitions that have no row left (spill.c, rule 3).  The
 * worker's job, in a READ COMMITTED transaction of its own, which must end soon
 * afterwards: it may hold a lock on the table.  Rows that come back with an abort
 * after their bucket has moved are out of date, and found so the next time.
 */
void
table_clean(void)
{
	SqlCaller	caller;
	PartitionSet with_rows;

	if (!shmem_attached() || !spill_any())
		return;
	Assert(!IsolationUsesXactSnapshot());
	caller = sql_begin();
	sql_lock(SQL_BUCKETS, RowExclusiveLock);
	sql_execute(&clean_all, NULL, NULL, false);

	/* waiting for longer would hold up the callers; there will be a next time */
	if (sql_try(lock_table, NULL) == NULL)
	{
		move_to_memory();
		sql_push_latest_snapshot();
		with_rows = partitions_with_rows();
		PopActiveSnapshot();
		spill_clear(&with_rows);
	}
	sql_end(caller);
}
