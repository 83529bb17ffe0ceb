/*
 * functions/flags.c
 *		Setting and clearing flags by hand: rl_flag(), rl_unflag().
 */
#include "postgres.h"

#include "functions/arguments.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "violations/flags.h"

SQL_FUNCTION(rl_flag);
SQL_FUNCTION(rl_unflag);

/* rl_flag(key, limiter, reason) returns boolean */
Datum
rl_flag(PG_FUNCTION_ARGS)
{
	BucketId	id;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "limiter");
	check_not_null(fcinfo, 2, "reason");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));
	PG_RETURN_BOOL(flags_insert(PG_GETARG_DATUM(1), PG_GETARG_DATUM(0), 0, PG_GETARG_DATUM(2)));
}

/* rl_unflag(key, limiter) returns boolean */
Datum
rl_unflag(PG_FUNCTION_ARGS)
{
	BucketId	id;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "limiter");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));
	PG_RETURN_BOOL(flags_clear(&id, PG_GETARG_DATUM(1), PG_GETARG_DATUM(0),
							   CStringGetTextDatum(GetUserNameFromId(GetUserId(), false))));
}
