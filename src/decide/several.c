/*
 * decide/several.c
 *		Decisions on several buckets, all or nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "core/settings.h"
#include "decide/blocks.h"
#include "decide/errors.h"
#include "decide/limiter.h"
#include "decide/one.h"
#include "decide/refunds.h"
#include "decide/rules.h"
#include "decide/several.h"
#include "decide/stores.h"
#include "memory/block_filter.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "memory/together.h"
#include "miscadmin.h"
#include "table/sql.h"
#include "table/store.h"
#include "violations/stats.h"

/* By limiter and key: the order in which keys are locked, so nobody deadlocks. */
static int
compare_calls(const void *a, const void *b)
{
	const BucketId *x = &((const BucketCall *) a)->id;
	const BucketId *y = &((const BucketCall *) b)->id;
	int			result;

	if (x->limiter_len != y->limiter_len)
		return x->limiter_len - y->limiter_len;
	result = memcmp(x->limiter, y->limiter, x->limiter_len);
	if (result != 0)
		return result;
	if (x->key_len != y->key_len)
		return x->key_len - y->key_len;
	return memcmp(x->key, y->key, x->key_len);
}

/* Calls that name one bucket become one, of their costs' sum; how many are left. */
static int
merge_calls(BucketCall *calls, int n)
{
	int			last = 0;

	qsort(calls, n, sizeof(BucketCall), compare_calls);
	for (int i = 1; i < n; i++)
	{
		BucketRule *rule = &calls[last].rule;

		if (compare_calls(&calls[last], &calls[i]) != 0)
		{
			calls[++last] = calls[i];
			continue;
		}
		if (rule->capacity != calls[i].rule.capacity ||
			rule->refill != calls[i].rule.refill)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key \"%.*s\" must not be given twice with different capacities or refills",
							calls[i].id.key_len, calls[i].id.key)));
		*rule = *get_rule(rule->capacity, rule->refill,
						  bucket_costs(rule->capacity, rule->cost,
									   calls[i].rule.cost));
	}
	return n > 0 ? last + 1 : 0;
}

static bool
all_allowed(const BucketCall *calls, int n)
{
	for (int i = 0; i < n; i++)
		if (!calls[i].decision.allowed)
			return false;
	return true;
}

/* Calls on their way to a decision, all or nothing. */
typedef struct AllCall
{
	BucketCall *calls;
	int			n;
} AllCall;

static void
decide_all_slowly(BucketCall *calls, int n)
{
	PlaceMode	mode = place_mode();
	bool		denied = false; /* before any bucket is looked at */

	if (unlikely(refund_pending))
		refund_settle();
	for (int i = 0; i < n; i++)
	{
		Decision   *decision = &calls[i].decision;

		decision->blocked = block_possible(&calls[i].id) ? block_left(&calls[i].id) : 0;
		decision->in_table = !memory_attached();
		denied |= decision->blocked > 0 || bucket_rule_is_closed(&calls[i].rule);
	}
	if (denied)
	{
		for (int i = 0; i < n; i++)
		{
			look_at_bucket(&calls[i].id, &calls[i].rule, &calls[i].decision);
			if (calls[i].decision.blocked > 0)
				calls[i].decision.allowed = false;
		}
		return;
	}

	if (!memory_attached() && !rows_can_be_made())
	{
		fail_without_rows(&calls[0].id, &calls[0].decision);
		for (int i = 1; i < n; i++)
			calls[i].decision = calls[0].decision;
		return;
	}
	for (int i = 0; i < n; i++)
		settle_place(&calls[i].id);
	if (RecoveryInProgress())
		mode = PLACE_HERE;
	else if (memory_attached() && IsInParallelMode())
	{
		/* those that have no row are made in memory, whatever is marked */
		mode = PLACE_HERE;
		for (int i = 0; i < n; i++)
			calls[i].decision.in_table = spill_is_set(memory_partition(calls[i].id.hash));
	}

	for (;;)
	{
		bool		in_table = false;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			in_table |= calls[i].decision.in_table;
		if (in_table ? table_consume_all(calls, n, mode) :
			memory_consume_all(calls, n, mode, true))
			return;
	}
}

static void
do_all_slowly(void *arg)
{
	AllCall    *all = arg;

	decide_all_slowly(all->calls, all->n);
}

/*
 * Decide calls on several buckets, all or nothing, and count them: a call that is
 * denied is a violation of the buckets that refused.
 */
bool
decide_all(BucketCall *calls, int n)
{
	bool		possible = !memory_attached();
	bool		allowed;

	n = merge_calls(calls, n);
	for (int i = 0; i < n; i++)
	{
		memset(&calls[i].decision, 0, sizeof(Decision));
		calls[i].absent = 0;
		calls[i].decision.allowed = true;
		calls[i].decision.known = true;
		possible = possible || block_possible(&calls[i].id) ||
			bucket_rule_is_closed(&calls[i].rule);
	}
	if (!enabled_setting || n == 0)
		return true;
	if (refund_setting)
		refund_reserve(n);

	if (possible || !memory_consume_all(calls, n, PLACE_NOTHING, true))
	{
		if (!errors_are_decided())
			decide_all_slowly(calls, n);
		else
		{
			AllCall		all = {calls, n};
			ErrorData  *error = sql_try(do_all_slowly, &all);

			for (int i = 0; error && i < n; i++)
				decide_by_setting(&calls[i].decision);
			if (error)
			{
				warn_undecided(&calls[0].id, &calls[0].decision,
							   error->sqlerrcode, error->message);
				FreeErrorData(error);
			}
		}
	}

	allowed = all_allowed(calls, n);
	for (int i = 0; i < n; i++)
	{
		/* with nothing taken there is nothing to count, but the refusals */
		if (!allowed && calls[i].decision.allowed)
			continue;
		limiter_use(calls[i].id.limiter, calls[i].id.limiter_len);
		if (calls[i].decision.in_table && memory_attached())
			stats_count(COUNT_OVERFLOWED);
		decide_counted(&calls[i].id, &calls[i].rule, &calls[i].decision, false);
	}
	return allowed || shadow_setting;
}
