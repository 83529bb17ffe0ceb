/*
 * rate.c
 *		rl_per(): tokens per second, given a rate as people say it: "100 per minute".
 *
 * The result is the double nearest to the exact quotient, so it is what PostgreSQL
 * reads when the rate is written as a decimal number with enough digits.  The
 * bucket's arithmetic (core/bucket.c) allows for arguments that are rounded by half a
 * unit in their last place, and this result is not rounded by more.
 */
#include "postgres.h"

#include <math.h>

#include "functions/arguments.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

SQL_FUNCTION(rl_per);

/* Bits of a double's significand. */
#define DOUBLE_BITS	53

/* The greatest common divisor. */
static uint64
greatest_divisor(uint64 a, uint64 b)
{
	while (b != 0)
	{
		uint64		rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* How many bits a number has, without leading zeros; 0 has none. */
static int
bits_of(uint128 value)
{
	uint64		high = (uint64) (value >> 64);

	if (high != 0)
		return 65 + pg_leftmost_one_pos64(high);
	return value == 0 ? 0 : 1 + pg_leftmost_one_pos64((uint64) value);
}

/*
 * tokens / (us / 10^6), rounded once, to the nearest double.  tokens >= 0 is finite;
 * us is from 1 to 2^73, which is more than any interval has.
 *
 * The dividend has at most 53 bits of tokens and 20 of 10^6.  It is shifted to the
 * left until it has 128, so it is at least 2^127, and the quotient at least 2^54.  So
 * the quotient has 55 bits or more: the 53 of a double, and others that say how to
 * round.
 */
static double
rate(double tokens, uint128 us)
{
	uint64		divisor = greatest_divisor(USECS_PER_SEC, (uint64) (us % USECS_PER_SEC));
	int			exponent;
	int			shift;
	int			spare;
	uint128		dividend;
	uint128		quotient;
	uint128		half;
	uint128		beyond;
	bool		inexact;

	dividend = (uint64) ldexp(frexp(tokens, &exponent), DOUBLE_BITS);
	if (dividend == 0)
		return 0;
	exponent -= DOUBLE_BITS;
	dividend *= USECS_PER_SEC / divisor;
	us /= divisor;

	shift = 128 - bits_of(dividend);
	Assert(shift > 0 && shift < 128);
	dividend <<= shift;
	exponent -= shift;
	quotient = dividend / us;
	inexact = dividend % us != 0;

	spare = bits_of(quotient) - DOUBLE_BITS;
	Assert(spare > 0);
	half = (uint128) 1 << (spare - 1);
	beyond = quotient & ((half << 1) - 1);
	quotient >>= spare;
	if (beyond > half || (beyond == half && (inexact || (quotient & 1))))
		quotient++;
	return ldexp((double) (uint64) quotient, exponent + spare);
}

/* rl_per(tokens, per) returns float8 */
Datum
rl_per(PG_FUNCTION_ARGS)
{
	double		tokens;
	Interval   *per;
	Owed		ns;
	double		result;

	check_not_null(fcinfo, 0, "tokens");
	check_not_null(fcinfo, 1, "per");
	tokens = PG_GETARG_FLOAT8(0);
	per = PG_GETARG_INTERVAL_P(1);
	check_tokens("tokens", tokens);
	if (!interval_is_finite(per))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("per must be finite, not %s",
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(per))))));
	ns = get_span("per", per, 1);

	result = rate(tokens, (uint128) (ns / 1000));
	/* a rate that was rounded to 0 would be a quota, which nobody has asked for */
	if (isinf(result) || (result == 0 && tokens > 0))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("rate of %s tokens per %s is out of range",
						DatumGetCString(DirectFunctionCall1(float8out, Float8GetDatum(tokens))),
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(per))))));
	PG_RETURN_FLOAT8(result);
}
