/*
 * functions/policy.c
 *		Calls by a policy: rl_consume_policy(), rl_throttle_policy(); by several
 *		policies: rl_consume_policies(); and the state of a policy's buckets:
 *		rl_status_policy().
 *
 * Policies are read in decide/policy_cache.c, and decided by in decide/policies.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "core/period.h"
#include "decide/policies.h"
#include "decide/rules.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

SQL_FUNCTION(rl_consume_policy);
SQL_FUNCTION(rl_throttle_policy);
SQL_FUNCTION(rl_consume_policies);
SQL_FUNCTION(rl_status_policy);
SQL_FUNCTION(rl_policies_changed);

/*
 * Raise an error if the row that is written has a period that is not understood.  The triggers
 * of other tables, and of statements, come by here as well.
 */
static void
check_period(const TriggerData *trigger)
{
	HeapTuple	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
		trigger->tg_newtuple : trigger->tg_trigtuple;
	int			column;
	Datum		value;
	bool		isnull;
	text	   *period;
	int			len;

	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		return;
	column = SPI_fnumber(RelationGetDescr(trigger->tg_relation), "period");
	if (column <= 0 ||
		SPI_gettypeid(RelationGetDescr(trigger->tg_relation), column) != TEXTOID)
		return;
	value = heap_getattr(row, column, RelationGetDescr(trigger->tg_relation), &isnull);
	if (isnull)
		return;
	period = DatumGetTextPP(value);
	(void) period_name(period_of(VARDATA_ANY(period), VARSIZE_ANY_EXHDR(period)), &len);
	if (len > MAX_NAMED_PERIOD)
		fail_length("period", VARDATA_ANY(period), len, MAX_NAMED_PERIOD);
}

/*
 * _rl_policies_changed() returns trigger: checks the row, and has sessions read the
 * table again
 */
Datum
rl_policies_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("_rl_policies_changed() must be called as a trigger")));
	check_period((TriggerData *) fcinfo->context);
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* Check the arguments policy, key and cost. */
static void
check_arguments(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 0, "policy");
	check_not_null(fcinfo, 1, "key");
	check_not_null(fcinfo, 2, "cost");
	check_tokens("cost", PG_GETARG_FLOAT8(2));
}

/* rl_consume_policy(policy, key, cost) returns boolean */
Datum
rl_consume_policy(PG_FUNCTION_ARGS)
{
	BucketCall	calls[MAX_CALLS];
	TierName	names[MAX_CALLS];
	int			n;
	bool		shadowed;

	check_arguments(fcinfo);
	PG_RETURN_BOOL(decide_by_policy(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1),
									PG_GETARG_FLOAT8(2), calls, names, &n, &shadowed));
}

/* rl_throttle_policy(policy, key, cost) returns rl_result */
Datum
rl_throttle_policy(PG_FUNCTION_ARGS)
{
	BucketCall	calls[MAX_CALLS];
	TierName	names[MAX_CALLS];
	int			n;
	Decision	by_setting = {false};
	int			most;
	bool		shadowed;

	check_arguments(fcinfo);
	by_setting.allowed = decide_by_policy(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1),
										  PG_GETARG_FLOAT8(2), calls, names, &n, &shadowed);
	if (n == 0)
		PG_RETURN_DATUM(make_result(fcinfo, NULL, NULL, &by_setting));
	most = most_binding(calls, n);
	calls[most].decision.shadowed = shadowed;
	PG_RETURN_DATUM(make_result(fcinfo, &calls[most].id, &calls[most].rule,
								&calls[most].decision));
}

/* What one of several policies answers. */
static Datum
make_answer(FunctionCallInfo fcinfo, const PolicyAnswer *answer)
{
	BucketCall *most;

	if (answer->n == 0)
	{
		Decision	by_setting = {false};

		by_setting.allowed = answer->allowed;
		return make_element(fcinfo, NULL, NULL, &by_setting);
	}
	most = &answer->calls[most_binding(answer->calls, answer->n)];
	most->decision.shadowed = answer->shadowed && most->decision.allowed;
	return make_element(fcinfo, &most->id, &most->rule, &most->decision);
}

/*
 * rl_consume_policies(policies, keys, costs) returns rl_result[]: all or nothing over
 * several policies, and an answer for each, in order
 */
Datum
rl_consume_policies(PG_FUNCTION_ARGS)
{
	BucketCall	calls[MAX_CALLS];
	TierName	names[MAX_CALLS];
	PolicyCall	policies[MAX_CALLS];
	PolicyAnswer answers[MAX_CALLS];
	Datum		results[MAX_CALLS];
	Datum	   *policy_names;
	Datum	   *keys;
	Datum	   *costs;
	int			n = get_keys(fcinfo, 0, "policies", MAX_CALLS, &policy_names);

	keys = get_parallel_array(fcinfo, 1, "keys", false, "policies", n);
	costs = get_parallel_array(fcinfo, 2, "costs", true, "policies", n);
	for (int i = 0; i < n; i++)
	{
		const text *key = DatumGetTextPP(keys[i]);

		policies[i].policy = DatumGetTextPP(policy_names[i]);
		policies[i].key = key;
		policies[i].cost = costs ? DatumGetFloat8(costs[i]) : 1;
		check_length("key", VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), MAX_KEY_LEN);
		check_tokens("cost", policies[i].cost);
	}
	decide_by_policies(policies, n, calls, names, answers);
	for (int i = 0; i < n; i++)
		results[i] = make_answer(fcinfo, &answers[i]);
	PG_RETURN_DATUM(make_results(fcinfo, results, n));
}

/* The name of a tier: what its limiter's name has after the policy's name. */
static Datum
tier_name(const BucketId *id, int policy_len)
{
	int			len = plain_limiter_len(id->limiter, id->limiter_len);

	if (len == policy_len)
		return CStringGetTextDatum("default");
	return PointerGetDatum(cstring_to_text_with_len(id->limiter + policy_len + 1,
													len - policy_len - 1));
}

/*
 * rl_status_policy(policy, key) returns setof (tier, limiter, capacity, refill,
 * tokens, retry_after, reset_after, blocked_until, shadow, enabled, exception, period):
 * the key's buckets, a row per tier
 */
Datum
rl_status_policy(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	BucketCall	calls[MAX_CALLS];
	TierName	names[MAX_CALLS];
	TierKind	kinds[MAX_CALLS];
	text	   *policy;
	int			n;

	check_not_null(fcinfo, 0, "policy");
	check_not_null(fcinfo, 1, "key");
	InitMaterializedSRF(fcinfo, 0);
	policy = PG_GETARG_TEXT_PP(0);
	n = look_by_policy(policy, PG_GETARG_TEXT_PP(1), 1, calls, names, kinds);
	for (int i = 0; i < n; i++)
	{
		const BucketId *id = &calls[i].id;
		const BucketRule *rule = &calls[i].rule;
		const Decision *decision = &calls[i].decision;
		Owed		wait = decision_wait(rule, decision);
		Owed		reset = decision_reset(rule, decision);
		int			len = plain_limiter_len(id->limiter, id->limiter_len);
		Datum		values[12];
		bool		nulls[12] = {false};

		values[0] = tier_name(id, VARSIZE_ANY_EXHDR(policy));
		values[1] = PointerGetDatum(cstring_to_text_with_len(id->limiter, len));
		values[2] = Float8GetDatum(rule->capacity);
		values[3] = Float8GetDatum(rule->refill);
		nulls[3] = bucket_in_period(rule->refill);
		values[4] = Float8GetDatum(bucket_tokens(rule, decision->owed));
		nulls[4] = !decision->known;
		values[5] = interval_from_ns(wait);
		nulls[5] = !decision->known || wait < 0;
		values[6] = interval_from_ns(reset);
		nulls[6] = !decision->known || reset < 0;
		values[7] = TimestampTzGetDatum(timestamp_after(decision->blocked));
		nulls[7] = decision->blocked == 0;
		values[8] = BoolGetDatum(kinds[i].shadow);
		values[9] = BoolGetDatum(kinds[i].enabled);
		values[10] = Int64GetDatum(kinds[i].exception);
		nulls[10] = kinds[i].exception == 0;
		nulls[11] = len == id->limiter_len;
		if (len < id->limiter_len)
			values[11] = PointerGetDatum(cstring_to_text_with_len(id->limiter + len + 1,
																  id->limiter_len - len - 1));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
