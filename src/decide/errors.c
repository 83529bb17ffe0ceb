/*
 * decide/errors.c
 *		What happens to a call that cannot be decided: ratelimit.on_error.
 *
 * A call on a bucket in the table can fail: a lock times out, the table is missing or
 * cannot be written.  Then either the caller gets the error, or the error is turned
 * into a warning and the setting decides whether the call is allowed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "core/settings.h"
#include "decide/errors.h"
#include "table/sql.h"

/* Decide as ratelimit.on_error says, which is not "error" here. */
void
decide_by_setting(Decision *decision)
{
	decision->allowed = on_error_setting == ON_ERROR_ALLOW;
	decision->known = false;
	decision->in_table = false;
	decision->owed = 0;
	decision->blocked = 0;
}

/* Warn that the setting has decided this call, and why. */
void
warn_undecided(const BucketId *id, const Decision *decision, int sqlerrcode,
			   const char *why)
{
	ereport(WARNING,
			(errcode(sqlerrcode),
			 errmsg("could not decide on key \"%.*s\", limiter \"%.*s\": %s",
					id->key_len, id->key,
					plain_limiter_len(id->limiter, id->limiter_len), id->limiter,
					decision->allowed ? "allowed" : "denied"),
			 errdetail("%s", why)));
}

/*
 * Does the setting decide calls that fail?  Not in a parallel query, which cannot
 * undo what the failed call has done.
 */
bool
errors_are_decided(void)
{
	return on_error_setting != ON_ERROR_ERROR && !IsInParallelMode();
}

/* Deciding has failed, and sql_try() has undone its subtransaction. */
static void
decide_failed(const BucketId *id, Decision *decision, ErrorData *error)
{
	if (!errors_are_decided())
		ReThrowError(error);
	decide_by_setting(decision);
	warn_undecided(id, decision, error->sqlerrcode, error->message);
	FreeErrorData(error);
}

/* The arguments of decide_guarded(), for sql_try(). */
typedef struct GuardedCall
{
	DecideWork	work;
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
 * Run a function that may use the table.  If it fails, the caller gets its error, or
 * the call is decided as ratelimit.on_error says.
 */
void
decide_guarded(DecideWork work, const BucketId *id, const BucketRule *rule,
			   Decision *decision)
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
 * There is no shared memory, and no row can be made: fail, or decide by the setting.
 */
void
fail_without_rows(const BucketId *id, Decision *decision)
{
	const char *where = IsInParallelMode() ? "in a parallel query" : "during recovery";

	if (on_error_setting == ON_ERROR_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot decide on key \"%.*s\", limiter \"%.*s\" %s",
						id->key_len, id->key,
					plain_limiter_len(id->limiter, id->limiter_len), id->limiter, where),
				 errdetail("Its bucket is in a table, which cannot be written here."),
				 hint_shared_memory("buckets")));
	decide_by_setting(decision);
	warn_undecided(id, decision, ERRCODE_READ_ONLY_SQL_TRANSACTION,
				   psprintf("The table of buckets cannot be written %s.", where));
}
