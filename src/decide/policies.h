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

extern void policies_init(void);
/* What a policy says of a tier, beside its rule. */
typedef struct TierKind
{
	bool		shadow;
	bool		enabled;
} TierKind;

extern bool decide_by_policy(const text *policy_name, const text *key, double cost,
							 BucketCall *calls, TierName *names, int *n_calls,
							 bool *shadowed);
extern int	look_by_policy(const text *policy_name, const text *key, double cost,
						   BucketCall *calls, TierName *names, TierKind *kinds);

#endif							/* RATELIMIT_DECIDE_POLICIES_H */
