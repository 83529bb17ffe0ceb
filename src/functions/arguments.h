/*
 * functions/arguments.h
 *		Reading and checking the arguments of SQL functions: see
 *		functions/arguments.c.  What rl_consume() needs is inline.
 */
#ifndef RATELIMIT_FUNCTIONS_ARGUMENTS_H
#define RATELIMIT_FUNCTIONS_ARGUMENTS_H

#include "core/call.h"
#include "core/compat.h"
#include "datatype/timestamp.h"
#include "decide/limiter.h"
#include "decide/rules.h"
#include "fmgr.h"
#include "memory/short_way.h"

/* Raise an error if an argument is null. */
#define check_not_null(fcinfo, arg, name) \
	do { \
		if (unlikely((fcinfo)->args[arg].isnull)) \
			fail_null(name); \
	} while (0)

pg_noreturn extern void fail_null(const char *name);
pg_noreturn extern void fail_null_call(FunctionCallInfo fcinfo);
extern void get_bucket_id(BucketId *id, const text *key, const text *limiter);
extern void get_period_id(BucketId *id, const text *key, const text *period,
						  const text *limiter);
extern const BucketRule *get_call(FunctionCallInfo fcinfo, BucketId *id);
extern int	get_array(FunctionCallInfo fcinfo, int arg, const char *name, Datum **values);
extern int	get_keys(FunctionCallInfo fcinfo, int arg, const char *name, int most,
					 Datum **values);
extern Datum *get_parallel_array(FunctionCallInfo fcinfo, int arg, const char *name,
								 bool optional, const char *of, int n_of);
extern Owed get_span(const char *name, const Interval *span, int least);

/*
 * Check the name of a bucket and put it together.  From here on, decisions are
 * counted under its limiter.
 */
static pg_attribute_always_inline void
read_bucket_id(BucketId *id, Datum key, Datum limiter)
{
	int			key_len;
	int			limiter_len;
	const char *key_bytes = text_bytes(key, &key_len);
	const char *limiter_bytes = text_bytes(limiter, &limiter_len);

	check_length("key", key_bytes, key_len, MAX_KEY_LEN);
	limiter_use_quickly(limiter_bytes, limiter_len);
	name_in_current_limiter(id, key_bytes, key_len, limiter_bytes);
	if (likely(store.header))
		fetch_bucket(id->hash, limiter_len + key_len);
}

/*
 * The same for the bucket of a period, which becomes current_period.  The bucket's
 * name is valid until the next period is read.
 */
static pg_attribute_always_inline void
read_period_id(BucketId *id, Datum key, Datum period_text, Datum limiter)
{
	int			key_len;
	int			limiter_len;
	int			period_len;
	const char *key_bytes = text_bytes(key, &key_len);
	const char *limiter_bytes = text_bytes(limiter, &limiter_len);
	const char *period_bytes = text_bytes(period_text, &period_len);

	check_length("key", key_bytes, key_len, MAX_KEY_LEN);
	limiter_use_quickly(limiter_bytes, limiter_len);
	limiter_use_period(period_bytes, period_len);
	name_in_current_period(id, key_bytes, key_len, current_period.whole);
	if (likely(store.header))
		fetch_bucket(id->hash, id->limiter_len + key_len);
}

/*
 * Check the arguments of a call, which are key, capacity, refill, cost and limiter,
 * and return its rule.  The rule is valid until the next one is looked up.
 */
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

#endif							/* RATELIMIT_FUNCTIONS_ARGUMENTS_H */
