/*
 * decide/several.h
 *		Decisions on several buckets, all or nothing: see decide/several.c.
 */
#ifndef RATELIMIT_DECIDE_SEVERAL_H
#define RATELIMIT_DECIDE_SEVERAL_H

#include "core/call.h"

extern void decide_all_uncounted(BucketCall *calls, int n);
extern void look_at_call(BucketCall *call);
extern bool decide_all(BucketCall *calls, int n);
extern bool decide_all_in_order(BucketCall *calls, int n);

#endif							/* RATELIMIT_DECIDE_SEVERAL_H */
