/*
 * decide/policies.c
 *		Calls whose rules are looked up by a policy's name.
 *
 * A policy has one or more tiers, which are rows of rate_limit_policies.  Each tier
 * has a bucket of its own for a key, whose limiter is the policy's name, or
 * policy/tier if the tier is not called "default".  Tokens are taken from all tiers
 * or from none.  A tier in shadow never makes the others deny a call: it is decided
 * after them, by itself.
 *
 * A policy is read when it is first called and then kept in the session.  A trigger
 * on the table sends a relcache invalidation for every change.  The invalidation is
 * as transactional as the change: it reaches other sessions when the change commits,
 * and our own session at once, and once more if the change is rolled back.  So a call
 * only has to see whether there is an invalidation to be read.
 */
#include "postgres.h"

#include "access/xact.h"
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
#include "utils/timestamp.h"

typedef struct Tier
{
	char		limiter[MAX_LIMITER_LEN];
	int			limiter_len;
	double		capacity;
	double		refill;			/* if it has no period */
	text	   *period;			/* NULL: it refills */
	bool		shadow;
	bool		enabled;
} Tier;

typedef struct Policy
{
	char		name[MAX_LIMITER_LEN + 1];	/* the key of the hash table */
	int			n_tiers;
	Tier	   *tiers;
} Policy;

static SqlStatement read_policy = {
	"SELECT CASE WHEN p.tier OPERATOR(pg_catalog.=) 'default' THEN p.policy"
	"  ELSE p.policy OPERATOR(pg_catalog.||) '/' OPERATOR(pg_catalog.||) p.tier END,"
	" p.capacity, p.refill, p.shadow, p.enabled, p.period"
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

/* Has this transaction, which may have changed policies, read any? */
static bool read_own = false;

/* The relation, or all of them, may have changed. */
static void
invalidate(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == cache.relid)
		cache.valid = false;
}

/*
 * An invalidation is repeated when a change is rolled back, except for a change by
 * the very statement that fails.  If a trigger has called a policy during that
 * statement, the cache may hold what the statement had changed.  So a rollback drops
 * what the transaction has read.
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

/* A policy to be read, for sql_try(). */
typedef struct PolicyCall
{
	char		name[MAX_LIMITER_LEN + 1];
	Policy	   *policy;			/* NULL if no policy has the name */
} PolicyCall;

/* Copy the n rows that read_policy has found into the cache's memory. */
static Tier *
read_tiers(int n)
{
	Tier	   *tiers = MemoryContextAllocZero(cache.context, n * sizeof(Tier));

	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		value;
		text	   *limiter = DatumGetTextPP(SPI_getbinval(row, desc, 1, &isnull));

		check_limiter(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter));
		tiers[i].limiter_len = VARSIZE_ANY_EXHDR(limiter);
		memcpy(tiers[i].limiter, VARDATA_ANY(limiter), tiers[i].limiter_len);
		tiers[i].capacity = DatumGetFloat8(SPI_getbinval(row, desc, 2, &isnull));
		value = SPI_getbinval(row, desc, 3, &isnull);
		tiers[i].refill = isnull ? 0 : DatumGetFloat8(value);
		tiers[i].shadow = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
		tiers[i].enabled = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
		value = SPI_getbinval(row, desc, 6, &isnull);
		if (!isnull)
		{
			text	   *period = DatumGetTextPP(value);

			tiers[i].period = MemoryContextAlloc(cache.context, VARSIZE_ANY(period));
			memcpy(tiers[i].period, period, VARSIZE_ANY(period));
		}
	}
	return tiers;
}

/* Read a policy from the table. */
static void
load(void *arg)
{
	static bool called = false;
	PolicyCall *call = arg;
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
		Tier	   *tiers = read_tiers(n);

		call->policy = hash_search(cache.table, call->name, HASH_ENTER, NULL);
		call->policy->tiers = tiers;
		call->policy->n_tiers = n;
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

/* make_call() for a tier with a period. */
static void
make_call_in_period(BucketCall *call, TierName *name, const Tier *tier, const text *key,
					double cost)
{
	check_length("key", VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), MAX_KEY_LEN);
	limiter_use(tier->limiter, tier->limiter_len);
	limiter_use_period(VARDATA_ANY(tier->period), VARSIZE_ANY_EXHDR(tier->period));
	memcpy(name->limiter, current_period.whole, current_period.limiter_len);
	name_in_current_period(&call->id, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
						   name->limiter);
	limiter_use_moment(GetCurrentTimestamp());
	call->rule = *find_rule_in_period(tier->capacity, current_period.refill, cost,
									  current_period.length);
}

static void
make_call(BucketCall *call, TierName *name, const Tier *tier, const text *key,
		  double cost)
{
	call->decision.ends = 0;
	if (tier->period)
	{
		make_call_in_period(call, name, tier, key, cost);
		return;
	}
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
 * Make the calls on the tiers that are enabled.  Those on tiers that count go to the
 * front of "calls", which has room for MAX_CALLS, those on tiers in shadow to its
 * end.  Returns how many count.
 */
static int
make_calls(BucketCall *calls, TierName *names, const Policy *policy, const text *key,
		   double cost, int *n_shadows)
{
	int			n = 0;

	*n_shadows = 0;
	for (int i = 0; i < policy->n_tiers; i++)
	{
		const Tier *tier = &policy->tiers[i];

		if (tier->enabled)
			make_call(tier->shadow ? &calls[MAX_CALLS - ++*n_shadows] : &calls[n++],
					  &names[i], tier, key, cost);
	}
	return n;
}

/* Decide and count a call on one tier. */
static void
decide_tier(BucketCall *call, bool shadow)
{
	limiter_use(call->id.limiter,
				plain_limiter_len(call->id.limiter, call->id.limiter_len));
	decide_uncounted(&call->id, &call->rule, &call->decision);
	decide_counted(&call->id, &call->rule, &call->decision, shadow);
}

/*
 * Decide a call by a policy.  Returns whether it is allowed.
 *
 * "calls" and "names" have room for MAX_CALLS.  Afterwards the first n_calls of
 * "calls" have the decisions of the tiers that count; if no tier counts, those of the
 * tiers in shadow; and if no tier is enabled, one decision that allows.  n_calls is 0
 * if a setting has decided, and not the policy.  "shadowed" says whether the call is
 * allowed only because of shadow, that of one tier or of all.
 */
bool
decide_by_policy(const text *policy_name, const text *key, double cost,
				 BucketCall *calls, TierName *names, int *n_calls, bool *shadowed)
{
	const Policy *policy;
	BucketCall *shadows;
	int			n;
	int			n_shadows;
	bool		allowed = true;

	/* with ratelimit.enabled off, even a missing policy must not raise an error */
	*n_calls = 0;
	*shadowed = false;
	if (!enabled_setting)
		return true;
	policy = find_policy(policy_name);
	if (!policy)
		return on_error_setting == ON_ERROR_ALLOW;

	n = make_calls(calls, names, policy, key, cost, &n_shadows);
	shadows = calls + MAX_CALLS - n_shadows;
	if (n + n_shadows == 0)
	{
		/* the answer is that of a full bucket of the first tier */
		make_call(&calls[0], &names[0], &policy->tiers[0], key, cost);
		memset(&calls[0].decision, 0, sizeof(Decision));
		calls[0].decision.known = calls[0].decision.allowed = true;
		*n_calls = 1;
		return true;
	}
	if (n == 1)
	{
		decide_tier(&calls[0], false);
		allowed = calls[0].decision.allowed;
	}
	else if (n > 1)
		allowed = decide_all(calls, n);

	for (int i = 0; i < n_shadows && allowed; i++)
		decide_tier(&shadows[i], true);
	*shadowed = any_shadowed(calls, n) || (allowed && any_shadowed(shadows, n_shadows));
	if (n == 0)
		memmove(calls, shadows, (n = n_shadows) * sizeof(BucketCall));
	*n_calls = n;
	return allowed;
}

/*
 * Find what a call by a policy would find, without changing anything.  "calls" gets a
 * call for each tier, enabled or not.  Returns how many; 0 if there is no such policy
 * and ratelimit.on_error says that this does not raise an error.
 */
int
look_by_policy(const text *policy_name, const text *key, double cost,
			   BucketCall *calls, TierName *names, TierKind *kinds)
{
	const Policy *policy = find_policy(policy_name);
	int			n = policy ? policy->n_tiers : 0;

	/* copy the policy first, because looking at buckets may have it read anew */
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
