/*
 * functions/reserve.c
 *		Taking tokens before it is known how many are used, and settling that later:
 *		rl_reserve(), rl_reserve_policy(), rl_settle(); and what is outstanding:
 *		_rl_reservations().
 */
#include "postgres.h"

#include "core/settings.h"
#include "decide/one.h"
#include "decide/policies.h"
#include "decide/reserve.h"
#include "decide/short_way.h"
#include "funcapi.h"
#include "functions/arguments.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

SQL_FUNCTION(rl_reserve);
SQL_FUNCTION(rl_reserve_policy);
SQL_FUNCTION(rl_settle);
SQL_FUNCTION(rl_reservations);

/* What rl_reserve() answers if the call is allowed and nothing was taken. */
#define NOTHING_RESERVED	0

/* The time after which a reservation expires, in nanoseconds. */
static int64
get_expires(const Interval *expires)
{
	Owed		ns = get_span("expires", expires, 1);

	if (ns > (Owed) USECS_PER_DAY * 1000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expires must not be above 1 day, not %s",
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(expires))))));
	return (int64) ns;
}

/* Keep what n calls have taken, and answer its number. */
static Datum
keep(FunctionCallInfo fcinfo, const BucketCall *calls, int n, double tokens,
	 int64 expires)
{
	int64		number = NOTHING_RESERVED;

	if (n > 0 && reserve_keep(calls, n, tokens, expires, &number) == RESERVE_DENIED)
		PG_RETURN_NULL();
	PG_RETURN_INT64(number);
}

/* rl_reserve(key, capacity, refill, tokens, expires, limiter) returns bigint */
Datum
rl_reserve(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"key", "capacity", "refill", "tokens", "expires", "limiter"};
	BucketCall	call;
	double		tokens;
	int64		expires;
	bool		taken;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(&call.id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(5));
	tokens = PG_GETARG_FLOAT8(3);
	check_tokens("tokens", tokens);
	call.rule = *get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), tokens);
	expires = get_expires(PG_GETARG_INTERVAL_P(4));

	reserve_prepare(1);
	decide_uncounted(&call.id, &call.rule, &call.decision);
	taken = call.decision.allowed && call.decision.known && enabled_setting;
	decide_counted(&call.id, &call.rule, &call.decision, false);
	if (!call.decision.allowed)
		PG_RETURN_NULL();
	return keep(fcinfo, &call, taken ? 1 : 0, tokens, expires);
}

/* rl_reserve_policy(policy, key, tokens, expires) returns bigint */
Datum
rl_reserve_policy(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"policy", "key", "tokens", "expires"};
	BucketCall	calls[MAX_CALLS];
	TierName	tiers[MAX_CALLS];
	double		tokens;
	int64		expires;
	bool		allowed;
	int			n;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	tokens = PG_GETARG_FLOAT8(2);
	check_tokens("tokens", tokens);
	expires = get_expires(PG_GETARG_INTERVAL_P(3));

	reserve_prepare(MAX_RESERVED);
	n = reserve_by_policy(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1), tokens,
						  MAX_RESERVED, calls, tiers, &allowed);
	if (!allowed)
		PG_RETURN_NULL();
	return keep(fcinfo, calls, n, tokens, expires);
}

/*
 * rl_settle(reservation, used) returns float8: the tokens left; null if the
 * reservation is not outstanding
 */
Datum
rl_settle(PG_FUNCTION_ARGS)
{
	double		left;

	check_not_null(fcinfo, 0, "reservation");
	check_not_null(fcinfo, 1, "used");
	check_tokens("used", PG_GETARG_FLOAT8(1));
	if (!reserve_settle(PG_GETARG_INT64(0), PG_GETARG_FLOAT8(1), &left))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(left);
}

/* Show the buckets of a reservation that are not settled, a row each. */
static void
show_reservation(const Reservation *reservation, TimestampTz expires_at, bool in_table,
				 void *arg)
{
	ReturnSetInfo *rsinfo = arg;

	for (int i = reservation->n_settled; i < reservation->n; i++)
	{
		char	   *role = GetUserNameFromId(reservation->role, true);
		BucketId	id;
		Datum		values[7];
		bool		nulls[7] = {false};
		int			plain_len;

		reservation_bucket(reservation, i, &id);
		plain_len = plain_limiter_len(id.limiter, id.limiter_len);
		values[0] = PointerGetDatum(cstring_to_text_with_len(id.limiter, plain_len));
		values[1] = PointerGetDatum(cstring_to_text_with_len(id.key, id.key_len));
		values[2] = Float8GetDatum(reservation->tokens);
		values[3] = TimestampTzGetDatum(expires_at);
		nulls[4] = role == NULL;
		values[4] = role ? CStringGetTextDatum(role) : (Datum) 0;
		values[5] = CStringGetTextDatum(in_table ? "table" : "memory");
		nulls[6] = plain_len == id.limiter_len;
		if (!nulls[6])
			values[6] = PointerGetDatum(cstring_to_text_with_len(id.limiter + plain_len + 1,
																 id.limiter_len - plain_len - 1));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * _rl_reservations() returns setof (limiter, key, tokens, expires_at, role, store, period):
 * the outstanding reservations of this database
 */
Datum
rl_reservations(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	reserve_show(show_reservation, fcinfo->resultinfo);
	return (Datum) 0;
}
