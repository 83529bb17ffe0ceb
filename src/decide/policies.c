/*
 * decide/policies.c
 *		Rules looked up by name.
 *
 * A policy is one or more tiers, rows of rate_limit_policies, each a bucket of its
 * own: its limiter is the policy's name, or, if the tier is not called "default",
 * policy/tier.  What is taken is taken from all tiers or from none.  A tier in
 * shadow never keeps the others from it: it is decided afterwards, by itself.
 *
 * Policies are read when first called for and kept in the session.  A trigger on
 * the table has whoever changes it send a relcache invalidation, which is as
 * transactional as the change: it reaches other sessions when it commits, and our
 * own at once, and again should it roll back.  So a call only has to see whether
 * there is an invalidation to be read.
 */
#include "postgres.h"

#include "core/settings.h"
#include "core/transaction.h"
#include "decide/errors.h"
#include "decide/limiter.h"
#include "decide/one.h"
#include "decide/policies.h"
#include "decide/rules.h"
#include "decide/several.h"
#include "decide/short_way.h"
#include "miscadmin.h"
#include "table/sql.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

typedef struct Tier
{
	char		limiter[MAX_LIMITER_LEN];
	int			limiter_len;
	double		capacity;
	double		refill;
	bool		shadow;
	bool		enabled;
} Tier;

typedef struct Policy
{
	char		name[MAX_LIMITER_LEN + 1];	/* of the hash table */
	int			n_tiers;
	Tier	   *tiers;
} Policy;

static SqlStatement read_policy = {
	"SELECT CASE WHEN p.tier OPERATOR(pg_catalog.=) 'default' THEN p.policy"
	"  ELSE p.policy OPERATOR(pg_catalog.||) '/' OPERATOR(pg_catalog.||) p.tier END,"
	" p.capacity, p.refill, p.shadow, p.enabled"
	" FROM %1$s.rate_limit_policies p WHERE p.policy OPERATOR(pg_catalog.=) $1"
	" ORDER BY p.tier",
	1, {TEXTOID}
};

/* Those read so far; all of it goes when any of them may have changed. */
static struct
{
	bool		valid;
	Oid			relid;			/* of rate_limit_policies */
	MemoryContext context;
	HTAB	   *table;
	Policy	   *last;			/* found; or NULL */
}			cache;

/* Has this transaction read policies that it may have changed? */
static bool read_own = false;

static void
invalidate(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == cache.relid)
		cache.valid = false;
}

/*
 * A change that is rolled back is invalidated, too, but not one by a statement
 * that fails: then what a trigger has called for meanwhile may be in the cache.
 */
static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && read_own)
		cache.valid = false;
}

static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT && read_own)
		cache.valid = false;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT ||
		event == XACT_EVENT_PREPARE)
		read_own = false;
}

void
policies_init(void)
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

/* A call on its way to a policy. */
typedef struct PolicyCall
{
	char		name[MAX_LIMITER_LEN + 1];
	Policy	   *policy;			/* NULL: there is none of that name */
} PolicyCall;

/* Read a policy from the table. */
static void
load(void *arg)
{
	static bool called = false;
	PolicyCall *call = arg;
	SqlCaller	caller = sql_begin();
	Datum		values[1];
	Tier	   *tiers;
	int			n;

	sql_lock(SQL_POLICIES, AccessShareLock);

	/* before reading: who changes it meanwhile undoes this */
	if (!cache.valid)
	{
		empty_cache();
		cache.relid = sql_relid(SQL_POLICIES);
		cache.valid = true;
	}

	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
	{
		call_at_ends(&called, at_xact_end, at_subxact_end);
		read_own = true;
	}

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
		tiers = MemoryContextAllocZero(cache.context, n * sizeof(Tier));
		for (int i = 0; i < n; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			bool		isnull;
			text	   *limiter = DatumGetTextPP(SPI_getbinval(row, desc, 1, &isnull));

			check_limiter(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter));
			tiers[i].limiter_len = VARSIZE_ANY_EXHDR(limiter);
			memcpy(tiers[i].limiter, VARDATA_ANY(limiter), tiers[i].limiter_len);
			tiers[i].capacity = DatumGetFloat8(SPI_getbinval(row, desc, 2, &isnull));
			tiers[i].refill = DatumGetFloat8(SPI_getbinval(row, desc, 3, &isnull));
			tiers[i].shadow = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
			tiers[i].enabled = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
		}
		call->policy = hash_search(cache.table, call->name, HASH_ENTER, NULL);
		call->policy->tiers = tiers;
		call->policy->n_tiers = n;
	}
	sql_end(caller);
}

/*
 * The policy, or NULL: then there is none, or it cannot be read, and
 * ratelimit.on_error says what becomes of the call.
 */
static const Policy *
find_policy(const text *name)
{
	int			len = VARSIZE_ANY_EXHDR(name);
	PolicyCall	call = {{0}};
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

static void
make_call(BucketCall *call, TierName *name, const Tier *tier, const text *key,
		  double cost)
{
	memcpy(name->limiter, tier->limiter, tier->limiter_len);
	use_bucket(&call->id, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
			   name->limiter, tier->limiter_len);
	call->rule = *get_rule(tier->capacity, tier->refill, cost);
}

/* Is one of the decided calls allowed only because it is in shadow? */
static bool
any_shadowed(const BucketCall *calls, int n)
{
	for (int i = 0; i < n; i++)
		if (calls[i].decision.shadowed)
			return true;
	return false;
}

/*
 * Decide a call by a policy: is it allowed?  Left in calls are the decisions that
 * count for that, or one that allows; how many.  None if it was not a policy that
 * decided.  Left in shadowed: is it allowed only because of shadow, of one tier or all?
 */
bool
decide_by_policy(const text *policy_name, const text *key, double cost,
				 BucketCall *calls, TierName *names, int *n_calls, bool *shadowed)
{
	const Policy *policy;
	BucketCall *shadows;
	int			n = 0;
	int			n_shadows = 0;
	bool		allowed = true;

	/* off is off, whatever state the policies are in */
	*n_calls = 0;
	*shadowed = false;
	if (!enabled_setting)
		return true;
	policy = find_policy(policy_name);
	if (!policy)
		return on_error_setting == ON_ERROR_ALLOW;

	/* those that count from the front, those in shadow from the back */
	shadows = calls + MAX_CALLS;
	for (int i = 0; i < policy->n_tiers; i++)
	{
		const Tier *tier = &policy->tiers[i];

		if (!tier->enabled)
			continue;
		make_call(tier->shadow ? shadows - ++n_shadows : &calls[n++],
				  &names[i], tier, key, cost);
	}
	shadows -= n_shadows;

	if (n + n_shadows == 0)
	{
		/* as from a full bucket, that of any tier */
		make_call(&calls[0], &names[0], &policy->tiers[0], key, cost);
		memset(&calls[0].decision, 0, sizeof(Decision));
		calls[0].decision.known = calls[0].decision.allowed = true;
		*n_calls = 1;
		return true;
	}
	if (n == 1)
	{
		limiter_use(calls[0].id.limiter, calls[0].id.limiter_len);
		decide_uncounted(&calls[0].id, &calls[0].rule, &calls[0].decision);
		decide_counted(&calls[0].id, &calls[0].rule, &calls[0].decision, false);
		allowed = calls[0].decision.allowed;
	}
	else if (n > 1)
		allowed = decide_all(calls, n);

	for (int i = 0; i < n_shadows && allowed; i++)
	{
		BucketCall *call = &shadows[i];

		limiter_use(call->id.limiter, call->id.limiter_len);
		decide_uncounted(&call->id, &call->rule, &call->decision);
		decide_counted(&call->id, &call->rule, &call->decision, true);
	}
	*shadowed = any_shadowed(calls, n) || (allowed && any_shadowed(shadows, n_shadows));
	if (n == 0)
		memmove(calls, shadows, (n = n_shadows) * sizeof(BucketCall));
	*n_calls = n;
	return allowed;
}

/*
 * What a call by a policy would find, changing nothing: a call for each of its tiers,
 * also of those that are not enabled; how many.  None if there is no such policy, and
 * ratelimit.on_error says that this is no error.
 */
int
look_by_policy(const text *policy_name, const text *key, double cost,
			   BucketCall *calls, TierName *names, TierKind *kinds)
{
	const Policy *policy = find_policy(policy_name);
	int			n = policy ? policy->n_tiers : 0;

	/* first what is the policy's: looking at buckets may have it read anew */
	for (int i = 0; i < n; i++)
	{
		make_call(&calls[i], &names[i], &policy->tiers[i], key, cost);
		kinds[i].shadow = policy->tiers[i].shadow;
		kinds[i].enabled = policy->tiers[i].enabled;
	}
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		decide_look(&calls[i].id, &calls[i].rule, &calls[i].decision);
	}
	return n;
}
