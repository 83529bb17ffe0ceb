/*
 * decide/policies.h
 *		Calls whose rules are looked up by a policy's name: see decide/policies.c.
 */
#ifndef RATELIMIT_DECIDE_POLICIES_H
#define RATELIMIT_DECIDE_POLICIES_H

#include "core/call.h"

/* A copy of the name of a tier's limiter: the cache may be emptied during a call. */
typedef struct TierName
{
	char		limiter[MAX_BUCKET_LIMITER_LEN];
} TierName;

/* How many slots a key has by a policy. */
typedef struct PolicySlots
{
	BucketId	id;				/* its limiter is in "name" */
	TierName	name;
	int32		slots;
	bool		shadow;
} PolicySlots;

typedef enum PolicyLimits
{
	POLICY_ALLOWS,				/* nothing is limited */
	POLICY_LIMITS,
	POLICY_DENIES				/* by ratelimit.on_error */
} PolicyLimits;

/* What a policy says of a tier, beside its rule. */
typedef struct TierKind
{
	bool		shadow;
	bool		enabled;
	int64		exception;		/* the row of rate_limit_exceptions that applies, or 0 */
} TierKind;

/* One of several policies that a call is decided by. */
typedef struct PolicyCall
{
	const text *policy;
	const text *key;
	double		cost;
} PolicyCall;

/* What one of several policies answers. */
typedef struct PolicyAnswer
{
	BucketCall *calls;			/* the decisions to answer with; n is 0 if a setting
								 * has decided, and not the policy */
	int			n;
	bool		allowed;		/* by that setting */
	bool		shadowed;		/* allowed only because of shadow */
	BucketCall *shadows;		/* the decisions of tiers in shadow */
	int			n_shadows;
} PolicyAnswer;

extern bool decide_by_policy(const text *policy_name, const text *key, double cost,
							 BucketCall *calls, TierName *names, int *n_calls,
							 bool *shadowed);
extern int	reserve_by_policy(const text *policy_name, const text *key, double tokens,
							  int max, BucketCall *calls, TierName *names,
							  bool *allowed);
extern void decide_by_policies(const PolicyCall *policies, int n, BucketCall *calls,
							   TierName *names, PolicyAnswer *answers);
extern PolicyLimits slots_by_policy(const text *policy_name, const text *key,
									PolicySlots *slots);
extern int	look_by_policy(const text *policy_name, const text *key, double cost,
						   BucketCall *calls, TierName *names, TierKind *kinds);

#endif							/* RATELIMIT_DECIDE_POLICIES_H */
