/*
 * functions/consume.c
 *		The SQL functions that decide a call on one bucket: rl_consume(),
 *		rl_throttle(), rl_peek(), rl_consume_upto().
 *
 * A function checks its arguments, decides, counts the decision and answers.
 * rl_consume() is the main path, and all that it usually needs is inline
 * (decide/short_way.h).
 */
#include "postgres.h"

#include <math.h>

#include "decide/short_way.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "miscadmin.h"

SQL_FUNCTION(rl_consume);
SQL_FUNCTION(rl_throttle);
SQL_FUNCTION(rl_peek);
SQL_FUNCTION(rl_consume_upto);

/* rl_consume(key, capacity, refill, cost, limiter) returns boolean */
Datum
rl_consume(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = read_call(fcinfo, &id);
	Decision	decision;

	decide_quickly(&id, rule, &decision);
	count_quickly(&id, rule, &decision);
	PG_RETURN_BOOL(decision.allowed);
}

/* rl_throttle(key, capacity, refill, cost, limiter) returns rl_result */
Datum
rl_throttle(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	decide_uncounted(&id, rule, &decision);
	decide_counted(&id, rule, &decision, false);
	PG_RETURN_DATUM(make_result(fcinfo, &id, rule, &decision));
}

/* rl_peek(key, capacity, refill, cost, limiter) returns rl_result */
Datum
rl_peek(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	decide_look(&id, rule, &decision);
	if (decision.allowed && enabled_setting)
		(void) bucket_take(rule, &decision.owed);
	decision.shadowed = shadow_setting && !decision.allowed;
	decision.allowed |= shadow_setting;
	PG_RETURN_DATUM(make_result(fcinfo, &id, rule, &decision));
}

/* How many whole tokens, from 1 to "wanted", a bucket that owes this much can give. */
static double
whole_tokens(const BucketRule *one, Owed owed, double wanted)
{
	double		tokens = floor(bucket_tokens(one, owed));
	double		guesses[4];

	/*
	 * Rounding may have made "tokens" wrong, usually by far less than a token.  The
	 * last guess is for buckets so large that it is more.
	 */
	guesses[0] = tokens + 1;
	guesses[1] = tokens;
	guesses[2] = tokens - 1;
	guesses[3] = floor(tokens * (1 - 0x1p-48));
	for (int i = 0; i < lengthof(guesses); i++)
	{
		double		n = Min(guesses[i], wanted);

		if (n >= 1 && owed <= get_rule(one->capacity, one->refill, n)->room)
			return n;
	}
	return 1;
}

/*
 * rl_consume_upto(key, capacity, refill, wanted, limiter) returns float8: the
 * tokens taken.  It looks at what the bucket has, and then takes it.  If other calls
 * take some of it between the two, it looks again.
 */
Datum
rl_consume_upto(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"key", "capacity", "refill", "wanted", "limiter"};
	BucketId	id;
	BucketRule	one;
	double		wanted;
	Decision	decision;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(4));
	check_tokens("wanted", PG_GETARG_FLOAT8(3));
	wanted = floor(PG_GETARG_FLOAT8(3));
	one = *get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), 1);
	if (wanted == 0 || !enabled_setting)
		PG_RETURN_FLOAT8(wanted);

	for (;;)
	{
		double		n = 1;
		BucketRule	rule;

		CHECK_FOR_INTERRUPTS();
		decide_look(&id, &one, &decision);
		if (decision.known && decision.allowed)
			n = whole_tokens(&one, decision.owed, wanted);
		rule = *get_rule(one.capacity, one.refill, n);
		decide_uncounted(&id, &rule, &decision);
		if (decision.known && !decision.allowed && n > 1)
			continue;
		decide_counted(&id, &rule, &decision, false);

		/* if a setting decided, the caller gets all that is wanted, or nothing */
		if (!decision.known || (decision.allowed && shadow_setting))
			n = wanted;
		PG_RETURN_FLOAT8(decision.allowed ? n : 0);
	}
}
