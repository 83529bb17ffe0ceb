/*
 * functions/arguments.c
 *		Reading and checking the arguments of SQL functions, as far as this is not
 *		inline in functions/arguments.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "functions/arguments.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Raise the error for an argument that is null. */
void
fail_null(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

/* Raise the error for the first argument of a call that is null. */
void
fail_null_call(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"key", "capacity", "refill", "cost", "limiter"};
	int			i = 0;

	while (!PG_ARGISNULL(i))
		i++;
	fail_null(names[i]);
}

/* The same as read_bucket_id(), for callers that need not have it inline. */
void
get_bucket_id(BucketId *id, const text *key, const text *limiter)
{
	read_bucket_id(id, PointerGetDatum(key), PointerGetDatum(limiter));
}

/* The same as read_period_id(), likewise. */
void
get_period_id(BucketId *id, const text *key, const text *period, const text *limiter)
{
	read_period_id(id, PointerGetDatum(key), PointerGetDatum(period),
				   PointerGetDatum(limiter));
}

/* The same as read_call(), likewise. */
const BucketRule *
get_call(FunctionCallInfo fcinfo, BucketId *id)
{
	return read_call(fcinfo, id);
}

/*
 * Read the elements of an array argument, and return how many there are.  An element
 * that is null is an error.
 */
int
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

/*
 * Read the elements of the array that the other arrays of the call have to match.
 * Return how many there are, which is at most "most".
 */
int
get_keys(FunctionCallInfo fcinfo, int arg, const char *name, int most, Datum **values)
{
	int			n;

	check_not_null(fcinfo, arg, name);
	n = get_array(fcinfo, arg, name, values);
	if (n > most)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must not have more than %d elements, not %d",
						name, most, n)));
	return n;
}

/*
 * Read the elements of an array argument, which must be as many as those of the
 * array that get_keys() has read.  Return NULL if the argument is null, which only an
 * optional one may be.
 */
Datum *
get_parallel_array(FunctionCallInfo fcinfo, int arg, const char *name,
				   bool optional, const char *of, int n_of)
{
	Datum	   *values;
	int			n;

	if (PG_ARGISNULL(arg) && optional)
		return NULL;
	check_not_null(fcinfo, arg, name);
	n = get_array(fcinfo, arg, name, &values);
	if (n != n_of)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must have an element for each of %d %s, not %d",
						name, n_of, of, n)));
	return values;
}

/*
 * An interval in nanoseconds, in which a month has 30 days.  "least" is 1 if the
 * interval must be above 0, and 0 if it may be 0.
 */
Owed
get_span(const char *name, const Interval *span, int least)
{
	Owed		days = (Owed) span->month * DAYS_PER_MONTH + span->day;
	Owed		us = days * USECS_PER_DAY + span->time;

	if (us < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must %s 0, not %s", name,
						least > 0 ? "be above" : "not be below",
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(span))))));
	return us * 1000;
}
