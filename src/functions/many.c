/*
 * functions/many.c
 *		The SQL functions that decide many calls at once: rl_consume_each(),
 *		rl_throttle_each(), rl_consume_all().
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/settings.h"
#include "decide/one.h"
#include "decide/several.h"
#include "decide/short_way.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

SQL_FUNCTION(rl_consume_each);
SQL_FUNCTION(rl_throttle_each);
SQL_FUNCTION(rl_consume_all);

/* How many buckets rl_consume_each() and rl_throttle_each() fetch at a time. */
#define AHEAD	16

/*
 * rl_consume_each(keys, capacity, refill, cost, limiter) returns boolean[]: one
 * decision per key, in order.  All arguments are checked before the first decision.
 */
Datum
rl_consume_each(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"keys", "capacity", "refill", "cost", "limiter"};
	Datum	   *keys;
	Datum	   *answers;
	int			n;
	BucketRule	rule;
	text	   *limiter;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	n = get_array(fcinfo, 0, "keys", &keys);
	rule = *get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3));
	limiter = PG_GETARG_TEXT_PP(4);
	check_limiter(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter));
	for (int i = 0; i < n; i++)
	{
		keys[i] = PointerGetDatum(DatumGetTextPP(keys[i]));
		check_length("key", VARDATA_ANY(DatumGetPointer(keys[i])),
					 VARSIZE_ANY_EXHDR(DatumGetPointer(keys[i])), MAX_KEY_LEN);
	}

	answers = palloc(Max(n, 1) * sizeof(Datum));
	for (int begin = 0; begin < n; begin += AHEAD)
	{
		int			end = Min(n, begin + AHEAD);
		BucketId	ids[AHEAD];

		CHECK_FOR_INTERRUPTS();
		/* this also begins to fetch the buckets, so that all are fetched at once */
		for (int i = begin; i < end; i++)
			get_bucket_id(&ids[i - begin], (text *) DatumGetPointer(keys[i]), limiter);
		for (int i = begin; i < end; i++)
		{
			Decision	decision;

			decide_uncounted(&ids[i - begin], &rule, &decision);
			decide_counted(&ids[i - begin], &rule, &decision, false);
			answers[i] = BoolGetDatum(decision.allowed);
		}
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(answers, n, BOOLOID, 1, true, TYPALIGN_CHAR));
}

/*
 * The most calls of rl_throttle_each().  Their answers must fit in an array, and are
 * put into one when all tokens have been taken already.
 */
#define MAX_THROTTLED	100000

/*
 * Check the arguments of all calls of rl_throttle_each(), and detoast the names.  A
 * limiter is never null: it is "default" if there are none.
 */
static void
check_calls(Datum *keys, Datum *capacities, Datum *refills, Datum *costs,
			Datum *limiters, int n)
{
	for (int i = 0; i < n; i++)
	{
		keys[i] = PointerGetDatum(DatumGetTextPP(keys[i]));
		limiters[i] = PointerGetDatum(DatumGetTextPP(limiters[i]));
		check_length("key", VARDATA_ANY(DatumGetPointer(keys[i])),
					 VARSIZE_ANY_EXHDR(DatumGetPointer(keys[i])), MAX_KEY_LEN);
		check_limiter(VARDATA_ANY(DatumGetPointer(limiters[i])),
					  VARSIZE_ANY_EXHDR(DatumGetPointer(limiters[i])));
		check_tokens("capacity", DatumGetFloat8(capacities[i]));
		check_tokens("refill", DatumGetFloat8(refills[i]));
		if (costs)
			check_tokens("cost", DatumGetFloat8(costs[i]));
	}
}

/*
 * rl_throttle_each(keys, capacities, refills, costs, limiters) returns rl_result[]:
 * one decision per key, in order, each by a rule of its own.  All arguments are
 * checked before the first decision.
 */
Datum
rl_throttle_each(PG_FUNCTION_ARGS)
{
	Datum	   *keys;
	Datum	   *capacities;
	Datum	   *refills;
	Datum	   *costs;
	Datum	   *limiters;
	Datum	   *answers;
	int			n = get_keys(fcinfo, 0, "keys", MAX_THROTTLED, &keys);

	capacities = get_parallel_array(fcinfo, 1, "capacities", false, "keys", n);
	refills = get_parallel_array(fcinfo, 2, "refills", false, "keys", n);
	costs = get_parallel_array(fcinfo, 3, "costs", true, "keys", n);
	limiters = get_parallel_array(fcinfo, 4, "limiters", true, "keys", n);
	answers = palloc(Max(n, 1) * sizeof(Datum));
	if (!limiters)
	{
		text	   *limiter = cstring_to_text("default");

		limiters = palloc(Max(n, 1) * sizeof(Datum));
		for (int i = 0; i < n; i++)
			limiters[i] = PointerGetDatum(limiter);
	}
	check_calls(keys, capacities, refills, costs, limiters, n);

	for (int begin = 0; begin < n; begin += AHEAD)
	{
		int			end = Min(n, begin + AHEAD);
		BucketId	ids[AHEAD];

		CHECK_FOR_INTERRUPTS();
		for (int i = begin; i < end; i++)
			get_bucket_id(&ids[i - begin], (text *) DatumGetPointer(keys[i]),
						  (text *) DatumGetPointer(limiters[i]));
		for (int i = begin; i < end; i++)
		{
			const BucketId *id = &ids[i - begin];
			BucketRule	rule = *get_rule(DatumGetFloat8(capacities[i]),
										 DatumGetFloat8(refills[i]),
										 costs ? DatumGetFloat8(costs[i]) : 1);
			Decision	decision;

			limiter_use(id->limiter, id->limiter_len);
			decide_uncounted(id, &rule, &decision);
			decide_counted(id, &rule, &decision, false);
			answers[i] = make_element(fcinfo, id, &rule, &decision);
		}
	}
	PG_RETURN_DATUM(make_results(fcinfo, answers, n));
}

/*
 * rl_consume_all(keys, capacities, refills, costs, limiters) returns boolean: all
 * or nothing
 */
Datum
rl_consume_all(PG_FUNCTION_ARGS)
{
	BucketCall	calls[MAX_CALLS];
	Datum	   *keys;
	Datum	   *capacities;
	Datum	   *refills;
	Datum	   *costs;
	Datum	   *limiters;
	int			n = get_keys(fcinfo, 0, "keys", MAX_CALLS, &keys);

	capacities = get_parallel_array(fcinfo, 1, "capacities", false, "keys", n);
	refills = get_parallel_array(fcinfo, 2, "refills", false, "keys", n);
	costs = get_parallel_array(fcinfo, 3, "costs", true, "keys", n);
	limiters = get_parallel_array(fcinfo, 4, "limiters", true, "keys", n);

	for (int i = 0; i < n; i++)
	{
		text	   *key = DatumGetTextPP(keys[i]);
		text	   *limiter = limiters ? DatumGetTextPP(limiters[i]) : NULL;

		use_bucket(&calls[i].id, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
				   limiter ? VARDATA_ANY(limiter) : "default",
				   limiter ? VARSIZE_ANY_EXHDR(limiter) : strlen("default"));
		calls[i].rule = *get_rule(DatumGetFloat8(capacities[i]),
								  DatumGetFloat8(refills[i]),
								  costs ? DatumGetFloat8(costs[i]) : 1);
		calls[i].absent = 0;
	}
	PG_RETURN_BOOL(decide_all(calls, n));
}
