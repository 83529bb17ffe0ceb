/*
 * functions/period.c
 *		Calls in periods: rl_consume_period(), rl_throttle_period(), rl_peek_period(),
 *		rl_count().
 *
 * The allowance of a period comes back all at once when the next period begins.  A
 * limiter's key has a bucket for each period that it is called with, beside the one
 * that rl_consume() takes from.  They do not know of each other, but a block is of
 * all of them.  A bucket's identity has the period's name behind the limiter
 * (decide/limiter.h), so everything that is done to buckets is done to these as well.
 *
 * What a period is, is said in core/period.c; how a bucket in a period counts, in
 * core/bucket.c.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "decide/errors.h"
#include "decide/short_way.h"
#include "funcapi.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

SQL_FUNCTION(rl_consume_period);
SQL_FUNCTION(rl_throttle_period);
SQL_FUNCTION(rl_peek_period);
SQL_FUNCTION(rl_count);

/* More than this, up or down, cannot be counted at once. */
#define COUNT_MAX	1e18

/* Raise the error for the first argument of a call in a period that is null. */
pg_noreturn static void
fail_null_period(FunctionCallInfo fcinfo, const char *const *names)
{
	int			i = 0;

	while (!PG_ARGISNULL(i))
		i++;
	fail_null(names[i]);
}

/*
 * Check the arguments of a call, which are key, allowance, period, cost and limiter,
 * and return its rule.
 */
static pg_attribute_always_inline const BucketRule *
read_period_call(FunctionCallInfo fcinfo, BucketId *id, Decision *decision)
{
	static const char *const names[] = {"key", "allowance", "period", "cost", "limiter"};
	const NullableDatum *args = fcinfo->args;

	if (unlikely(args[0].isnull | args[1].isnull | args[2].isnull | args[3].isnull |
				 args[4].isnull))
		fail_null_period(fcinfo, names);
	read_period_id(id, args[0].value, args[2].value, args[4].value);
	limiter_use_moment(GetCurrentTimestamp());
	decision->ends = 0;
	return find_rule_in_period(PG_GETARG_FLOAT8(1), current_period.refill,
							   PG_GETARG_FLOAT8(3), current_period.length);
}

/* rl_consume_period(key, allowance, period, cost, limiter) returns boolean */
Datum
rl_consume_period(PG_FUNCTION_ARGS)
{
	BucketId	id;
	Decision	decision;
	const BucketRule *rule = read_period_call(fcinfo, &id, &decision);

	decide_quickly(&id, rule, &decision);
	count_quickly(&id, rule, &decision);
	PG_RETURN_BOOL(decision.allowed);
}

/* rl_throttle_period(key, allowance, period, cost, limiter) returns rl_result */
Datum
rl_throttle_period(PG_FUNCTION_ARGS)
{
	BucketId	id;
	Decision	decision;
	BucketRule	rule = *read_period_call(fcinfo, &id, &decision);

	decide_uncounted(&id, &rule, &decision);
	decide_counted(&id, &rule, &decision, false);
	PG_RETURN_DATUM(make_result(fcinfo, &id, &rule, &decision));
}

/* rl_peek_period(key, allowance, period, cost, limiter) returns rl_result */
Datum
rl_peek_period(PG_FUNCTION_ARGS)
{
	BucketId	id;
	Decision	decision;
	BucketRule	rule = *read_period_call(fcinfo, &id, &decision);

	decide_look(&id, &rule, &decision);
	if (decision.allowed && enabled_setting)
		(void) bucket_take(&rule, &decision.owed);
	decision.shadowed = shadow_setting && !decision.allowed;
	decision.allowed |= shadow_setting;
	PG_RETURN_DATUM(make_result(fcinfo, &id, &rule, &decision));
}

/* Count, whatever the bucket has, and whether or not the key is blocked. */
static void
count(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);
	if (!enabled_setting)
	{
		decision->owed = 0;
		return;
	}
	if (refund_setting)
		refund_reserve(1);
	/* the short way is open when it is for other calls, but a block does not matter */
	if (block_possible(id) || !consume_here(id, rule, decision))
		decide_guarded(take_tokens, id, rule, decision);
	note_for_refund(id, rule, decision);
}

/* The answer of rl_count(). */
static Datum
make_count(FunctionCallInfo fcinfo, double hits, TimestampTz resets_at)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;
	Datum		values[2];
	bool		nulls[2] = {false};

	if (!desc)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		desc = BlessTupleDesc(desc);
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old);
	}
	values[0] = Float8GetDatum(hits);
	values[1] = TimestampTzGetDatum(resets_at);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* rl_count(key, period, n, limiter) returns (hits, resets_at) */
Datum
rl_count(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"key", "period", "n", "limiter"};
	BucketId	id;
	static BucketRule rule;		/* of the last call */
	Decision	decision;
	double		n;
	TimestampTz resets_at;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	n = PG_GETARG_FLOAT8(2);
	if (!(fabs(n) <= COUNT_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must be a number from -1e+18 to 1e+18, not %s",
						DatumGetCString(DirectFunctionCall1(float8out, Float8GetDatum(n))))));
	get_period_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1), PG_GETARG_TEXT_PP(3));
	limiter_use_moment(GetCurrentTimestamp());
	/* see bucket_rule_in_period() */
	if (rule.cost != n || rule.refill != current_period.refill ||
		rule.length != current_period.length)
		bucket_rule_in_period(&rule, n < 0 ? NAN : INFINITY, current_period.refill, n,
							  current_period.length);
	decision.ends = 0;
	count(&id, &rule, &decision);

	resets_at = end_of_refill(decision.ends != 0 ? decision.ends : rule.refill);
	if (!decision.known)
		PG_RETURN_DATUM(make_count(fcinfo, decision.allowed ? 0 : INFINITY, resets_at));
	PG_RETURN_DATUM(make_count(fcinfo, (double) decision.owed / PERIOD_SCALE, resets_at));
}
