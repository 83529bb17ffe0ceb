/*
 * table/sql.c
 *		Statements on the extension's own tables, and locking these tables.
 *
 * Callers have no rights on these tables, so statements run as the extension's owner.
 * Nothing in a statement may depend on search_path, which is the caller's: schemas,
 * types, functions and operators must be named in full.  Each statement is prepared
 * once per session, and again when the extension has moved to another schema.
 *
 * The statements themselves are written where they are needed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "table/sql.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* How long sql_lock_within() sleeps between two attempts. */
#define LOCK_NAP_MS	5

/* Where the extension is; valid until an invalidation says that it may have moved. */
static struct
{
	bool		valid;
	Oid			owner;
	Oid			relids[SQL_TABLES]; /* InvalidOid: the table does not exist */
	uint32		generation;		/* counts changes of schema */
	char		schema[2 * NAMEDATALEN + 3];	/* quoted */
}			extension;

static const char *const tables[SQL_TABLES] = {
	[SQL_BUCKETS] = "rate_limit_buckets",
	[SQL_VIOLATIONS] = "rate_limit_violations",
	[SQL_FLAGS] = "rate_limit_flags",
	[SQL_POLICIES] = "rate_limit_policies",
	[SQL_EXCEPTIONS] = "rate_limit_exceptions",
	[SQL_POSTGREST_RULES] = "rate_limit_postgrest_rules",
	[SQL_TICKETS] = "rate_limit_tickets",
	[SQL_RESERVED] = "rate_limit_reserved"
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
 * Does the table belong to this owner?  If it were given to another role, that role's
 * triggers could run with the rights of the extension's owner.
 */
static bool
is_owned_by(Oid relid, Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		same;

	if (!HeapTupleIsValid(tuple))
		return true;			/* it is gone: statements on it raise an error */
	same = ((Form_pg_class) GETSTRUCT(tuple))->relowner == owner;
	ReleaseSysCache(tuple);
	return same;
}

/*
 * Find out where the extension is, unless that is known.  Returns false if the
 * extension, with its tables, is not in this database.  If one of its tables is not
 * owned by the extension's owner, *foreign is set to the table's name; then no
 * statement may be executed.
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

	/* set this first, so that an invalidation during what follows can undo it */
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
 * Why no statement on the table can be executed, for use where that must not raise an
 * error.  NULL if statements can be executed.
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

/* The OID of the table; valid while statements can be executed. */
Oid
sql_relid(SqlTable table)
{
	return extension.relids[table];
}

/* Raise an error if the extension is not there. */
static void
check_available(void)
{
	if (!sql_available())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("extension ratelimit or its table rate_limit_buckets does not exist in this database")));
}

/* Raise an error if the extension, or this table of it, does not exist. */
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
 * Allow statements to be executed until sql_end().  An error in between needs no
 * cleanup here: aborting the (sub)transaction gives the caller its rights back and
 * ends SPI.
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

/* May the user do everything that the extension's owner may? */
static bool
is_trusted(Oid user)
{
	return user == extension.owner || superuser_arg(user);
}

/*
 * Restrict search_path to pg_catalog.  A trigger, default or constraint that an
 * operator has added runs with the rights of the extension's owner, so names that it
 * does not write in full must not be looked up where the caller's search_path leads.
 * "user" is the one before sql_begin(): code of a role may run in the session of a
 * superuser, who maintains its table, or calls its SECURITY DEFINER function.  The
 * restriction lasts until AtEOXact_GUC() is called with the result, or until the
 * (sub)transaction is aborted.
 */
int
sql_restrict_names(Oid user)
{
	int			nest = NewGUCNestLevel();

	/* for the owner, superusers and the worker, search_path stays as it is */
	if (!is_trusted(user) || !is_trusted(GetOuterUserId()))
		(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest;
}

/*
 * Lock the table, and return true; or false, if "wait" is false and the lock cannot
 * be had at once.
 */
static bool
lock(SqlTable table, LOCKMODE mode, bool wait)
{
	for (;;)
	{
		Oid			relid = extension.relids[table];

		if (!OidIsValid(relid))
			return true;		/* it is gone: statements on it raise an error */
		if (wait)
			LockRelationOid(relid, mode);
		else if (!ConditionalLockRelationOid(relid, mode))
			return false;

		/* locking has processed invalidations: is it still the same table? */
		if (extension.valid)
			return true;
		check_available();
		if (extension.relids[table] == relid)
			return true;
		UnlockRelationOid(relid, mode);
	}
}

/*
 * Lock the table until the end of the transaction, in the mode in which the
 * statements to come lock it.  They would lock it themselves, but too late: after the
 * extension's schema was put into their text, although waiting may change the schema;
 * and after a snapshot was taken, to which a table that has been rewritten meanwhile
 * (ALTER TABLE) looks empty.  They would also lock it first for reading and then more
 * strongly for writing, which leads to a deadlock if a REINDEX comes in between.
 */
void
sql_lock(SqlTable table, LOCKMODE mode)
{
	(void) lock(table, mode, true);
}

/* The same, but return false if the lock cannot be had at once. */
bool
sql_lock_if_free(SqlTable table, LOCKMODE mode)
{
	return lock(table, mode, false);
}

/*
 * The same, for use where waiting must not raise an error, as it does when
 * lock_timeout expires or a deadlock is detected: this tries repeatedly for so many
 * milliseconds.  Returns what is in the way, or NULL if the lock is held and
 * statements on the table can be executed.
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
			/* locking has processed invalidations: is it still the same table? */
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

/* End what sql_begin() began. */
void
sql_end(SqlCaller caller)
{
	SPI_finish();
	SetUserIdAndSecContext(caller.user, caller.context);
}

/*
 * Push a snapshot that sees everything committed so far, whatever the transaction's
 * own snapshot sees.  A parallel query cannot have any snapshot except its own.
 */
void
sql_push_latest_snapshot(void)
{
	PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

/* Prepare the statement, unless it is prepared for the present schema. */
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

/* Execute the statement; its result is where SPI puts it. */
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
 * Do work in a subtransaction.  If it fails, what it did is undone, the transaction
 * continues, and the error is returned; otherwise NULL is returned.  Like the execution
 * of a statement, this must not be called in a callback at the end of a transaction.
 */
ErrorData *
sql_try_all(void (*work) (void *arg), void *arg)
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
	}
	PG_END_TRY();
	return error;
}

/* sql_try_all(), but the error of a cancel or of a shutdown is raised again. */
ErrorData *
sql_try(void (*work) (void *arg), void *arg)
{
	ErrorData  *error = sql_try_all(work, arg);

	if (error && (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
				  ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION))
		ReThrowError(error);
	return error;
}
