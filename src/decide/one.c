/*
 * decide/one.c
 *		The way to a decision when it is not the short one.
 *
 * The short one is decide_quickly() in functions/consume.c: a bucket that is in shared memory,
 * a key that cannot be blocked, no setting that has a say.  Here is the rest: blocks,
 * the tier that a bucket belongs to, what becomes of a call that the table cannot
 * decide, and several buckets at once.
 */
#include "ratelimit.h"

#include "access/xlog.h"
#include "decide/blocks.h"
#include "violations/flush.h"
#include "miscadmin.h"
#include "decide/refunds.h"
#include "table/sql.h"
#include "violations/stats.h"

/*
 * Errors
 */

/* The bucket cannot be decided on: what ratelimit.on_error says, if not "error". */
static void
decide_by_setting(Decision *decision)
{
	decision->allowed = on_error_setting == ON_ERROR_ALLOW;
	decision->known = false;
	decision->owed = 0;
	decision->blocked = 0;
}

static void
warn_undecided(const BucketId *id, const Decision *decision, int sqlerrcode,
			   const char *why)
{
	ereport(WARNING,
			(errcode(sqlerrcode),
			 errmsg("could not decide on key \"%.*s\", limiter \"%.*s\": %s",
					id->key_len, id->key, id->limiter_len, id->limiter,
					decision->allowed ? "allowed" : "denied"),
			 errdetail("%s", why)));
}

/* May an error be kept from the caller?  A parallel worker cannot undo. */
bool
errors_are_decided(void)
{
	return on_error_setting != ON_ERROR_ERROR && !IsInParallelMode();
}

/* Deciding has failed, and its subtransaction is undone. */
static void
decide_failed(const BucketId *id, Decision *decision, ErrorData *error)
{
	if (!errors_are_decided())
		ReThrowError(error);
	decide_by_setting(decision);
	warn_undecided(id, decision, error->sqlerrcode, error->message);
	FreeErrorData(error);
}

/* A call on its way to a decision in the table. */
typedef struct GuardedCall
{
	void		(*work) (const BucketId *, const BucketRule *, Decision *);
	const BucketId *id;
	const BucketRule *rule;
	Decision   *decision;
} GuardedCall;

static void
do_guarded_call(void *arg)
{
	GuardedCall *call = arg;

	call->work(call->id, call->rule, call->decision);
}

/*
 * Run a function that works with the table.  Should it fail, its error goes to
 * the caller, or the call is decided as ratelimit.on_error says.
 */
static void
guarded(void (*work) (const BucketId *, const BucketRule *, Decision *),
		const BucketId *id, const BucketRule *rule, Decision *decision)
{
	GuardedCall call = {work, id, rule, decision};
	ErrorData  *error;

	if (!errors_are_decided())
	{
		work(id, rule, decision);
		return;
	}
	error = sql_try(do_guarded_call, &call);
	if (error)
		decide_failed(id, decision, error);
}

/*
 * One bucket
 */

/*
 * The table may have rows from before the server started that nobody has gone through
 * yet, and memory what was loaded: the bucket is to be in one of them.
 */
static void
settle_place(const BucketId *id)
{
	if (shmem_attached() && !RecoveryInProgress() && !spill_known() &&
		!table_find_empty())
		table_merge(id);
}

/* Is there a table that may hold the bucket? */
bool
table_may_hold(const BucketId *id)
{
	if (RecoveryInProgress())
		return false;
	if (!shmem_attached())
		return true;
	settle_place(id);
	return spill_is_set(shmem_partition(id->hash));
}

/* Where buckets are made for which there is no room. */
static PlaceMode
place_mode(void)
{
	return overflow_setting == OVERFLOW_EVICT ? PLACE_OR_EVICT : PLACE_OR_SPILL;
}

/* Without shared memory: can rows be made here? */
static bool
rows_can_be_made(void)
{
	return !RecoveryInProgress() && !IsInParallelMode();
}

/* There is no shared memory, and no row can be made. */
static void
fail_without_rows(const BucketId *id, Decision *decision)
{
	const char *where = IsInParallelMode() ? "in a parallel query" : "during recovery";

	if (on_error_setting == ON_ERROR_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot decide on key \"%.*s\", limiter \"%.*s\" %s",
						id->key_len, id->key, id->limiter_len, id->limiter, where),
				 errdetail("Its bucket is in a table, which cannot be written here."),
				 errhint("Add \"ratelimit\" to shared_preload_libraries, so that buckets live in shared memory.")));
	decide_by_setting(decision);
	warn_undecided(id, decision, ERRCODE_READ_ONLY_SQL_TRANSACTION,
				   psprintf("The table of buckets cannot be written %s.", where));
}

/*
 * Decide on the bucket, wherever it is; nothing but its tokens counts.
 */
void
take_tokens(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);
	if (unlikely(refund_pending))
		refund_settle();

	if (!shmem_attached())
	{
		if (rows_can_be_made())
			(void) table_consume(id, rule, decision);
		else
			fail_without_rows(id, decision);
		return;
	}
	settle_place(id);
	if (shmem_consume(id, rule, decision))
		return;
	if (RecoveryInProgress())
	{
		(void) shmem_place(id, rule, 0, PLACE_HERE, decision);
		return;
	}

	/*
	 * Memory, which has just been searched, is no place for it while its partition is
	 * spilled.  The second round: the mark was cleared between the two.
	 */
	for (bool here = !spill_is_set(shmem_partition(id->hash));; here = true)
	{
		CHECK_FOR_INTERRUPTS();
		if (here && shmem_place(id, rule, 0, place_mode(), decision))
			return;
		if (table_consume(id, rule, decision))
		{
			if (decision->in_table)
				stats_count(COUNT_OVERFLOWED);
			return;
		}
	}
}

/* Let the bucket owe so much, wherever it is, whatever it owed. */
void
set_bucket(const BucketId *id, const BucketRule *rule, Owed owed)
{
	if (!shmem_attached())
	{
		(void) table_set(id, rule, owed);
		return;
	}
	if (RecoveryInProgress())
	{
		(void) shmem_set(id, rule, owed, PLACE_HERE);
		return;
	}
	settle_place(id);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (shmem_set(id, rule, owed, place_mode()) || table_set(id, rule, owed))
			return;
	}
}

/*
 * Put tokens back, wherever the bucket is; how many it had room for.  If not asked to
 * wait, nothing is waited for for long, and they may be lost.
 */
void
give_tokens(const BucketId *id, double tokens, bool wait, double *given)
{
	bool		in_table = !RecoveryInProgress() &&
		(!shmem_attached() || spill_is_set(shmem_partition(id->hash)));

	*given = 0;
	/* from the table it may move to memory, but not the other way */
	if (in_table && table_give(id, tokens, given, wait))
		return;
	if (!shmem_attached())
		return;
	if (wait)
		(void) shmem_give(id, tokens, given);
	else
		shmem_give_back(id, tokens);
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
static void
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
	if (shmem_attached() && shmem_peek(id, rule, decision))
		return;
	/* should it have no row any more, it may have moved meanwhile */
	if (may_hold && !table_peek(id, rule, &owed) &&
		shmem_attached() && shmem_peek(id, rule, decision))
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
look(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);

	if (!enabled_setting)
	{
		decision->allowed = true;
		decision->owed = 0;
	}
	else if (bucket_rule_is_closed(rule))
		deny_closed(decision);
	else if (block_possible(id) || !shmem_peek(id, rule, decision))
		guarded(look_slowly, id, rule, decision);
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
		guarded(decide_unguarded, id, rule, decision);
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

/*
 * All or nothing
 */

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
		decision->in_table = !shmem_attached();
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

	if (!shmem_attached() && !rows_can_be_made())
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
	else if (shmem_attached() && IsInParallelMode())
	{
		/* those that have no row are made in memory, whatever is marked */
		mode = PLACE_HERE;
		for (int i = 0; i < n; i++)
			calls[i].decision.in_table = spill_is_set(shmem_partition(calls[i].id.hash));
	}

	for (;;)
	{
		bool		in_table = false;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			in_table |= calls[i].decision.in_table;
		if (in_table ? table_consume_all(calls, n, mode) :
			shmem_consume_all(calls, n, mode, true))
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
	bool		possible = !shmem_attached();
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

	if (possible || !shmem_consume_all(calls, n, PLACE_NOTHING, true))
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
		use_limiter(calls[i].id.limiter, calls[i].id.limiter_len);
		if (calls[i].decision.in_table && shmem_attached())
			stats_count(COUNT_OVERFLOWED);
		decide_counted(&calls[i].id, &calls[i].rule, &calls[i].decision, false);
	}
	return allowed || shadow_setting;
}
