/*
 * policy.h
 *		Rules looked up by name: see policy.c.
 */
#ifndef RATELIMIT_POLICY_H
#define RATELIMIT_POLICY_H

#include "ratelimit.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

/* The names of a policy's buckets: they outlast what is kept of the policy. */
typedef struct PolicyNames
{
	char		limiter[MAX_LIMITER_LEN];
} PolicyNames;

extern void policy_init(void);
extern bool policy_decide(const text *policy_name, const text *key, double cost,
						  BucketCall *calls, PolicyNames *names, int *n_calls);
extern int	policy_binding(const BucketCall *calls, int n);

#pragma GCC visibility pop

#endif							/* RATELIMIT_POLICY_H */
