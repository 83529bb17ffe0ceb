/*
 * functions/acquire.c
 *		How many at a time: rl_acquire(), rl_acquire_policy(), rl_release(), rl_renew(),
 *		and what the view rate_limit_slots reads.
 */
#include "postgres.h"

#include "core/clock.h"
#include "decide/acquire.h"
#include "decide/policies.h"
#include "funcapi.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "memory/tickets.h"
#include "memory/tickets_part.h"
#include "miscadmin.h"
#include "table/places.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

SQL_FUNCTION(rl_acquire);
SQL_FUNCTION(rl_acquire_policy);
SQL_FUNCTION(rl_release);
SQL_FUNCTION(rl_renew);
SQL_FUNCTION(rl_slots);

#define TEXT_IS(bytes, len, literal) \
	((len) == sizeof(literal) - 1 && memcmp(bytes, literal, sizeof(literal) - 1) == 0)

/* The text as an interval, or an error that names the parameter. */
static Interval *
read_interval(const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	Interval   *span = NULL;

	PG_TRY();
	{
		span = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
													 ObjectIdGetDatum(InvalidOid),
													 Int32GetDatum(-1)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		/* reading an interval changes nothing, so the transaction may go on */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("hold must be 'transaction', 'session' or an interval, not \"%s\"",
						text),
				 errdetail_internal("%s", error->message)));
	}
	PG_END_TRY();
	return span;
}

static int64
limited(Owed ns)
{
	return (int64) Min(ns, MAX_HOLD);
}

static void
read_hold(Datum hold, AcquireCall *call)
{
	int			len;
	const char *bytes = text_bytes(hold, &len);

	call->length = 0;
	if (TEXT_IS(bytes, len, "transaction"))
		call->hold = HOLD_TRANSACTION;
	else if (TEXT_IS(bytes, len, "session"))
		call->hold = HOLD_SESSION;
	else
	{
		call->hold = HOLD_INTERVAL;
		call->length = limited(get_span("hold", read_interval(pnstrdup(bytes, len)), 1));
	}
}

static void
check_least(const char *name, int32 value, int32 least)
{
	if (value < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must %s 0, not %d", name,
						least > 0 ? "be above" : "not be below", value)));
}

/* Read the arguments weight, hold and timeout, which are the third to the fifth. */
static void
read_acquire(FunctionCallInfo fcinfo, AcquireCall *call)
{
	const Interval *timeout = PG_GETARG_INTERVAL_P(4);

	call->weight = PG_GETARG_INT32(2);
	check_least("weight", call->weight, 1);
	read_hold(PG_GETARG_DATUM(3), call);
	call->timeout = 0;
	if (timeout->time != 0 || timeout->day != 0 || timeout->month != 0)
		call->timeout = limited(get_span("timeout", timeout, 0));
}

/*
 * rl_acquire(key, slots, weight, hold, timeout, limiter) returns bigint: a ticket,
 * or null
 */
Datum
rl_acquire(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"key", "slots", "weight", "hold", "timeout", "limiter"};
	BucketId	id;
	AcquireCall call = {.id = &id};
	int64		ticket;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(5));
	call.slots = PG_GETARG_INT32(1);
	check_least("slots", call.slots, 0);
	read_acquire(fcinfo, &call);
	if (!acquire_slots(&call, &ticket))
		PG_RETURN_NULL();
	PG_RETURN_INT64(ticket);
}

/*
 * rl_acquire_policy(policy, key, weight, hold, timeout) returns bigint: a ticket, or
 * null
 */
Datum
rl_acquire_policy(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"policy", "key", "weight", "hold", "timeout"};
	text	   *key;
	PolicySlots limit;
	AcquireCall call = {.id = &limit.id};
	int64		ticket;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	key = PG_GETARG_TEXT_PP(1);
	check_length("key", VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), MAX_KEY_LEN);
	read_acquire(fcinfo, &call);
	switch (slots_by_policy(PG_GETARG_TEXT_PP(0), key, &limit))
	{
		case POLICY_ALLOWS:
			PG_RETURN_INT64(0);
		case POLICY_DENIES:
			PG_RETURN_NULL();
		case POLICY_LIMITS:
			break;
	}
	call.slots = limit.slots;
	call.shadow = limit.shadow;
	if (!acquire_slots(&call, &ticket))
		PG_RETURN_NULL();
	PG_RETURN_INT64(ticket);
}

/* rl_release(ticket) returns boolean: was it held? */
Datum
rl_release(PG_FUNCTION_ARGS)
{
	check_not_null(fcinfo, 0, "ticket");
	PG_RETURN_BOOL(release_ticket(PG_GETARG_INT64(0)));
}

/* rl_renew(ticket, hold) returns boolean: is it held? */
Datum
rl_renew(PG_FUNCTION_ARGS)
{
	check_not_null(fcinfo, 0, "ticket");
	check_not_null(fcinfo, 1, "hold");
	PG_RETURN_BOOL(renew_ticket(PG_GETARG_INT64(0),
								limited(get_span("hold", PG_GETARG_INTERVAL_P(1), 1))));
}

/* When this time of the monotonic clock is or was, by the wall clock. */
static TimestampTz
wall_clock(int64 mono)
{
	return timestamp_after((Owed) mono - monotonic_ns());
}

/* Show a ticket or a waiter as a row of _rl_slots(). */
static void
show_slots(const SlotsView *view, ReturnSetInfo *rsinfo)
{
	static const char *const holds[] = {"transaction", "session", "interval"};
	Datum		values[13];
	bool		nulls[13] = {false};

	values[0] = PointerGetDatum(cstring_to_text_with_len(view->limiter, view->limiter_len));
	values[1] = PointerGetDatum(cstring_to_text_with_len(view->key, view->key_len));
	values[2] = CStringGetTextDatum(view->waits ? "waiting" : "held");
	values[3] = Int64GetDatum(view->ticket);
	nulls[3] = view->waits;
	values[4] = Int32GetDatum(view->weight);
	values[5] = CStringGetTextDatum(holds[view->hold]);
	values[6] = Int32GetDatum(view->pid);
	values[7] = ObjectIdGetDatum(view->role);
	values[8] = TimestampTzGetDatum(wall_clock(view->since));
	if (view->waits || view->hold != HOLD_INTERVAL)
		nulls[9] = true;
	else
		values[9] = TimestampTzGetDatum(wall_clock(view->until));
	values[10] = Int32GetDatum(view->slots);
	values[11] = Int64GetDatum(view->held);
	values[12] = Int64GetDatum(view->waiters);
	nulls[11] = nulls[12] = view->held < 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
show_place(const SlotsView *view, void *arg)
{
	show_slots(view, arg);
}

/*
 * _rl_slots() returns setof (limiter, key, state, ticket, weight, hold, pid, role,
 * since, until, slots, held, waiting): who holds slots in this database, or waits
 */
Datum
rl_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SlotsView	view;

	InitMaterializedSRF(fcinfo, 0);
	if (!semaphores_attached())
	{
		places_views(show_place, rsinfo);
		return (Datum) 0;
	}
	semaphores_expire();
	for (uint32 i = 0; i < semaphores_views(); i++)
	{
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (semaphores_view(i, MyDatabaseId, &view))
			show_slots(&view, rsinfo);
	}
	return (Datum) 0;
}
