/*
 * sql.c
 *		Statements on the extension's own tables.
 *
 * Callers have no rights on these tables, so statements run as the extension's
 * owner.  Nothing in them may depend on search_path, which is the caller's: the
 * schema, types, functions and operators are to be named in full.  Each is
 * prepared once per session, and again when the extension has moved to another
 * schema.
 */
#include "ratelimit.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* Where the extension is, until an invalidation says that it may have moved. */
static struct
{
	bool		valid;
	Oid			owner;
	Oid			buckets_relid;	/* of rate_limit_buckets */
	uint32		generation;		/* counts the values of schema */
	char		schema[2 * NAMEDATALEN + 3];	/* quoted */
}			extension;

static void
invalidate_rel(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == extension.buckets_relid)
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

/* Is the extension, with its tables, in this database? */
bool
sql_available(void)
{
	Oid			schema;
	Oid			owner;
	Oid			relid;
	char	   *name;
	const char *quoted;

	if (extension.valid)
		return true;
	if (!read_extension(&schema, &owner))
		return false;
	name = get_namespace_name(schema);
	relid = get_relname_relid("rate_limit_buckets", schema);
	if (!name || !OidIsValid(relid))
		return false;

	quoted = quote_identifier(name);
	if (strcmp(quoted, extension.schema) != 0)
	{
		strlcpy(extension.schema, quoted, sizeof(extension.schema));
		extension.generation++;
	}
	extension.owner = owner;
	extension.buckets_relid = relid;
	extension.valid = true;
	return true;
}

/* The table of buckets, while statements may be executed. */
Oid
sql_buckets_relid(void)
{
	return extension.buckets_relid;
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

	if (!sql_available())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("extension ratelimit or its table rate_limit_buckets does not exist in this database")));
	GetUserIdAndSecContext(&caller.user, &caller.context);
	SetUserIdAndSecContext(extension.owner,
						   caller.context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	return caller;
}

void
sql_end(SqlCaller caller)
{
	SPI_finish();
	SetUserIdAndSecContext(caller.user, caller.context);
}

void
sql_execute(SqlStatement *statement, Datum *values, const char *nulls,
			bool read_only)
{
	int			result;

	if (statement->plan && statement->generation != extension.generation)
	{
		SPIPlanPtr	plan = statement->plan;

		statement->plan = NULL;
		SPI_freeplan(plan);
	}
	if (!statement->plan)
	{
		char	   *sql = psprintf(statement->sql, extension.schema);
		SPIPlanPtr	plan = SPI_prepare(sql, statement->nargs, statement->types);

		if (!plan)
			elog(ERROR, "SPI_prepare failed: %s",
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		statement->plan = plan;
		statement->generation = extension.generation;
	}
	result = SPI_execute_plan(statement->plan, values, nulls, read_only, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
}
