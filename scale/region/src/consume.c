/*
 * consume.c
 *		rl_consume_leased() and rl_throttle_leased(): decide a call, here or by the lease
 *		that this server has of its key.
 *
 * A call takes tokens of the lease if it has them.  If not, it waits for a portion,
 * which the worker asks the key's home for, unless the home has lately said that the
 * bucket is empty.  If the home is away, or does not answer in time, ratelimit.on_error
 * decides.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "funcapi.h"
#include "homes.h"
#include "leases.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "settings.h"
#include "shared.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* For so long an answer that the bucket is empty counts, in microseconds. */
#define STALE		INT64CONST(1000000)

/* milliseconds */
#define LONGEST_SLEEP 100

PG_FUNCTION_INFO_V1(rl_consume_leased);
PG_FUNCTION_INFO_V1(rl_throttle_leased);

typedef struct Call
{
	LeaseName	name;
	double		capacity;
	double		refill;
	double		cost;
} Call;

/* A decision.  What is not known is NaN. */
typedef struct Answer
{
	bool		allowed;
	bool		shadowed;
	double		remaining;
	double		retry_after;	/* seconds; infinity: never */
} Answer;

/* A call that waits, for stop_waiting() */
typedef struct Waiting
{
	Lease	   *lease;
	double		cost;
} Waiting;

static void
check_not_null(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

static double
check_tokens(double value, const char *name)
{
	if (!isfinite(value) || value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a finite number not below 0, not %g", name, value)));
	return value;
}

static void
check_length(const char *value, int len, int max, const char *name)
{
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty: \"\"", name)));
	if (len > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must not be longer than %d bytes, not of %d bytes",
						name, max, len)));
}

/* Check the arguments, as ratelimit does, before anything changes. */
static void
read_call(FunctionCallInfo fcinfo, Call *call)
{
	static const char *const names[] = {"key", "capacity", "refill", "cost", "limiter"};
	text	   *key;
	text	   *limiter;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	key = PG_GETARG_TEXT_PP(0);
	limiter = PG_GETARG_TEXT_PP(4);
	check_length(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), KEY_LENGTH, "key");
	check_length(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter), LIMITER_LENGTH, "limiter");
	if (memchr(VARDATA_ANY(limiter), ':', VARSIZE_ANY_EXHDR(limiter)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limiter must not contain \":\": \"%s\"", text_to_cstring(limiter))));
	call->capacity = check_tokens(PG_GETARG_FLOAT8(1), "capacity");
	call->refill = check_tokens(PG_GETARG_FLOAT8(2), "refill");
	call->cost = check_tokens(PG_GETARG_FLOAT8(3), "cost");
	call->name.home = home_of(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter),
							  VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	if (call->name.home != HOME_HERE)
		lease_name(&call->name, call->name.home,
				   VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter),
				   VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
}

/* A denied call counts as a violation of its key. */
static void
count_violation(const Call *call)
{
	Datum		args[3];

	args[0] = PointerGetDatum(cstring_to_text_with_len(call->name.key, call->name.key_len));
	args[1] = PointerGetDatum(cstring_to_text_with_len(call->name.limiter, call->name.limiter_len));
	args[2] = Int64GetDatum(1);
	(void) engine_call(ENGINE_REPORT, 3, args, false);
}

/* Nobody can decide the call: fail, or decide as ratelimit.on_error says. */
static void
decide_by_setting(const Call *call, const char *why, const char *hint, Answer *answer)
{
	OnError		on_error = setting_on_error();

	if (on_error == ON_ERROR_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("cannot decide on key \"%.*s\", limiter \"%.*s\"",
						call->name.key_len, call->name.key,
						call->name.limiter_len, call->name.limiter),
				 errdetail_internal("%s", why),
				 hint ? errhint("%s", hint) : 0));
	answer->allowed = on_error == ON_ERROR_ALLOW;
	answer->remaining = answer->retry_after = NAN;
	ereport(WARNING,
			(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
			 errmsg("could not decide on key \"%.*s\", limiter \"%.*s\": %s",
					call->name.key_len, call->name.key,
					call->name.limiter_len, call->name.limiter,
					answer->allowed ? "allowed" : "denied"),
			 errdetail_internal("%s", why)));
}

/* What a lease, which is locked, tells of the bucket now. */
static void
describe(const Lease *lease, const Call *call, bool allowed, int64 now, Answer *answer)
{
	double		missing;

	answer->allowed = allowed;
	answer->remaining = Min(call->capacity,
							lease->tokens + lease->remaining +
							(now - lease->answered) / 1e6 * call->refill);
	answer->retry_after = 0;
	if (allowed)
		return;
	missing = call->cost - answer->remaining;
	if (missing > 0)
		answer->retry_after = call->refill > 0 ? missing / call->refill : INFINITY;
	answer->retry_after = Max(answer->retry_after, (lease->empty_until - now) / 1e6);
	answer->retry_after = Max(answer->retry_after, (lease->blocked_until - now) / 1e6);
}

/* Stop waiting for a lease, which is locked. */
static void
stop_waiting_locked(Waiting *waiting)
{
	Lease	   *lease = waiting->lease;

	lease->n_waiting--;
	lease->waiting = lease->n_waiting > 0 ? Max(lease->waiting - waiting->cost, 0) : 0;
}

/* An error, or the end of the session */
static void
stop_waiting(int code, Datum arg)
{
	Waiting    *waiting = (Waiting *) DatumGetPointer(arg);
	LeaseName	name;

	ConditionVariableCancelSleep();
	/* a lease that a call waits for keeps its name */
	lease_name(&name, waiting->lease->home,
			   lease_limiter(waiting->lease), waiting->lease->limiter_len,
			   lease_key(waiting->lease), waiting->lease->key_len);
	(void) lease_lock(&name);
	stop_waiting_locked(waiting);
	lease_unlock(waiting->lease);
}

/*
 * Has the home said that the bucket does not have enough for the call?  Either just now,
 * or it cannot have gained enough since, for those that wait already.
 */
static bool
is_empty(const Lease *lease, double cost, int64 now)
{
	double		gained;

	if (!lease->is_short)
		return false;
	if (now < lease->empty_until || now < lease->blocked_until)
		return true;
	if (now - lease->answered > STALE)
		return false;
	gained = lease->refill *
		((now - lease->answered) +
		 pg_atomic_read_u64(&shared->homes[lease->home].round_trip)) / 1e6;
	return lease->waiting + cost > lease->remaining + lease->tokens + gained;
}

static bool
home_is_away(const Lease *lease)
{
	return pg_atomic_read_u32(&shared->homes[lease->home].state) == HOME_AWAY;
}

/*
 * Can a call that waits be decided now?  "answers" is how many answers it has seen.  The
 * lease is locked.
 */
static bool
try_decide(Lease *lease, const Call *call, int64 now, uint64 *answers, Answer *answer)
{
	if (lease_take(lease, call->cost, now))
		describe(lease, call, true, now, answer);
	else if (lease->answers != *answers && lease->is_short &&
			 (now < lease->empty_until || now < lease->blocked_until))
	{
		describe(lease, call, false, now, answer);
		lease->denied++;
	}
	else
	{
		*answers = lease->answers;
		return false;
	}
	lease->waited++;
	return true;
}

/*
 * Wait for a portion.  The lease is locked at the beginning, and not in the end.
 * Returns what keeps the call from being decided, or null.
 */
static const char *
wait_for_portion(Lease *lease, const Call *call, Answer *answer)
{
	Waiting		waiting = {lease, call->cost};
	int64		until = now_us() + timeout_setting * INT64CONST(1000);
	uint64		answers = lease->answers;
	const char *why = NULL;

	lease->waiting += call->cost;
	lease->n_waiting++;
	(void) lease_request(lease);
	lease_unlock(lease);

	PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(&waiting));
	{
		ConditionVariablePrepareToSleep(&lease->answer);
		for (;;)
		{
			bool		started = worker_wake();
			int64		now;

			(void) lease_lock(&call->name);
			now = now_us();
			if (try_decide(lease, call, now, &answers, answer))
				break;
			if (!started)
				why = "No background worker could be started.";
			else if (home_is_away(lease))
				why = "Its home is away.";
			else if (now < lease->refused_until)
				why = "Its home cannot answer.";
			else if (now >= until)
				why = "Its home has not answered in time.";
			if (why)
			{
				lease->undecided++;
				break;
			}
			(void) lease_request(lease);
			lease_unlock(lease);
			/* short, so that it does not matter if a worker ends meanwhile */
			(void) ConditionVariableTimedSleep(&lease->answer,
											   Min(Max((until - now) / 1000, 1), LONGEST_SLEEP),
											   PG_WAIT_EXTENSION);
		}
		stop_waiting_locked(&waiting);
		lease_unlock(lease);
		ConditionVariableCancelSleep();
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(&waiting));
	return why;
}

/* Decide by a lease. */
static void
decide_by_lease(const Call *call, Answer *answer)
{
	Lease	   *lease = lease_lock(&call->name);
	int64		now = now_us();
	bool		wake = false;
	const char *why = NULL;
	const char *hint = NULL;

	if (!lease)
	{
		decide_by_setting(call, "There is no room for another lease.",
						  "You might need to increase ratelimit_region.max_leases.",
						  answer);
		return;
	}
	lease->capacity = call->capacity;
	lease->refill = call->refill;
	lease->cost = call->cost;
	lease->demand += call->cost;
	lease->called = now;
	if (lease_take(lease, call->cost, now))
	{
		describe(lease, call, true, now, answer);
		lease->here++;
		if (lease->tokens < lease->low)
			wake = now >= Max(lease->empty_until, lease->refused_until) &&
				!home_is_away(lease) && lease_request(lease);
		lease_unlock(lease);
	}
	else if (home_is_away(lease))
	{
		lease->undecided++;
		why = "Its home is away.";
		/* it is tried again as long as there is a worker */
		wake = true;
		lease_unlock(lease);
	}
	else if (now < lease->refused_until)
	{
		lease->undecided++;
		why = "Its home cannot answer.";
		hint = "See the column error of the view rate_limit_home_states.";
		lease_unlock(lease);
	}
	else if (is_empty(lease, call->cost, now))
	{
		describe(lease, call, false, now, answer);
		lease->here++;
		lease->denied++;
		wake = now >= lease->empty_until && now >= lease->blocked_until && lease_request(lease);
		lease_unlock(lease);
	}
	else
		why = wait_for_portion(lease, call, answer);
	if (wake)
		(void) worker_wake();
	if (why)
		decide_by_setting(call, why, hint, answer);
}

/* Decide a call on a key whose home is elsewhere. */
static void
decide(const Call *call, Answer *answer)
{
	answer->shadowed = false;
	if (!setting_enabled())
	{
		answer->allowed = true;
		answer->remaining = call->capacity;
		answer->retry_after = 0;
		return;
	}
	if (call->capacity == 0 || call->cost > call->capacity)
	{
		answer->allowed = false;
		answer->remaining = call->capacity == 0 ? 0 : NAN;
		answer->retry_after = INFINITY;
	}
	else if (call->cost == 0)
	{
		answer->allowed = true;
		answer->remaining = NAN;
		answer->retry_after = 0;
	}
	else
		decide_by_lease(call, answer);
	if (!answer->allowed)
	{
		count_violation(call);
		if (setting_shadow())
			answer->allowed = answer->shadowed = true;
	}
}

static void
copy_arguments(FunctionCallInfo fcinfo, Datum *args)
{
	for (int i = 0; i < 5; i++)
		args[i] = PG_GETARG_DATUM(i);
}

Datum
rl_consume_leased(PG_FUNCTION_ARGS)
{
	Call		call;
	Answer		answer;

	shared_check();
	read_call(fcinfo, &call);
	if (call.name.home == HOME_HERE)
	{
		Datum		args[5];

		copy_arguments(fcinfo, args);
		return engine_call(ENGINE_CONSUME, 5, args, true);
	}
	decide(&call, &answer);
	PG_RETURN_BOOL(answer.allowed);
}

/* An interval of so many seconds, rounded up */
static Datum
interval_of(double seconds, bool *null)
{
	Interval   *interval = palloc0(sizeof(Interval));

	*null = isnan(seconds) || seconds > 1e11;
	if (!*null)
		interval->time = (int64) ceil(Max(seconds, 0) * 1e6);
	return IntervalPGetDatum(interval);
}

/* The tokens that are missing until the bucket is full, in seconds */
static double
reset_after(const Call *call, const Answer *answer)
{
	if (isnan(answer->remaining) || answer->remaining >= call->capacity)
		return answer->remaining >= call->capacity && call->capacity > 0 ? 0 : NAN;
	return call->refill > 0 ? (call->capacity - answer->remaining) / call->refill : INFINITY;
}

/*
 * The columns of rl_result.  Its name is looked up when the extension is created, and
 * somebody may have had a type of that name before.
 */
static TupleDesc
result_columns(FunctionCallInfo fcinfo)
{
	static const Oid types[] = {BOOLOID, FLOAT8OID, FLOAT8OID, INTERVALOID, INTERVALOID,
	TEXTOID, BOOLOID, INTERVALOID};
	TupleDesc	desc;
	bool		fits;

	fits = get_call_result_type(fcinfo, NULL, &desc) == TYPEFUNC_COMPOSITE &&
		desc->natts == lengthof(types);
	for (int i = 0; fits && i < lengthof(types); i++)
		fits = TupleDescAttr(desc, i)->atttypid == types[i];
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type rl_result is not that of extension ratelimit")));
	return BlessTupleDesc(desc);
}

Datum
rl_throttle_leased(PG_FUNCTION_ARGS)
{
	Call		call;
	Answer		answer;
	TupleDesc	desc;
	Datum		values[8] = {0};
	bool		nulls[8] = {false};

	shared_check();
	read_call(fcinfo, &call);
	if (call.name.home == HOME_HERE)
	{
		Datum		args[5];

		copy_arguments(fcinfo, args);
		(void) result_columns(fcinfo);
		return engine_call(ENGINE_THROTTLE, 5, args, true);
	}
	desc = result_columns(fcinfo);
	decide(&call, &answer);
	values[0] = BoolGetDatum(answer.allowed);
	values[1] = Float8GetDatum(call.capacity);
	values[2] = Float8GetDatum(answer.remaining);
	nulls[2] = isnan(answer.remaining);
	values[3] = interval_of(answer.retry_after, &nulls[3]);
	values[4] = interval_of(reset_after(&call, &answer), &nulls[4]);
	values[5] = PG_GETARG_DATUM(4);
	values[6] = BoolGetDatum(answer.shadowed);
	nulls[7] = true;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
