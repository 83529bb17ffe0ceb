/*
 * functions/arguments.c
 *		Reading and checking the arguments of SQL functions, as far as this is not
 *		inline in functions/arguments.h.
 */
#include "postgres.h"

#include "functions/arguments.h"
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
