/*
 * decide/several.c
 *		Decisions on several buckets, all or nothing.
 *
 * Tokens are taken from all buckets of the calls, or from none.  The stores do the
 * taking, each for buckets of its own (memory/together.c) or for both stores at once
 * (table_consume_all() in table/store.c).  The functions here merge calls on the same
 * bucket, heed blocks, choose the store and count the decisions.
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

/*
 * Compare by limiter and key.  Sorting brings calls on the same bucket together, and
 * has all sessions lock keys (table/store.c) in the same order, so that they do not
 * deadlock.
 */
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

/* Make the rule cost so much more. */
static void
add_cost(BucketRule *rule, double cost)
{
	double		sum = bucket_costs(rule->capacity, rule->cost, cost);

	if (bucket_in_period(rule->refill))
		rule_make_in_period(rule, rule->capacity, rule->refill, sum, rule->length);
	else
		*rule = *get_rule(rule->capacity, rule->refill, sum);
}

/*
 * Merge calls on the same bucket into one that costs their sum.  Returns how many
 * calls are left, sorted.
 */
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
		/* a period may have ended between two calls; the later one counts */
		if (bucket_in_period(rule->refill) && calls[i].rule.refill < rule->refill)
		{
			rule->refill = calls[i].rule.refill;
			rule->length = calls[i].rule.length;
		}
		if (rule->capacity != calls[i].rule.capacity ||
			(rule->refill != calls[i].rule.refill && !bucket_in_period(rule->refill)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key \"%.*s\" must not be given twice with different capacities or refills",
							calls[i].id.key_len, calls[i].id.key)));
		if (!bucket_rule_is_closed(rule))
			add_cost(rule, calls[i].rule.cost);
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

/*
 * Look whether keys are blocked.  Returns whether any is, or whether a call has a
 * capacity of 0: then nothing is taken from any bucket.
 */
static bool
denied_at_once(BucketCall *calls, int n)
{
	bool		denied = false;

	for (int i = 0; i < n; i++)
	{
		Decision   *decision = &calls[i].decision;

		decision->blocked = block_possible(&calls[i].id) ? block_left(&calls[i].id) : 0;
		denied |= decision->blocked > 0 || bucket_rule_is_closed(&calls[i].rule);
	}
	return denied;
}

/* A call has been looked at.  If it has no bucket, say what a new one would have. */
static void
look_at_beginning(BucketCall *call)
{
	Decision   *decision = &call->decision;
	Owed		owed = call->absent;

	if (!decision->nowhere || !decision->known)
		return;
	decision->owed = owed;
	decision->allowed = bucket_take(&call->rule, &owed) && decision->blocked == 0;
}

/* What the call would be told, changing nothing: see decide_look(). */
void
look_at_call(BucketCall *call)
{
	decide_look(&call->id, &call->rule, &call->decision);
	look_at_beginning(call);
}

/* Some call is denied already: take nothing, and say what each bucket would have decided. */
static void
deny_all(BucketCall *calls, int n)
{
	for (int i = 0; i < n; i++)
	{
		look_at_bucket(&calls[i].id, &calls[i].rule, &calls[i].decision);
		look_at_beginning(&calls[i]);
		if (calls[i].decision.blocked > 0)
			calls[i].decision.allowed = false;
	}
}

/* Take tokens from all buckets or from none, in whichever stores they are. */
static void
take_from_all(BucketCall *calls, int n)
{
	PlaceMode	mode = place_mode();

	for (int i = 0; i < n; i++)
	{
		calls[i].decision.in_table = !memory_attached();
		settle_place(&calls[i].id);
	}
	if (RecoveryInProgress())
		mode = PLACE_HERE;
	else if (memory_attached() && IsInParallelMode())
	{
		/*
		 * A parallel query cannot make rows.  Buckets that have none are made in
		 * memory, even if their partition is marked as spilled.
		 */
		mode = PLACE_HERE;
		for (int i = 0; i < n; i++)
			calls[i].decision.in_table = spill_is_set(memory_partition(calls[i].id.hash));
	}

	for (;;)
	{
		bool		in_table = false;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
		{
			BucketRule	later;

			calls[i].rule = *rule_by_now(&calls[i].id, &calls[i].rule, &later);
			in_table |= calls[i].decision.in_table;
		}
		if (in_table ? table_consume_all(calls, n, mode) :
			memory_consume_all(calls, n, mode, true))
			return;
	}
}

/* Decide calls that memory alone could not decide; an error goes to the caller. */
static void
decide_all_slowly(BucketCall *calls, int n)
{
	if (unlikely(refund_pending))
		refund_settle();
	if (denied_at_once(calls, n))
		deny_all(calls, n);
	else if (memory_attached() || rows_can_be_made())
		take_from_all(calls, n);
	else
	{
		fail_without_rows(&calls[0].id, &calls[0].decision);
		for (int i = 1; i < n; i++)
			calls[i].decision = calls[0].decision;
	}
}

/* The arguments of decide_all_slowly(), for sql_try(). */
typedef struct AllCall
{
	BucketCall *calls;
	int			n;
} AllCall;

static void
do_all_slowly(void *arg)
{
	AllCall    *all = arg;

	decide_all_slowly(all->calls, all->n);
}

/* Likewise, but ratelimit.on_error may decide calls that fail. */
static void
decide_all_guarded(BucketCall *calls, int n)
{
	AllCall		all = {calls, n};
	ErrorData  *error;

	if (!errors_are_decided())
	{
		decide_all_slowly(calls, n);
		return;
	}
	error = sql_try(do_all_slowly, &all);
	if (!error)
		return;
	for (int i = 0; i < n; i++)
		decide_by_setting(&calls[i].decision);
	warn_undecided(&calls[0].id, &calls[0].decision, error->sqlerrcode, error->message);
	FreeErrorData(error);
}

/* Count the decisions. */
static void
count_all(BucketCall *calls, int n, bool allowed)
{
	for (int i = 0; i < n; i++)
	{
		BucketCall *call = &calls[i];

		/* when nothing is taken, only the refusals count */
		if (!allowed && call->decision.allowed)
			continue;
		limiter_use_of(&call->id, &call->rule);
		if (call->decision.in_table && memory_attached())
			stats_count(COUNT_OVERFLOWED);
		decide_counted(&call->id, &call->rule, &call->decision, false);
	}
}

/*
 * Decide calls on different buckets, all or nothing.  The caller then has them
 * counted.
 */
void
decide_all_uncounted(BucketCall *calls, int n)
{
	bool		long_way = !memory_attached();

	for (int i = 0; i < n; i++)
	{
		memset(&calls[i].decision, 0, sizeof(Decision));
		calls[i].decision.allowed = true;
		calls[i].decision.known = true;
		long_way = long_way || block_possible(&calls[i].id) ||
			bucket_rule_is_closed(&calls[i].rule);
	}
	if (!enabled_setting || n == 0)
		return;
	if (refund_setting)
		refund_reserve(n);

	if (long_way || !memory_consume_all(calls, n, PLACE_NOTHING, true))
		decide_all_guarded(calls, n);
}

/*
 * The same, and count the decisions.  A denied call is a violation of the buckets
 * that refused it.
 */
static bool
decide_merged(BucketCall *calls, int n)
{
	bool		allowed;

	decide_all_uncounted(calls, n);
	allowed = all_allowed(calls, n);
	if (enabled_setting)
		count_all(calls, n, allowed);
	return allowed || shadow_setting;
}

/*
 * Decide calls on several buckets, all or nothing, and count the decisions.  Changes
 * the order of the calls, and merges those on the same bucket.
 */
bool
decide_all(BucketCall *calls, int n)
{
	return decide_merged(calls, merge_calls(calls, n));
}

/*
 * The same, but the calls keep their order.  Calls on the same bucket, which are
 * decided as one, all get its rule, with the sum of their costs, and its decision.
 */
bool
decide_all_in_order(BucketCall *calls, int n)
{
	BucketCall	merged[MAX_CALLS];
	int			n_merged;
	bool		allowed;

	memcpy(merged, calls, n * sizeof(BucketCall));
	n_merged = merge_calls(merged, n);
	allowed = decide_merged(merged, n_merged);
	for (int i = 0; i < n; i++)
	{
		const BucketCall *one = bsearch(&calls[i], merged, n_merged,
										sizeof(BucketCall), compare_calls);

		calls[i].rule = one->rule;
		calls[i].decision = one->decision;
	}
	return allowed;
}
