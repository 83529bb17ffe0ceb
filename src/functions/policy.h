/*
 * functions/policy.h
 *		Rules looked up by name: see functions/policy.c.
 */
#ifndef RATELIMIT_POLICY_H
#define RATELIMIT_POLICY_H

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

extern void policy_init(void);

#pragma GCC visibility pop

#endif							/* RATELIMIT_POLICY_H */
