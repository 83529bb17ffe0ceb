/*
 * workers/database_worker.c
 *		The worker of a database: it does its tasks, each in a transaction of its own,
 *		and ends.
 *
 * The launcher (workers/launcher.c) starts it.  What the tasks do is in other files;
 * see tasks[] below.
 *
 * Workers commit locally, whatever synchronous_commit says.  If they waited for a
 * standby while holding the flush lock, a standby that is away would stop the flushes
 * of all databases.  There is little to gain from waiting: pending violations are in
 * the memory of this server only, so a failover loses up to a flush_interval of them
 * in any case.  The setting is not "off", because violations that are written are
 * dropped from memory, and a crash must not lose them.
 *
 * A task that fails is undone by the abort of its transaction and does not affect the
 * others.  It is tried again in a later round.  The more often in a row flushing a
 * database has failed, the longer its next try is put off.  The first failure is
 * logged, and so is the first success after it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "core/compat.h"
#include "core/late.h"
#include "core/parts.h"
#include "core/settings.h"
#include "memory/databases.h"
#include "memory/partitions.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "table/clean.h"
#include "table/sql.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "violations/flags.h"
#include "violations/flush.h"

/* A task that waits longer than this for a lock fails, and is tried again later. */
#define LOCK_TIMEOUT	"1s"

/*
 * The process that finds a deadlock gives way.  With a short timeout that is the
 * worker, and not an operator whose ALTER EXTENSION SET SCHEMA locks a sequence, then
 * its table.
 */
#define DEADLOCK_TIMEOUT	"100ms"

PGDLLEXPORT void ratelimit_database_main(Datum arg);

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

/* Do the task in a transaction.  Returns false, and what went wrong, if it failed. */
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

/*
 * Does the database not have the extension?  It does while a transaction creates it,
 * which may have taken tokens already, and while one drops it.
 */
static bool
extension_is_gone(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	SnapshotData uncommitted;
	SysScanDesc scan;
	ScanKeyData key;
	bool		gone;

	InitDirtySnapshot(uncommitted);
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("ratelimit"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, &uncommitted, 1, &key);
	gone = systable_getnext(scan) == NULL;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return gone;
}

/*
 * Without preloading, a session that has not loaded the library may have dropped the
 * extension: forget what memory has of it.
 */
static void
forget_dropped_extension(void)
{
	bool		gone;

	StartTransactionCommand();
	gone = extension_is_gone();
	CommitTransactionCommand();
	if (gone)
		forget_database(MyDatabaseId, false);
}

/* The main function of the worker; its argument is the database. */
void
ratelimit_database_main(Datum arg)
{
	MemoryContext context;
	bool		failed = false;
	bool		waiting;
	bool		failing;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* without preloading, this process may have failed to attach shared memory */
	if (!memory_attached())
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	databases_worker_connected();
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("deadlock_timeout", DEADLOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	no_transaction_timeout();
	context = AllocSetContextCreate(TopMemoryContext, "ratelimit worker",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	if (late_attached())
		forget_dropped_extension();
	waiting = flush_waiting();
	failing = flush_failing();
	for (int i = 0; i < lengthof(tasks); i++)
	{
		char	   *message = NULL;

		if ((tasks[i].work == task_flush && waiting) || do_task(i, &message))
			continue;
		failed = true;
		flush_failed(tasks[i].work == task_flush, message);
	}
	if (failing && !failed && !waiting)
		flush_succeeded();
}
