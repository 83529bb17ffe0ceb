/*
 * decide/policy_cache.c
 *		Policies as a session reads and keeps them.
 *
 * A policy is read when it is first called and then kept in the session.  A trigger
 * on the table sends a relcache invalidation for every change.  The invalidation is
 * as transactional as the change: it reaches other sessions when the change commits,
 * and our own session at once, and once more if the change is rolled back.  So a call
 * only has to see whether there is an invalidation to be read.
 */
#include "postgres.h"

#include "core/transaction.h"
#include "decide/errors.h"
#include "decide/policy_cache.h"
#include "decide/rules.h"
#include "table/sql.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

static SqlStatement read_policy = {
	"SELECT CASE WHEN p.tier OPERATOR(pg_catalog.=) 'default' THEN p.policy"
	"  ELSE p.policy OPERATOR(pg_catalog.||) '/' OPERATOR(pg_catalog.||) p.tier END,"
	" p.capacity, p.refill, p.shadow, p.enabled, p.initial, p.period, p.slots"
	" FROM %1$s.rate_limit_policies p WHERE p.policy OPERATOR(pg_catalog.=) $1"
	" ORDER BY p.tier",
	1, {TEXTOID}
};

/* The policies read so far.  All are dropped when any of them may have changed. */
static struct
{
	bool		valid;
	Oid			relid;			/* of rate_limit_policies */
	MemoryContext context;
	HTAB	   *table;
	Policy	   *last;			/* the one that was called last, or NULL */
}			cache;

/* The relation, or all of them, may have changed. */
static void
invalidate(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == cache.relid)
		cache.valid = false;
}

void
policy_cache_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

static void
empty_cache(void)
{
	HASHCTL		ctl = {0};

	cache.last = NULL;
	cache.table = NULL;
	if (!cache.context)
		cache.context = AllocSetContextCreate(TopMemoryContext, "ratelimit policies",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(cache.context);
	ctl.keysize = MAX_LIMITER_LEN + 1;
	ctl.entrysize = sizeof(Policy);
	ctl.hcxt = cache.context;
	cache.table = hash_create("ratelimit policies", 32, &ctl,
							  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/* A policy to be read, for sql_try(). */
typedef struct PolicyRead
{
	char		name[MAX_LIMITER_LEN + 1];
	Policy	   *policy;			/* NULL if no policy has the name */
} PolicyRead;

/* What a bucket owes that begins with "initial" tokens. */
static Owed
owed_at_first(double capacity, double refill, double initial)
{
	check_tokens("initial", initial);
	return get_rule(capacity, refill, Max(capacity - initial, 0))->take;
}

/* Copy a row that read_policy has found into the cache's memory. */
static void
read_tier(Tier *tier, HeapTuple row)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		value;
	text	   *limiter = DatumGetTextPP(SPI_getbinval(row, desc, 1, &isnull));

	check_limiter(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter));
	tier->limiter_len = VARSIZE_ANY_EXHDR(limiter);
	memcpy(tier->limiter, VARDATA_ANY(limiter), tier->limiter_len);
	tier->capacity = DatumGetFloat8(SPI_getbinval(row, desc, 2, &isnull));
	value = SPI_getbinval(row, desc, 3, &isnull);
	tier->refill = isnull ? 0 : DatumGetFloat8(value);
	tier->shadow = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
	tier->enabled = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
	value = SPI_getbinval(row, desc, 6, &isnull);
	if (!isnull)
		tier->absent = owed_at_first(tier->capacity, tier->refill, DatumGetFloat8(value));
	value = SPI_getbinval(row, desc, 7, &isnull);
	if (!isnull)
	{
		text	   *period = DatumGetTextPP(value);

		tier->period = MemoryContextAlloc(cache.context, VARSIZE_ANY(period));
		memcpy(tier->period, period, VARSIZE_ANY(period));
	}
}

/* Copy the n rows that read_policy has found. */
static void
read_tiers(Policy *policy, int n)
{
	policy->n_tiers = 0;
	policy->tiers = MemoryContextAllocZero(cache.context, n * sizeof(Tier));
	policy->slots = NULL;
	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;

		if (DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 8, &isnull)))
			read_tier(policy->slots = MemoryContextAllocZero(cache.context, sizeof(Tier)),
					  row);
		else
			read_tier(&policy->tiers[policy->n_tiers++], row);
	}
}

/* Read a policy from the table. */
static void
load(void *arg)
{
	PolicyRead *call = arg;
	SqlCaller	caller = sql_begin();
	Datum		values[1];
	int			n;

	sql_lock(SQL_POLICIES, AccessShareLock);

	/* set before reading, so that a change meanwhile makes it false again */
	if (!cache.valid)
	{
		empty_cache();
		cache.relid = sql_relid(SQL_POLICIES);
		cache.valid = true;
	}

	invalid_after_rollback(&cache.valid);

	values[0] = CStringGetTextDatum(call->name);
	sql_push_latest_snapshot();
	sql_execute(&read_policy, values, NULL, true);
	PopActiveSnapshot();

	n = (int) SPI_processed;
	if (n > MAX_CALLS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("policy \"%s\" must not have more than %d tiers, not %d",
						call->name, MAX_CALLS, n)));
	if (n > 0)
	{
		Policy		policy;

		read_tiers(&policy, n);
		call->policy = hash_search(cache.table, call->name, HASH_ENTER, NULL);
		call->policy->n_tiers = policy.n_tiers;
		call->policy->tiers = policy.tiers;
		call->policy->slots = policy.slots;
	}

	/*
	 * A parallel query reads by its own snapshot, which may be older than a change whose
	 * invalidation has come already.  So what it reads is good for this call only.
	 */
	if (IsInParallelMode())
		cache.valid = false;
	sql_end(caller);
}

/*
 * Get the policy.  If it does not exist or cannot be read, raise an error, or, if
 * ratelimit.on_error is to decide the call, warn and return NULL.
 */
const Policy *
find_policy(const text *name)
{
	int			len = VARSIZE_ANY_EXHDR(name);
	PolicyRead	call = {{0}};
	ErrorData  *error = NULL;

	check_length("policy", VARDATA_ANY(name), len, MAX_LIMITER_LEN);
	AcceptInvalidationMessages();
	if (likely(cache.valid && cache.last &&
			   memcmp(cache.last->name, VARDATA_ANY(name), len) == 0 &&
			   cache.last->name[len] == '\0'))
		return cache.last;

	memcpy(call.name, VARDATA_ANY(name), len);
	if (cache.valid)
		call.policy = hash_search(cache.table, call.name, HASH_FIND, NULL);
	if (!call.policy)
	{
		if (errors_are_decided())
			error = sql_try(load, &call);
		else
			load(&call);
	}
	if (call.policy)
		return cache.last = call.policy;

	ereport(errors_are_decided() ? WARNING : ERROR,
			(errcode(error ? error->sqlerrcode : ERRCODE_UNDEFINED_OBJECT),
			 error ? errmsg("could not read policy \"%s\": %s", call.name, error->message) :
			 errmsg("policy \"%s\" does not exist", call.name),
			 error ? 0 :
			 errhint("Policies are the rows of the table rate_limit_policies.")));
	return NULL;
}

/*
 * Get the policy, and the exceptions that it has for the key; *exceptions is NULL if
 * there are none.  Errors as of find_policy().
 */
const Policy *
find_policy_for_key(const text *name, const text *key, Exceptions **exceptions)
{
	const Policy *policy = find_policy(name);

	*exceptions = NULL;
	if (likely(!exceptions_possible(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key))) || !policy)
		return policy;
	if (!exceptions_find(name, key, exceptions))
		return NULL;
	/* it may be gone by now */
	return find_policy(name);
}

/*
 * Get the policy for a call that takes tokens, and the key's exceptions.  Errors as of
 * find_policy(), also if the policy has no tier for such calls.
 */
const Policy *
find_policy_of_tokens(const text *name, const text *key, Exceptions **exceptions)
{
	const Policy *policy = find_policy_for_key(name, key, exceptions);

	if (likely(!policy || policy->n_tiers > 0))
		return policy;
	ereport(errors_are_decided() ? WARNING : ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("policy \"%s\" has no tier with a refill or a period", policy->name),
			 errhint("It says how many at a time: see rl_acquire_policy().")));
	return NULL;
}
