/*
 * decide/exceptions.c
 *		Keys for which policies have exceptions.
 *
 * The exceptions are the rows of rate_limit_exceptions.  A trigger on the table sends an
 * invalidation for every change, as transactional as the change (decide/policy_cache.c).
 * When one comes, the session brings the filter up to date (table/exceptions.c), and
 * drops what it has read.  The filter then tells for nearly every key without an
 * exception that it has none.  The rows for the other keys are read by the table's
 * indexes, and kept in the session: a limited number of them, as a caller may choose
 * the keys.
 *
 * A row that has expired is as if it were not there.  No change tells of that, so the
 * clock is looked at whenever a row is used that expires.
 *
 * What an exception means for a call is decided in decide/policies.c.
 */
#include "postgres.h"

#include <float.h>

#include "access/xact.h"
#include "core/transaction.h"
#include "decide/errors.h"
#include "decide/exceptions.h"
#include "decide/rules.h"
#include "miscadmin.h"
#include "table/sql.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How many keys' rows a session keeps; each has one place, by its hash. */
#define N_KEPT		256

/* The rows for a key under a policy, also if there are none. */
typedef struct Kept
{
	bool		used;
	uint8		policy_len;
	uint8		key_len;
	int			n;
	ExceptionRow *rows;			/* NULL if there are none */
	TimestampTz expires_at;		/* when the first of the rows does */
	char		names[MAX_LIMITER_LEN + MAX_KEY_LEN];	/* policy, then key */
} Kept;

KnownExceptions known_exceptions;

/* The rows read so far.  All are dropped when the table may have changed. */
static struct
{
	bool		valid;
	MemoryContext context;
	Kept	   *kept;			/* N_KEPT of them */
}			cache;

/* Callback: a table has changed, or, if relid is invalid, any table may have. */
static void
invalidate(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == known_exceptions.relid ||
		!OidIsValid(known_exceptions.relid))
	{
		known_exceptions.valid = false;
		known_exceptions.changed = true;
		cache.valid = false;
	}
}

/* Register for the invalidations.  Called once, when the library is loaded. */
void
exceptions_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

static void
empty_cache(void)
{
	cache.kept = NULL;
	if (!cache.context)
		cache.context = AllocSetContextCreate(TopMemoryContext, "ratelimit exceptions",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(cache.context);
	cache.kept = MemoryContextAllocZero(cache.context, N_KEPT * sizeof(Kept));
}

/* Bring the filter up to date with the table, as far as that is possible. */
static void
learn(void)
{
	bool		good;

	known_exceptions.relid = sql_available() ? sql_relid(SQL_EXCEPTIONS) : InvalidOid;
	memset(&known_exceptions.mark, 0, sizeof(ExceptionMark));
	known_exceptions.changed = false;
	good = !OidIsValid(known_exceptions.relid) ||
		exceptions_read_pages(&known_exceptions.mark);
	known_exceptions.valid = good && !known_exceptions.changed;
}

/* The names of a call by a policy, and the rows for it, for sql_try(). */
typedef struct ExceptionCall
{
	const char *policy;
	const char *key;
	int			policy_len;
	int			key_len;
	Kept	   *kept;			/* NULL if there are no rows */
} ExceptionCall;

/* The place of the call's rows.  They are there if it has the call's names. */
static Kept *
find_place(const ExceptionCall *call)
{
	uint64		hash = hash_key(hash_limiter(MyDatabaseId, call->policy, call->policy_len),
								call->key, call->key_len);

	return &cache.kept[hash % N_KEPT];
}

static bool
is_kept(const Kept *kept, const ExceptionCall *call)
{
	return kept->used && kept->policy_len == call->policy_len &&
		kept->key_len == call->key_len &&
		memcmp(kept->names, call->policy, call->policy_len) == 0 &&
		memcmp(kept->names + call->policy_len, call->key, call->key_len) == 0 &&
		(kept->expires_at == DT_NOEND || kept->expires_at > GetCurrentTimestamp());
}

/* Read the call's rows, and keep those that have not expired. */
static void
read_rows(ExceptionCall *call)
{
	TimestampTz now = GetCurrentTimestamp();
	ExceptionMark *known = known_exceptions.valid ? &known_exceptions.mark : NULL;
	ExceptionRow *rows;
	Kept	   *kept;
	int			n;
	int			left = 0;

	rows = exceptions_read_rows(call->policy, call->policy_len, call->key, call->key_len,
								known, cache.context, &n);
	kept = find_place(call);
	if (kept->rows)
		pfree(kept->rows);
	memset(kept, 0, sizeof(*kept));
	kept->expires_at = DT_NOEND;
	for (int i = 0; i < n; i++)
	{
		if (rows[i].expires_at <= now)
			continue;
		kept->expires_at = Min(kept->expires_at, rows[i].expires_at);
		rows[left++] = rows[i];
	}
	kept->rows = rows;
	kept->n = left;
	kept->policy_len = call->policy_len;
	kept->key_len = call->key_len;
	memcpy(kept->names, call->policy, call->policy_len);
	memcpy(kept->names + call->policy_len, call->key, call->key_len);
	kept->used = true;
	call->kept = left > 0 ? kept : NULL;
}

/* Find the rows of a call that may have some. */
static void
find(void *arg)
{
	ExceptionCall *call = arg;

	if (!cache.valid || !cache.kept)
	{
		empty_cache();
		/* before reading, so that a change meanwhile makes it false again */
		cache.valid = true;
	}
	if (!known_exceptions.valid)
		learn();
	if (!OidIsValid(known_exceptions.relid) ||
		(known_exceptions.valid && !exceptions_possible(call->key, call->key_len)))
		return;
	call->kept = find_place(call);
	if (cache.valid && is_kept(call->kept, call))
	{
		if (call->kept->n == 0)
			call->kept = NULL;
		return;
	}
	call->kept = NULL;

	invalid_after_rollback(&cache.valid);
	read_rows(call);

	/*
	 * A parallel query reads by its own snapshot, which may be older than a change whose
	 * invalidation has come already.  So what it reads is good for this call only.
	 */
	if (IsInParallelMode())
		cache.valid = false;
}

/*
 * Find the exceptions for a key under a policy, for which exceptions_possible() does
 * not rule them out.  *found is a copy of them, in the current memory context, or NULL
 * if there are none.  If they cannot be read, raise an error, or, if
 * ratelimit.on_error is to decide the call, warn and return false.
 */
bool
exceptions_find(const text *policy, const text *key, Exceptions **found)
{
	ExceptionCall call = {VARDATA_ANY(policy), VARDATA_ANY(key),
	VARSIZE_ANY_EXHDR(policy), VARSIZE_ANY_EXHDR(key)};
	ErrorData  *error = NULL;

	*found = NULL;
	check_length("key", call.key, call.key_len, MAX_KEY_LEN);
	if (errors_are_decided())
		error = sql_try(find, &call);
	else
		find(&call);
	if (error)
	{
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not read rate_limit_exceptions: %s", error->message)));
		return false;
	}
	if (call.kept)
	{
		Size		size = call.kept->n * sizeof(ExceptionRow);

		*found = palloc(offsetof(Exceptions, rows) + size);
		(*found)->n = call.kept->n;
		memcpy((*found)->rows, call.kept->rows, size);
	}
	return true;
}

/* Choose the exception that applies to a tier; NULL if none does. */
const ExceptionRow *
exceptions_choose(const Exceptions *exceptions, const char *tier, int tier_len)
{
	for (int i = 0; exceptions && i < exceptions->n; i++)
	{
		const ExceptionRow *row = &exceptions->rows[i];

		if (row->tier_len == 0 ||
			(row->tier_len == tier_len && memcmp(row->tier, tier, tier_len) == 0))
			return row;
	}
	return NULL;
}

static double
multiply(double value, double factor)
{
	return Min(value * factor, DBL_MAX);
}

/*
 * The allowance of each period for a key with an exception, which may be NULL, in place
 * of that of its tier.
 */
double
exceptions_allowance(const ExceptionRow *row, double allowance)
{
	return row && row->action == EXCEPTION_FACTOR ?
		multiply(allowance, row->factor) : allowance;
}

/*
 * The rule of a call on a bucket with an exception, which may be NULL, in place of
 * capacity and refill of its tier.  The rule of a key that is denied has capacity 0,
 * and in its window the nanoseconds until the exception expires, or 0.
 */
void
exceptions_rule(const ExceptionRow *row, double capacity, double refill, double cost,
				BucketRule *rule)
{
	if (row && row->action == EXCEPTION_DENY)
	{
		*rule = *get_rule(0, refill, cost);
		if (!TIMESTAMP_NOT_FINITE(row->expires_at))
			rule->window = (Owed) Max(row->expires_at - GetCurrentTimestamp(), 1) * 1000;
		return;
	}
	if (row && row->action == EXCEPTION_RULE)
	{
		capacity = row->capacity;
		refill = row->refill;
	}
	else if (row && row->action == EXCEPTION_FACTOR)
	{
		capacity = multiply(capacity, row->factor);
		refill = multiply(refill, row->factor);
	}
	*rule = *get_rule(capacity, refill, cost);
}
