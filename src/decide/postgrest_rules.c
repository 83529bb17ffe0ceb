/*
 * decide/postgrest_rules.c
 *		Which requests of PostgREST are limited, by which policy, and by which key.
 *
 * The rules are the rows of rate_limit_postgrest_rules.  Like policies, they are read
 * when they are first needed and kept in the session until a trigger on the table
 * sends an invalidation (decide/policy_cache.c).  This file does not know what the rules
 * mean: functions/postgrest.c does.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "decide/errors.h"
#include "decide/postgrest_rules.h"
#include "table/sql.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

static SqlStatement read_rules = {
	"SELECT r.role, r.claim, r.claim_value, r.methods, r.path, r.policy,"
	" r.key_from, r.key_name, r.proxies"
	" FROM %1$s.rate_limit_postgrest_rules r WHERE r.enabled"
	" ORDER BY r.position",
	0, {0}
};

/* The rules that are enabled, in order. */
static struct
{
	bool		valid;			/* nothing has changed since reading began */
	bool		complete;		/* and all rules have been read */
	Oid			relid;			/* of rate_limit_postgrest_rules */
	MemoryContext context;
	int			n;
	PostgrestRule *rules;
}			cache;

/* Callback: a table has changed, or, if relid is invalid, any table may have. */
static void
invalidate(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == cache.relid)
		cache.valid = false;
}

/* Register for the invalidations.  Called once, when the library is loaded. */
void
postgrest_rules_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

/* A text of the current row, in the cache's memory; NULL if it is null. */
static char *
keep_text(HeapTuple row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? NULL : MemoryContextStrdup(cache.context, TextDatumGetCString(value));
}

/* Read a rule from a row. */
static void
read_rule(PostgrestRule *rule, HeapTuple row)
{
	char	   *key_from;
	char	   *policy;
	Datum		value;
	bool		isnull;

	rule->role = keep_text(row, 1);
	rule->claim = keep_text(row, 2);
	rule->claim_value = keep_text(row, 3);
	rule->path = keep_text(row, 5);
	rule->key_name = keep_text(row, 8);

	value = SPI_getbinval(row, SPI_tuptable->tupdesc, 4, &isnull);
	if (!isnull)
	{
		Datum	   *methods;

		deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
						  &methods, NULL, &rule->n_methods);
		rule->methods = MemoryContextAlloc(cache.context, rule->n_methods * sizeof(char *));
		for (int i = 0; i < rule->n_methods; i++)
			rule->methods[i] = MemoryContextStrdup(cache.context,
												   TextDatumGetCString(methods[i]));
	}

	policy = keep_text(row, 6);
	if (policy)
	{
		MemoryContext old = MemoryContextSwitchTo(cache.context);

		rule->policy = cstring_to_text(policy);
		MemoryContextSwitchTo(old);
	}

	/* nothing here relies on the table's constraints, which its owner may drop */
	key_from = keep_text(row, 7);
	if (key_from && rule->key_name && strcmp(key_from, "claim") == 0)
		rule->key_from = KEY_CLAIM;
	else if (key_from && rule->key_name && strcmp(key_from, "header") == 0)
		rule->key_from = KEY_HEADER;
	else
		rule->key_from = KEY_ADDRESS;
	value = SPI_getbinval(row, SPI_tuptable->tupdesc, 9, &isnull);
	rule->proxies = isnull ? 1 : Max(DatumGetInt32(value), 1);
}

/* Read the rules from the table. */
static void
load(void *arg)
{
	SqlCaller	caller;
	int			n;

	sql_require(SQL_POSTGREST_RULES);
	caller = sql_begin();
	sql_lock(SQL_POSTGREST_RULES, AccessShareLock);

	if (!cache.context)
		cache.context = AllocSetContextCreate(TopMemoryContext, "ratelimit PostgREST rules",
											  ALLOCSET_DEFAULT_SIZES);

	/* before reading, so that a rule that is changed meanwhile makes this invalid */
	cache.complete = false;
	MemoryContextReset(cache.context);
	cache.rules = NULL;
	cache.n = 0;
	cache.relid = sql_relid(SQL_POSTGREST_RULES);
	cache.valid = true;

	sql_push_latest_snapshot();
	sql_execute(&read_rules, NULL, NULL, true);
	PopActiveSnapshot();

	n = (int) SPI_processed;
	cache.rules = MemoryContextAllocZero(cache.context, Max(n, 1) * sizeof(PostgrestRule));
	for (int i = 0; i < n; i++)
		read_rule(&cache.rules[i], SPI_tuptable->vals[i]);
	cache.n = n;
	sql_end(caller);

	/*
	 * A transaction that has written something may have read its own changes.  If a
	 * statement that made them fails, no invalidation is sent.  And a parallel query
	 * reads by its own snapshot, which may be older than a change whose invalidation
	 * has come already.  Then the rules are good for this call only.
	 */
	cache.complete = !TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		!IsInParallelMode();
}

/*
 * Get the rules that are enabled, in order.  They stay where they are until the next
 * call.  False if they cannot be read and ratelimit.on_error does not make that an
 * error.
 */
bool
postgrest_rules(const PostgrestRule **rules, int *n)
{
	ErrorData  *error = NULL;

	AcceptInvalidationMessages();
	if (!cache.valid || !cache.complete)
	{
		if (errors_are_decided())
			error = sql_try(load, NULL);
		else
			load(NULL);
	}
	if (error)
	{
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not read rate_limit_postgrest_rules: %s", error->message)));
		return false;
	}
	*rules = cache.rules;
	*n = cache.n;
	return true;
}
