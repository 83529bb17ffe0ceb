/*
 * decide/short_way.c
 *		The short way to a decision, for callers that need not have it inline.
 */
#include "postgres.h"

#include "decide/short_way.h"

void
decide_uncounted(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	decide_quickly(id, rule, decision);
}
