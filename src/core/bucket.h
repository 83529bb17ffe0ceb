/*
 * core/bucket.h
 *		The arithmetic of one token bucket: see core/bucket.c.
 */
#ifndef RATELIMIT_BUCKET_H
#define RATELIMIT_BUCKET_H

/*
 * What a bucket lacks to be full.  If the bucket refills, it is the time that
 * refilling takes, in nanoseconds; with refill 0 it is the tokens taken, in units of
 * 1/scale of a token.  A full bucket owes 0.
 */
typedef int128 Owed;

/* More than a bucket of any rule can owe; stores refuse more. */
#define BUCKET_OWED_MAX		((Owed) 1 << 98)

/* SQL has what a bucket owes as two numbers: a multiple of this, and the rest. */
#define OWED_UNIT			INT64CONST(1000000000000000000)

/* A bucket in debt owes at most this much more than an empty one. */
#define BUCKET_DEBT_MAX		((Owed) 1 << 97)

/*
 * Periods.  The tokens of a bucket may come back all at once, when a period is over.
 * Instead of a refill such a bucket has minus the time at which its period ends, in
 * microseconds since 1970.  It owes what has been used in that period, in units of
 * 1/PERIOD_SCALE.  Its capacity is the allowance of the last call that named one, or
 * else infinity.
 */
#define PERIOD_SCALE		1e9

/* The latest end; what ends later is said to end then.  Doubles tell microseconds. */
#define PERIOD_END_MAX		0x1p53

/*
 * A slot or a row is free so many microseconds after the end of its bucket's period.
 * Until then a clock that is set back finds the bucket as it was.
 */
#define PERIOD_GRACE		2000000

/*
 * If a bucket's period begins later than so many microseconds from now, the clock was
 * wrong when it began.
 */
#define PERIOD_AHEAD		3600e6

/* The arguments of a call, and what can be computed from them alone. */
typedef struct BucketRule
{
	double		capacity;		/* tokens, >= 0; 0: no bucket, never allowed */
	double		refill;			/* tokens per second, >= 0; or a period's end, < 0 */
	double		cost;			/* tokens, >= 0; to count down, < 0 */
	bool		timed;			/* owed is time, as it refills; else tokens taken */
	Owed		take;			/* what an allowed call adds to owed */
	Owed		room;			/* the most that the bucket may owe before an
								 * allowed call; -1: never allowed */
	/* every call needs what comes before this; it fills a cache line */
	Owed		window;			/* the most that an empty bucket owes; with capacity
								 * 0, ns until the rule ends, or 0 */
	double		scale;			/* units of owed per token, if not timed */
	double		length;			/* of the period, in microseconds; 0: not known */
} BucketRule;

extern void bucket_rule(BucketRule *rule, double capacity, double refill,
						double cost);
extern void bucket_rule_in_period(BucketRule *rule, double allowance, double refill,
								  double cost, double length);
extern void bucket_join_period(BucketRule *rule, double capacity, double refill);
extern double bucket_costs(double capacity, double cost, double other);
extern void bucket_rule_for_debt(BucketRule *rule);
extern void bucket_rule_for_wait(BucketRule *rule, Owed timeout);
extern bool bucket_timed(double capacity, double refill);
extern Owed bucket_settle(const BucketRule *reserved, double used, Owed owed);
extern Owed bucket_carry(double capacity, double refill, Owed owed,
						 const BucketRule *rule);
extern double bucket_tokens(const BucketRule *rule, Owed owed);
extern double bucket_lacks(const BucketRule *rule, Owed owed);

/*
 * Does the rule allow nobody anything?  A capacity of 0 makes no bucket: such a call is
 * denied before a store is asked, and leaves a bucket that there is as it is.
 */
static inline bool
bucket_rule_is_closed(const BucketRule *rule)
{
	return rule->capacity == 0;
}

/* Is a bucket, or a rule, with this refill a period's? */
static inline bool
bucket_in_period(double refill)
{
	return refill < 0;
}

/* When the period ends, in microseconds since 1970. */
static inline int64
period_end_of(double refill)
{
	return (int64) -refill;
}

/* What is still owed after "elapsed" nanoseconds (>= 0). */
static inline Owed
bucket_refilled(bool timed, Owed owed, Owed elapsed)
{
	if (!timed)
		return owed;
	return owed > elapsed ? owed - elapsed : 0;
}

/*
 * What is owed after a call's cost is put back, or as much of it as there is room
 * for.
 */
static inline Owed
bucket_give(const BucketRule *rule, Owed owed)
{
	return owed > rule->take ? owed - rule->take : 0;
}

/* Decide one call.  True: its tokens have been taken.  False: nothing has changed. */
static inline bool
bucket_take(const BucketRule *rule, Owed *owed)
{
	if (*owed > rule->room)
		return false;
	*owed += rule->take;
	return true;
}

/* The same for a rule that may count down, though not below 0. */
static inline bool
bucket_take_or_give(const BucketRule *rule, Owed *owed)
{
	bool		allowed = bucket_take(rule, owed);

	if (*owed < 0)
		*owed = 0;
	return allowed;
}

#endif							/* RATELIMIT_BUCKET_H */
