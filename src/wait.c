/*
 * wait.c
 *		rl_wait(): take tokens now, and sleep until they are due.
 *
 * The call takes its cost from what the bucket will have within the timeout.  So
 * the bucket goes into debt, the next call finds it deeper in debt, and whoever
 * comes first is due first.  Until it is due the call sleeps on its latch; should
 * it be cancelled or its backend end, its tokens go back.
 *
 * A bucket in the table is locked by the call until its transaction ends, so
 * waiters stand in the row lock's queue, for as long as the timeout; and tokens go
 * back by themselves, with the transaction.
 */
#include "ratelimit.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "refund.h"
#include "sql.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(rl_wait);

#define NSEC_PER_MSEC	1000000

/* Advisory locks have 1 or 2 there, flush.c has 3, table_store.c 4. */
#define WAIT_LOCK_CLASS	5

/* A waiter whose tokens are taken. */
typedef struct Waiter
{
	const BucketId *id;
	const BucketRule *rule;
	const Decision *decision;
	Owed		due;			/* monotonic clock */
} Waiter;

/* The wait ends without having come to its end. */
static void
give_back(int code, Datum arg)
{
	Waiter	   *waiter = (Waiter *) DatumGetPointer(arg);

	if (!waiter->decision->in_table)
		shmem_give_back(waiter->id, waiter->rule->cost);
}

static void
sleep_until_due(Waiter *waiter)
{
	static uint32 event = 0;

	if (event == 0)
		event = new_wait_event("RateLimitWait");
	PG_ENSURE_ERROR_CLEANUP(give_back, PointerGetDatum(waiter));
	{
		for (;;)
		{
			Owed		left = waiter->due - monotonic_ns();
			Owed		ms = (left + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;

			CHECK_FOR_INTERRUPTS();
			if (left <= 0)
				break;
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 (long) Min(ms, (Owed) INT_MAX), event);
			ResetLatch(MyLatch);
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(give_back, PointerGetDatum(waiter));
}

/* A call on its way to a bucket that may be in the table. */
typedef struct TableCall
{
	const BucketId *id;
	const BucketRule *rule;
	Owed		room;			/* that the rule would have without waiting */
	Decision   *decision;
	int64		began;			/* monotonic clock */
	Owed		timeout;		/* from then on */
} TableCall;

/* How long the call has to wait until what it took is due; no more if below 0. */
static Owed
time_to_wait(const Decision *decision, const BucketRule *rule, Owed room)
{
	return decision->owed - rule->take - room;
}

/* Let nothing be waited for beyond the timeout. */
static void
limit_waiting(const TableCall *call)
{
	Owed		left = call->timeout - (monotonic_ns() - call->began);
	int			ms = (int) Max(Min(left / NSEC_PER_MSEC, INT_MAX), 1);
	int			current = atoi(GetConfigOption("lock_timeout", false, false));

	if (current == 0 || current > ms)
		(void) set_config_option("lock_timeout", psprintf("%d", ms),
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
}

static bool
take_with_timeout(void *arg)
{
	TableCall  *call = arg;
	int			nest = NewGUCNestLevel();
	bool		queue = !TransactionIdIsValid(GetTopTransactionIdIfAny());
	LOCKTAG		first = {0};

	limit_waiting(call);

	/*
	 * Row locks are no queue: who is woken goes on to the next version of the
	 * row.  So only the first of the waiters waits for the row; but for
	 * transactions that may have the row locked already.
	 */
	SET_LOCKTAG_ADVISORY(first, MyDatabaseId,
						 hash_bytes((const unsigned char *) call->id->key,
									call->id->key_len),
						 hash_bytes((const unsigned char *) call->id->limiter,
									call->id->limiter_len),
						 WAIT_LOCK_CLASS);
	if (queue)
	{
		(void) LockAcquire(&first, ExclusiveLock, false, false);
		limit_waiting(call);
	}
	decide_unguarded(call->id, call->rule, call->decision);
	if (queue)
		(void) LockRelease(&first, ExclusiveLock, false);
	AtEOXact_GUC(true, nest);

	/* the time spent waiting for the row counts */
	if (call->decision->allowed && call->decision->in_table &&
		time_to_wait(call->decision, call->rule, call->room) >
		call->timeout - (monotonic_ns() - call->began))
	{
		call->decision->allowed = false;
		return false;
	}
	return true;
}

/* Decide, waiting for a row no longer than the timeout. */
static void
decide_in_time(TableCall *call)
{
	ErrorData  *error = sql_try(take_with_timeout, call);

	if (!error)
		return;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE ||
		monotonic_ns() - call->began < call->timeout - NSEC_PER_MSEC)
	{
		decide_failed(call->id, call->decision, error);
		return;
	}
	FreeErrorData(error);
	/* what the bucket owes is not known, but that it is too much */
	begin_decision(call->decision);
	call->decision->allowed = false;
	call->decision->owed = 0;
}

/* May deciding mean to wait for others who use the table? */
static bool
may_need_table(const BucketId *id)
{
	if (RecoveryInProgress() || IsInParallelMode())
		return false;
	return !shmem_attached() || !spill_known() ||
		spill_is_set(shmem_partition(id->hash));
}

/* rl_wait(key, capacity, refill, cost, timeout, limiter) returns boolean */
Datum
rl_wait(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"key", "capacity", "refill", "cost", "timeout", "limiter"};
	BucketId	id;
	BucketRule	rule;
	Decision	decision;
	Owed		timeout;
	Owed		room;
	Owed		wait;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(5));
	rule = *get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3));
	timeout = get_span("timeout", PG_GETARG_INTERVAL_P(4), 0);

	room = rule.room;
	bucket_rule_for_wait(&rule, timeout);
	if (enabled_setting && may_need_table(&id))
	{
		TableCall	call = {&id, &rule, room, &decision, monotonic_ns(), timeout};

		if (refund_setting)
			refund_reserve(1);
		decide_in_time(&call);
	}
	else
		decide_uncounted(&id, &rule, &decision);

	wait = time_to_wait(&decision, &rule, room);
	if (decision.allowed && decision.known && wait > 0 &&
		enabled_setting && !shadow_setting)
	{
		Waiter		waiter = {&id, &rule, &decision};

		waiter.due = (decision.now ? decision.now : monotonic_ns()) + wait;
		sleep_until_due(&waiter);
	}
	decide_counted(&id, &rule, &decision, false);
	PG_RETURN_BOOL(decision.allowed);
}
