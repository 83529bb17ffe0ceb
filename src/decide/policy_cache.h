/*
 * decide/policy_cache.h
 *		Policies as a session reads and keeps them: see decide/policy_cache.c.
 */
#ifndef RATELIMIT_DECIDE_POLICY_CACHE_H
#define RATELIMIT_DECIDE_POLICY_CACHE_H

#include "core/call.h"
#include "decide/exceptions.h"

typedef struct Tier
{
	char		limiter[MAX_LIMITER_LEN];
	int			limiter_len;
	double		capacity;
	double		refill;			/* if it has no period */
	text	   *period;			/* NULL: it refills */
	Owed		absent;			/* what a bucket owes when it begins */
	bool		shadow;
	bool		enabled;
} Tier;

typedef struct Policy
{
	char		name[MAX_LIMITER_LEN + 1];	/* the key of the hash table */
	int			n_tiers;
	Tier	   *tiers;			/* those of tokens */
	Tier	   *slots;			/* the one whose capacity is how many at a time, or
								 * NULL */
} Policy;

extern void policy_cache_init(void);
extern const Policy *find_policy(const text *name);
extern const Policy *find_policy_for_key(const text *name, const text *key,
										 Exceptions **exceptions);
extern const Policy *find_policy_of_tokens(const text *name, const text *key,
										   Exceptions **exceptions);

#endif							/* RATELIMIT_DECIDE_POLICY_CACHE_H */
