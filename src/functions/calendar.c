/*
 * functions/calendar.c
 *		rl_period(): when the period around a moment begins and ends.
 *
 * No bucket plays a part.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "core/period.h"
#include "funcapi.h"
#include "functions/arguments.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

SQL_FUNCTION(rl_period);

/* rl_period(period, at) returns (begins_at, ends_at, name) */
Datum
rl_period(PG_FUNCTION_ARGS)
{
	const Period *period;
	const char *bytes;
	const char *name;
	int			len;
	TimestampTz at;
	TimestampTz begin;
	TimestampTz end;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	check_not_null(fcinfo, 0, "period");
	check_not_null(fcinfo, 1, "at");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "rl_period does not return a row");
	at = PG_GETARG_TIMESTAMPTZ(1);
	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at must be finite, not %s", timestamptz_to_str(at))));
	bytes = text_bytes(PG_GETARG_DATUM(0), &len);
	period = period_of(bytes, len);

	period_around(period, at, &begin, &end);
	name = period_name(period, &len);
	values[0] = TimestampTzGetDatum(begin);
	values[1] = TimestampTzGetDatum(end);
	values[2] = PointerGetDatum(cstring_to_text_with_len(name, len));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
