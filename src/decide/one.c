/*
 * decide/one.c
 *		Decisions on one bucket, when the short way does not lead to one.
 *
 * The short way is decide_quickly() in decide/short_way.h.  It serves a bucket that
 * is in shared memory and whose key cannot be blocked.  The functions here do the
 * rest: they heed blocks, find the store that the bucket is in, make the bucket if it
 * is nowhere, and count decisions.  Several buckets at once are the business of
 * decide/several.c.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "core/clock.h"
#include "core/late.h"
#include "core/period.h"
#include "core/settings.h"
#include "decide/blocks.h"
#include "decide/errors.h"
#include "decide/one.h"
#include "decide/refunds.h"
#include "decide/stores.h"
#include "memory/block_filter.h"
#include "memory/consume.h"
#include "memory/partitions.h"
#include "memory/place.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "table/store.h"
#include "utils/timestamp.h"
#include "violations/flush.h"
#include "violations/stats.h"

/*
 * The rule of a call, by now: if the period of the call has ended since it read the
 * clock, "later" becomes the rule in the present period, and is returned.
 */
const BucketRule *
rule_by_now(const BucketId *id, const BucketRule *rule, BucketRule *later)
{
	int			plain_len;
	const Period *period;
	int64		begin;
	int64		end;

	if (!bucket_in_period(rule->refill) || !period_is_over(rule->refill, 0))
		return rule;
	/* the name of a period says the period */
	plain_len = plain_limiter_len(id->limiter, id->limiter_len);
	period = period_of(id->limiter + plain_len + 1, id->limiter_len - plain_len - 1);
	period_around(period, GetCurrentTimestamp(), &begin, &end);
	bucket_rule_in_period(later, rule->capacity, refill_of_end(end), rule->cost,
						  (double) end - (double) begin);
	return later;
}

/*
 * Do what take_tokens() says once; false if the rule is not that of the present
 * period.
 */
static bool
try_to_take_tokens(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	if (!memory_attached())
		return table_consume(id, rule, decision);
	settle_place(id);
	if (memory_consume(id, rule, decision))
		return true;
	if (RecoveryInProgress())
		return memory_place(id, rule, 0, PLACE_HERE, decision);

	/*
	 * Memory has just been searched in vain.  While the bucket's partition is marked
	 * as spilled, memory must not hold the bucket, and the table decides.  Each store
	 * refuses if the other one has to decide by now, because the mark was set or
	 * cleared meanwhile; so from the second round on both are asked in turn.
	 */
	for (bool here = !spill_is_set(memory_partition(id->hash));; here = true)
	{
		CHECK_FOR_INTERRUPTS();
		if (here && memory_place(id, rule, 0, place_mode(), decision))
			return true;
		if (table_consume(id, rule, decision))
		{
			if (decision->in_table)
				stats_count(COUNT_OVERFLOWED);
			return true;
		}
		if (period_is_stale(rule->refill))
			return false;
	}
}

/* Decide by the bucket's tokens alone, in whichever store it is. */
void
take_tokens(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	BucketRule	later;
	double		refill = rule->refill;

	begin_decision(decision);
	if (unlikely(refund_pending))
		refund_settle();

	if (!memory_attached() && !rows_can_be_made())
	{
		fail_without_rows(id, decision);
		return;
	}
	while (!try_to_take_tokens(id, rule, decision))
	{
		CHECK_FOR_INTERRUPTS();
		rule = rule_by_now(id, rule, &later);
	}
	if (bucket_in_period(refill) && rule->refill != refill && decision->ends == 0)
		decision->ends = rule->refill;
}

/* A capacity of 0: the call is denied, whatever buckets there are. */
static void
deny_closed(Decision *decision)
{
	decision->allowed = false;
	decision->owed = 0;
}

/*
 * What the bucket owes and whether the call would be allowed.  Changes nothing, so
 * decision->owed is what the bucket owes before the call.  If there is none, it
 * counts as full.
 */
void
look_at_bucket(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	bool		may_hold;
	Owed		owed = 0;

	decision->nowhere = false;
	if (bucket_rule_is_closed(rule))
	{
		deny_closed(decision);
		return;
	}
	may_hold = table_may_hold(id);
	if (unlikely(refund_pending))
		refund_settle();
	if (memory_attached() && memory_peek(id, rule, decision))
		return;
	if (may_hold && table_peek(id, rule, &owed))
		decision->nowhere = false;
	/* if it has no row, it may have moved to memory since we looked there */
	else if (may_hold && memory_attached() && memory_peek(id, rule, decision))
		return;
	else
		decision->nowhere = true;
	decision->owed = owed;
	decision->allowed = bucket_take(rule, &owed);
}

/* Look at a bucket that is not in memory, or whose key may be blocked. */
static void
look_slowly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	decision->blocked = block_possible(id) ? block_left(id) : 0;
	look_at_bucket(id, rule, decision);
	if (decision->blocked > 0)
		decision->allowed = false;
}

/*
 * What a call would be told, changing nothing.  decision->owed is what the bucket
 * owes before the call.
 */
void
decide_look(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);
	decision->nowhere = false;

	if (!enabled_setting)
	{
		decision->allowed = true;
		decision->owed = 0;
	}
	else if (bucket_rule_is_closed(rule))
		deny_closed(decision);
	else if (block_possible(id) || !memory_peek(id, rule, decision))
		decide_guarded(look_slowly, id, rule, decision);
}

/* Decide; an error goes to the caller. */
static void
decide_unguarded(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	Owed		blocked = block_possible(id) ? block_left(id) : 0;

	begin_decision(decision);
	if (blocked > 0)
	{
		look_at_bucket(id, rule, decision);
		decision->allowed = false;
		decision->blocked = blocked;
	}
	else
		take_tokens(id, rule, decision);
}

/* Decide a call for which the short way did not lead to a decision. */
void
decide_slowly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	if (unlikely(late_workers_missing))
		late_start_workers();
	if (bucket_rule_is_closed(rule))
		deny_closed(decision);
	else
		decide_guarded(decide_unguarded, id, rule, decision);
}

/*
 * In which period an allowed call has taken its tokens, as the period's refill; 0 if its
 * bucket is not that of a period.
 */
double
taken_in_period(const BucketRule *rule, const Decision *decision)
{
	if (!bucket_in_period(rule->refill))
		return 0;
	return decision->ends != 0 ? decision->ends : rule->refill;
}

/* Note what an allowed call has taken, if a rollback is to give it back. */
void
note_for_refund(const BucketId *id, const BucketRule *rule, const Decision *decision)
{
	BucketId	own;

	if (!refund_setting || !decision->known || rule->take <= 0)
		return;
	own = *id;
	own.ends = taken_in_period(rule, decision);
	refund_note(&own, rule->cost);
}

/*
 * Count a decision, note what may have to be given back, and allow the call after all
 * if it is in shadow: "shadow" says that its tier is, ratelimit.shadow that all calls
 * are.
 */
void
decide_counted(const BucketId *id, const BucketRule *rule, Decision *decision,
			   bool shadow)
{
	BucketId	plain;

	decision->shadowed = false;
	if (unlikely(!enabled_setting))
		return;
	if (decision->allowed)
	{
		stats_count(COUNT_ALLOWED);
		note_for_refund(id, rule, decision);
		return;
	}
	if (bucket_in_period(rule->refill))
	{
		make_plain_id(&plain, id);
		id = &plain;
	}
	flush_record(id, 1, decision->now);
	stats_count(shadow || shadow_setting ? COUNT_SHADOWED : COUNT_DENIED);
	if (shadow || shadow_setting)
		decision->allowed = decision->shadowed = true;
}
