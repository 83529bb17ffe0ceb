/*
 * functions/wait.c
 *		rl_wait(): take tokens now, and sleep until they are due; rl_book(): the same
 *		for callers that sleep by themselves.
 *
 * The call takes its cost from what the bucket will have within the timeout.  So the
 * bucket goes into debt, and the next call finds it deeper in debt: calls fall due in
 * the order in which they came.  Until it is due, the call sleeps on its latch.  If
 * it is cancelled, or its backend exits, its tokens go back.  rl_book() says how long
 * that is, and has no way to know whether its caller comes.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/compat.h"
#include "core/settings.h"
#include "decide/one.h"
#include "decide/short_way.h"
#include "decide/stores.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

SQL_FUNCTION(rl_wait);
SQL_FUNCTION(rl_book);

#define NSEC_PER_MSEC	1000000

/* A waiter whose tokens are taken. */
typedef struct Waiter
{
	const BucketId *id;
	const BucketRule *rule;
	Owed		due;			/* when, by the monotonic clock */
} Waiter;

/*
 * Put the tokens back, as the wait is interrupted.  The transaction is about to be
 * aborted, but that has not begun yet, so the table can be used.
 */
static void
give_back(int code, Datum arg)
{
	Waiter	   *waiter = (Waiter *) DatumGetPointer(arg);
	double		given;

	give_tokens(waiter->id, waiter->rule->cost, false, &given);
}

/* Sleep until the tokens are due.  If that is interrupted, put them back. */
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

/* A call that takes tokens before they are due. */
typedef struct EarlyCall
{
	BucketId	id;
	BucketRule	rule;
	Decision	decision;
	Owed		wait;			/* nanoseconds until they are due; 0: go at once */
} EarlyCall;

/*
 * Read and decide a call whose arguments are key, capacity, refill, cost, timeout and
 * limiter.  The caller has it counted.
 */
static void
take_early(FunctionCallInfo fcinfo, EarlyCall *call)
{
	static const char *const names[] = {"key", "capacity", "refill", "cost", "timeout", "limiter"};
	Owed		timeout;
	Owed		room;
	Owed		wait;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(&call->id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(5));
	call->rule = *get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3));
	timeout = get_span("timeout", PG_GETARG_INTERVAL_P(4), 0);

	room = call->rule.room;
	bucket_rule_for_wait(&call->rule, timeout);
	decide_uncounted(&call->id, &call->rule, &call->decision);

	/*
	 * The call is due when what the bucket owed before it has shrunk to what it may
	 * owe before an allowed call that does not wait.
	 */
	wait = call->decision.owed - call->rule.take - room;
	if (call->decision.allowed && call->decision.known &&
		enabled_setting && !shadow_setting)
		call->wait = Max(wait, 0);
	else
		call->wait = 0;
}

/* rl_wait(key, capacity, refill, cost, timeout, limiter) returns boolean */
Datum
rl_wait(PG_FUNCTION_ARGS)
{
	EarlyCall	call;

	take_early(fcinfo, &call);
	if (call.wait > 0)
	{
		Waiter		waiter = {&call.id, &call.rule};

		waiter.due = (call.decision.now ? call.decision.now : monotonic_ns()) + call.wait;
		sleep_until_due(&waiter);
	}
	decide_counted(&call.id, &call.rule, &call.decision, false);
	PG_RETURN_BOOL(call.decision.allowed);
}

/* rl_book(key, capacity, refill, cost, timeout, limiter) returns interval */
Datum
rl_book(PG_FUNCTION_ARGS)
{
	EarlyCall	call;

	take_early(fcinfo, &call);
	decide_counted(&call.id, &call.rule, &call.decision, false);
	if (!call.decision.allowed)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(interval_from_ns(call.wait));
}
