/*
 * worker.c
 *		The background workers: the launcher, and one per database with work.
 *
 * The launcher is connected to no database, so no DROP DATABASE finds it.  Once
 * per ratelimit.flush_interval it starts, one after the other, a worker in each
 * database that has something to do, and waits for it to end.  That worker does
 * its work in one transaction and is gone.
 *
 * The work: deleting buckets from the table that are full again and telling
 * shared memory when none is left (table_clean()).
 *
 * Both check for interrupts wherever they wait, which also answers process
 * barriers.
 */
#include "ratelimit.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* A worker that waits longer than this for a lock tries again next time. */
#define WORKER_LOCK_TIMEOUT "1s"

PGDLLEXPORT void ratelimit_launcher_main(Datum arg);
PGDLLEXPORT void ratelimit_database_main(Datum arg);

/* Does the database still exist?  Its number may be of one that was dropped. */
static bool
database_exists(Oid database)
{
	bool		exists;

	StartTransactionCommand();
	exists = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
	CommitTransactionCommand();
	return exists;
}

/* Start a worker in the database and wait until it is gone. */
static void
run_in_database(Oid database)
{
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
		ereport(DEBUG1,
				(errmsg("ratelimit: no background worker slot free for database %u, trying again later",
						database)));
		return;
	}

	/* WaitForBackgroundWorkerShutdown() would not look at a reload */
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
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* no database, only the catalogs that all databases share */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	for (;;)
	{
		Oid			databases[MAX_DATABASES];
		int			n;

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 flush_interval_setting * 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		n = spill_databases(databases, MAX_DATABASES);
		for (int i = 0; i < n; i++)
		{
			if (database_exists(databases[i]))
				run_in_database(databases[i]);
		}
	}
}

void
ratelimit_database_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	SetConfigOption("lock_timeout", WORKER_LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "ratelimit: cleaning rate_limit_buckets");
	ereport(DEBUG1, (errmsg("ratelimit: cleaning rate_limit_buckets")));
	(void) table_clean();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* The launcher, which the postmaster keeps alive. */
void
worker_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "ratelimit", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ratelimit launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
