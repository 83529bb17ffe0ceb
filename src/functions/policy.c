/*
 * functions/policy.c
 *		Calls by a policy: rl_consume_policy(), rl_throttle_policy().
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "decide/policies.h"
#include "decide/rules.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "utils/inval.h"

SQL_FUNCTION(rl_consume_policy);
SQL_FUNCTION(rl_throttle_policy);
SQL_FUNCTION(rl_policies_changed);

/* rl_policies_changed() returns trigger */
Datum
rl_policies_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("rl_policies_changed() must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

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

	check_arguments(fcinfo);
	PG_RETURN_BOOL(decide_by_policy(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1),
									PG_GETARG_FLOAT8(2), calls, names, &n));
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

	check_arguments(fcinfo);
	by_setting.allowed = decide_by_policy(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1),
										  PG_GETARG_FLOAT8(2), calls, names, &n);
	if (n == 0)
		PG_RETURN_DATUM(make_result(fcinfo, NULL, &by_setting));
	most = most_binding(calls, n);
	PG_RETURN_DATUM(make_result(fcinfo, &calls[most].rule, &calls[most].decision));
}
