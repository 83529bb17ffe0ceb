/*
 * decide/errors.h
 *		Calls that cannot be decided, and ratelimit.on_error: see decide/errors.c.
 */
#ifndef RATELIMIT_DECIDE_ERRORS_H
#define RATELIMIT_DECIDE_ERRORS_H

#include "core/call.h"

/* A function that decides a call, or looks at what a call would find. */
typedef void (*DecideWork) (const BucketId *, const BucketRule *, Decision *);

extern bool errors_are_decided(void);
extern void decide_by_setting(Decision *decision);
extern void warn_undecided(const BucketId *id, const Decision *decision, int sqlerrcode,
						   const char *why);
extern void fail_without_rows(const BucketId *id, Decision *decision);
extern void decide_guarded(DecideWork work, const BucketId *id, const BucketRule *rule,
						   Decision *decision);

#endif							/* RATELIMIT_DECIDE_ERRORS_H */
