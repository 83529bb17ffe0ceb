/*
 * functions/arguments.c
 *		Arguments of SQL functions, checked.
 */
#include "postgres.h"

#include "functions/arguments.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

void
fail_null(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

void
fail_null_call(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"key", "capacity", "refill", "cost", "limiter"};
	int			i = 0;

	while (!PG_ARGISNULL(i))
		i++;
	fail_null(names[i]);
}

void
get_bucket_id(BucketId *id, const text *key, const text *limiter)
{
	read_bucket_id(id, PointerGetDatum(key), PointerGetDatum(limiter));
}

const BucketRule *
get_call(FunctionCallInfo fcinfo, BucketId *id)
{
	return read_call(fcinfo, id);
}

/* A span of time in ns, a month being 30 days, of at least so many microseconds. */
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
