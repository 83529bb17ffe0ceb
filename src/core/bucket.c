/*
 * core/bucket.c
 *		The arithmetic of one token bucket.
 *
 * Pure: no shared state, no clock, no error.  The shared-memory tier, the
 * table tier and rl_simulate() all decide through it.
 *
 * A bucket is kept as what it owes, not as what it holds: the nanoseconds of
 * refill it lacks to be full (the generic cell rate algorithm).  A call may go
 * on iff owed <= room, where room = (capacity - cost) / refill, and it then
 * adds take = cost / refill.  Both are quotients of two doubles, and doubles
 * are dyadic rationals, so both are computed exactly, in integers, and rounded
 * once: take down to a whole nanosecond; room, compared with a whole number of
 * nanoseconds, loses nothing by being rounded down.  So every error favours
 * the caller, and by less than one nanosecond of refill a call; a call that
 * exact arithmetic allows is never denied.
 *
 * That is exact for the doubles, but the caller wrote 0.1 or 1.0 / 3, whose
 * doubles are off by up to half a unit in their last place, so a quotient may be
 * off by 2^-52 of itself ("noise"), and room by 2^-52 of the whole capacity's
 * time.  Below 2^52 ns (52 days) that is less than a nanosecond: rounding take
 * down absorbs it, and room is rounded down only after it is added, or a call
 * might be denied at the very nanosecond it is due.  Above, one token a year
 * would fall due 3 ns late: there a quotient as close to a whole microsecond
 * (or more, the more noise) as the doubles can tell is taken to be that.
 *
 * With refill 0 nothing ever comes back and time plays no part: owed is the
 * tokens taken, in units of 1/scale, a power of ten that gives the capacity
 * between 10^17 and 10^18 units.  Costs are rounded down, but what the doubles
 * cannot tell from a whole number is that number.  So decimal fractions are
 * exact, and ten calls of cost 0.1 fit in a capacity of 1.  All that is taken is
 * never more than the capacity, so the noise of all costs together is bounded,
 * and room leaves as much: three calls of 2/3 fit in 2.  However small, a cost
 * above 0 takes a unit.  The same serves refills so slow that filling the bucket
 * takes 2^96 ns (2.5e12 years) or longer.
 *
 * Ranges: a capacity of 1e12 at a token a year is 2^95 ns, hence 128 bits.
 */
#include "postgres.h"

#include <math.h>

#include "core/bucket.h"

/* Quotients that are subtracted from each other carry this many more bits. */
#define FRACTION_BITS	24
#define FRACTION_MASK	(((Owed) 1 << FRACTION_BITS) - 1)

#define NS_PER_SECOND	1000000000

/* Saturated result of muldiv; 2^2 above what callers may meet. */
#define MULDIV_MAX		((uint128) 1 << 126)

/* Buckets that take this long to fill count as never refilling. */
#define WINDOW_MAX		((Owed) 1 << 96)

/* Doubles are exact to this many bits; beyond, quotients are noise. */
#define NOISE_BITS		52

/*
 * a * n / d * 2^shift, rounded down, or up if asked; saturating at MULDIV_MAX.
 * n >= 0 and d > 0 are finite.
 */
static uint128
muldiv(uint128 a, double n, double d, int shift, bool up)
{
	uint64		limb[4];		/* the product, least significant first */
	uint64		divisor;
	uint64		factor;
	uint128		part;
	uint128		quotient = 0;
	uint128		rest = 0;
	bool		inexact = false;
	int			exponent;
	int			bits;

	factor = (uint64) ldexp(frexp(n, &exponent), 53);
	shift += exponent;
	divisor = (uint64) ldexp(frexp(d, &exponent), 53);
	shift -= exponent;

	part = (uint128) (uint64) a * factor;
	limb[0] = (uint64) part;
	part = (uint128) (uint64) (a >> 64) * factor + (uint64) (part >> 64);
	limb[1] = (uint64) part;
	limb[2] = (uint64) (part >> 64);
	limb[3] = 0;

	for (bits = 192; bits > 0; bits--)
		if (limb[(bits - 1) / 64] >> ((bits - 1) % 64) & 1)
			break;
	if (bits == 0)
		return 0;
	/* the divisor has 53 bits: the quotient has bits + shift - 52 or one less */
	if (bits + shift - 52 > 126)
		return MULDIV_MAX;

	/* A left shift ends below 179 bits, a right one may drop the rest. */
	for (; shift > 0; shift -= Min(shift, 63))
	{
		int			step = Min(shift, 63);

		for (int i = 3; i > 0; i--)
			limb[i] = limb[i] << step | limb[i - 1] >> (64 - step);
		limb[0] <<= step;
	}
	if (shift <= -192)
		return up ? 1 : 0;
	for (; shift < 0; shift += Min(-shift, 63))
	{
		int			step = Min(-shift, 63);

		inexact |= (limb[0] & (((uint64) 1 << step) - 1)) != 0;
		for (int i = 0; i < 3; i++)
			limb[i] = limb[i] >> step | limb[i + 1] << (64 - step);
		limb[3] >>= step;
	}

	for (int i = 3; i >= 0; i--)
	{
		rest = rest << 64 | limb[i];
		quotient = quotient << 64 | (uint64) (rest / divisor);
		rest %= divisor;
	}
	inexact |= rest != 0;
	return quotient + (up && inexact ? 1 : 0);
}

/* Units of 1/scale of a token that a capacity with refill 0 is counted in. */
static double
quota_scale(double capacity)
{
	double		scale = 1.0;
	int			exponent;

	/* powers of ten are exact doubles up to 1e22 */
	if (capacity >= 1e-4 && capacity <= 1e17)
	{
		while (capacity * scale < 1e17)
			scale *= 10.0;
		return scale;
	}
	(void) frexp(capacity, &exponent);
	return ldexp(1.0, Min(59 - exponent, 1000));
}

static Owed
quota_units(double tokens, double scale)
{
	int			exponent;
	uint64		factor = (uint64) ldexp(frexp(scale, &exponent), 53);
	uint128		fine = muldiv(factor, tokens, 1.0,
							  exponent - 53 + FRACTION_BITS, true);
	Owed		units = (Owed) ((fine + (fine >> (NOISE_BITS + 1))) >> FRACTION_BITS);
	Owed		beyond = units % 1000;

	/* above 2^53 units that was several units of noise */
	return beyond <= units >> NOISE_BITS ? units - beyond : units;
}

/* What a span is a whole number of, if the doubles cannot tell: microseconds. */
static Owed
noise_grain(Owed noise)
{
	Owed		grain = 1000;

	while (grain / 16 < noise)
		grain *= 10;
	return grain;
}

/* Does a bucket of these parameters refill in any span that matters? */
bool
bucket_timed(double capacity, double refill)
{
	if (capacity <= refill * 1e15)
		return refill > 0;		/* 3e7 years: no need to look closely */
	return refill > 0 &&
		muldiv(NS_PER_SECOND, capacity, refill, 0, false) < (uint128) WINDOW_MAX;
}

/*
 * Work out what a call means.  capacity, refill and cost are finite and >= 0; the
 * caller has checked them.
 */
void
bucket_rule(BucketRule *rule, double capacity, double refill, double cost)
{
	Owed		whole;			/* what an empty bucket owes */
	Owed		noise;			/* that the doubles may be off by */

	memset(rule, 0, sizeof(*rule));
	rule->capacity = capacity;
	rule->refill = refill;
	rule->cost = cost;
	if (capacity == 0)
	{
		rule->capacity = 0;		/* not -0 */
		rule->scale = 1;
		rule->room = -1;
		return;
	}
	rule->timed = bucket_timed(capacity, refill);

	if (!rule->timed)
	{
		rule->scale = quota_scale(capacity);
		whole = quota_units(capacity, rule->scale);
		noise = whole >> (NOISE_BITS - 1);
		rule->window = whole + noise;
		rule->take = Max(quota_units(cost, rule->scale), 1);
		rule->room = rule->window - rule->take;
	}
	else
	{
		Owed		part;
		Owed		beyond;

		whole = (Owed) muldiv(NS_PER_SECOND, capacity, refill, FRACTION_BITS, true);
		part = (Owed) muldiv(NS_PER_SECOND, cost, refill, FRACTION_BITS, false);
		noise = whole >> NOISE_BITS;
		/* as much as rounding may leave: a row that owes more is corrupt */
		rule->window = ((whole + noise) >> FRACTION_BITS) + (noise > FRACTION_MASK);
		rule->take = part >> FRACTION_BITS;
		rule->room = (whole - part + Min(noise, FRACTION_MASK)) >> FRACTION_BITS;

		/* noise of a nanosecond and more */
		noise >>= FRACTION_BITS;
		beyond = rule->take % noise_grain(rule->take >> NOISE_BITS);
		if (beyond <= rule->take >> NOISE_BITS)
			rule->take -= beyond;
		beyond = noise_grain(noise) - rule->room % noise_grain(noise);
		if (beyond <= noise)
			rule->room += beyond;
	}

	if (cost > capacity)
		rule->room = -1;		/* exact, whatever the rounding above said */
	else if (rule->room < 0)
		rule->room = 0;
	if (cost == 0)
	{
		/* always allowed, also for a bucket in debt */
		rule->take = 0;
		rule->room = BUCKET_OWED_MAX;
	}
}

/* The sum of two costs; what is the capacity but for rounding is the capacity. */
double
bucket_costs(double capacity, double cost, double other)
{
	double		sum = cost + other;

	if (sum > capacity && sum <= capacity * (1 + 0x1p-50) &&
		cost <= capacity && other <= capacity)
		return capacity;
	return sum;
}

/* Let the call take its cost also from a bucket that does not have it. */
void
bucket_rule_for_debt(BucketRule *rule)
{
	rule->take = Min(rule->take, BUCKET_DEBT_MAX);
	rule->room = rule->window + BUCKET_DEBT_MAX - rule->take;
}

/* Let the call take what the bucket will have after so many nanoseconds. */
void
bucket_rule_for_wait(BucketRule *rule, Owed timeout)
{
	if (rule->timed && rule->take > 0 && rule->room >= 0)
		rule->room += Max(Min(timeout, BUCKET_DEBT_MAX - rule->take), 0);
}

/*
 * What a bucket owes once its parameters change to those of the rule.  The
 * tokens in it carry over and are cut to the new capacity; a bucket that is
 * full is the same as none, and stays full.  One that is in debt by what is
 * noise at the old capacity is empty: at a small new one that could be much.
 */
Owed
bucket_carry(double capacity, double refill, Owed owed, const BucketRule *rule)
{
	bool		timed = bucket_timed(capacity, refill);
	Owed		result;

	if (owed <= 0)
		return 0;

	if (rule->timed && timed)
	{
		/* (owed * refill - capacity + rule->capacity) / rule->refill */
		Owed		whole = (Owed) muldiv(NS_PER_SECOND, capacity, rule->refill,
										  FRACTION_BITS, true);

		result = (Owed) muldiv((uint128) owed, refill, rule->refill,
							   FRACTION_BITS, false);
		if (result > whole && result - whole <= whole >> (NOISE_BITS - 2))
			result = whole;
		if (capacity != rule->capacity)
			result += (Owed) muldiv(NS_PER_SECOND, rule->capacity, rule->refill,
									FRACTION_BITS, false) - whole;
		result = result < 0 ? 0 : result >> FRACTION_BITS;
	}
	else
	{
		Owed		held;		/* what is in it, in units of 2^-shift tokens */
		int			shift;

		/* a capacity of 2^100 units keeps every bit, and owed from saturating */
		(void) frexp(capacity, &shift);
		shift = 100 - shift;
		held = (Owed) muldiv(1, capacity, 1.0, shift, true);
		if (timed)
			held -= (Owed) muldiv((uint128) owed, refill, NS_PER_SECOND, shift, false);
		else
			held -= (Owed) muldiv((uint128) owed, 1.0, quota_scale(capacity), shift, false);

		if (held < 0 && held > -((Owed) 1 << (102 - NOISE_BITS)))
			held = 0;

		/* what saturates is more than the new capacity, and so full */
		if (rule->timed)
		{
			Owed		span = (Owed)
				muldiv((uint128) (held < 0 ? -held : held), NS_PER_SECOND,
					   rule->refill, FRACTION_BITS - shift, held > 0);

			result = (Owed) muldiv(NS_PER_SECOND, rule->capacity, rule->refill,
								   FRACTION_BITS, false);
			result = (result - (held < 0 ? -span : span)) >> FRACTION_BITS;
		}
		else
		{
			Owed		units = (Owed)
				muldiv((uint128) (held < 0 ? -held : held), rule->scale, 1.0,
					   -shift, held > 0);

			result = quota_units(rule->capacity, rule->scale);
			result -= held < 0 ? -units : units;
		}
	}
	return result < 0 ? 0 : Min(result, rule->window + BUCKET_DEBT_MAX);
}

/* The tokens that a bucket lacks to be full. */
double
bucket_lacks(const BucketRule *rule, Owed owed)
{
	if (rule->timed)
		return (double) owed / NS_PER_SECOND * rule->refill;
	return (double) owed / rule->scale;
}

/* The tokens in a bucket; negative for one in debt. */
double
bucket_tokens(const BucketRule *rule, Owed owed)
{
	double		lacking = bucket_lacks(rule, owed);

	/* a bucket that is empty but for noise is not in debt */
	if (lacking > rule->capacity && lacking <= rule->capacity * (1 + 0x1p-50))
		return 0;
	return rule->capacity - lacking;
}
