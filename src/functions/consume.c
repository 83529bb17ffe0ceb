/*
 * functions/consume.c
 *		The SQL functions that decide a call on one bucket.
 *
 * SQL function, argument check, decision, answer: rl_consume() is the main path.
 * What follows from the arguments alone is remembered per session, as the next
 * call mostly has the same capacity, refill, cost and limiter: the arguments are
 * checked, and quotients worked out, when they first appear.
 */
#include "ratelimit.h"

#include <math.h>

#include "access/htup_details.h"
#include "decide/blocks.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "decide/refunds.h"
#include "memory/consume.h"
#include "violations/stats.h"
#include "violations/count.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(rl_consume);
PG_FUNCTION_INFO_V1(rl_throttle);
PG_FUNCTION_INFO_V1(rl_peek);
PG_FUNCTION_INFO_V1(rl_consume_upto);

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

/* A number of tokens, above 0 or 0? */
void
check_tokens(const char *name, double tokens)
{
	if (!isfinite(tokens) || tokens < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a finite number not below 0, not %s",
						name, show_number(tokens))));
}

static void
check_rule(double capacity, double refill, double cost)
{
	check_tokens("capacity", capacity);
	check_tokens("refill", refill);
	check_tokens("cost", cost);
}

static pg_noinline pg_attribute_cold void
make_rule(BucketRule *rule, double capacity, double refill, double cost)
{
	check_rule(capacity, refill, cost);
	bucket_rule(rule, capacity, refill, cost);
}

void
fail_length(const char *name, const char *value, int len, int max)
{
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty: \"\"", name)));
	else
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must not be longer than %d bytes, not \"%.*s...\" of %d bytes",
						name, max, pg_mbcliplen(value, len, 32), value, len)));
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

/* Could these be the names of a bucket, or of a block (decide/blocks.c)? */
bool
names_valid(const char *limiter, int limiter_len, const char *key, int key_len)
{
	if (limiter_len > 0 && *limiter == BLOCK_PREFIX)
	{
		limiter++;
		limiter_len--;
	}
	return limiter_len > 0 && limiter_len <= MAX_LIMITER_LEN &&
		key_len > 0 && key_len <= MAX_KEY_LEN &&
		!memchr(limiter, ':', limiter_len) &&
		!memchr(limiter, '\0', limiter_len) && !memchr(key, '\0', key_len);
}

static pg_attribute_always_inline const BucketRule *
find_rule(double capacity, double refill, double cost)
{
	static union
	{
		BucketRule	rule;
		char		pad[PG_CACHE_LINE_SIZE];
	}			remembered[16] hot_data pg_attribute_aligned(PG_CACHE_LINE_SIZE);
	BucketRule *rule;
	uint64		bits[3];
	uint64		its[3];

	memcpy(&bits[0], &capacity, sizeof(double));
	memcpy(&bits[1], &refill, sizeof(double));
	memcpy(&bits[2], &cost, sizeof(double));
	rule = &remembered[((bits[0] ^ bits[1] * 3 ^ bits[2] * 5) *
						UINT64CONST(0x9E3779B97F4A7C15)) >> 60].rule;

	/* an entry with capacity 0 is unused, or of a rule that is worked out anew */
	memcpy(its, rule, sizeof(its));
	if (unlikely(bits[0] == 0 ||
				 its[0] != bits[0] || its[1] != bits[1] || its[2] != bits[2]))
		make_rule(rule, capacity, refill, cost);
	return rule;
}

/*
 * The rule for a call's numbers, checked.  Lasts for the session, but may be
 * overwritten by the next call of this function.
 */
const BucketRule *
get_rule(double capacity, double refill, double cost)
{
	return find_rule(capacity, refill, cost);
}

/* The name without a key. */
static void
name_limiter(SlotName *name, const char *limiter, int len)
{
	memset(name, 0, sizeof(*name));
	name->limiter_len = len;
	memcpy(name->bytes, limiter, Min(len, SLOT_BYTES));
}

/* All of a name that has its limiter. */
static pg_attribute_always_inline void
name_key(BucketId *id)
{
	int			at = Min(id->limiter_len, SLOT_BYTES);

	id->name.key_len = id->key_len;
	copy_bytes(id->name.bytes + at, id->key, Min(id->key_len, SLOT_BYTES - at));
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
	name_limiter(&id->name, limiter, limiter_len);
	name_key(id);
	id->hash = shmem_hash(shmem_hash_limiter(database, limiter, limiter_len),
						  key, key_len);
}

/* What was last checked, and counted for. */
static SlotName last_limiter hot_data;
static Oid	last_database hot_data = InvalidOid;
static uint64 last_limiter_hash hot_data;
static char last_limiter_whole[MAX_LIMITER_LEN];

static pg_noinline pg_attribute_cold void
use_another_limiter(const char *limiter, int len)
{
	check_limiter(limiter, len);
	last_database = MyDatabaseId;
	last_limiter_hash = shmem_hash_limiter(MyDatabaseId, limiter, len);
	name_limiter(&last_limiter, limiter, len);
	memcpy(last_limiter_whole, limiter, len);
	stats_set_limiter(limiter, len);
}

static pg_attribute_always_inline void
use_this_limiter(const char *limiter, int len)
{
	if (unlikely(len != last_limiter.limiter_len || len == 0 ||
				 !same_bytes(limiter, last_limiter.bytes, Min(len, SLOT_BYTES)) ||
				 (len > SLOT_BYTES && memcmp(limiter, last_limiter_whole, len) != 0)))
		use_another_limiter(limiter, len);
}

/* Check the limiter, and count for it from here on. */
void
use_limiter(const char *limiter, int len)
{
	use_this_limiter(limiter, len);
}

static pg_attribute_always_inline void
name_bucket(BucketId *id, const char *key, int key_len, const char *limiter,
			int limiter_len)
{
	check_length("key", key, key_len, MAX_KEY_LEN);
	use_this_limiter(limiter, limiter_len);
	id->hash = 0;
	if (likely(store.header))
	{
		id->hash = hash_key(last_limiter_hash, key, key_len);
		fetch_bucket(id->hash, limiter_len + key_len);
	}
	id->database = last_database;
	id->key = key;
	id->key_len = key_len;
	id->limiter = limiter;
	id->limiter_len = limiter_len;
	id->name = last_limiter;
	name_key(id);
}

/* The name of a bucket, checked; its calls are counted from here on. */
void
use_bucket(BucketId *id, const char *key, int key_len, const char *limiter,
		   int limiter_len)
{
	name_bucket(id, key, key_len, limiter, limiter_len);
}

static pg_attribute_always_inline void
read_bucket_id(BucketId *id, Datum key, Datum limiter)
{
	int			key_len;
	int			limiter_len;
	const char *key_bytes = text_bytes(key, &key_len);
	const char *limiter_bytes = text_bytes(limiter, &limiter_len);

	name_bucket(id, key_bytes, key_len, limiter_bytes, limiter_len);
}

void
get_bucket_id(BucketId *id, const text *key, const text *limiter)
{
	read_bucket_id(id, PointerGetDatum(key), PointerGetDatum(limiter));
}

pg_noreturn static void
fail_null_call(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"key", "capacity", "refill", "cost", "limiter"};
	int			i = 0;

	while (!PG_ARGISNULL(i))
		i++;
	fail_null(names[i]);
}

/* The arguments key, capacity, refill, cost, limiter; checked. */
static pg_attribute_always_inline const BucketRule *
read_call(FunctionCallInfo fcinfo, BucketId *id)
{
	const NullableDatum *args = fcinfo->args;

	if (unlikely(args[0].isnull | args[1].isnull | args[2].isnull | args[3].isnull |
				 args[4].isnull))
		fail_null_call(fcinfo);
	read_bucket_id(id, args[0].value, args[4].value);
	return find_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3));
}

const BucketRule *
get_call(FunctionCallInfo fcinfo, BucketId *id)
{
	return read_call(fcinfo, id);
}

/* A span of time in ns, a month being 30 days, of at least so many microseconds. */
Owed
get_span(const char *name, const Interval *span, int least)
{
	Owed		days = (Owed) span->month * DAYS_PER_MONTH + span->day;
	Owed		us = days * USECS_PER_DAY + span->time;

	if (us < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must %s 0, not %s", name,
						least > 0 ? "be above" : "not be below",
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(span))))));
	return us * 1000;
}

/*
 * Deciding
 */

/* Decide a call; decide_counted() is to follow. */
static pg_attribute_always_inline void
decide_quickly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	begin_decision(decision);

	if (unlikely(!enabled_setting))
	{
		decision->allowed = true;
		decision->owed = 0;
		return;
	}
	if (unlikely(refund_setting))
		refund_reserve(1);
	if (unlikely(shmem_denied_last && id->hash != shmem_last_hash))
		violations_expect(id);
	if (unlikely(block_possible(id) || !consume_here(id, rule, decision)))
		decide_slowly(id, rule, decision);
}

void
decide_uncounted(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	decide_quickly(id, rule, decision);
}

/* Count a decision: here, if that is all there is to do about it. */
static pg_attribute_always_inline void
count_quickly(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	if (likely(decision->allowed && enabled_setting && !refund_setting))
		stats_count(COUNT_ALLOWED);
	else
		decide_counted(id, rule, decision, false);
}

/*
 * Answers
 */

/* A span of ns, rounded up: waiting that long is enough. */
Datum
interval_from_ns(Owed ns)
{
	Interval   *result = palloc0(sizeof(Interval));
	Owed		us = (ns + 999) / 1000;

	result->time = (int64) Min(us, (Owed) PG_INT64_MAX);
	return IntervalPGetDatum(result);
}

/* Will the bucket never be full by itself?  A capacity of 0 has no bucket that could be. */
bool
decision_never_full(const BucketRule *rule, const Decision *decision)
{
	return bucket_rule_is_closed(rule) || (!rule->timed && decision->owed > 0);
}

/* In how many ns such a call would be allowed; -1: never, or not known. */
Owed
decision_wait(const BucketRule *rule, const Decision *decision)
{
	/* how much more is owed than the call could bear */
	Owed		early = decision->owed - rule->room;

	if (decision->allowed)
		return 0;
	if (!decision->known || rule->room < 0 || (!rule->timed && early > 0))
		return -1;
	return Max(early, decision->blocked);
}

/*
 * The rl_result of a decision whose call left, or would leave, "owed".  The bucket and
 * the rule are NULL if no bucket decided: then only whether it is allowed is known.
 */
Datum
make_result(FunctionCallInfo fcinfo, const BucketId *id, const BucketRule *rule,
			const Decision *decision)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;
	Datum		values[7];
	bool		nulls[7];

	if (!desc)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		desc = BlessTupleDesc(desc);
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old);
	}

	memset(nulls, true, sizeof(nulls));
	values[0] = BoolGetDatum(decision->allowed);
	nulls[0] = false;
	if (rule)
	{
		values[1] = Float8GetDatum(rule->capacity);
		nulls[1] = false;
	}
	if (rule && decision->known)
	{
		Owed		wait = decision_wait(rule, decision);

		values[2] = Float8GetDatum(bucket_tokens(rule, decision->owed));
		nulls[2] = false;
		values[3] = interval_from_ns(wait);
		nulls[3] = wait < 0;
		values[4] = interval_from_ns(decision->owed);
		nulls[4] = decision_never_full(rule, decision);
	}
	if (id)
	{
		values[5] = PointerGetDatum(cstring_to_text_with_len(id->limiter, id->limiter_len));
		nulls[5] = false;
	}
	values[6] = BoolGetDatum(decision->shadowed);
	nulls[6] = false;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* rl_consume(key, capacity, refill, cost, limiter) returns boolean */
/* ... on one page of code */
Datum pg_attribute_hot pg_attribute_aligned(4096)
rl_consume(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = read_call(fcinfo, &id);
	Decision	decision;

	decide_quickly(&id, rule, &decision);
	count_quickly(&id, rule, &decision);
	PG_RETURN_BOOL(decision.allowed);
}

/* rl_throttle(key, capacity, refill, cost, limiter) returns rl_result */
Datum
rl_throttle(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	decide_uncounted(&id, rule, &decision);
	decide_counted(&id, rule, &decision, false);
	PG_RETURN_DATUM(make_result(fcinfo, &id, rule, &decision));
}

/* rl_peek(key, capacity, refill, cost, limiter) returns rl_result */
Datum
rl_peek(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	look(&id, rule, &decision);
	if (decision.allowed && enabled_setting)
		(void) bucket_take(rule, &decision.owed);
	decision.shadowed = shadow_setting && !decision.allowed;
	decision.allowed |= shadow_setting;
	PG_RETURN_DATUM(make_result(fcinfo, &id, rule, &decision));
}

/* The most whole tokens, at least 1, that a bucket in this state gives. */
static double
whole_tokens(const BucketRule *one, Owed owed, double wanted)
{
	double		tokens = floor(bucket_tokens(one, owed));
	double		guesses[4];

	/* what is shown may be off by rounding: by far less than a token, mostly */
	guesses[0] = tokens + 1;
	guesses[1] = tokens;
	guesses[2] = tokens - 1;
	guesses[3] = floor(tokens * (1 - 0x1p-48));
	for (int i = 0; i < lengthof(guesses); i++)
	{
		double		n = Min(guesses[i], wanted);

		if (n >= 1 && owed <= get_rule(one->capacity, one->refill, n)->room)
			return n;
	}
	return 1;
}

/*
 * rl_consume_upto(key, capacity, refill, wanted, limiter) returns float8: the
 * tokens taken.  What is there is looked at and then taken; should others take of
 * it between the two, it is looked at again.
 */
Datum
rl_consume_upto(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"key", "capacity", "refill", "wanted", "limiter"};
	BucketId	id;
	BucketRule	one;
	double		wanted;
	Decision	decision;

	for (int i = 0; i < lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(4));
	check_tokens("wanted", PG_GETARG_FLOAT8(3));
	wanted = floor(PG_GETARG_FLOAT8(3));
	one = *get_rule(PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2), 1);
	if (wanted == 0 || !enabled_setting)
		PG_RETURN_FLOAT8(wanted);

	for (;;)
	{
		double		n = 1;
		BucketRule	rule;

		CHECK_FOR_INTERRUPTS();
		look(&id, &one, &decision);
		if (decision.known && decision.allowed)
			n = whole_tokens(&one, decision.owed, wanted);
		rule = *get_rule(one.capacity, one.refill, n);
		decide_uncounted(&id, &rule, &decision);
		if (decision.known && !decision.allowed && n > 1)
			continue;
		decide_counted(&id, &rule, &decision, false);

		/* decided by a setting: all of it, or nothing */
		if (!decision.known || (decision.allowed && shadow_setting))
			n = wanted;
		PG_RETURN_FLOAT8(decision.allowed ? n : 0);
	}
}
