/*
 * decide/one.h
 *		Decisions on one bucket, the long way: see decide/one.c.
 */
#ifndef RATELIMIT_DECIDE_ONE_H
#define RATELIMIT_DECIDE_ONE_H

#include "core/call.h"

extern void decide_slowly(const BucketId *id, const BucketRule *rule,
						  Decision *decision) pg_attribute_cold;
extern void take_tokens(const BucketId *id, const BucketRule *rule,
						Decision *decision);
extern const BucketRule *rule_by_now(const BucketId *id, const BucketRule *rule,
									 BucketRule *later);
extern double taken_in_period(const BucketRule *rule, const Decision *decision);
extern void note_for_refund(const BucketId *id, const BucketRule *rule,
							const Decision *decision);
extern void decide_counted(const BucketId *id, const BucketRule *rule,
						   Decision *decision, bool shadow);
extern void decide_look(const BucketId *id, const BucketRule *rule, Decision *decision);
extern void look_at_bucket(const BucketId *id, const BucketRule *rule,
						   Decision *decision);

#endif							/* RATELIMIT_DECIDE_ONE_H */
