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
 * Callers have no rights on the table, so statements run as its owner.  Nothing
 * in them depends on search_path: the table's schema, types and operators are
 * all named in full.  They are prepared once per session and again when the
 * table has moved.
 */
#include "ratelimit.h"

#include <ctype.h>
#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* A row that claims to be from later than this has to be wrong. */
#define MAX_AHEAD			(10 * USECS_PER_SEC)

/* Without a worker, one new row in so many cleans so many pages. */
#define CLEAN_EVERY			16
#define CLEAN_PAGES			16

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

typedef enum Statement
{
	LOCK_ROW,
	READ_ROW,
	INSERT_ROW,
	UPDATE_ROW,
	DELETE_ROW,
	DELETE_ALL,
	READ_ALL,
	CLEAN_PAGES_OF,
	CLEAN_ALL,
	N_STATEMENTS
} Statement;

static const struct
{
	const char *sql;			/* %s is the table */
	int			nargs;
	Oid			types[6];
}			statements[N_STATEMENTS] = {
	[LOCK_ROW] = {
		"SELECT b.capacity, b.refill, b.owed, b.updated_at FROM %s b"
		" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2 FOR UPDATE",
		2, {TEXTOID, TEXTOID}
	},
	[READ_ROW] = {
		"SELECT b.capacity, b.refill, b.owed, b.updated_at FROM %s b"
		" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2",
		2, {TEXTOID, TEXTOID}
	},
	[INSERT_ROW] = {
		"INSERT INTO %s (limiter, key, capacity, refill, owed, updated_at)"
		" VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
		6, {TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, NUMERICOID, TIMESTAMPTZOID}
	},
	[UPDATE_ROW] = {
		"UPDATE %s b SET capacity = $3, refill = $4, owed = $5, updated_at = $6"
		" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2",
		6, {TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, NUMERICOID, TIMESTAMPTZOID}
	},
	[DELETE_ROW] = {
		"DELETE FROM %s b"
		" WHERE b.limiter OPERATOR(pg_catalog.=) $1 AND b.key OPERATOR(pg_catalog.=) $2"
		" RETURNING b.capacity, b.refill, b.owed, b.updated_at",
		2, {TEXTOID, TEXTOID}
	},
	[DELETE_ALL] = {
		"DELETE FROM %s b WHERE $1 IS NULL OR b.limiter OPERATOR(pg_catalog.=) $1",
		1, {TEXTOID}
	},
	[READ_ALL] = {
		"SELECT b.capacity, b.refill, b.owed, b.updated_at, b.limiter, b.key FROM %s b",
		0, {0}
	},
	[CLEAN_PAGES_OF] = {
		"DELETE FROM %1$s WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
		" SELECT b.ctid FROM %1$s b WHERE b.ctid OPERATOR(pg_catalog.>=) $1"
		" AND b.ctid OPERATOR(pg_catalog.<) $2 AND " IS_FULL " FOR UPDATE SKIP LOCKED))",
		2, {TIDOID, TIDOID}
	},
	[CLEAN_ALL] = {
		"DELETE FROM %1$s WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
		" SELECT b.ctid FROM %1$s b WHERE " IS_FULL " FOR UPDATE SKIP LOCKED))",
		0, {0}
	},
};

/* Where the table is; valid until an invalidation says that it may not be. */
static struct
{
	bool		valid;
	Oid			relid;
	Oid			owner;
	char		name[2 * NAMEDATALEN * 2 + 8];	/* quoted, with its schema */
	SPIPlanPtr	plans[N_STATEMENTS];	/* for this name */
}			table;

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
 * Where the table is
 */

static void
table_invalidate_rel(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == table.relid)
		table.valid = false;
}

static void
table_invalidate_sys(Datum arg, int cacheid, uint32 hashvalue)
{
	table.valid = false;
}

void
table_store_init(void)
{
	CacheRegisterRelcacheCallback(table_invalidate_rel, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, table_invalidate_sys, (Datum) 0);
}

/* The schema of the extension in this database, or InvalidOid. */
static Oid
extension_schema(void)
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("ratelimit"));
	rel = table_open(ExtensionRelationId, AccessShareLock);
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

/* Find the table if need be; false if there is none. */
static bool
locate_table(void)
{
	Oid			schema;
	Oid			relid;
	HeapTuple	tuple;
	char	   *name;

	if (table.valid)
		return true;

	schema = extension_schema();
	if (!OidIsValid(schema))
		return false;
	relid = get_relname_relid("rate_limit_buckets", schema);
	if (!OidIsValid(relid))
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		return false;
	table.owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	name = quote_qualified_identifier(get_namespace_name(schema),
									  "rate_limit_buckets");
	if (strcmp(name, table.name) != 0)
	{
		for (int i = 0; i < N_STATEMENTS; i++)
		{
			SPIPlanPtr	plan = table.plans[i];

			table.plans[i] = NULL;
			if (plan)
				SPI_freeplan(plan);
		}
		strlcpy(table.name, name, sizeof(table.name));
	}
	table.relid = relid;
	table.valid = true;
	return true;
}

/* Who we were before begin_statements(). */
typedef struct Caller
{
	Oid			user;
	int			context;
} Caller;

/*
 * Ready to execute() as the table's owner.  An error on the way needs nothing
 * from us: aborting the (sub)transaction gives the caller its rights back and
 * ends SPI.
 */
static Caller
begin_statements(void)
{
	Caller		caller;

	if (!locate_table())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table rate_limit_buckets of extension ratelimit does not exist")));
	GetUserIdAndSecContext(&caller.user, &caller.context);
	SetUserIdAndSecContext(table.owner,
						   caller.context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	return caller;
}

static void
end_statements(Caller caller)
{
	SPI_finish();
	SetUserIdAndSecContext(caller.user, caller.context);
}

static void
execute(Statement which, Datum *values, const char *nulls, bool read_only)
{
	int			result;

	if (!table.plans[which])
	{
		SPIPlanPtr	plan;
		char	   *sql = psprintf(statements[which].sql, table.name);

		plan = SPI_prepare(sql, statements[which].nargs,
						   (Oid *) statements[which].types);
		if (!plan)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		table.plans[which] = plan;
	}
	result = SPI_execute_plan(table.plans[which], values, nulls, read_only, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
}

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
read_row(uint64 n, TimestampTz now, const BucketRule *rule)
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
		else if (row.owed > own.window)
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
			 errdetail("Its row in %s made no sense.", table.name)));
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

	rel = table_open(table.relid, AccessShareLock);
	pages = RelationGetNumberOfBlocks(rel);
	table_close(rel, NoLock);
	if (pages == 0)
		return;
	first = (BlockNumber) pg_prng_uint64_range(&pg_global_prng_state, 0, pages - 1);
	ItemPointerSet(&from, first, 0);
	ItemPointerSet(&to, first + Min(CLEAN_PAGES, MaxBlockNumber - first), 0);
	values[0] = PointerGetDatum(&from);
	values[1] = PointerGetDatum(&to);
	execute(CLEAN_PAGES_OF, values, NULL, false);
}

/* Can this transaction write the table? */
bool
table_writable(void)
{
	return !XactReadOnly && !IsInParallelMode();
}

/* Decide a call.  Anything that can go wrong in a transaction can go wrong here. */
void
table_consume(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	static uint32 inserted = 0;
	Caller		caller = begin_statements();
	Datum		values[6];
	bool		new;

	key_values(id, values);
	values[2] = Float8GetDatum(rule->capacity);
	values[3] = Float8GetDatum(rule->refill);
	do
	{
		TimestampTz now;

		CHECK_FOR_INTERRUPTS();
		execute(LOCK_ROW, values, NULL, false);
		new = SPI_processed == 0;
		now = wall_clock();		/* after waiting for the lock */
		decision->owed = 0;

		if (new)
		{
			decision->allowed = bucket_take(rule, &decision->owed);
			if (decision->owed == 0)
				break;
			values[4] = owed_to_numeric(decision->owed);
			values[5] = TimestampTzGetDatum(now);
			execute(INSERT_ROW, values, NULL, false);
		}
		else
		{
			Row			row = read_row(0, now, rule);

			if (row.repaired)
				warn_repaired(id);
			decision->owed = row_owed(&row, now, rule);
			decision->allowed = bucket_take(rule, &decision->owed);
			/* a denied call leaves the row as it is, but for new parameters */
			if (!row.repaired && row.capacity == rule->capacity &&
				row.refill == rule->refill &&
				(!decision->allowed || rule->take == 0))
				break;
			values[4] = owed_to_numeric(decision->owed);
			values[5] = TimestampTzGetDatum(Max(now, row.updated_at));
			execute(UPDATE_ROW, values, NULL, false);
		}
		/* none inserted: somebody else was first */
	} while (SPI_processed == 0);

	if (new && decision->owed > 0 && !shmem_attached() &&
		++inserted % CLEAN_EVERY == 0)
		clean_some_pages();
	end_statements(caller);
}

/* What the bucket owes now under the rule; 0 if it has no row. */
Owed
table_peek(const BucketId *id, const BucketRule *rule)
{
	Caller		caller = begin_statements();
	Datum		values[2];
	Owed		owed = 0;

	key_values(id, values);
	execute(READ_ROW, values, NULL, IsInParallelMode());
	if (SPI_processed > 0)
	{
		TimestampTz now = wall_clock();
		Row			row = read_row(0, now, rule);

		owed = row_owed(&row, now, rule);
	}
	end_statements(caller);
	return owed;
}

/* Delete the bucket's row.  Was there one, and not full? */
bool
table_reset(const BucketId *id)
{
	Caller		caller = begin_statements();
	Datum		values[2];
	bool		living = false;

	key_values(id, values);
	execute(DELETE_ROW, values, NULL, false);
	if (SPI_processed > 0)
	{
		TimestampTz now = wall_clock();
		Row			row = read_row(0, now, NULL);
		BucketRule	own;

		bucket_rule(&own, row.capacity, row.refill, 0);
		living = row_owed(&row, now, &own) > 0;
	}
	end_statements(caller);
	return living;
}

/* Delete all rows, or those of a limiter; how many. */
int64
table_reset_all(const char *limiter, int limiter_len)
{
	Caller		caller = begin_statements();
	Datum		values[1] = {0};
	int64		deleted;

	if (limiter)
		values[0] = PointerGetDatum(cstring_to_text_with_len(limiter, limiter_len));
	execute(DELETE_ALL, values, limiter ? NULL : "n", false);
	deleted = (int64) SPI_processed;
	end_statements(caller);
	return deleted;
}

/* Call show() for each living bucket in the table. */
void
table_views(void (*show) (const BucketView *view, void *arg), void *arg)
{
	Caller		caller;
	TimestampTz now;

	/* the extension may be half gone, or this a standby */
	if (RecoveryInProgress() || !locate_table())
		return;
	caller = begin_statements();
	execute(READ_ALL, NULL, NULL, IsInParallelMode());
	now = wall_clock();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Row			row = read_row(i, now, NULL);
		BucketRule	own;
		BucketView	view;
		bool		isnull;
		text	   *limiter;
		text	   *key;

		limiter = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[i],
											   SPI_tuptable->tupdesc, 5, &isnull));
		key = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[i],
										   SPI_tuptable->tupdesc, 6, &isnull));
		view.limiter_len = Min(VARSIZE_ANY_EXHDR(limiter), MAX_LIMITER_LEN);
		memcpy(view.limiter, VARDATA_ANY(limiter), view.limiter_len);
		view.key_len = Min(VARSIZE_ANY_EXHDR(key), MAX_KEY_LEN);
		memcpy(view.key, VARDATA_ANY(key), view.key_len);
		view.capacity = row.capacity;
		view.refill = row.refill;
		bucket_rule(&own, row.capacity, row.refill, 0);
		view.owed = row_owed(&row, now, &own);
		if (view.owed > 0)
			show(&view, arg);
	}
	end_statements(caller);
}

/*
 * Together with shared memory
 */

/* The partitions of shared memory whose buckets have rows. */
static PartitionSet
partitions_with_rows(void)
{
	PartitionSet set = {{0}};

	execute(READ_ALL, NULL, NULL, IsInParallelMode());
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		text	   *limiter;
		text	   *key;
		uint64		hash;

		CHECK_FOR_INTERRUPTS();
		limiter = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[i],
											   SPI_tuptable->tupdesc, 5, &isnull));
		key = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[i],
										   SPI_tuptable->tupdesc, 6, &isnull));
		hash = shmem_hash_limiter(MyDatabaseId, VARDATA_ANY(limiter),
								  VARSIZE_ANY_EXHDR(limiter));
		hash = shmem_hash(hash, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
		partition_set_add(&set, shmem_partition(hash));
	}
	return set;
}

/* Mark the partitions that have rows from before the server started. */
void
table_find_spilled(void)
{
	Caller		caller = begin_statements();
	PartitionSet set = partitions_with_rows();

	end_statements(caller);
	spill_set_known(&set);
}

/*
 * Delete the rows that are full again and clear the marks of partitions that
 * have no row left.  The worker's job, in a transaction of its own, which must
 * end soon afterwards: it may hold a lock on the table.  False if this database
 * has no such table.
 */
bool
table_clean(void)
{
	Caller		caller;
	PartitionSet with_rows;
	PartitionSet marked = spill_marked();
	bool		some_empty = false;

	if (!locate_table())
		return false;
	caller = begin_statements();
	execute(CLEAN_ALL, NULL, NULL, false);

	/* look before locking: writers would have to wait */
	with_rows = partitions_with_rows();
	for (int i = 0; i < shmem_partitions(); i++)
		some_empty |= partition_set_has(&marked, i) &&
			!partition_set_has(&with_rows, i);

	/* nobody may be writing; if somebody is, there will be a next time */
	if (some_empty && ConditionalLockRelationOid(table.relid, ShareLock))
	{
		with_rows = partitions_with_rows();
		spill_clear(&with_rows);
	}
	end_statements(caller);
	return true;
}
