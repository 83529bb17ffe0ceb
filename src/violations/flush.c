/*
 * violations/flush.c
 *		Writing violations to the place that ratelimit.violation_sink names.
 *
 * With shared memory, violations wait there (violations/count.c)
 * until the worker or rl_flush() writes those of its database in its transaction, one
 * row per gateway.  None is lost, and none is written twice: a flush takes the counts
 * out, and when its transaction or subtransaction ends, the callbacks here either
 * drop them, after a commit, or put them back.  Nothing can fail in between, and a
 * backend that dies in any other way takes all of shared memory with it.  A lock
 * ensures that only one flush per database runs at a time.  How counts are taken and
 * put back is in violations/pending.c.
 *
 * Without shared memory, a transaction's violations wait in its own memory
 * and are written just before it commits.  No subtransaction could undo only the
 * writing, because PostgreSQL allows none while a transaction commits.  So this finds
 * out beforehand what it can: whether the table is there, whether it is ours, and
 * whether its lock is free.  If not, the transaction loses its violations with a
 * warning, and nothing else.  An error of the INSERT itself is an error of the
 * transaction.
 *
 * This file also remembers which of the worker's tasks failed, and how long flushes
 * pause then.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "core/compat.h"
#include "core/settings.h"
#include "core/transaction.h"
#include "mb/pg_wchar.h"
#include "memory/databases.h"
#include "memory/partitions.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "table/sql.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "violations/flush.h"
#include "violations/fold.h"
#include "violations/gateway.h"
#include "violations/pending.h"

/*
 * A row must not become longer than a jsonb value, or the statement's text, can be.
 */
#define MAX_DETAILS_BYTES	(32 * 1024 * 1024)

/* PostgreSQL's own advisory locks have class 1 or 2, so this class is ours. */
#define FLUSH_LOCK_CLASS	3

/*
 * A transaction that commits waits for the table this long, or lock_timeout if less.
 */
#define COMMIT_LOCK_MS		1000

static SqlStatement insert_violations = {
	"INSERT INTO %1$s.rate_limit_violations (gateway_name, total_count, details)"
	" VALUES ($1::pg_catalog.text, $2, $3::pg_catalog.jsonb)",
	3, {TEXTOID, INT8OID, TEXTOID}
};
static SqlStatement delete_old = {
	"DELETE FROM %1$s.rate_limit_violations"
	" WHERE created_at OPERATOR(pg_catalog.<)"
	" (pg_catalog.timezone('UTC', pg_catalog.now()) OPERATOR(pg_catalog.-)"
	"  pg_catalog.make_interval(0, 0, 0, 0, 0, 0, $1))",
	1, {FLOAT8OID}
};

/* What this transaction's flushes have taken and not settled yet. */
static struct
{
	uint32	   *taken;			/* indexes of entries, in TopTransactionContext */
	int			n;
	int64		total;			/* violations */
	int			level;			/* nest level of the (sub)transaction that flushed */
}			flush = {NULL};

/*
 * Lines to be logged when the transaction is about to commit, in
 * TopTransactionContext.
 */
static List *log_lines = NIL;

/* This transaction's violations without shared memory, in TopTransactionContext. */
static HTAB *local_violations = NULL;

static void be_called_at_ends(void);

typedef struct LocalViolation
{
	struct
	{
		char		gateway[MAX_GATEWAY_LEN + 1];
		char		limiter[MAX_LIMITER_LEN + 1];
		char		key[MAX_KEY_LEN + 1];
	}			names;			/* zero-padded, as they are hashed whole */
	int64		count;
} LocalViolation;

/*
 * Recording
 */

/*
 * Record violations without shared memory.  They are written when the transaction commits.
 */
void
flush_record_locally(const BucketId *id, int64 n)
{
	LocalViolation wanted;
	LocalViolation *violation;
	bool		found;

	/* violations are written in the transaction, which must be able to write */
	if (XactReadOnly || IsInParallelMode())
		return;
	if (!local_violations)
	{
		HASHCTL		control = {0};

		be_called_at_ends();
		control.keysize = sizeof(wanted.names);
		control.entrysize = sizeof(LocalViolation);
		control.hcxt = TopTransactionContext;
		local_violations = hash_create("ratelimit violations", 64, &control,
									   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	memset(&wanted, 0, sizeof(wanted));
	strlcpy(wanted.names.gateway, my_gateway()->name, sizeof(wanted.names.gateway));
	memcpy(wanted.names.limiter, id->limiter, id->limiter_len);
	memcpy(wanted.names.key, id->key, id->key_len);
	violation = hash_search(local_violations, &wanted.names, HASH_ENTER, &found);
	violation->count = (found ? violation->count : 0) + n;
}

/*
 * Rows
 */

static int
compare_views(const void *a, const void *b)
{
	const ViolationView *x = *(ViolationView *const *) a;
	const ViolationView *y = *(ViolationView *const *) b;
	int			result = strcmp(x->gateway, y->gateway);

	if (result == 0)
		result = strcmp(x->limiter, y->limiter);
	return result != 0 ? result : strcmp(x->key, y->key);
}

/* Write one gateway's violations to the place that ratelimit.violation_sink names. */
static void
write_gateway(const char *gateway, int64 total, const char *details)
{
	if (violation_sink_setting == SINK_TABLE)
	{
		Datum		values[3];

		values[0] = CStringGetTextDatum(gateway);
		values[1] = Int64GetDatum(total);
		values[2] = CStringGetTextDatum(details);
		sql_execute(&insert_violations, values, NULL, false);
	}
	else if (violation_sink_setting == SINK_LOG)
	{
		StringInfoData line;
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		initStringInfo(&line);
		appendStringInfoString(&line, "{\"database\": ");
		escape_json(&line, get_database_name(MyDatabaseId));
		appendStringInfoString(&line, ", \"gateway_name\": ");
		escape_json(&line, gateway);
		appendStringInfo(&line, ", \"total_count\": " INT64_FORMAT ", \"details\": %s}",
						 total, details);
		log_lines = lappend(log_lines, line.data);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Write violations: one row per gateway, or more if it has very many.  Returns the
 * number of rows.
 */
static int64
write_views(ViolationView **views, int n)
{
	SqlCaller	caller = {0};
	int64		rows = 0;
	int			nest = 0;
	StringInfoData name;

	if (violation_sink_setting == SINK_TABLE)
	{
		caller = sql_begin();
		nest = sql_restrict_names(caller.user);
		sql_lock(SQL_VIOLATIONS, RowExclusiveLock);
	}
	initStringInfo(&name);
	qsort(views, n, sizeof(ViolationView *), compare_views);
	for (int i = 0; i < n;)
	{
		const char *gateway = views[i]->gateway;
		StringInfoData details;
		int64		total = 0;

		CHECK_FOR_INTERRUPTS();
		initStringInfo(&details);
		while (i < n && strcmp(views[i]->gateway, gateway) == 0 &&
			   details.len < MAX_DETAILS_BYTES)
		{
			const ViolationView *first = views[i];
			int64		count = 0;

			CHECK_FOR_INTERRUPTS();
			for (; i < n && compare_views(&views[i], &first) == 0; i++)
				count += views[i]->count;
			resetStringInfo(&name);
			appendStringInfo(&name, "%s:%s", first->key, first->limiter);
			appendStringInfoString(&details, details.len == 0 ? "{" : ", ");
			escape_json(&details, name.data);
			appendStringInfo(&details, ": " INT64_FORMAT, count);
			total += count;
		}
		appendStringInfoChar(&details, '}');
		write_gateway(gateway, total, details.data);
		pfree(details.data);
		rows += violation_sink_setting != SINK_NONE;
	}
	if (violation_sink_setting == SINK_TABLE)
	{
		AtEOXact_GUC(true, nest);
		sql_end(caller);
	}
	return rows;
}

/*
 * Flushing shared memory
 */

/*
 * Write this database's violations.  Returns the number of rows.  What this takes is
 * settled when the transaction ends.
 */
int64
flush_violations(void)
{
	LOCKTAG		tag;
	ViolationView **views;
	ViolationView view;
	int64		ahead;
	int64		rows;
	int			n = 0;

	if (!memory_attached())
		return 0;
	/* a subtransaction must not settle what an outer one took */
	if (flush.taken && GetCurrentTransactionNestLevel() > flush.level)
		return 0;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, FLUSH_LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);

	/* fold all entries now, rather than each as it is taken */
	violations_fold();
	ahead = wall_clock_ahead();
	views = palloc(violations_entries() * sizeof(ViolationView *));
	if (!flush.taken)
	{
		be_called_at_ends();
		flush.taken = MemoryContextAlloc(TopTransactionContext,
										 violations_entries() * sizeof(uint32));
		flush.n = 0;
		flush.total = 0;
		flush.level = GetCurrentTransactionNestLevel();
	}
	for (uint32 at = 0; at < violations_entries(); at++)
	{
		if (at % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (!violations_take(at, ahead, &view))
			continue;
		if (!view.again)
			flush.taken[flush.n++] = at;
		flush.total += view.count;
		views[n] = palloc(sizeof(ViolationView));
		*views[n++] = view;
	}
	if (n == 0)
		return 0;
	injection_point("ratelimit-flush-taken");
	rows = write_views(views, n);
	injection_point("ratelimit-flush-written");
	return rows;
}

/* The flush's transaction has ended. */
static void
settle(bool written)
{
	if (!flush.taken)
		return;
	/* nothing can fail any more, but the process may be killed */
	if (written)
		injection_point("ratelimit-flush-committed");
	for (int i = 0; i < flush.n; i++)
		violations_settle(flush.taken[i], MyDatabaseId, written);
	flush.taken = NULL;
	log_lines = NIL;

	if (written && flush.total > 0 && my_shared_database())
	{
		FlushStats *stats = &my_shared_database()->flushes;

		databases_lock_flushes();
		stats->flushed += flush.total;
		stats->last_flush = GetCurrentTimestamp();
		stats->streak = 0;
		databases_unlock_flushes();
	}
}

/*
 * A task of the worker has failed.  Remember why, and report it unless the one before
 * had failed, too.  The more flushes fail in a row, the longer they pause.
 */
void
flush_failed(bool is_flush, const char *message)
{
	FlushStats *stats;
	int64		pause;
	int			len;
	bool		first;

	if (!my_shared_database())
		return;
	stats = &my_shared_database()->flushes;
	databases_lock_flushes();
	stats->last_error_at = GetCurrentTimestamp();
	len = pg_mbcliplen(message, strlen(message), sizeof(stats->last_error) - 1);
	memcpy(stats->last_error, message, len);
	stats->last_error[len] = '\0';
	if (is_flush)
	{
		first = stats->streak == 0;
		pause = (int64) flush_interval_setting << Min(stats->streak, 10);
		pause = Min(pause, Max(MAX_BACKOFF_S, flush_interval_setting));
		stats->retry_at = stats->last_error_at + pause * USECS_PER_SEC;
		stats->failures++;
		stats->streak++;
	}
	else
	{
		first = !stats->others_fail;
		stats->others_fail = true;
	}
	databases_unlock_flushes();
	if (first)
		ereport(LOG,
				(errmsg("ratelimit: failed %s", message),
				 errdetail("Nothing is lost. It will be tried again.")));
}

/* Is it too early to try a flush again after it failed? */
bool
flush_waiting(void)
{
	bool		waiting = false;

	if (my_shared_database())
	{
		FlushStats *stats = &my_shared_database()->flushes;

		databases_lock_flushes();
		waiting = stats->streak > 0 && GetCurrentTimestamp() < stats->retry_at;
		databases_unlock_flushes();
	}
	return waiting;
}

/* Did a task of the worker fail the last time? */
bool
flush_failing(void)
{
	bool		failing = false;

	if (my_shared_database())
	{
		FlushStats *stats = &my_shared_database()->flushes;

		databases_lock_flushes();
		failing = stats->streak > 0 || stats->others_fail;
		databases_unlock_flushes();
	}
	return failing;
}

/* All tasks of the worker have succeeded after some had failed. */
void
flush_succeeded(void)
{
	FlushStats *stats = &my_shared_database()->flushes;

	databases_lock_flushes();
	stats->streak = 0;
	stats->others_fail = false;
	databases_unlock_flushes();
	ereport(LOG, (errmsg("ratelimit: what failed before has succeeded")));
}

/* Delete rows older than ratelimit.violation_retention. */
void
flush_retention(void)
{
	SqlCaller	caller = sql_begin();
	Datum		values[1];

	sql_lock(SQL_VIOLATIONS, RowExclusiveLock);
	values[0] = Float8GetDatum(violation_retention_setting);
	sql_execute(&delete_old, values, NULL, false);
	sql_end(caller);
}

/*
 * The ends of transactions
 */

static void
at_error(void *arg)
{
	errcontext("while writing the transaction's rate limit violations");
}

/*
 * The reason why the transaction's violations cannot be written, or NULL if they can.
 */
static char *
problem_at_commit(void)
{
	if (violation_sink_setting != SINK_TABLE)
		return NULL;
	if (XactReadOnly)
		return pstrdup("The transaction has become read-only.");
	return sql_lock_within(SQL_VIOLATIONS, RowExclusiveLock,
						   LockTimeout > 0 ? Min(LockTimeout, COMMIT_LOCK_MS) :
						   COMMIT_LOCK_MS);
}

/* Write this transaction's violations before it commits or is prepared. */
static void
write_local_violations(bool prepare)
{
	ErrorContextCallback context = {error_context_stack, at_error, NULL};
	HASH_SEQ_STATUS scan;
	LocalViolation *violation;
	ViolationView **views;
	char	   *problem;
	int			n = 0;
	int			nest;

	if (!local_violations || violation_sink_setting == SINK_NONE)
		return;
	error_context_stack = &context;
	problem = problem_at_commit();
	if (problem)
	{
		error_context_stack = context.previous;
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not write the transaction's rate limit violations"),
				 errdetail_internal("%s", problem)));
		return;
	}

	views = palloc(hash_get_num_entries(local_violations) * sizeof(ViolationView *));
	hash_seq_init(&scan, local_violations);
	while ((violation = hash_seq_search(&scan)) != NULL)
	{
		ViolationView *view = palloc0(sizeof(ViolationView));

		strlcpy(view->gateway, violation->names.gateway, sizeof(view->gateway));
		strlcpy(view->limiter, violation->names.limiter, sizeof(view->limiter));
		strlcpy(view->key, violation->names.key, sizeof(view->key));
		view->count = violation->count;
		views[n++] = view;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) write_views(views, n);
	PopActiveSnapshot();

	/*
	 * The table may have triggers of an operator's.  PostgreSQL fired deferred
	 * triggers before it called us, so fire those that the rows above have queued.
	 * Since PostgreSQL 18 deferred triggers, too, run as the role that inserted the
	 * row.
	 */
	nest = sql_restrict_names(GetUserId());
	do
		AfterTriggerFireDeferred();
	while (PreCommit_Portals(prepare));
	AtEOXact_GUC(true, nest);
	error_context_stack = context.previous;
}

/* Log the lines.  The transaction has nothing left to do except to commit. */
static void
write_log_lines(void)
{
	ListCell   *cell;

	foreach(cell, log_lines)
		ereport(LOG,
				(errmsg_internal("ratelimit violations: %s", (char *) lfirst(cell)),
				 errhidestmt(true), errhidecontext(true)));
	log_lines = NIL;
}

static void
flush_at_xact_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			write_local_violations(false);
			write_log_lines();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (flush.taken)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has called rl_flush()")));
			write_local_violations(true);
			write_log_lines();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			settle(event == XACT_EVENT_COMMIT);
			local_violations = NULL;
			log_lines = NIL;
			break;
		default:
			break;
	}
}

static void
flush_at_subxact_event(SubXactEvent event, SubTransactionId mine,
					   SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (!flush.taken || level > flush.level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		settle(false);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		flush.level = level - 1;
}

/* Have the callbacks here called when the transaction ends. */
static void
be_called_at_ends(void)
{
	static bool called = false;

	call_at_ends(&called, flush_at_xact_event, flush_at_subxact_event);
}
