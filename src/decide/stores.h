/*
 * decide/stores.h
 *		Buckets in whichever store they are: see decide/stores.c.
 */
#ifndef RATELIMIT_DECIDE_STORES_H
#define RATELIMIT_DECIDE_STORES_H

#include "core/call.h"
#include "memory/place.h"

extern void settle_place(const BucketId *id);
extern bool table_may_hold(const BucketId *id);
extern PlaceMode place_mode(void);
extern bool rows_can_be_made(void);
extern void set_bucket(const BucketId *id, const BucketRule *rule, Owed owed);
extern void give_tokens(const BucketId *id, double tokens, bool wait, double *given);
extern bool reset_bucket(const BucketId *id);
extern int64 reset_all_buckets(const char *limiter, int len);

#endif							/* RATELIMIT_DECIDE_STORES_H */
