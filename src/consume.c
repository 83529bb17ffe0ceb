/*
 * consume.c
 *		The SQL functions that decide calls, and the way to a decision.
 *
 * SQL function, argument check, tier, bucket arithmetic, answer: decide() is the
 * main path.  What follows from the arguments alone is remembered per session,
 * as the next call mostly has the same capacity, refill, cost and limiter: the
 * arguments are checked, and quotients worked out, when they first appear.
 */
#include "ratelimit.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "flush.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "sql.h"
#include "stats.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(rl_consume);
PG_FUNCTION_INFO_V1(rl_throttle);
PG_FUNCTION_INFO_V1(rl_peek);
PG_FUNCTION_INFO_V1(rl_reset);
PG_FUNCTION_INFO_V1(rl_reset_all);

/*
 * Arguments
 */

void
fail_null(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", name)));
}

/* The number as SQL would show it. */
static char *
show_number(double value)
{
	return DatumGetCString(DirectFunctionCall1(float8out, Float8GetDatum(value)));
}

static void
check_rule(double capacity, double refill, double cost)
{
	if (!isfinite(capacity) || capacity <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("capacity must be a finite number above 0, not %s",
						show_number(capacity))));
	if (!isfinite(refill) || refill < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("refill must be a finite number not below 0, not %s",
						show_number(refill))));
	if (!isfinite(cost) || cost < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cost must be a finite number not below 0, not %s",
						show_number(cost))));
}

/* Empty, or longer than max? */
void
check_length(const char *name, const char *value, int len, int max)
{
	if (unlikely(len == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty: \"\"", name)));
	if (unlikely(len > max))
	{
		int			shown = pg_mbcliplen(value, len, 32);

		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must not be longer than %d bytes, not \"%.*s...\" of %d bytes",
						name, max, shown, value, len)));
	}
}

void
check_limiter(const char *limiter, int len)
{
	check_length("limiter", limiter, len, MAX_LIMITER_LEN);
	if (memchr(limiter, ':', len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limiter must not contain \":\": \"%.*s\"", len, limiter)));
}

/*
 * The rule for a call's numbers, checked.  Lasts for the session, but may be
 * overwritten by the next call of this function.
 */
const BucketRule *
get_rule(double capacity, double refill, double cost)
{
	static BucketRule remembered[16];
	BucketRule *rule;
	uint64		bits[3];

	memcpy(&bits[0], &capacity, sizeof(double));
	memcpy(&bits[1], &refill, sizeof(double));
	memcpy(&bits[2], &cost, sizeof(double));
	rule = &remembered[((bits[0] ^ bits[1] * 3 ^ bits[2] * 5) *
						UINT64CONST(0x9E3779B97F4A7C15)) >> 60];

	/* an unused entry has capacity 0, which no rule has */
	if (unlikely(rule->capacity != capacity || rule->refill != refill ||
				 rule->cost != cost || capacity == 0))
	{
		check_rule(capacity, refill, cost);
		bucket_rule(rule, capacity, refill, cost);
	}
	return rule;
}

/* The name of a bucket; nothing is checked. */
void
make_bucket_id(BucketId *id, Oid database, const char *limiter, int limiter_len,
			   const char *key, int key_len)
{
	id->database = database;
	id->limiter = limiter;
	id->limiter_len = limiter_len;
	id->key = key;
	id->key_len = key_len;
	id->hash = shmem_hash(shmem_hash_limiter(database, limiter, limiter_len),
						  key, key_len);
}

/* The name of a bucket: its limiter, checked, and the key, checked. */
void
get_bucket_id(BucketId *id, const text *key, const text *limiter)
{
	static char last[MAX_LIMITER_LEN];
	static int	last_len = 0;
	static uint64 last_hash;

	id->database = MyDatabaseId;
	id->key = VARDATA_ANY(key);
	id->key_len = VARSIZE_ANY_EXHDR(key);
	id->limiter = VARDATA_ANY(limiter);
	id->limiter_len = VARSIZE_ANY_EXHDR(limiter);

	check_length("key", id->key, id->key_len, MAX_KEY_LEN);
	if (unlikely(id->limiter_len != last_len ||
				 memcmp(id->limiter, last, last_len) != 0 || last_len == 0))
	{
		check_limiter(id->limiter, id->limiter_len);
		memcpy(last, id->limiter, id->limiter_len);
		last_len = id->limiter_len;
		last_hash = shmem_hash_limiter(MyDatabaseId, last, last_len);
		stats_set_limiter(last, last_len);
	}
	id->hash = shmem_hash(last_hash, id->key, id->key_len);
}

/* The arguments key, capacity, refill, cost, limiter; checked. */
static const BucketRule *
get_call(FunctionCallInfo fcinfo, BucketId *id)
{
	static const char *const names[] = {"key", "capacity", "refill", "cost", "limiter"};

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(4));
	return get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3));
}

/*
 * Deciding
 */

/* The bucket cannot be decided on: what ratelimit.on_error says, if not "error". */
static void
decide_by_setting(Decision *decision)
{
	decision->allowed = on_error_setting == ON_ERROR_ALLOW;
	decision->known = false;
	decision->owed = 0;
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

/* A call on its way to a decision in the table. */
typedef struct TableCall
{
	void		(*work) (const BucketId *, const BucketRule *, Decision *);
	const BucketId *id;
	const BucketRule *rule;
	Decision   *decision;
} TableCall;

static void
do_table_call(void *arg)
{
	TableCall  *call = arg;

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
	TableCall	call = {work, id, rule, decision};
	ErrorData  *error;

	/* a parallel worker cannot begin a subtransaction */
	if (on_error_setting == ON_ERROR_ERROR || IsInParallelMode())
	{
		work(id, rule, decision);
		return;
	}
	error = sql_try(do_table_call, &call);
	if (error)
	{
		decide_by_setting(decision);
		warn_undecided(id, decision, error->sqlerrcode, error->message);
		FreeErrorData(error);
	}
}

/* The bucket was not found in shared memory: decide, in the tier it belongs to. */
static void
decide_elsewhere(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	if (shmem_attached())
	{
		PlaceMode	mode = overflow_setting == OVERFLOW_EVICT ?
			PLACE_OR_EVICT : PLACE_OR_SPILL;

		if (RecoveryInProgress())
		{
			(void) shmem_place(id, rule, 0, PLACE_HERE, decision);
			return;
		}
		if (!spill_known())
			table_find_spilled();
		if (!table_writable())
		{
			table_take_over(id, rule, decision);
			return;
		}
		/* the second round: the mark was cleared between the two */
		for (;;)
		{
			CHECK_FOR_INTERRUPTS();
			if (shmem_place(id, rule, 0, mode, decision))
				return;
			if (table_consume(id, rule, decision))
			{
				stats_count(COUNT_OVERFLOWED);
				return;
			}
		}
	}
	if (!table_writable())
	{
		const char *where = IsInParallelMode() ? "parallel query" : "read-only transaction";

		if (on_error_setting == ON_ERROR_ERROR)
			ereport(ERROR,
					(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
					 errmsg("cannot decide on key \"%.*s\", limiter \"%.*s\" in a %s",
							id->key_len, id->key, id->limiter_len, id->limiter, where),
					 errdetail("Its bucket is in a table, which cannot be written here."),
					 errhint("Add \"ratelimit\" to shared_preload_libraries, so that buckets live in shared memory.")));
		decide_by_setting(decision);
		warn_undecided(id, decision, ERRCODE_READ_ONLY_SQL_TRANSACTION,
					   psprintf("The table of buckets cannot be written in a %s.", where));
		return;
	}
	(void) table_consume(id, rule, decision);
}

/* Decide a call, and count it. */
static inline void
decide(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	decision->known = true;
	decision->now = 0;
	if (unlikely(!shmem_attached() || !shmem_consume(id, rule, decision)))
		guarded(decide_elsewhere, id, rule, decision);
	stats_count(decision->allowed ? COUNT_ALLOWED : COUNT_DENIED);
	if (!decision->allowed)
		flush_record(id, 1, decision->now);
}

/* What decide() would find, changing nothing; decision->owed is before the call. */
static void
look_elsewhere(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	Owed		owed = 0;

	if (!RecoveryInProgress())
	{
		if (shmem_attached() && !spill_known())
			table_find_spilled();
		if (!shmem_attached() || spill_is_set(shmem_partition(id->hash)))
			owed = table_peek(id, rule);
	}
	decision->owed = owed;
	decision->allowed = bucket_take(rule, &owed);
}

/*
 * Answers
 */

/* A span of ns, rounded up: waiting that long is enough. */
static Datum
interval_from_ns(Owed ns)
{
	Interval   *result = palloc0(sizeof(Interval));
	Owed		us = (ns + 999) / 1000;

	result->time = (int64) Min(us, (Owed) PG_INT64_MAX);
	return IntervalPGetDatum(result);
}

/* The rl_result of a decision whose call left, or would leave, "owed". */
static Datum
make_result(FunctionCallInfo fcinfo, const BucketRule *rule,
			const Decision *decision)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;
	Datum		values[5];
	bool		nulls[5] = {false};
	Owed		early;

	if (!desc)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		desc = BlessTupleDesc(desc);
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old);
	}

	values[0] = BoolGetDatum(decision->allowed);
	values[1] = Float8GetDatum(rule->capacity);
	values[2] = Float8GetDatum(bucket_tokens(rule, decision->owed));

	/* how much more is owed than the call could bear */
	early = decision->owed - rule->room;
	if (decision->allowed)
		values[3] = interval_from_ns(0);
	else if (rule->room >= 0 && rule->timed)
		values[3] = interval_from_ns(early);
	else
		nulls[3] = true;

	if (rule->timed || decision->owed == 0)
		values[4] = interval_from_ns(decision->owed);
	else
		nulls[4] = true;

	if (!decision->known)
		nulls[2] = nulls[3] = nulls[4] = true;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* rl_consume(key, capacity, refill, cost, limiter) returns boolean */
Datum
rl_consume(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	decide(&id, rule, &decision);
	PG_RETURN_BOOL(decision.allowed);
}

/* rl_throttle(key, capacity, refill, cost, limiter) returns rl_result */
Datum
rl_throttle(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	decide(&id, rule, &decision);
	PG_RETURN_DATUM(make_result(fcinfo, rule, &decision));
}

/* rl_peek(key, capacity, refill, cost, limiter) returns rl_result */
Datum
rl_peek(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	decision.known = true;
	if (!shmem_attached() || !shmem_peek(&id, rule, &decision))
		guarded(look_elsewhere, &id, rule, &decision);
	(void) bucket_take(rule, &decision.owed);
	PG_RETURN_DATUM(make_result(fcinfo, rule, &decision));
}

/*
 * Resetting
 */

/* Is there a table that may hold buckets and can be written? */
static bool
table_may_hold(int partition)
{
	if (!shmem_attached())
		return true;
	if (RecoveryInProgress())
		return false;
	if (!spill_known())
		table_find_spilled();
	if (partition < 0)
		return spill_any();
	return spill_is_set(partition);
}

/* rl_reset(key, limiter) returns boolean */
Datum
rl_reset(PG_FUNCTION_ARGS)
{
	BucketId	id;
	bool		living = false;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "limiter");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));

	if (table_may_hold(shmem_attached() ? shmem_partition(id.hash) : 0))
		living = table_reset(&id);
	if (shmem_attached())
		living |= shmem_reset(&id);
	PG_RETURN_BOOL(living);
}

/* rl_reset_all(limiter) returns bigint; a null limiter means all of them */
Datum
rl_reset_all(PG_FUNCTION_ARGS)
{
	const char *limiter = NULL;
	int			len = 0;
	int64		reset = 0;

	if (!PG_ARGISNULL(0))
	{
		text	   *arg = PG_GETARG_TEXT_PP(0);

		limiter = VARDATA_ANY(arg);
		len = VARSIZE_ANY_EXHDR(arg);
		check_limiter(limiter, len);
	}
	if (table_may_hold(-1))
		reset = table_reset_all(limiter, len);
	if (shmem_attached())
		reset += shmem_reset_all(MyDatabaseId, limiter, len);
	PG_RETURN_INT64(reset);
}
