/*
 * workers/launcher.c
 *		The launcher: it starts a worker in each database that has work.
 *
 * The launcher is not connected to any database, so it is never in the way of DROP
 * DATABASE.  Once per ratelimit.flush_interval it begins a round: it starts a worker
 * in each database that has something to do, a few at a time.  Such a worker does its
 * tasks (workers/database_worker.c) and ends.  Between rounds the launcher folds what
 * was counted for flags (violations/fold.c).
 *
 * The launcher waits for a worker to end only when MAX_RUNNING of them are running.
 * So a worker that hangs (in an operator's trigger, or on a slow disk) delays the
 * turn of one database, not of all: its database gets no other worker until it has
 * ended.  If MAX_RUNNING workers hang, they do stop the others.  Allowing for more
 * would let them take all of max_worker_processes, and ending them by force would end
 * some that are merely slow.  A round is over when its last worker has been started.
 * Then the interval to the next round begins.
 *
 * A worker in a database that it cannot connect to ends with a FATAL in the log.  The
 * catalog tells of most of these databases beforehand.  In any other one, each worker
 * that did not get as far as connecting doubles the time to the next worker.
 *
 * The launcher checks for interrupts wherever it waits, so it also answers process
 * barriers.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "core/compat.h"
#include "core/late.h"
#include "core/parts.h"
#include "core/settings.h"
#include "memory/administration.h"
#include "memory/databases.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "violations/due_flags.h"
#include "violations/fold.h"
#include "violations/pending.h"
#include "workers/launcher.h"

/* Workers at a time.  Others need some of max_worker_processes, 8 by default, too. */
#define MAX_RUNNING		3

/* How often a database that has nothing else to do is searched for old violations. */
#define RETENTION_EVERY_S	3600

PGDLLEXPORT void ratelimit_launcher_main(Datum arg);

/* A round's work. */
typedef struct Work
{
	Oid			databases[MAX_DATABASES];
	int			n;
	int			begun;			/* so many of them have had their turn */
	bool		retention;		/* does this round look for old violations? */
	TimestampTz now;
} Work;

/* The database has something to do. */
static void
add_work(Work *work, Oid database)
{
	for (int i = 0; i < work->n; i++)
		if (work->databases[i] == database)
			return;
	if (work->n < MAX_DATABASES)
		work->databases[work->n++] = database;
}

/* Add the database if it has spilled, or if all are due to be looked at. */
static void
look_at_database(SharedDatabase *entry, void *arg)
{
	Work	   *work = arg;
	bool		marked = work->retention;

	/*
	 * Until the worker has gone through the table, all marks are set and say nothing;
	 * a call that needs to know what is in the table sets pass_wanted.
	 */
	if (pg_atomic_read_u32(&entry->known) == 0)
		marked |= pg_atomic_read_u32(&entry->pass_wanted) != 0;
	else
		for (int i = 0; i < MAX_PARTITIONS / 64; i++)
			marked |= pg_atomic_read_u64(&entry->marks[i]) != 0;
	if (marked)
		add_work(work, entry->database);
}

/* Remove the database if its flushes fail and its next try is not due yet. */
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

/*
 * Find the databases that have something to do.  A database whose flushes fail is
 * removed before flags and spilled buckets are asked for, so it still gets a worker
 * for those.
 */
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
	work->begun = 0;
	work->n = violations_databases(work->databases, MAX_DATABASES);
	databases_visit(drop_waiting, work);
	work->n = flags_databases(work->databases, work->n, MAX_DATABASES);
	databases_visit(look_at_database, work);
}

/* Can a worker connect to the database? */
typedef enum DatabaseState
{
	DATABASE_CONNECTABLE,
	DATABASE_CLOSED,			/* it does not allow connections */
	DATABASE_GONE				/* dropped, or left by an interrupted DROP */
} DatabaseState;

static DatabaseState
database_state(Oid database)
{
	HeapTuple	tuple;
	DatabaseState state = DATABASE_GONE;

	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datconnlimit != INVALID_DATABASE_LIMIT)
			state = form->datallowconn ? DATABASE_CONNECTABLE : DATABASE_CLOSED;
		ReleaseSysCache(tuple);
	}
	CommitTransactionCommand();
	return state;
}

/* add_work() for databases_visit(). */
static void
add_entry(SharedDatabase *entry, void *work)
{
	add_work(work, entry->database);
}

/*
 * Forget databases that were dropped without this library noticing: on the primary
 * while this server was a standby, while there was no shared memory, or between
 * the last save and a crash.
 */
static void
forget_dropped_databases(void)
{
	Work		work;

	work.n = violations_databases(work.databases, MAX_DATABASES);
	work.n = memory_databases(work.databases, work.n, MAX_DATABASES);
	databases_visit(add_entry, &work);
	for (int i = 0; i < work.n; i++)
		if (database_state(work.databases[i]) == DATABASE_GONE)
			forget_database(work.databases[i], true);
}

/*
 * Without preloading, a session that has not loaded the library may have dropped a
 * database.  Look at those that have an entry, which is less to do.
 */
static void
forget_dropped_entries(void)
{
	Work		work = {0};

	databases_visit(add_entry, &work);
	for (int i = 0; i < work.n; i++)
		if (database_state(work.databases[i]) == DATABASE_GONE)
			forget_database(work.databases[i], true);
}

/* The workers that have not ended yet, n_running of them. */
static struct
{
	Oid			database;
	BackgroundWorkerHandle *handle;
}			running[MAX_RUNNING];
static int	n_running = 0;

static bool
is_running(Oid database)
{
	for (int i = 0; i < n_running; i++)
		if (running[i].database == database)
			return true;
	return false;
}

/* Remove workers that have ended from those that are running. */
static void
let_go(void)
{
	for (int i = n_running - 1; i >= 0; i--)
	{
		pid_t		pid;
		BgwHandleStatus status = GetBackgroundWorkerPid(running[i].handle, &pid);

		if (status == BGWH_POSTMASTER_DIED)
			proc_exit(1);
		if (status != BGWH_STOPPED)
			continue;
		pfree(running[i].handle);
		running[i] = running[--n_running];
	}
}

/*
 * Start a worker in the database.  Returns false if no background worker slot is
 * free.
 */
static bool
start_worker(Oid database)
{
	BackgroundWorker worker = {0};
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		started;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker.bgw_library_name, "ratelimit", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_database_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ratelimit worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit worker", BGW_MAXLEN);

	started = RegisterDynamicBackgroundWorker(&worker, &running[n_running].handle);
	MemoryContextSwitchTo(old);
	if (started)
		running[n_running++].database = database;
	return started;
}

/*
 * May a worker be started in the database now?  If the database turns out to be gone,
 * it is forgotten.
 */
static bool
has_turn(Oid database)
{
	if (is_running(database))
		return false;
	switch (database_state(database))
	{
		case DATABASE_CONNECTABLE:
			return databases_try_worker(database);
		case DATABASE_GONE:
			forget_database(database, true);
			break;
		case DATABASE_CLOSED:
			break;
	}
	return false;
}

/* Go on with the round for as long as workers can be started. */
static void
start_workers(Work *work)
{
	static bool warned = false;

	while (work->begun < work->n && n_running < MAX_RUNNING)
	{
		Oid			database = work->databases[work->begun];

		if (has_turn(database) && !start_worker(database))
		{
			databases_no_worker(database);
			if (n_running > 0)
				return;			/* a slot is free when one of ours has ended */
			if (!warned)
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("ratelimit: no background worker slot is free, violations and buckets wait"),
						 errhint("Increase max_worker_processes.")));
			warned = true;
			work->begun = work->n;
			return;
		}
		work->begun++;
	}
	if (warned && n_running > 0)
	{
		ereport(LOG, (errmsg("ratelimit: got a background worker slot again")));
		warned = false;
	}
}

/* The main function of the launcher. */
void
ratelimit_launcher_main(Datum arg)
{
	TimestampTz began = 0;		/* when the last round began */
	TimestampTz ended = 0;		/* when it was over */
	static Work work;
	bool		in_round = false;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!late_worker_begins(LATE_LAUNCHER))
		proc_exit(0);
	/* without a database, it can read only the catalogs that all databases share */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	ereport(DEBUG1, (errmsg("ratelimit launcher started")));
	databases_launcher_is_here();
	forget_dropped_databases();

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz next;		/* when the next round is due */
		long		pause;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			violations_set_window();
		}

		let_go();
		next = TimestampTzPlusMilliseconds(ended, flush_interval_setting * 1000L);
		/* at most once a second, because the worker that is wanted may fail */
		if (databases_worker_wanted())
			next = Min(next, TimestampTzPlusMilliseconds(began, 1000));
		/* if the wall clock is set back, next is too far away */
		if (!in_round && (now >= next || now < ended))
		{
			began = now;
			databases_begin_round();
			if (late_attached())
				forget_dropped_entries();
			find_work(&work);
			in_round = true;
		}
		if (in_round)
		{
			start_workers(&work);
			in_round = work.begun < work.n;
			now = ended = GetCurrentTimestamp();
			next = TimestampTzPlusMilliseconds(ended, flush_interval_setting * 1000L);
		}

		/* flags need to know of violations more often than these are written */
		if (violations_fold_wait() == 0)
			violations_fold();

		/* the end of a worker sets the latch, too */
		pause = Min(TimestampDifferenceMilliseconds(now, next), violations_fold_wait());
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Max(pause, 1), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * Have the postmaster start the launcher, and keep it running; not during pg_upgrade,
 * which must not be disturbed by other sessions.  Returns false if there is no
 * background worker slot for it.
 */
bool
launcher_register(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return true;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "ratelimit", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ratelimit launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit launcher", BGW_MAXLEN);
	if (!process_shared_preload_libraries_in_progress)
		return RegisterDynamicBackgroundWorker(&worker, NULL);
	RegisterBackgroundWorker(&worker);
	return true;
}
