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
 * A tier may say that a bucket begins with fewer tokens than its capacity
 * ("initial").  It begins with the first call on its key, also if that is denied, and
 * then refills like any other.  For these tiers a full bucket does not equal one
 * that is absent, but the stores treat it so: its room is given to another bucket
 * when that needs it, or its row is deleted, and it then begins anew.  We leave it
 * at that.  To keep full buckets would take room for every key ever seen, which an
 * attacker can fill.  To let a bucket begin anew at the moment at which it is full
 * would be exact, but a caller that comes less often than its bucket fills could
 * then never use what it has saved.  So a full bucket is used as long as it is there,
 * and "initial" means a key that is not known, or no longer.
 *
 * A key may have exceptions (decide/exceptions.c), which change the rule of a tier for
 * this key, deny it, or allow it.  A tier that allows a key by an exception has no say,
 * as if it were disabled, but counts the call.  A bucket whose rule comes from an
 * exception begins full, and refills even if the tier has a period.
 */
#include "postgres.h"

#include <math.h>

#include "decide/errors.h"
#include "decide/exceptions.h"
#include "decide/limiter.h"
#include "decide/one.h"
#include "decide/policies.h"
#include "decide/policy_cache.h"
#include "decide/rules.h"
#include "decide/several.h"
#include "decide/short_way.h"
#include "memory/partitions.h"
#include "utils/timestamp.h"
#include "violations/stats.h"

/* The exception for a tier, or NULL. */
static const ExceptionRow *
exception_for(const Exceptions *exceptions, const Policy *policy, const Tier *tier)
{
	int			policy_len;

	if (likely(!exceptions))
		return NULL;
	policy_len = strlen(policy->name);
	if (tier->limiter_len == policy_len)
		return exceptions_choose(exceptions, "default", strlen("default"));
	return exceptions_choose(exceptions, tier->limiter + policy_len + 1,
							 tier->limiter_len - policy_len - 1);
}

static bool
is_allowed(const ExceptionRow *exception)
{
	return exception && exception->action == EXCEPTION_ALLOW;
}

/* make_call() for a tier with a period. */
static void
make_call_in_period(BucketCall *call, TierName *name, const Tier *tier, double allowance,
					const text *key, double cost)
{
	check_length("key", VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), MAX_KEY_LEN);
	limiter_use(tier->limiter, tier->limiter_len);
	limiter_use_period(VARDATA_ANY(tier->period), VARSIZE_ANY_EXHDR(tier->period));
	memcpy(name->limiter, current_period.whole, current_period.limiter_len);
	name_in_current_period(&call->id, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
						   name->limiter);
	limiter_use_moment(GetCurrentTimestamp());
	call->rule = *find_rule_in_period(allowance, current_period.refill, cost,
									  current_period.length);
}

static void
make_call(BucketCall *call, TierName *name, const Tier *tier,
		  const ExceptionRow *exception, const text *key, double cost)
{
	call->decision.ends = 0;
	call->absent = 0;
	if (tier->period && (!exception || exception->action == EXCEPTION_ALLOW ||
						 exception->action == EXCEPTION_FACTOR))
	{
		make_call_in_period(call, name, tier,
							exceptions_allowance(exception, tier->capacity), key, cost);
		return;
	}
	memcpy(name->limiter, tier->limiter, tier->limiter_len);
	use_bucket(&call->id, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
			   name->limiter, tier->limiter_len);
	if (unlikely(exception != NULL))
	{
		exceptions_rule(exception, tier->capacity, tier->refill, cost, &call->rule);
		return;
	}
	call->rule = *get_rule(tier->capacity, tier->refill, cost);
	call->absent = tier->absent;
}

/* The decision that a full bucket makes from which nothing is taken. */
static void
decide_full(Decision *decision)
{
	memset(decision, 0, sizeof(Decision));
	decision->known = decision->allowed = true;
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
 * Calls on the tiers of one policy or several.  Those on tiers that count are at the
 * front of "calls", which has room for MAX_CALLS, those on tiers in shadow at its
 * end.  "names" has room for as many.  Tiers that allow the key by an exception have a
 * name, and no call.
 */
typedef struct TierCalls
{
	BucketCall *calls;
	TierName   *names;
	int			n;				/* calls that count */
	int			n_shadows;
	int			n_allowed;		/* tiers that an exception allows */
	uint8		allowed[MAX_CALLS]; /* the numbers of their names ... */
	uint8		lens[MAX_CALLS];	/* ... and the lengths of these */
} TierCalls;

StaticAssertDecl(MAX_CALLS <= PG_UINT8_MAX + 1, "a call's number does not fit");

static void
begin_calls(TierCalls *made, BucketCall *calls, TierName *names)
{
	made->calls = calls;
	made->names = names;
	made->n = made->n_shadows = made->n_allowed = 0;
}

/* The first of the calls on tiers in shadow, the last made one. */
static BucketCall *
first_shadow(const TierCalls *made)
{
	return made->calls + MAX_CALLS - made->n_shadows;
}

/*
 * Make the calls on those tiers of a policy that are enabled, and on which no exception
 * allows the key.
 */
static void
make_calls(TierCalls *made, const Policy *policy, const Exceptions *exceptions,
		   const text *key, double cost)
{
	for (int i = 0; i < policy->n_tiers; i++)
	{
		const Tier *tier = &policy->tiers[i];
		int			n = made->n + made->n_shadows + made->n_allowed;
		const ExceptionRow *exception;

		if (!tier->enabled)
			continue;
		if (n == MAX_CALLS)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("policies must not have more than %d tiers in all",
							MAX_CALLS)));
		exception = exception_for(exceptions, policy, tier);
		if (unlikely(is_allowed(exception)))
		{
			memcpy(made->names[n].limiter, tier->limiter, tier->limiter_len);
			made->lens[made->n_allowed] = tier->limiter_len;
			made->allowed[made->n_allowed++] = n;
		}
		else
			make_call(tier->shadow ? &made->calls[MAX_CALLS - ++made->n_shadows] :
					  &made->calls[made->n++],
					  &made->names[n], tier, exception, key, cost);
	}
}

/*
 * If no tier decides, a policy answers with a full bucket of the first tier that is
 * enabled, or else of its first tier.
 */
static void
make_full(BucketCall *call, TierName *name, const Policy *policy, const text *key,
		  double cost)
{
	const Tier *tier = &policy->tiers[0];

	for (int i = policy->n_tiers - 1; i >= 0; i--)
		if (policy->tiers[i].enabled)
			tier = &policy->tiers[i];
	make_call(call, name, tier, NULL, key, cost);
	decide_full(&call->decision);
}

/* Count a call for the tiers that allow it by an exception. */
static void
count_allowed(const TierCalls *made)
{
	for (int i = 0; i < made->n_allowed; i++)
	{
		limiter_use(made->names[made->allowed[i]].limiter, made->lens[i]);
		stats_count(COUNT_ALLOWED);
	}
}

/*
 * Decide and count a call on one tier.  Only decide_all_uncounted() knows buckets
 * that do not begin full.
 */
static void
decide_tier(BucketCall *call, bool shadow)
{
	limiter_use_of(&call->id, &call->rule);
	if (call->absent == 0)
		decide_uncounted(&call->id, &call->rule, &call->decision);
	else
	{
		decide_all_uncounted(call, 1);
		if (call->decision.in_table && memory_attached())
			stats_count(COUNT_OVERFLOWED);
	}
	decide_counted(&call->id, &call->rule, &call->decision, shadow);
}

/*
 * Decide and count the calls on all tiers: those that count all or nothing, and, if
 * these are allowed, those in shadow by themselves.  Returns whether they are
 * allowed.  The calls that count keep their order only if "in_order" says so.
 */
static bool
decide_tiers(TierCalls *made, bool in_order)
{
	bool		allowed = true;

	if (made->n == 1)
	{
		decide_tier(&made->calls[0], false);
		allowed = made->calls[0].decision.allowed;
	}
	else if (made->n > 1 && in_order)
		allowed = decide_all_in_order(made->calls, made->n);
	else if (made->n > 1)
		allowed = decide_all(made->calls, made->n);

	/* the first one is the last */
	for (int i = made->n_shadows - 1; i >= 0 && allowed; i--)
		decide_tier(first_shadow(made) + i, true);
	if (allowed)
		count_allowed(made);
	return allowed;
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
	Exceptions *exceptions;
	TierCalls	made;
	bool		allowed;

	/* with ratelimit.enabled off, even a missing policy must not raise an error */
	*n_calls = 0;
	*shadowed = false;
	if (!enabled_setting)
		return true;
	policy = find_policy_of_tokens(policy_name, key, &exceptions);
	if (!policy)
		return on_error_setting == ON_ERROR_ALLOW;

	begin_calls(&made, calls, names);
	make_calls(&made, policy, exceptions, key, cost);
	if (exceptions)
		pfree(exceptions);
	if (made.n + made.n_shadows == 0)
	{
		count_allowed(&made);
		make_full(&calls[0], &names[0], policy, key, cost);
		*n_calls = 1;
		return true;
	}
	allowed = decide_tiers(&made, false);
	*shadowed = any_shadowed(calls, made.n) ||
		(allowed && any_shadowed(first_shadow(&made), made.n_shadows));
	if (made.n == 0)
		memmove(calls, first_shadow(&made),
				(made.n = made.n_shadows) * sizeof(BucketCall));
	*n_calls = made.n;
	return allowed;
}

/*
 * Take tokens by a policy, for a reservation.  *allowed says whether the call is
 * allowed.  Returns how many tiers' buckets the tokens were taken from, which are the
 * first ones of "calls"; none if the call is denied, or allowed by a setting.  At most
 * "max" tiers can be enabled.
 */
int
reserve_by_policy(const text *policy_name, const text *key, double tokens, int max,
				  BucketCall *calls, TierName *names, bool *allowed)
{
	const Policy *policy;
	Exceptions *exceptions;
	TierCalls	made;
	int			taken = 0;

	*allowed = true;
	if (!enabled_setting)
		return 0;
	policy = find_policy_of_tokens(policy_name, key, &exceptions);
	*allowed = on_error_setting == ON_ERROR_ALLOW;
	if (!policy)
		return 0;
	begin_calls(&made, calls, names);
	make_calls(&made, policy, exceptions, key, tokens);
	if (exceptions)
		pfree(exceptions);
	if (made.n + made.n_shadows > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("policy \"%s\" must not have more than %d enabled tiers for a reservation, not %d",
						policy->name, max, made.n + made.n_shadows)));
	*allowed = decide_tiers(&made, false);
	if (!*allowed)
		return 0;

	/* of the tiers that count, all have given tokens, or one is in shadow and none has */
	if (!any_shadowed(calls, made.n))
		for (int i = 0; i < made.n; i++)
			if (calls[i].decision.known)
				calls[taken++] = calls[i];
	for (int i = 0; i < made.n_shadows; i++)
	{
		const BucketCall *shadow = first_shadow(&made) + i;

		if (shadow->decision.known && !shadow->decision.shadowed)
			calls[taken++] = *shadow;
	}
	return taken;
}

/*
 * Find what calls would find, without changing anything, and with their tiers in
 * shadow or not.
 */
static void
look_at_tiers(BucketCall *calls, int n, bool shadow)
{
	for (int i = 0; i < n; i++)
	{
		Decision   *decision = &calls[i].decision;

		CHECK_FOR_INTERRUPTS();
		look_at_call(&calls[i]);
		decision->shadowed = !decision->allowed && (shadow || shadow_setting);
		decision->allowed |= decision->shadowed;
	}
}

/*
 * Make the calls on the tiers of one of several policies, and say in its answer
 * which they are, or that a setting decides.  Returns false if that setting denies
 * the call.
 */
static bool
add_policy(TierCalls *made, const PolicyCall *call, PolicyAnswer *answer)
{
	int			n = made->n;
	int			n_shadows = made->n_shadows;
	const Policy *policy;
	Exceptions *exceptions;

	memset(answer, 0, sizeof(PolicyAnswer));
	answer->allowed = true;
	if (!enabled_setting)
		return true;
	policy = find_policy_of_tokens(call->policy, call->key, &exceptions);
	if (!policy)
		return answer->allowed = on_error_setting == ON_ERROR_ALLOW;

	make_calls(made, policy, exceptions, call->key, call->cost);
	if (exceptions)
		pfree(exceptions);
	answer->calls = made->calls + n;
	answer->n = made->n - n;
	answer->shadows = first_shadow(made);
	answer->n_shadows = made->n_shadows - n_shadows;
	if (answer->n + answer->n_shadows == 0)
	{
		answer->calls = palloc(sizeof(BucketCall));
		answer->n = 1;
		make_full(answer->calls, palloc(sizeof(TierName)), policy, call->key,
				  call->cost);
	}
	return true;
}

/*
 * Decide a call by several policies, each with a key and a cost of its own: tokens
 * are taken from the tiers of all of them, or from none.
 *
 * Each answer says whether its policy allows the call.  The call is allowed if all
 * do; if not, nothing is taken, and the answers of the others say what their buckets
 * have.  "calls" and "names" have room for MAX_CALLS, and the answers point there.
 */
void
decide_by_policies(const PolicyCall *policies, int n, BucketCall *calls,
				   TierName *names, PolicyAnswer *answers)
{
	TierCalls	made;
	bool		denied = false; /* by a setting */
	bool		allowed = false;

	begin_calls(&made, calls, names);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		denied |= !add_policy(&made, &policies[i], &answers[i]);
	}

	/* a call that a setting has denied is not counted */
	if (denied)
		look_at_tiers(calls, made.n, false);
	else
		allowed = decide_tiers(&made, true);
	if (!allowed)
		look_at_tiers(first_shadow(&made), made.n_shadows, true);

	for (int i = 0; i < n; i++)
	{
		PolicyAnswer *answer = &answers[i];

		answer->shadowed = any_shadowed(answer->calls, answer->n) ||
			any_shadowed(answer->shadows, answer->n_shadows);
		if (answer->n == 0)
		{
			answer->calls = answer->shadows;
			answer->n = answer->n_shadows;
		}
	}
}

/* The number of slots that a tier gives to a key. */
static int32
slots_of(const Tier *tier, const ExceptionRow *exception)
{
	double		slots = tier->capacity;
	double		nearest;

	if (exception && exception->action == EXCEPTION_DENY)
		slots = 0;
	else if (exception && exception->action == EXCEPTION_RULE)
		slots = exception->capacity;
	else if (exception && exception->action == EXCEPTION_FACTOR)
		slots *= exception->factor;
	/* a product that differs from a whole number only by rounding is that number */
	nearest = rint(slots);
	if (fabs(slots - nearest) <= nearest * 0x1p-51)
		slots = nearest;
	return (int32) Min(slots, PG_INT32_MAX);
}

/*
 * Find how many slots a key has by a policy.  If the policy does not limit how many at a
 * time, raise an error, or, if ratelimit.on_error is to decide the call, warn.
 */
PolicyLimits
slots_by_policy(const text *policy_name, const text *key, PolicySlots *slots)
{
	Exceptions *exceptions;
	const Policy *policy;
	const Tier *tier;
	const ExceptionRow *exception;
	PolicyLimits limits = POLICY_LIMITS;

	if (!enabled_setting)
		return POLICY_ALLOWS;
	policy = find_policy_for_key(policy_name, key, &exceptions);
	if (policy && !policy->slots)
		ereport(errors_are_decided() ? WARNING : ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("policy \"%s\" has no tier with slots", policy->name)));
	if (!policy || !policy->slots)
		return on_error_setting == ON_ERROR_ALLOW ? POLICY_ALLOWS : POLICY_DENIES;

	tier = policy->slots;
	exception = exception_for(exceptions, policy, tier);
	memcpy(slots->name.limiter, tier->limiter, tier->limiter_len);
	use_bucket(&slots->id, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
			   slots->name.limiter, tier->limiter_len);
	slots->slots = slots_of(tier, exception);
	slots->shadow = tier->shadow;
	if (tier->enabled && is_allowed(exception))
		stats_count(COUNT_ALLOWED);
	if (!tier->enabled || is_allowed(exception))
		limits = POLICY_ALLOWS;
	if (exceptions)
		pfree(exceptions);
	return limits;
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
	Exceptions *exceptions;
	const Policy *policy = find_policy_for_key(policy_name, key, &exceptions);
	int			n = policy ? policy->n_tiers : 0;
	bool		allowed[MAX_CALLS];

	/* copy the policy first, because looking at buckets may have it read anew */
	for (int i = 0; i < n; i++)
	{
		const Tier *tier = &policy->tiers[i];
		const ExceptionRow *exception = exception_for(exceptions, policy, tier);

		make_call(&calls[i], &names[i], tier, exception, key, cost);
		kinds[i].shadow = tier->shadow;
		kinds[i].enabled = tier->enabled;
		kinds[i].exception = exception ? exception->id : 0;
		allowed[i] = is_allowed(exception);
	}
	if (exceptions)
		pfree(exceptions);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (allowed[i])
			decide_full(&calls[i].decision);
		else
			look_at_call(&calls[i]);
	}
	return n;
}
