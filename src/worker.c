/*
 * worker.c
 *		The background workers: the launcher, and one per database with work.
 *
 * The launcher is connected to no database, so no DROP DATABASE finds it.  Once
 * per ratelimit.flush_interval it starts, one after the other, a worker in each
 * database that has something to do, and waits for it to end.  That worker does
 * its tasks, each in a transaction of its own, and is gone.
 *
 * A task that fails is undone by its transaction's abort, disturbs no other, and
 * is tried again in a later round: the more often flushing a database failed, the
 * later.  The log tells of the first failure and of the first success after it.
 *
 * Both processes check for interrupts wherever they wait, which also answers
 * process barriers.
 */
#include "ratelimit.h"

#include "access/htup_details.h"
#include "catalog/pg_database.h"
#include "databases.h"
#include "episodes.h"
#include "flags.h"
#include "flush.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "sql.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "violations.h"

/* A worker that waits longer than this for a lock tries again next time. */
#define LOCK_TIMEOUT	"1s"

/*
 * Who finds a deadlock first gives way: that is to be the worker, not an operator
 * whose ALTER EXTENSION SET SCHEMA locks a sequence, then its table.
 */
#define DEADLOCK_TIMEOUT	"100ms"

/* Old violations are looked for this often where nothing else is to do. */
#define RETENTION_EVERY_S	3600

PGDLLEXPORT void ratelimit_launcher_main(Datum arg);
PGDLLEXPORT void ratelimit_database_main(Datum arg);

/*
 * The launcher
 */

typedef struct Work
{
	Oid			databases[MAX_DATABASES];
	int			n;
	bool		retention;		/* a round that looks for old violations */
	TimestampTz now;
} Work;

static void
add_work(Work *work, Oid database)
{
	for (int i = 0; i < work->n; i++)
		if (work->databases[i] == database)
			return;
	if (work->n < MAX_DATABASES)
		work->databases[work->n++] = database;
}

/* Has the database spilled, or is it time to look at it anyway? */
static void
look_at_database(SharedDatabase *entry, void *arg)
{
	Work	   *work = arg;
	bool		marked = work->retention;

	for (int i = 0; i < MAX_PARTITIONS / 64; i++)
		marked |= pg_atomic_read_u64(&entry->marks[i]) != 0;
	if (marked)
		add_work(work, entry->database);
}

/* A database whose flushes fail waits. */
static void
drop_waiting(SharedDatabase *entry, void *arg)
{
	Work	   *work = arg;

	if (entry->flushes.streak == 0 || entry->flushes.retry_at <= work->now)
		return;
	for (int i = 0; i < work->n; i++)
		if (work->databases[i] == entry->database)
			work->databases[i] = work->databases[--work->n];
}

/* The databases that have something to do. */
static void
find_work(Work *work)
{
	static TimestampTz last_retention = 0;

	work->now = GetCurrentTimestamp();
	work->retention = violation_retention_setting > 0 &&
		TimestampDifferenceExceeds(last_retention, work->now, RETENTION_EVERY_S * 1000);
	if (work->retention)
		last_retention = work->now;

	violations_fold();
	work->n = violations_databases(work->databases, MAX_DATABASES);
	databases_visit(drop_waiting, work);
	work->n = flags_databases(work->databases, work->n, MAX_DATABASES);
	databases_visit(look_at_database, work);
}

/* Does the database exist?  Does it take connections? */
static bool
database_exists(Oid database, bool *connectable)
{
	HeapTuple	tuple;
	bool		exists;

	*connectable = false;
	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	exists = HeapTupleIsValid(tuple);
	if (exists)
	{
		*connectable = ((Form_pg_database) GETSTRUCT(tuple))->datallowconn;
		ReleaseSysCache(tuple);
	}
	CommitTransactionCommand();
	return exists;
}

static void
add_entry(SharedDatabase *entry, void *work)
{
	add_work(work, entry->database);
}

/*
 * Forget databases that were dropped when nobody was here to see it: on the
 * primary of what was a standby, without preloading, or between the last save and
 * a crash.
 */
static void
forget_dropped_databases(void)
{
	Work		work;
	bool		connectable;

	work.n = violations_databases(work.databases, MAX_DATABASES);
	work.n = shmem_databases(work.databases, work.n, MAX_DATABASES);
	databases_visit(add_entry, &work);
	for (int i = 0; i < work.n; i++)
		if (!database_exists(work.databases[i], &connectable))
			forget_database(work.databases[i], true);
}

/* Start a worker in the database and wait until it is gone. */
static void
run_in_database(Oid database)
{
	static bool warned = false;
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	BgwHandleStatus status;
	pid_t		pid;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker.bgw_library_name, "ratelimit", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_database_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ratelimit worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit worker", BGW_MAXLEN);

	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		if (!warned)
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("ratelimit: no background worker slot is free, violations and buckets wait"),
					 errhint("Increase max_worker_processes.")));
		warned = true;
		return;
	}
	if (warned)
		ereport(LOG, (errmsg("ratelimit: got a background worker slot again")));
	warned = false;

	/* WaitForBackgroundWorkerShutdown() would let go of interrupts and reloads */
	while ((status = GetBackgroundWorkerPid(handle, &pid)) != BGWH_STOPPED)
	{
		if (status == BGWH_POSTMASTER_DIED)
			proc_exit(1);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, 0,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(handle);
}

void
ratelimit_launcher_main(Datum arg)
{
	TimestampTz next;
	Work		work;
	bool		connectable;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* no database, only the catalogs that all databases share */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	ereport(DEBUG1, (errmsg("ratelimit launcher started")));
	forget_dropped_databases();

	next = GetCurrentTimestamp();
	for (;;)
	{
		long		pause;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			violations_set_window();
			/* a shorter interval counts from now */
			next = Min(next, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 flush_interval_setting * 1000L));
		}
		/* the wall clock may be set back */
		pause = Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next),
					flush_interval_setting * 1000L);
		if (pause > 0)
		{
			/* flags want to hear of violations more often than they are written */
			if (violations_fold_wait() == 0)
				violations_fold();
			pause = Min(pause, violations_fold_wait());
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 pause, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			continue;
		}

		find_work(&work);
		for (int i = 0; i < work.n; i++)
			if (database_exists(work.databases[i], &connectable) && connectable)
				run_in_database(work.databases[i]);
		next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   flush_interval_setting * 1000L);
	}
}

/*
 * A database's worker
 */

static void
task_flush(void)
{
	(void) flush_violations();
}

static void
task_retention(void)
{
	if (violation_retention_setting > 0)
		flush_retention();
}

static const struct
{
	const char *activity;
	void		(*work) (void);
}			tasks[] = {
	{"writing violations", task_flush},
	{"writing flags", flags_write_due},
	{"cleaning rate_limit_buckets", table_clean},
	{"deleting old violations", task_retention},
};

/* Do the task in a transaction; false, and what went wrong, if it failed. */
static bool
do_task(int n, char **message)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = false;
	char		activity[128];

	snprintf(activity, sizeof(activity), "ratelimit: %s", tasks[n].activity);
	ereport(DEBUG1, (errmsg_internal("%s", activity)));
	PG_TRY();
	{
		SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		pgstat_report_activity(STATE_RUNNING, activity);
		if (sql_available())
			tasks[n].work();
		PopActiveSnapshot();
		CommitTransactionCommand();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
		*message = psprintf("%s: %s", tasks[n].activity, error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return done;
}

void
ratelimit_database_main(Datum arg)
{
	MemoryContext context;
	bool		failed = false;
	bool		waiting;
	bool		failing;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("deadlock_timeout", DEADLOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	context = AllocSetContextCreate(TopMemoryContext, "ratelimit worker",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	waiting = flush_waiting();
	failing = flush_failing();
	for (int i = 0; i < lengthof(tasks); i++)
	{
		char	   *message;

		if ((tasks[i].work == task_flush && waiting) || do_task(i, &message))
			continue;
		failed = true;
		flush_failed(tasks[i].work == task_flush, message);
	}
	if (failing && !failed && !waiting)
		flush_succeeded();
}

/* The launcher, which the postmaster keeps alive; pg_upgrade wants no company. */
void
worker_register(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "ratelimit", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ratelimit launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
