/*
 * decide/short_way.h
 *		The short way to a decision.
 *
 * It serves a bucket that is in shared memory and whose key cannot be blocked.  It is
 * inline because fetching code that is spread over several functions takes a call
 * longer than executing it.  Whatever else a call may need is in decide/one.c.
 */
#ifndef RATELIMIT_DECIDE_SHORT_WAY_H
#define RATELIMIT_DECIDE_SHORT_WAY_H

#include "core/settings.h"
#include "decide/one.h"
#include "decide/refunds.h"
#include "memory/block_filter.h"
#include "memory/short_way.h"
#include "violations/count.h"
#include "violations/stats.h"

extern void decide_uncounted(const BucketId *id, const BucketRule *rule,
							 Decision *decision);

/*
 * Decide a call.  The caller then has it counted: count_quickly(), decide_counted().
 */
static pg_attribute_always_inline void
decide_quickly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);

	if (unlikely(!enabled_setting))
	{
		decision->allowed = true;
		decision->owed = 0;
		return;
	}
	if (unlikely(refund_setting))
		refund_reserve(1);
	if (unlikely(memory_denied_last && id->hash != memory_last_hash))
		violations_expect(id);
	if (unlikely(block_possible(id) || !consume_here(id, rule, decision)))
		decide_slowly(id, rule, decision);
}

/* Count a decision; an allowed call that needs no refund note is counted inline. */
static pg_attribute_always_inline void
count_quickly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	if (likely(decision->allowed && enabled_setting && !refund_setting))
		stats_count(COUNT_ALLOWED);
	else
		decide_counted(id, rule, decision, false);
}

#endif							/* RATELIMIT_DECIDE_SHORT_WAY_H */
