/*
 * functions/administration.c
 *		What administrators do to a bucket: rl_reward(), rl_penalize(), rl_reset(),
 *		rl_reset_all(), and _rl_import(), which makes one that another server had.
 *
 * These functions are not calls.  They are not counted, they do the same whether or
 * not the key is blocked and whatever ratelimit.enabled and ratelimit.shadow say, and
 * ratelimit.on_error does not hide their errors.
 */
#include "postgres.h"

#include <math.h>

#include "core/clock.h"
#include "decide/one.h"
#include "decide/stores.h"
#include "functions/arguments.h"
#include "miscadmin.h"

SQL_FUNCTION(rl_reward);
SQL_FUNCTION(rl_penalize);
SQL_FUNCTION(rl_reset);
SQL_FUNCTION(rl_reset_all);
SQL_FUNCTION(rl_import);

/* rl_reward(key, tokens, limiter) returns float8: how many there was room for */
Datum
rl_reward(PG_FUNCTION_ARGS)
{
	BucketId	id;
	double		tokens;
	double		given = 0;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "tokens");
	check_not_null(fcinfo, 2, "limiter");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(2));
	tokens = PG_GETARG_FLOAT8(1);
	check_tokens("tokens", tokens);

	give_tokens(&id, tokens, true, &given);
	PG_RETURN_FLOAT8(given);
}

/*
 * rl_penalize(key, capacity, refill, tokens, limiter) returns float8: the tokens
 * left, negative in debt
 */
Datum
rl_penalize(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"key", "capacity", "refill", "tokens", "limiter"};
	BucketId	id;
	BucketRule	rule;
	Decision	decision;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(4));
	check_tokens("tokens", PG_GETARG_FLOAT8(3));
	rule = *get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3));
	if (bucket_rule_is_closed(&rule))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("capacity must be a finite number above 0, not 0"),
				 errdetail("A capacity of 0 has no bucket that could owe tokens.")));
	bucket_rule_for_debt(&rule);

	take_tokens(&id, &rule, &decision);
	PG_RETURN_FLOAT8(bucket_tokens(&rule, decision.owed));
}

/* rl_reset(key, limiter, period) returns boolean; period may be null */
Datum
rl_reset(PG_FUNCTION_ARGS)
{
	BucketId	id;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "limiter");
	if (PG_ARGISNULL(2))
		get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));
	else
		get_period_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(2), PG_GETARG_TEXT_PP(1));
	PG_RETURN_BOOL(reset_bucket(&id));
}

/* rl_reset_all(limiter) returns bigint; if limiter is null, it resets all buckets */
Datum
rl_reset_all(PG_FUNCTION_ARGS)
{
	const char *limiter = NULL;
	int			len = 0;

	if (!PG_ARGISNULL(0))
	{
		text	   *arg = PG_GETARG_TEXT_PP(0);

		limiter = VARDATA_ANY(arg);
		len = VARSIZE_ANY_EXHDR(arg);
		check_limiter(limiter, len);
	}
	PG_RETURN_INT64(reset_all_buckets(limiter, len));
}

/*
 * _rl_import(limiter, key, capacity, refill, owed, owed_high) returns void: a row of
 * _rl_export().  The bucket owes so much more from now on.
 */
Datum
rl_import(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"limiter", "key", "capacity", "refill", "owed", "owed_high"};
	const char *limiter;
	const char *key;
	int			limiter_len;
	int			key_len;
	int			plain_len;
	double		capacity;
	double		refill;
	bool		in_period;
	Owed		owed;
	BucketId	id;
	BucketRule	rule;
	Decision	decision;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	limiter = text_bytes(PG_GETARG_DATUM(0), &limiter_len);
	key = text_bytes(PG_GETARG_DATUM(1), &key_len);
	plain_len = plain_limiter_len(limiter, limiter_len);
	capacity = PG_GETARG_FLOAT8(2);
	refill = PG_GETARG_FLOAT8(3);
	in_period = plain_len < limiter_len;
	owed = (Owed) PG_GETARG_INT64(5) * OWED_UNIT + PG_GETARG_INT64(4);
	if (!names_valid(limiter, limiter_len, key, key_len) || *limiter == BLOCK_PREFIX ||
		!(capacity > 0) || (!in_period && !isfinite(capacity)) ||
		!isfinite(refill) || in_period != bucket_in_period(refill) || refill < -PERIOD_END_MAX ||
		PG_GETARG_INT64(4) < 0 || PG_GETARG_INT64(5) < 0 || owed > BUCKET_OWED_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("this is not a row of _rl_export()")));
	if (owed == 0 || (in_period && period_is_over(refill, 0)))
		PG_RETURN_VOID();

	limiter_use(limiter, plain_len);
	make_bucket_id(&id, MyDatabaseId, limiter, limiter_len, key, key_len);
	bucket_rule(&rule, capacity, refill, 0);
	rule.take = owed;
	rule.room = BUCKET_OWED_MAX - owed;
	take_tokens(&id, &rule, &decision);
	PG_RETURN_VOID();
}
