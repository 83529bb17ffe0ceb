/*
 * functions/result.c
 *		What SQL functions answer about a decision: its rl_result, how long to wait,
 *		and which of several calls binds most.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "core/clock.h"
#include "funcapi.h"
#include "functions/result.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* An interval of so many nanoseconds, rounded up: waiting so long is enough. */
Datum
interval_from_ns(Owed ns)
{
	Interval   *result = palloc0(sizeof(Interval));
	Owed		us = (ns + 999) / 1000;

	result->time = (int64) Min(us, (Owed) PG_INT64_MAX);
	return IntervalPGetDatum(result);
}

/* The time in so many nanoseconds, rounded up; infinity if that is too far away. */
TimestampTz
timestamp_after(Owed ns)
{
	Owed		at = GetCurrentTimestamp() + (ns + 999) / 1000;

	return at >= END_TIMESTAMP ? DT_NOEND : (TimestampTz) at;
}

/*
 * In how many nanoseconds the period of a decision ends, which is later than now, as
 * the decision is in that period; -1: never.
 */
static Owed
until_period_ends(const BucketRule *rule, const Decision *decision)
{
	double		refill = decision->ends != 0 ? decision->ends : rule->refill;

	if (-refill >= PERIOD_END_MAX)
		return -1;
	return Max((Owed) period_end_of(refill) - wall_clock_us(), 1) * 1000;
}

/*
 * In how many nanoseconds the bucket will be full by itself; -1: never.  A capacity
 * of 0 makes no bucket.
 */
Owed
decision_reset(const BucketRule *rule, const Decision *decision)
{
	if (bucket_rule_is_closed(rule))
		return -1;
	if (rule->timed || decision->owed <= 0)
		return Max(decision->owed, 0);
	return bucket_in_period(rule->refill) ? until_period_ends(rule, decision) : -1;
}

/* How long the rule's period lasts; NULL if it has none, or one without an end. */
Interval *
period_length(const BucketRule *rule)
{
	Interval   *length;

	if (!bucket_in_period(rule->refill) || rule->length >= PERIOD_END_MAX)
		return NULL;
	length = palloc0(sizeof(Interval));
	length->day = (int32) ((int64) rule->length / USECS_PER_DAY);
	length->time = (int64) rule->length % USECS_PER_DAY;
	return length;
}

/* In how many nanoseconds such a call would be allowed; -1: never, or not known. */
Owed
decision_wait(const BucketRule *rule, const Decision *decision)
{
	/* how much more the bucket owes than it may before an allowed call */
	Owed		early = decision->owed - rule->room;

	if (decision->allowed)
		return 0;
	if (!decision->known)
		return -1;
	/* a rule that is closed for a time says in its window for how long */
	if (bucket_rule_is_closed(rule) && rule->window > 0)
		return rule->window;
	if (rule->room < 0)
		return -1;
	if (!rule->timed && early > 0)
	{
		if (!bucket_in_period(rule->refill))
			return -1;
		early = until_period_ends(rule, decision);
		if (early < 0)
			return -1;
	}
	return Max(early, decision->blocked);
}

/* How long the call has to wait, or would have to if it were not in shadow. */
static Owed
wait_of(const BucketCall *call)
{
	Decision	decision = call->decision;

	decision.allowed = decision.allowed && !decision.shadowed;
	return decision_wait(&call->rule, &decision);
}

/*
 * Does x bind more than y?  A call that has to wait longer binds more, and one that
 * is never allowed binds most.  If both have to wait equally long, or not at all, the
 * call on the bucket with fewer tokens binds more.
 */
static bool
binds_more(const BucketCall *x, const BucketCall *y)
{
	Owed		wait_x = wait_of(x);
	Owed		wait_y = wait_of(y);

	if (wait_x != wait_y)
		return wait_x < 0 || (wait_y >= 0 && wait_x > wait_y);
	return bucket_tokens(&x->rule, x->decision.owed) <
		bucket_tokens(&y->rule, y->decision.owed);
}

/* The index of the call that binds most, of several that were decided together. */
int
most_binding(const BucketCall *calls, int n)
{
	int			most = 0;

	for (int i = 1; i < n; i++)
		if (binds_more(&calls[i], &calls[most]))
			most = i;
	return most;
}

/*
 * The rl_result of a decision.  What the bucket owes in it is what it owes after the
 * call, or would owe.  The bucket's name and the rule are NULL if no bucket decided:
 * then the rl_result says only whether the call is allowed.
 */
static Datum
form_result(TupleDesc desc, const BucketId *id, const BucketRule *rule,
			const Decision *decision)
{
	Interval   *length;
	Datum		values[8];
	bool		nulls[8];

	memset(nulls, true, sizeof(nulls));
	values[0] = BoolGetDatum(decision->allowed);
	nulls[0] = false;
	if (rule)
	{
		values[1] = Float8GetDatum(rule->capacity);
		nulls[1] = false;
	}
	if (rule && decision->known)
	{
		Owed		reset = decision_reset(rule, decision);
		Owed		wait = decision_wait(rule, decision);

		/* the clock has been read twice for the same */
		if (bucket_in_period(rule->refill) && wait > 0 && decision->blocked == 0)
			wait = reset;
		values[2] = Float8GetDatum(bucket_tokens(rule, decision->owed));
		nulls[2] = false;
		values[3] = interval_from_ns(wait);
		nulls[3] = wait < 0;
		values[4] = interval_from_ns(reset);
		nulls[4] = reset < 0;
	}
	if (id)
	{
		int			len = plain_limiter_len(id->limiter, id->limiter_len);

		values[5] = PointerGetDatum(cstring_to_text_with_len(id->limiter, len));
		nulls[5] = false;
	}
	if (rule && (length = period_length(rule)) != NULL)
	{
		values[7] = IntervalPGetDatum(length);
		nulls[7] = false;
	}
	values[6] = BoolGetDatum(decision->shadowed);
	nulls[6] = false;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* The answer of a function that returns rl_result: see form_result(). */
Datum
make_result(FunctionCallInfo fcinfo, const BucketId *id, const BucketRule *rule,
			const Decision *decision)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;

	if (!desc)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		desc = BlessTupleDesc(desc);
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old);
	}
	return form_result(desc, id, rule, decision);
}

/* The rl_result of a function that returns an array of them. */
static TupleDesc
element_desc(FunctionCallInfo fcinfo)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;

	if (!desc)
	{
		Oid			type = get_element_type(get_func_rettype(fcinfo->flinfo->fn_oid));
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		desc = lookup_rowtype_tupdesc_copy(type, -1);
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old);
	}
	return desc;
}

/* An element of the answer of such a function: see form_result(). */
Datum
make_element(FunctionCallInfo fcinfo, const BucketId *id, const BucketRule *rule,
			 const Decision *decision)
{
	return form_result(element_desc(fcinfo), id, rule, decision);
}

/* The answer of such a function. */
Datum
make_results(FunctionCallInfo fcinfo, Datum *elements, int n)
{
	return PointerGetDatum(construct_array(elements, n, element_desc(fcinfo)->tdtypeid,
										   -1, false, TYPALIGN_DOUBLE));
}
