/*
 * table/sql.c
 *		Statements on the extension's own tables.
 *
 * Callers have no rights on these tables, so statements run as the extension's
 * owner.  Nothing in them may depend on search_path, which is the caller's: the
 * schema, types, functions and operators are to be named in full.  Each is
 * prepared once per session, and again when the extension has moved to another
 * schema.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "table/sql.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Between two attempts of sql_lock_within(). */
#define LOCK_NAP_MS	5

/* Where the extension is, until an invalidation says that it may have moved. */
static struct
{
	bool		valid;
	Oid			owner;
	Oid			relids[SQL_TABLES]; /* InvalidOid: there is no such table */
	uint32		generation;		/* counts the values of schema */
	char		schema[2 * NAMEDATALEN + 3];	/* quoted */
}			extension;

static const char *const tables[SQL_TABLES] = {
	[SQL_BUCKETS] = "rate_limit_buckets",
	[SQL_VIOLATIONS] = "rate_limit_violations",
	[SQL_FLAGS] = "rate_limit_flags",
	[SQL_POLICIES] = "rate_limit_policies",
	[SQL_POSTGREST_RULES] = "rate_limit_postgrest_rules"
};

static void
invalidate_rel(Datum arg, Oid relid)
{
	extension.valid = false;
}

static void
invalidate_schema(Datum arg, int cacheid, uint32 hashvalue)
{
	extension.valid = false;
}

void
sql_init(void)
{
	CacheRegisterRelcacheCallback(invalidate_rel, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_schema, (Datum) 0);
}

/* Read the extension's schema and owner; false if it is not in this database. */
static bool
read_extension(Oid *schema, Oid *owner)
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("ratelimit"));
	rel = table_open(ExtensionRelationId, AccessShareLock);
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		*schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
		*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/*
 * Is the table the owner's?  A table given to another role could have that role's
 * triggers run with the rights of the extension's owner.
 */
static bool
is_owned_by(Oid relid, Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		same;

	if (!HeapTupleIsValid(tuple))
		return true;			/* statements on it will say so */
	same = ((Form_pg_class) GETSTRUCT(tuple))->relowner == owner;
	ReleaseSysCache(tuple);
	return same;
}

/*
 * Find out where the extension is, unless that is known; false if it, with its
 * tables, is not in this database.  Left in *foreign is the name of a table that is
 * not owned by the owner of the extension, if there is one: then no statement may
 * be executed.
 */
static bool
find_extension(const char **foreign)
{
	Oid			schema;
	Oid			owner;
	char	   *name;
	const char *quoted;

	*foreign = NULL;
	if (extension.valid)
		return true;
	if (!read_extension(&schema, &owner))
		return false;

	/* first: an invalidation during what follows is to undo it */
	extension.valid = true;
	name = get_namespace_name(schema);
	for (int i = 0; i < SQL_TABLES; i++)
		extension.relids[i] = get_relname_relid(tables[i], schema);
	if (!name || !OidIsValid(extension.relids[SQL_BUCKETS]))
	{
		extension.valid = false;
		return false;
	}
	for (int i = 0; i < SQL_TABLES && !*foreign; i++)
		if (!is_owned_by(extension.relids[i], owner))
			*foreign = tables[i];

	quoted = quote_identifier(name);
	if (strcmp(quoted, extension.schema) != 0)
	{
		strlcpy(extension.schema, quoted, sizeof(extension.schema));
		extension.generation++;
	}
	extension.owner = owner;
	if (*foreign)
		extension.valid = false;
	return true;
}

/* Is the extension, with its tables, in this database? */
bool
sql_available(void)
{
	const char *foreign;

	if (!find_extension(&foreign))
		return false;
	if (foreign)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s is not owned by the owner of extension ratelimit",
						foreign),
				 errhint("Use ALTER TABLE ... OWNER TO to give it back to %s.",
						 GetUserNameFromId(extension.owner, false))));
	return true;
}

/*
 * Why no statement on the table can be executed, where that must not raise an
 * error; NULL if one can.
 */
static char *
find_problem(SqlTable table)
{
	const char *foreign;

	if (!find_extension(&foreign))
		return pstrdup("Extension ratelimit does not exist in this database.");
	if (foreign)
		return psprintf("Table %s is not owned by the owner of the extension.", foreign);
	if (!OidIsValid(extension.relids[table]))
		return psprintf("Table %s does not exist.", tables[table]);
	return NULL;
}

/* The table, while statements may be executed. */
Oid
sql_relid(SqlTable table)
{
	return extension.relids[table];
}

static void
check_available(void)
{
	if (!sql_available())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("extension ratelimit or its table rate_limit_buckets does not exist in this database")));
}

/* Raise an error if the extension, or this table of it, is not there. */
void
sql_require(SqlTable table)
{
	check_available();
	if (!OidIsValid(extension.relids[table]))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s of extension ratelimit does not exist", tables[table])));
}

/*
 * From here to sql_end(), statements can be executed.  An error on the way needs
 * nothing from us: aborting the (sub)transaction gives the caller its rights back
 * and ends SPI.
 */
SqlCaller
sql_begin(void)
{
	SqlCaller	caller;

	check_available();
	GetUserIdAndSecContext(&caller.user, &caller.context);
	SetUserIdAndSecContext(extension.owner,
						   caller.context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	return caller;
}

/*
 * From here on, what a trigger, a default or a constraint of an operator's does not
 * name in full is looked for in pg_catalog, not where the caller's search_path says:
 * it runs with the rights of the extension's owner.  Until AtEOXact_GUC() is called
 * with the result, or the (sub)transaction is aborted.
 */
int
sql_restrict_names(void)
{
	int			nest = NewGUCNestLevel();
	Oid			user = GetOuterUserId();

	/* the owner, superusers and the worker look where they please */
	if (user != extension.owner && !superuser_arg(user))
		(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest;
}

static bool
lock(SqlTable table, LOCKMODE mode, bool wait)
{
	for (;;)
	{
		Oid			relid = extension.relids[table];

		if (!OidIsValid(relid))
			return true;		/* statements on it will say so */
		if (wait)
			LockRelationOid(relid, mode);
		else if (!ConditionalLockRelationOid(relid, mode))
			return false;

		/* locking has heard of what happened to the table before */
		if (extension.valid)
			return true;
		check_available();
		if (extension.relids[table] == relid)
			return true;
		UnlockRelationOid(relid, mode);
	}
}

/*
 * Lock the table, to the transaction's end, as the statements to come will.  They
 * would do so by themselves, but too late: after the extension's schema was put
 * into their text, which may be another one once they have waited; after a
 * snapshot was taken, to which a table that was rewritten meanwhile (ALTER TABLE)
 * looks empty; and first to read and then more strongly to write, which ends in a
 * deadlock with a REINDEX in between.
 */
void
sql_lock(SqlTable table, LOCKMODE mode)
{
	(void) lock(table, mode, true);
}

/* The same if it can be had at once; else false. */
bool
sql_lock_if_free(SqlTable table, LOCKMODE mode)
{
	return lock(table, mode, false);
}

/*
 * The same where waiting must not raise an error, as it does when lock_timeout is
 * over or there is a deadlock: tries again and again for so many milliseconds.
 * Returns what is in the way; NULL if the lock is taken and statements on the table
 * can be executed.
 */
char *
sql_lock_within(SqlTable table, LOCKMODE mode, int ms)
{
	TimestampTz began = GetCurrentTimestamp();

	for (;;)
	{
		char	   *problem = find_problem(table);
		Oid			relid = extension.relids[table];

		if (problem)
			return problem;
		if (ConditionalLockRelationOid(relid, mode))
		{
			/* locking has heard of what happened to the table before */
			problem = find_problem(table);
			if (!problem && extension.relids[table] == relid)
				return NULL;
			UnlockRelationOid(relid, mode);
			continue;
		}
		if (TimestampDifferenceExceeds(began, GetCurrentTimestamp(), ms))
			return psprintf("Table %s is locked.", tables[table]);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(ms, LOCK_NAP_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
sql_end(SqlCaller caller)
{
	SPI_finish();
	SetUserIdAndSecContext(caller.user, caller.context);
}

/*
 * See what is committed by now, whatever the transaction's own snapshot.  In a
 * parallel query there can be no other than the latter.
 */
void
sql_push_latest_snapshot(void)
{
	PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

/* Prepare the statement, if it is not. */
static void
prepare(SqlStatement *statement)
{
	SPIPlanPtr	plan = statement->plan;

	if (plan && statement->generation == extension.generation)
		return;
	statement->plan = NULL;
	if (plan)
		SPI_freeplan(plan);

	plan = SPI_prepare(psprintf(statement->sql, extension.schema),
					   statement->nargs, statement->types);
	if (!plan)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	statement->plan = plan;
	statement->generation = extension.generation;
}

/* Execute the statement; its result is SPI's. */
void
sql_execute(SqlStatement *statement, Datum *values, const char *nulls,
			bool read_only)
{
	int			result;

	prepare(statement);
	result = SPI_execute_plan(statement->plan, values, nulls, read_only, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
}

/*
 * Do work in a subtransaction, as a statement's execution may: not in a callback at
 * the end of a transaction.  Should it fail, what it did is undone, the
 * transaction goes on, and the error is returned; else NULL.  A cancel or a shutdown goes through.
 */
ErrorData *
sql_try(void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;

		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
	}
	PG_END_TRY();
	return error;
}
