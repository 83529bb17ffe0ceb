/*
 * functions/http.c
 *		SQL functions for applications that answer HTTP requests: rl_headers(),
 *		rl_enforce().
 *
 * How a limit becomes header fields, and a denial an error, is in
 * functions/http_answer.c.
 */
#include "postgres.h"

#include <math.h>

#include "core/settings.h"
#include "decide/one.h"
#include "decide/short_way.h"
#include "executor/executor.h"
#include "functions/arguments.h"
#include "functions/http_answer.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

SQL_FUNCTION(rl_headers);
SQL_FUNCTION(rl_enforce);

/* An interval in seconds, in which a month has 30 days; 0 if it is negative. */
static double
interval_seconds(const Interval *span)
{
	double		days = (double) span->month * DAYS_PER_MONTH + span->day;

	return Max(days * SECS_PER_DAY + (double) span->time / USECS_PER_SEC, 0);
}

/* The limit that an rl_result describes.  A null means "not known" or "never". */
static HttpLimit
limit_of_result(HeapTupleHeader result)
{
	HttpLimit	limit;
	bool		allowed;
	double		full;
	double		missing;
	double		period;
	bool		isnull;
	Datum		value;

	value = GetAttributeByNum(result, 1, &isnull);
	allowed = !isnull && DatumGetBool(value);
	value = GetAttributeByNum(result, 2, &isnull);
	limit.capacity = isnull ? NAN : DatumGetFloat8(value);
	value = GetAttributeByNum(result, 3, &isnull);
	limit.remaining = isnull ? NAN : DatumGetFloat8(value);
	value = GetAttributeByNum(result, 4, &isnull);
	limit.retry_after = allowed ? 0 : isnull ? -1 :
		interval_seconds(DatumGetIntervalP(value));
	value = GetAttributeByNum(result, 5, &isnull);
	full = isnull ? -1 : interval_seconds(DatumGetIntervalP(value));
	value = GetAttributeByNum(result, 8, &isnull);
	period = isnull ? -1 : interval_seconds(DatumGetIntervalP(value));

	/*
	 * An rl_result does not have the rate of refill, but the rate follows from the
	 * missing tokens and the time in which they come back.  If that time is too
	 * short to tell the window to the second, the window is left out.
	 */
	missing = limit.capacity - limit.remaining;
	limit.window = limit.window_error = -1;
	if (full > 0 && missing > 0)
	{
		double		error = RESULT_ERROR / full + ROUNDING;

		limit.window = limit.capacity * (full / missing);
		limit.window_error = limit.window * error;
		if (limit.window_error > 0.5)
			limit.window = -1;
	}
	if (period > 0)
	{
		limit.window = period;
		limit.window_error = 0;
	}

	/* a call that has to wait until after the bucket is full is blocked */
	if (limit.retry_after > Max(full, 0))
	{
		limit.remaining = 0;
		limit.more_after = limit.retry_after;
		return limit;
	}
	if (period > 0)
	{
		limit.more_after = full > 0 ? full : -1;
		return limit;
	}
	limit.more_after = http_next_token(limit.capacity, limit.remaining, full);
	if (limit.retry_after > 0 && limit.more_after > limit.retry_after)
		limit.more_after = limit.retry_after;
	return limit;
}

/* The argument quota_unit as a value of a structured field; NULL if it is null. */
static char *
get_unit(FunctionCallInfo fcinfo, int arg)
{
	text	   *unit;

	if (PG_ARGISNULL(arg))
		return NULL;
	unit = PG_GETARG_TEXT_PP(arg);
	check_length("quota_unit", VARDATA_ANY(unit), VARSIZE_ANY_EXHDR(unit), MAX_KEY_LEN);
	return sf_string(VARDATA_ANY(unit), VARSIZE_ANY_EXHDR(unit));
}

/* The argument partition_key, likewise. */
static char *
get_partition(FunctionCallInfo fcinfo, int arg)
{
	bytea	   *partition;

	if (PG_ARGISNULL(arg))
		return NULL;
	partition = PG_GETARG_BYTEA_PP(arg);
	if (VARSIZE_ANY_EXHDR(partition) > MAX_KEY_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("partition_key must not be longer than %d bytes, not %zu",
						MAX_KEY_LEN, (size_t) VARSIZE_ANY_EXHDR(partition))));
	return sf_bytes(VARDATA_ANY(partition), VARSIZE_ANY_EXHDR(partition));
}

/* rl_headers(r, policy, quota_unit, partition_key) returns jsonb */
Datum
rl_headers(PG_FUNCTION_ARGS)
{
	HttpLimit	limit;
	text	   *policy;
	HttpFields	fields;

	check_not_null(fcinfo, 0, "r");
	check_not_null(fcinfo, 1, "policy");
	limit = limit_of_result(PG_GETARG_HEAPTUPLEHEADER(0));
	policy = PG_GETARG_TEXT_PP(1);
	http_fields_begin(&fields);
	http_fields_add_limit(&fields, sf_string(VARDATA_ANY(policy), VARSIZE_ANY_EXHDR(policy)),
						  &limit, get_unit(fcinfo, 2), get_partition(fcinfo, 3));
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in,
										CStringGetDatum(http_fields_json(&fields, false))));
}

/* rl_enforce(key, capacity, refill, cost, limiter) returns void */
Datum
rl_enforce(PG_FUNCTION_ARGS)
{
	BucketCall	call;
	Decision   *decision = &call.decision;

	call.rule = *get_call(fcinfo, &call.id);
	decide_uncounted(&call.id, &call.rule, decision);
	decide_counted(&call.id, &call.rule, decision, false);
	if (!decision->allowed)
		http_deny(&call, 1, 0, postgrest_headers_setting);
	PG_RETURN_VOID();
}
