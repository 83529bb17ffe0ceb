/*
 * bucket.c
 *		Bucket arithmetic (src/core/bucket.c) against exact rationals.
 *
 * The input is the calls on a bucket, with parameters that may change and time that
 * passes.  Doubles are dyadic rationals, which the server's type numeric holds exactly, and
 * nothing here divides, so all that is compared is exact.
 *
 * Two models say what the bucket may lack to be full, given what was allowed so far.
 * With "most", every allowed call took exactly its cost, and a call that this leaves room
 * for must not be denied.  With "least", every call and every change of parameters was
 * favoured as far as core/bucket.c says, and a call that even this has no room for must
 * not be allowed.  test/unit/bucket_test.py, where inputs are random and not guided by
 * coverage, has the same bounds.
 */
#include "fuzz.h"

#include <math.h>

#include "core/bucket.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

/* Doubles below this are not used: their decimals would be too long. */
#define TINY	0x1p-200

static Numeric
read_decimal(const char *digits)
{
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* The double, exactly. */
static Numeric
exact(double value)
{
	char		digits[700];
	int			n = strfromd(digits, sizeof(digits), "%.252f", value);

	while (n > 1 && digits[n - 1] == '0')
		digits[--n] = '\0';
	if (digits[n - 1] == '.')
		digits[n - 1] = '\0';
	return read_decimal(digits);
}

/* So many nanoseconds, exactly; value >= 0. */
static Numeric
wide(Owed value)
{
	char		digits[48];
	char	   *at = digits + sizeof(digits) - 1;

	*at = '\0';
	do
		*--at = '0' + (int) (value % 10);
	while ((value /= 10) > 0);
	return read_decimal(at);
}

static Numeric
add(Numeric a, Numeric b)
{
	return DatumGetNumeric(DirectFunctionCall2(numeric_add, NumericGetDatum(a), NumericGetDatum(b)));
}

static Numeric
sub(Numeric a, Numeric b)
{
	return DatumGetNumeric(DirectFunctionCall2(numeric_sub, NumericGetDatum(a), NumericGetDatum(b)));
}

static Numeric
mul(Numeric a, Numeric b)
{
	return DatumGetNumeric(DirectFunctionCall2(numeric_mul, NumericGetDatum(a), NumericGetDatum(b)));
}

static int
compare(Numeric a, Numeric b)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a), NumericGetDatum(b)));
}

static char *
shown(Numeric a)
{
	return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(a)));
}

/* Constants, which each input makes anew. */
static Numeric zero;
static Numeric nano;
static Numeric unit50;			/* 2^-50 */
static Numeric unit51;
static Numeric unit52;

static Numeric
at_least_zero(Numeric a)
{
	return compare(a, zero) < 0 ? zero : a;
}

/* Does it take 2^52 ns or longer to refill so many tokens? */
static bool
takes_long(Numeric tokens, Numeric refill_ns)
{
	return compare(tokens, mul(refill_ns, exact(0x1p52))) >= 0;
}

/* What a call may cost: most often no more than there may be. */
static double
take_cost(Bytes *input, double capacity)
{
	uint8		kind = take_byte(input);

	switch (kind % 8)
	{
		case 0:
			return 1;
		case 1:
			return capacity;
		case 2:
			return capacity * ((kind >> 3) + 1) / 32;
		case 3:
			return capacity - (kind >> 3);
		case 4:
			return nextafter(capacity, kind >> 3 & 1 ? 0 : INFINITY);
		case 5:
			return capacity / ((kind >> 3) + 1);
		default:
			return take_double(input);
	}
}

static bool
is_usable(double value, double most)
{
	return value == 0 || (value >= TINY && value <= most);
}

/* The calls so far, for a finding. */
static StringInfoData story;

static void
tell(double capacity, double refill, double cost, Owed elapsed, bool allowed, Owed owed)
{
	appendStringInfo(&story, "\n  after %s ns: capacity %.17g, refill %.17g, cost %.17g: %s, owes %s",
					 shown(wide(elapsed)), capacity, refill, cost, allowed ? "allowed" : "denied", shown(wide(Max(owed, 0))));
}

static void
try_bucket(Bytes *input)
{
	double		capacity = 100;
	double		refill = 10;
	double		old_capacity = 0;
	double		old_refill = 0;
	bool		old_timed = false;
	Owed		owed = 0;
	Numeric		most;
	Numeric		least;

	initStringInfo(&story);
	zero = read_decimal("0");
	nano = read_decimal("0.000000001");
	unit50 = exact(0x1p-50);
	unit51 = exact(0x1p-51);
	unit52 = exact(0x1p-52);
	most = least = zero;

	for (int n = 0; n < 40 && input->at < input->end; n++)
	{
		uint8		op = take_byte(input);
		Owed		elapsed = 0;
		double		cost;
		BucketRule	rule;
		bool		allowed;
		Numeric		c;
		Numeric		r;			/* tokens in a nanosecond */
		Numeric		q;
		Numeric		room;
		Numeric		lacks;

		if (op % 4 == 0 || n == 0)
		{
			double		given[2];

			given[0] = take_double(input);
			given[1] = take_double(input);
			/* far beyond what is promised; what is not finite never comes here */
			if (!is_usable(given[0], 1e15) || !is_usable(given[1], 1e12) || given[0] == 0)
				return;
			if (op & 0x40)
				capacity = given[0];
			else if (op & 0x20)
				refill = given[1];
			else
			{
				capacity = given[0];
				refill = given[1];
			}
		}
		cost = take_cost(input, capacity);
		if (!is_usable(cost, 1e15))
			return;
		if (op & 0x80)
		{
			uint64		ns;

			take_bytes(input, &ns, sizeof(ns));
			elapsed = ns >> (op >> 2 & 15) * 4;
		}
		bucket_rule(&rule, capacity, refill, cost);
		c = exact(capacity);
		r = mul(exact(refill), nano);
		q = exact(cost);

		/* some call exactly when they are due, or a nanosecond before */
		if (op & 0x80 && op & 2 && rule.timed && old_timed && owed > rule.room && rule.room >= 0)
			elapsed = owed - rule.room - (op & 1);

		/* as the stores do it */
		owed = bucket_refilled(bucket_timed(n == 0 ? capacity : old_capacity,
											n == 0 ? refill : old_refill), owed, elapsed);
		if (n > 0 && (capacity != old_capacity || refill != old_refill))
			owed = bucket_carry(old_capacity, old_refill, owed, &rule);
		allowed = bucket_take(&rule, &owed);
		tell(capacity, refill, cost, elapsed, allowed, owed);

		/* time passes */
		if (n > 0 && old_timed)
		{
			Numeric		back = mul(mul(exact(old_refill), nano), wide(elapsed));

			most = at_least_zero(sub(most, back));
			least = at_least_zero(sub(least, back));
		}
		/* parameters change */
		if (n > 0 && (capacity != old_capacity || refill != old_refill))
		{
			Numeric		old = exact(old_capacity);
			Numeric		grown = sub(c, old);
			Numeric		noise = zero;
			Numeric		off;

			if (!rule.timed || !old_timed)
				noise = mul(add(c, old), unit51);
			/* a debt that is only noise counts as none */
			if (compare(least, old) > 0 && compare(sub(least, old), mul(old, unit50)) <= 0)
				least = old;
			off = noise;
			if (rule.timed)
				off = add(off, mul(r, read_decimal("1.000001")));
			if (!rule.timed || !old_timed)
				off = add(add(off, mul(noise, read_decimal("4"))),
						  add(exact(0x1p-56), mul(c, read_decimal("0.0000000000000001"))));
			if (compare(most, zero) > 0)
				most = at_least_zero(add(add(most, grown), noise));
			if (compare(least, zero) > 0)
				least = at_least_zero(sub(add(least, grown), off));
		}

		/* is the decision right? */
		room = sub(c, q);
		if (cost == 0)
		{
			if (!allowed)
				finding("cost 0 is denied%s", story.data);
		}
		else if (cost > capacity)
		{
			if (allowed)
				finding("a cost above the capacity is allowed%s", story.data);
		}
		else if (!allowed)
		{
			if (compare(most, room) <= 0)
				finding("denied, but at most %s are lacking%s", shown(most), story.data);
		}
		else
		{
			Numeric		early = rule.timed ? r : mul(c, unit50);
			Numeric		less;

			if (rule.timed && takes_long(c, r))
				early = add(early, mul(c, unit52));
			if (compare(least, add(room, early)) >= 0)
				finding("allowed, but at least %s are lacking%s", shown(least), story.data);
			most = add(most, q);
			if (!rule.timed)
				less = sub(sub(q, mul(q, unit52)), mul(c, read_decimal("0.00000000000000001")));
			else
			{
				less = sub(q, r);
				if (takes_long(q, r))
					less = sub(less, mul(q, unit52));
			}
			least = add(least, at_least_zero(less));
		}

		/* is what it owes? */
		if (owed < 0 || owed > rule.window)
			finding("owed is out of range%s", story.data);
		if (rule.timed)
		{
			lacks = mul(wide(owed), r);
			if (compare(lacks, least) < 0 || compare(lacks, most) > 0)
				finding("%s are lacking, not %s to %s%s", shown(lacks), shown(least), shown(most),
						story.data);
		}
		old_capacity = capacity;
		old_refill = refill;
		old_timed = rule.timed;
	}
}

const Fuzzer fuzz_bucket = {"bucket", try_bucket, ""};
