/*
 * functions/many.c
 *		The SQL functions that decide many calls at once: rl_consume_each(),
 *		rl_consume_all().
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/settings.h"
#include "decide/one.h"
#include "decide/several.h"
#include "decide/short_way.h"
#include "functions/arguments.h"
#include "miscadmin.h"
#include "utils/array.h"

SQL_FUNCTION(rl_consume_each);
SQL_FUNCTION(rl_consume_all);

/*
 * Read the elements of an array argument, and return how many there are.  An element
 * that is null is an error.
 */
static int
get_array(FunctionCallInfo fcinfo, int arg, const char *name, Datum **values)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(arg);
	bool	   *nulls;
	int			n;

	if (ARR_ELEMTYPE(array) == TEXTOID)
		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, values, &nulls, &n);
	else
		deconstruct_array(array, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL,
						  TYPALIGN_DOUBLE, values, &nulls, &n);
	for (int i = 0; array_contains_nulls(array) && i < n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s[%d] must not be null", name, i + 1)));
	return n;
}

/* How many buckets rl_consume_each() fetches at a time. */
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
 * Read the elements of an array argument, which must be as many as the keys.  Return
 * NULL if the argument is null, which only an optional one may be.
 */
static Datum *
get_parallel_array(FunctionCallInfo fcinfo, int arg, const char *name,
				   bool optional, int n_keys)
{
	Datum	   *values;
	int			n;

	if (PG_ARGISNULL(arg) && optional)
		return NULL;
	check_not_null(fcinfo, arg, name);
	n = get_array(fcinfo, arg, name, &values);
	if (n != n_keys)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must have an element for each of %d keys, not %d",
						name, n_keys, n)));
	return values;
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
	int			n;

	check_not_null(fcinfo, 0, "keys");
	n = get_array(fcinfo, 0, "keys", &keys);
	if (n > MAX_CALLS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("keys must not have more than %d elements, not %d",
						MAX_CALLS, n)));
	capacities = get_parallel_array(fcinfo, 1, "capacities", false, n);
	refills = get_parallel_array(fcinfo, 2, "refills", false, n);
	costs = get_parallel_array(fcinfo, 3, "costs", true, n);
	limiters = get_parallel_array(fcinfo, 4, "limiters", true, n);

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
	}
	PG_RETURN_BOOL(decide_all(calls, n));
}
