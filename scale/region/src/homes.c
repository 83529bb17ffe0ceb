/*
 * homes.c
 *		Which home a key has, by the table rate_limit_homes, and where ratelimit's own
 *		functions are.
 *
 * A session keeps the rules of the table until they change.  It reads them without
 * executing anything that a role may have created: the table is scanned as it stands.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "compat.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "homes.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "shared.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

typedef struct Rule
{
	bool		any_limiter;
	int			limiter_len;
	int			prefix_len;
	char		limiter[LIMITER_LENGTH];
	char		prefix[KEY_LENGTH];
	int			home;			/* in shared->homes, or HOME_HERE */
} Rule;

static bool rules_valid = false;
static Oid	rules_table;
static int	n_rules;
static Rule *rules;
static bool callbacks = false;

static bool engine_valid = false;
static FmgrInfo engine[N_ENGINE_FUNCTIONS];
static MemoryContext engine_context;

PG_FUNCTION_INFO_V1(rl_homes_changed);

static void
table_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == rules_table)
		rules_valid = false;
}

static void
server_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	rules_valid = false;
}

static void
function_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	engine_valid = false;
}

static void
register_callbacks(void)
{
	if (callbacks)
		return;
	CacheRegisterRelcacheCallback(table_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, server_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, function_changed, (Datum) 0);
	callbacks = true;
}

/* The trigger of rate_limit_homes: all sessions read it again, once this commits. */
Datum
rl_homes_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("_rl_homes_changed() must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}

/* The schema of an extension, and its owner; InvalidOid: there is none */
Oid
extension_schema(const char *extension, Oid *owner)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	Oid			schema = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (tuple)
	{
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
		if (owner)
			*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

/* A text column of a row, at most so long; -1: it is null */
static int
read_text(HeapTuple tuple, TupleDesc desc, int column, char *to, int max)
{
	bool		null;
	Datum		value = heap_getattr(tuple, column, desc, &null);
	text	   *string;
	int			len;

	if (null)
		return -1;
	string = DatumGetTextPP(value);
	len = Min(VARSIZE_ANY_EXHDR(string), max);
	memcpy(to, VARDATA_ANY(string), len);
	return len;
}

/* Read a row of the table.  Its checks have seen to it that the texts fit. */
static void
read_rule(HeapTuple tuple, Relation rel, Rule *rule)
{
	TupleDesc	desc = RelationGetDescr(rel);
	char		name[NAMEDATALEN + 1];
	int			len;

	rule->limiter_len = read_text(tuple, desc, 1, rule->limiter, LIMITER_LENGTH);
	rule->any_limiter = rule->limiter_len == 1 && rule->limiter[0] == '*';
	rule->prefix_len = read_text(tuple, desc, 2, rule->prefix, KEY_LENGTH);
	len = read_text(tuple, desc, 3, name, NAMEDATALEN);
	if (len < 0)
		rule->home = HOME_HERE;
	else
	{
		Oid			server;

		name[len] = '\0';
		server = get_foreign_server_oid(name, true);
		if (!OidIsValid(server))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("server \"%s\" does not exist", name),
					 errdetail("Table rate_limit_homes names it.")));
		rule->home = home_index(server, name);
		if (rule->home < 0)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("there must not be more than %d homes", MAX_HOMES),
					 errhint("Homes that are not used any more are forgotten when the server is restarted.")));
	}
}

static void
read_rules(void)
{
	Oid			schema = extension_schema("ratelimit_region", NULL);
	Oid			table = OidIsValid(schema) ? get_relname_relid("rate_limit_homes", schema) : InvalidOid;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			room = 16;
	int			n = 0;
	Rule	   *read;

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("extension ratelimit_region or its table rate_limit_homes does not exist in this database")));
	register_callbacks();
	rules_table = table;
	/* what changes while this reads is read again */
	rules_valid = true;
	PG_TRY();
	{
		rel = table_open(table, AccessShareLock);
		read = palloc(room * sizeof(Rule));
		scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
		while ((tuple = systable_getnext(scan)) != NULL)
		{
			if (n == room)
				read = repalloc(read, (room *= 2) * sizeof(Rule));
			read_rule(tuple, rel, &read[n++]);
		}
		systable_endscan(scan);
		table_close(rel, AccessShareLock);
		if (rules)
			pfree(rules);
		rules = NULL;
		n_rules = 0;
		rules = MemoryContextAlloc(TopMemoryContext, Max(n, 1) * sizeof(Rule));
		memcpy(rules, read, n * sizeof(Rule));
		n_rules = n;
		pfree(read);
	}
	PG_CATCH();
	{
		rules_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * The home of a key: a number in shared->homes, or HOME_HERE.  A rule of the limiter
 * goes before one of all limiters, then the longest prefix does.
 */
int
home_of(const char *limiter, int limiter_len, const char *key, int key_len)
{
	const Rule *best = NULL;

	if (!rules_valid)
		read_rules();
	for (int i = 0; i < n_rules; i++)
	{
		const Rule *rule = &rules[i];

		if (!rule->any_limiter &&
			(rule->limiter_len != limiter_len || memcmp(rule->limiter, limiter, limiter_len) != 0))
			continue;
		if (rule->prefix_len > key_len || memcmp(rule->prefix, key, rule->prefix_len) != 0)
			continue;
		if (!best || rule->any_limiter < best->any_limiter ||
			(rule->any_limiter == best->any_limiter && rule->prefix_len > best->prefix_len))
			best = rule;
	}
	return best ? best->home : HOME_HERE;
}

static const struct
{
	const char *name;
	int			nargs;
	Oid			args[5];
}			engine_functions[] = {
	[ENGINE_CONSUME] = {"rl_consume", 5, {TEXTOID, FLOAT8OID, FLOAT8OID, FLOAT8OID, TEXTOID}},
	[ENGINE_THROTTLE] = {"rl_throttle", 5, {TEXTOID, FLOAT8OID, FLOAT8OID, FLOAT8OID, TEXTOID}},
	[ENGINE_PEEK] = {"rl_peek", 5, {TEXTOID, FLOAT8OID, FLOAT8OID, FLOAT8OID, TEXTOID}},
	[ENGINE_CONSUME_UPTO] = {"rl_consume_upto", 5, {TEXTOID, FLOAT8OID, FLOAT8OID, FLOAT8OID, TEXTOID}},
	[ENGINE_REWARD] = {"rl_reward", 3, {TEXTOID, FLOAT8OID, TEXTOID}},
	[ENGINE_REPORT] = {"rl_report", 3, {TEXTOID, TEXTOID, INT8OID}},
};

static void
find_engine(void)
{
	Oid			schema = extension_schema("ratelimit", NULL);
	char	   *name = OidIsValid(schema) ? get_namespace_name(schema) : NULL;

	if (!name)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"ratelimit\" does not exist")));
	register_callbacks();
	if (!engine_context)
		engine_context = AllocSetContextCreate(TopMemoryContext, "ratelimit_region functions",
											   ALLOCSET_SMALL_SIZES);
	MemoryContextReset(engine_context);
	engine_valid = true;
	PG_TRY();
	{
		for (int i = 0; i < N_ENGINE_FUNCTIONS; i++)
		{
			List	   *qualified = list_make1(makeString(name));

			qualified = lappend(qualified, makeString(pstrdup(engine_functions[i].name)));
			fmgr_info_cxt(LookupFuncName(qualified, engine_functions[i].nargs,
										 engine_functions[i].args, false),
						  &engine[i], engine_context);
		}
	}
	PG_CATCH();
	{
		engine_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Call a function of ratelimit; "as_caller": only if the caller may. */
Datum
engine_call(EngineFunction function, int nargs, const Datum *args, bool as_caller)
{
	LOCAL_FCINFO(fcinfo, 5);
	Datum		result;

	if (!engine_valid)
		find_engine();
	if (as_caller && !may_execute(engine[function].fn_oid))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, engine_functions[function].name);
	InitFunctionCallInfoData(*fcinfo, &engine[function], nargs, InvalidOid, NULL, NULL);
	for (int i = 0; i < nargs; i++)
	{
		fcinfo->args[i].value = args[i];
		fcinfo->args[i].isnull = false;
	}
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "function %s() returned null", engine_functions[function].name);
	return result;
}
