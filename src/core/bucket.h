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

/* A bucket in debt owes at most this much more than an empty one. */
#define BUCKET_DEBT_MAX		((Owed) 1 << 97)

/* The arguments of a call, and what can be computed from them alone. */
typedef struct BucketRule
{
	double		capacity;		/* tokens, >= 0; 0: no bucket, never allowed */
	double		refill;			/* tokens per second, >= 0 */
	double		cost;			/* tokens, >= 0 */
	bool		timed;			/* owed is time, as it refills; else tokens taken */
	Owed		take;			/* what an allowed call adds to owed */
	Owed		room;			/* the most that the bucket may owe before an
								 * allowed call; -1: never allowed */
	/* every call needs what comes before this; it fills a cache line */
	Owed		window;			/* the most that an empty bucket owes; with capacity
								 * 0, ns until the rule ends, or 0 */
	double		scale;			/* units of owed per token, if not timed */
} BucketRule;

extern void bucket_rule(BucketRule *rule, double capacity, double refill,
						double cost);
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

#endif							/* RATELIMIT_BUCKET_H */
