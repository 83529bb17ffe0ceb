/*
 * decide/one.c
 *		Decisions on one bucket, when the short way does not lead to one.
 *
 * The short way is decide_quickly() in decide/short_way.h: a bucket that is in shared
 * memory, a key that cannot be blocked, no setting that has a say.  Here is the rest:
 * blocks, and the store that a bucket is in.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
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
#include "violations/flush.h"
#include "violations/stats.h"

/*
 * Decide on the bucket, wherever it is; nothing but its tokens counts.
 */
void
take_tokens(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);
	if (unlikely(refund_pending))
		refund_settle();

	if (!memory_attached())
	{
		if (rows_can_be_made())
			(void) table_consume(id, rule, decision);
		else
			fail_without_rows(id, decision);
		return;
	}
	settle_place(id);
	if (memory_consume(id, rule, decision))
		return;
	if (RecoveryInProgress())
	{
		(void) memory_place(id, rule, 0, PLACE_HERE, decision);
		return;
	}

	/*
	 * Memory, which has just been searched, is no place for it while its partition is
	 * spilled.  The second round: the mark was cleared between the two.
	 */
	for (bool here = !spill_is_set(memory_partition(id->hash));; here = true)
	{
		CHECK_FOR_INTERRUPTS();
		if (here && memory_place(id, rule, 0, place_mode(), decision))
			return;
		if (table_consume(id, rule, decision))
		{
			if (decision->in_table)
				stats_count(COUNT_OVERFLOWED);
			return;
		}
	}
}

/* A capacity of 0: the call is denied, whatever buckets there are. */
static void
deny_closed(Decision *decision)
{
	decision->allowed = false;
	decision->owed = 0;
}

/*
 * What the bucket owes, changing nothing, and whether the call would be allowed;
 * decision->owed is before the call.
 */
void
look_at_bucket(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	bool		may_hold;
	Owed		owed = 0;

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
	/* should it have no row any more, it may have moved meanwhile */
	if (may_hold && !table_peek(id, rule, &owed) &&
		memory_attached() && memory_peek(id, rule, decision))
		return;
	decision->owed = owed;
	decision->allowed = bucket_take(rule, &owed);
}

static void
look_slowly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	decision->blocked = block_possible(id) ? block_left(id) : 0;
	look_at_bucket(id, rule, decision);
	if (decision->blocked > 0)
		decision->allowed = false;
}

/* What a decision would find, changing nothing; decision->owed is before the call. */
void
decide_look(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);

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

/* Decide, with no setting to say what becomes of an error. */
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

/* The short way did not lead to a decision. */
void
decide_slowly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	if (bucket_rule_is_closed(rule))
		deny_closed(decision);
	else
		decide_guarded(decide_unguarded, id, rule, decision);
}

/* Count a decision, and answer as the settings want it. */
void pg_attribute_hot
decide_counted(const BucketId *id, const BucketRule *rule, Decision *decision,
			   bool shadow)
{
	decision->shadowed = false;
	if (unlikely(!enabled_setting))
		return;
	if (decision->allowed)
	{
		stats_count(COUNT_ALLOWED);
		if (refund_setting && decision->known && rule->take > 0)
			refund_note(id, rule->cost);
		return;
	}
	flush_record(id, 1, decision->now);
	stats_count(shadow || shadow_setting ? COUNT_SHADOWED : COUNT_DENIED);
	if (shadow || shadow_setting)
		decision->allowed = decision->shadowed = true;
}
