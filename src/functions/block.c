/*
 * functions/block.c
 *		Blocking keys and ending blocks by hand: rl_block(), rl_unblock().
 */
#include "postgres.h"

#include "decide/blocks.h"
#include "functions/arguments.h"
#include "utils/timestamp.h"

SQL_FUNCTION(rl_block);
SQL_FUNCTION(rl_unblock);

/* rl_block(key, duration, limiter) returns void */
Datum
rl_block(PG_FUNCTION_ARGS)
{
	BucketId	id;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "duration");
	check_not_null(fcinfo, 2, "limiter");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(2));
	block_key(&id, get_span("duration", PG_GETARG_INTERVAL_P(1), 1));
	PG_RETURN_VOID();
}

/* rl_unblock(key, limiter) returns boolean: was it blocked? */
Datum
rl_unblock(PG_FUNCTION_ARGS)
{
	BucketId	id;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "limiter");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));
	PG_RETURN_BOOL(unblock_key(&id));
}
