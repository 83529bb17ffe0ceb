/*
 * core/bucket.c
 *		The arithmetic of one token bucket.
 *
 * It is pure: it uses no shared state and no clock, and raises no errors.  The memory
 * store, the table store and rl_simulate() all decide through it.
 *
 * A bucket is kept as what it owes, not as what it holds: the nanoseconds of refill
 * that it lacks to be full (the generic cell rate algorithm).  A call is allowed if
 * and only if owed <= room, where room = (capacity - cost) / refill, and then adds
 * take = cost / refill.  Both are quotients of two doubles.  Doubles are dyadic
 * rationals, so both quotients are computed exactly, in integers, and rounded once.
 * Take is rounded down to a whole nanosecond.  Room is rounded down as well, which
 * loses nothing, because it is compared with a whole number of nanoseconds.  So every
 * error favours the caller, by less than one nanosecond of refill a call, and a call
 * that exact arithmetic allows is never denied.
 *
 * This is exact for the doubles.  But the caller wrote 0.1 or 1.0 / 3, and the
 * doubles for these are off by up to half a unit in their last place.  So a quotient
 * may be off by 2^-52 of itself ("noise"), and room by 2^-52 of the time in which the
 * whole capacity refills.  Below 2^52 ns (52 days) that is less than a nanosecond.
 * Rounding take down absorbs it.  It is added to room before room is rounded down;
 * otherwise a call might be denied at the very nanosecond at which it is due.  Above
 * 2^52 ns, a call could fall due several nanoseconds late, such as 3 ns at one token
 * a year.  There a quotient that the doubles cannot tell from a whole microsecond is
 * taken to be that (or from a whole number of a larger unit, if there is more noise).
 *
 * With refill 0 nothing ever comes back, and time plays no part.  Owed is then the
 * tokens taken, in units of 1/scale.  Scale is a power of ten with which the capacity
 * has between 10^17 and 10^18 units (for a capacity below 10^-4 or above 10^17 it is
 * a power of two).  Costs are rounded down to units, but a cost that the doubles
 * cannot tell from a whole number of units is that number.  So decimal fractions are
 * exact, and ten calls of cost 0.1 fit in a capacity of 1.  All costs together never
 * exceed the capacity, so their noise is bounded as well, and room leaves space for
 * it: three calls of 2/3 fit in 2.  However small it is, a cost above 0 takes at
 * least one unit.  Refills so slow that filling the bucket takes 2^96 ns (2.5e12
 * years) or longer are treated in the same way.
 *
 * Owed has 128 bits because a capacity of 1e12 at one token a year takes 2^95 ns.
 *
 * A bucket in a period owes what has been used, and forgets it when the period ends.
 * The unit is the same for all of them, a billionth of a token.  So what has been
 * used is independent of the allowance, which every call may change: a call is
 * allowed if what has been used and its cost are within the allowance that it names.
 * A number that the doubles cannot tell from a decimal fraction with nine digits is
 * that fraction, and other costs are rounded down, other allowances up.
 *
 * The end of the period stands in the place of the refill.  As the bucket's name has
 * the name of the period, two states with the same end are of the same period, and of
 * two different ends the later one is right.  A call in a later period than the
 * bucket's finds nothing used.  A call in an earlier one counts in the bucket's
 * period: it read the clock earlier, or the clock has been set back, and what has
 * been used in the earlier period is not known any more.  So no allowance is handed
 * out twice (bucket_join_period()).  There is one exception.  If the bucket's period
 * begins more than an hour and a period from now, then the clock was wrong when it
 * began, and waiting for its end could take years.  Then what has been used counts in
 * the present period.
 */
#include "postgres.h"

#include <math.h>

#include "core/bucket.h"

/* Quotients that are subtracted from each other are computed to so many more bits. */
#define FRACTION_BITS	24
#define FRACTION_MASK	(((Owed) 1 << FRACTION_BITS) - 1)

#define NS_PER_SECOND	1000000000

/* Where muldiv() saturates.  Results that must be exact stay below 2^122. */
#define MULDIV_MAX		((uint128) 1 << 126)

/* A bucket that takes this long to fill is treated as one that never refills. */
#define WINDOW_MAX		((Owed) 1 << 96)

/* Doubles are exact to this many bits; what is beyond them in a quotient is noise. */
#define NOISE_BITS		52

/*
 * Shift a number of four limbs, least significant first, to the left, or to the right
 * if shift is negative.  Returns whether the latter dropped bits that were not 0.
 */
static bool
shift_limbs(uint64 *limb, int shift)
{
	bool		inexact = false;

	for (; shift > 0; shift -= Min(shift, 63))
	{
		int			step = Min(shift, 63);

		for (int i = 3; i > 0; i--)
			limb[i] = limb[i] << step | limb[i - 1] >> (64 - step);
		limb[0] <<= step;
	}
	for (; shift < 0; shift += Min(-shift, 63))
	{
		int			step = Min(-shift, 63);

		inexact |= (limb[0] & (((uint64) 1 << step) - 1)) != 0;
		for (int i = 0; i < 3; i++)
			limb[i] = limb[i] >> step | limb[i + 1] << (64 - step);
		limb[3] >>= step;
	}
	return inexact;
}

/*
 * Returns a * n / d * 2^shift, rounded up if "up" is true and down otherwise, but at
 * most MULDIV_MAX.  n >= 0 and d > 0 must be finite.
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
	bool		inexact;
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
	/* the divisor has 53 bits, so the quotient has bits + shift - 52 or one less */
	if (bits + shift - 52 > 126)
		return MULDIV_MAX;

	/* the product had at most 181 bits: all of them are gone */
	if (shift <= -192)
		return up ? 1 : 0;
	/* a left shift ends below 179 bits */
	inexact = shift_limbs(limb, shift);

	for (int i = 3; i >= 0; i--)
	{
		rest = rest << 64 | limb[i];
		quotient = quotient << 64 | (uint64) (rest / divisor);
		rest %= divisor;
	}
	inexact |= rest != 0;
	return quotient + (up && inexact ? 1 : 0);
}

/*
 * The scale with which a bucket of this capacity counts tokens if it never refills.
 */
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

/* So many tokens in units of 1/scale, rounded down except for noise. */
static Owed
quota_units(double tokens, double scale)
{
	int			exponent;
	uint64		factor = (uint64) ldexp(frexp(scale, &exponent), 53);
	uint128		fine = muldiv(factor, tokens, 1.0,
							  exponent - 53 + FRACTION_BITS, true);
	Owed		units = (Owed) ((fine + (fine >> (NOISE_BITS + 1))) >> FRACTION_BITS);
	Owed		beyond = units % 1000;

	/* above 2^53 units the noise is several units, more than was added */
	return beyond <= units >> NOISE_BITS ? units - beyond : units;
}

/*
 * The unit to which a span with so much noise is rounded: a microsecond, or larger.
 */
static Owed
noise_grain(Owed noise)
{
	Owed		grain = 1000;

	while (grain / 16 < noise)
		grain *= 10;
	return grain;
}

/*
 * So many tokens in units of 1/PERIOD_SCALE.  What is beyond nine digits is rounded
 * up if "up" is true, and down otherwise.
 */
static Owed
period_units(double tokens, bool up)
{
	Owed		unit = (Owed) PERIOD_SCALE;
	double		decimal = tokens;

	if (tokens >= 0x1p60)
		return BUCKET_DEBT_MAX;
	for (; unit > 1; unit /= 10, decimal *= 10)
		if (fabs(decimal - rint(decimal)) <= decimal * 0x1p-51)
			return (Owed) rint(decimal) * unit;
	return (Owed) (up ? ceil(decimal) : floor(decimal));
}

/*
 * Compute a rule, as bucket_rule() does, of a period with this in place of a refill.
 */
static void
period_rule(BucketRule *rule, double capacity, double refill, double cost)
{
	rule->capacity = capacity;
	rule->refill = refill;
	rule->cost = cost;
	rule->scale = PERIOD_SCALE;
	rule->window = isfinite(capacity) ? period_units(capacity, true) : BUCKET_DEBT_MAX;
	rule->take = period_units(fabs(cost), false);
	if (cost != 0)
		rule->take = Max(rule->take, 1);
	rule->room = cost > capacity ? -1 : Max(rule->window - rule->take, 0);
	if (cost <= 0)
	{
		rule->take = -rule->take;
		rule->room = capacity == 0 ? -1 : BUCKET_OWED_MAX;
	}
}

/*
 * Compute what follows from the arguments of a call in a period, which ends at what
 * "refill" says and lasts so many microseconds.  The allowance may be infinite.  A
 * cost below 0 counts down; the allowance is then NaN, which no bucket has, so that
 * the word is locked for such a call.
 */
void
bucket_rule_in_period(BucketRule *rule, double allowance, double refill, double cost,
					  double length)
{
	memset(rule, 0, sizeof(*rule));
	/* -0 becomes 0 */
	period_rule(rule, allowance + 0.0, refill, cost);
	rule->length = length;
}

/*
 * The bucket has this capacity, and is in the period that this refill says.  Change
 * the rule so that it can become the bucket's.
 */
void
bucket_join_period(BucketRule *rule, double capacity, double refill)
{
	if (!bucket_in_period(refill))
		return;
	if (refill < rule->refill &&
		(rule->length == 0 ||
		 rule->refill - refill <= 2 * rule->length + PERIOD_AHEAD))
		rule->refill = refill;
	if (!isfinite(rule->capacity))
		rule->capacity = capacity;
}

/* Does a bucket of these parameters refill in any span that matters? */
bool
bucket_timed(double capacity, double refill)
{
	if (capacity <= refill * 1e15)
		return refill > 0;		/* fills within 3e7 years, so it is not close */
	return refill > 0 &&
		muldiv(NS_PER_SECOND, capacity, refill, 0, false) < (uint128) WINDOW_MAX;
}

/*
 * Compute what follows from the arguments of a call.  The caller has checked that
 * capacity, refill and cost are finite and >= 0, or that refill is a period's end.
 */
void
bucket_rule(BucketRule *rule, double capacity, double refill, double cost)
{
	Owed		whole;			/* what an empty bucket owes */
	Owed		noise;			/* how far the doubles may be off */

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
	if (bucket_in_period(refill))
	{
		period_rule(rule, capacity, refill, cost);
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
		/* the most that rounding may leave; a row that owes more is corrupt */
		rule->window = ((whole + noise) >> FRACTION_BITS) + (noise > FRACTION_MASK);
		rule->take = part >> FRACTION_BITS;
		rule->room = (whole - part + Min(noise, FRACTION_MASK)) >> FRACTION_BITS;

		/* noise of a nanosecond or more: round to what the doubles can tell */
		noise >>= FRACTION_BITS;
		beyond = rule->take % noise_grain(rule->take >> NOISE_BITS);
		if (beyond <= rule->take >> NOISE_BITS)
			rule->take -= beyond;
		beyond = noise_grain(noise) - rule->room % noise_grain(noise);
		if (beyond <= noise)
			rule->room += beyond;
	}

	if (cost > capacity)
		rule->room = -1;		/* exactly, whatever the rounding above gave */
	else if (rule->room < 0)
		rule->room = 0;
	if (cost == 0)
	{
		/* always allowed, even from a bucket in debt */
		rule->take = 0;
		rule->room = BUCKET_OWED_MAX;
	}
}

/*
 * The sum of two costs.  A sum that exceeds the capacity by rounding only is cut to
 * it.
 */
double
bucket_costs(double capacity, double cost, double other)
{
	double		sum = cost + other;

	if (sum > capacity && sum <= capacity * (1 + 0x1p-50) &&
		cost <= capacity && other <= capacity)
		return capacity;
	return sum;
}

/* Change the rule so that the call takes its cost even if the bucket lacks it. */
void
bucket_rule_for_debt(BucketRule *rule)
{
	rule->take = Min(rule->take, BUCKET_DEBT_MAX);
	rule->room = rule->window + BUCKET_DEBT_MAX - rule->take;
}

/*
 * Change the rule so that the call takes what the bucket will have after "timeout"
 * nanoseconds.
 */
void
bucket_rule_for_wait(BucketRule *rule, Owed timeout)
{
	if (rule->timed && rule->take > 0 && rule->room >= 0)
		rule->room += Max(Min(timeout, BUCKET_DEBT_MAX - rule->take), 0);
}

/*
 * What a bucket owes after a reservation is settled: the rule's cost was taken, and
 * so many tokens are used.  The result is what the bucket would owe if the call had
 * taken the tokens used in the first place, as if there were no rounding: the two
 * costs are rounded each by itself, as they are when they are taken.  At most what
 * was taken is given back, and a bucket does not become more than full.  What was
 * used beyond it makes a debt, as far as a debt may go.
 */
Owed
bucket_settle(const BucketRule *reserved, double used, Owed owed)
{
	BucketRule	rule;
	Owed		back;

	bucket_rule(&rule, reserved->capacity, reserved->refill, used);
	back = reserved->take - rule.take;
	if (back >= 0)
		return owed > back ? owed - back : 0;
	return Min(owed - back, Max(owed, reserved->window + BUCKET_DEBT_MAX));
}

/*
 * bucket_carry(), unless the bucket refills both before and after the change, and the
 * old capacity does not take too long at the new refill: converts what it owes by way
 * of the tokens that it holds.
 */
static Owed
carry_tokens(double capacity, double refill, bool timed, Owed owed,
			 const BucketRule *rule)
{
	Owed		held;			/* tokens in the bucket, in units of 2^-shift */
	Owed		result;
	int			shift;

	/* 2^100 units of capacity keep every bit; 2^26 times as much debt fits, too */
	(void) frexp(capacity, &shift);
	shift = 100 - shift;
	held = (Owed) muldiv(1, capacity, 1.0, shift, true);
	if (timed)
		held -= (Owed) muldiv((uint128) owed, refill, NS_PER_SECOND, shift, false);
	else
		held -= (Owed) muldiv((uint128) owed, 1.0, quota_scale(capacity), shift, false);

	if (held < 0 && held > -((Owed) 1 << (102 - NOISE_BITS)))
		held = 0;

	/*
	 * A saturated result below is more than the new capacity, so the bucket is full,
	 * or more debt than bucket_carry() leaves.
	 */
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
	return result;
}

/*
 * What a bucket owes after its parameters have changed to those of the rule.  Its
 * tokens carry over and are cut to the new capacity.  A full bucket is the same as
 * one that does not exist, so it stays full.  A bucket whose debt is only noise at
 * the old capacity counts as empty, because at a small new capacity that noise could
 * be much.
 */
Owed
bucket_carry(double capacity, double refill, Owed owed, const BucketRule *rule)
{
	bool		timed = bucket_timed(capacity, refill);
	Owed		whole = (Owed) MULDIV_MAX;	/* the old capacity at the new refill */
	Owed		result;

	if (owed <= 0)
		return 0;

	/* a later period begins with nothing used; an earlier one is not gone back to */
	if (bucket_in_period(refill) || bucket_in_period(rule->refill))
		return bucket_in_period(refill) && refill <= rule->refill ? owed : 0;

	if (rule->timed && timed)
		whole = (Owed) muldiv(NS_PER_SECOND, capacity, rule->refill, FRACTION_BITS, true);
	/* from a large capacity to a very slow refill it may be too long to subtract */
	if (whole < (Owed) MULDIV_MAX)
	{
		/* (owed * refill - capacity + rule->capacity) / rule->refill */
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
		result = carry_tokens(capacity, refill, timed, owed, rule);
	return result < 0 ? 0 : Min(result, rule->window + BUCKET_DEBT_MAX);
}

/* How many tokens a bucket lacks to be full. */
double
bucket_lacks(const BucketRule *rule, Owed owed)
{
	if (rule->timed)
		return (double) owed / NS_PER_SECOND * rule->refill;
	return (double) owed / rule->scale;
}

/* How many tokens a bucket has; negative if it is in debt. */
double
bucket_tokens(const BucketRule *rule, Owed owed)
{
	double		lacking = bucket_lacks(rule, owed);

	if (isinf(rule->capacity))
		return rule->capacity;
	/* a bucket that is empty except for noise is not in debt */
	if (lacking > rule->capacity && lacking <= rule->capacity * (1 + 0x1p-50))
		return 0;
	return rule->capacity - lacking;
}
