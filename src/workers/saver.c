/*
 * workers/saver.c
 *		The saver: a background worker that saves state every ratelimit.save_interval.
 *
 * It only says when to save; core/saved_file.c does the saving.  The last state, at a
 * clean stop, is saved by the postmaster or, if the library is not preloaded, by the
 * last process that uses the memory, which the saver tries to be (core/late.c).
 *
 * The saver is a process of its own for two reasons.  The launcher does not run on a
 * standby, whose buckets are worth saving, too.  And the launcher reads catalogs, so
 * it may have to wait.  The saver needs only shared memory and is not connected to a
 * database.
 *
 * Saving a million buckets takes a third of a second of processor time.  The saver
 * spreads it by sleeping nine times as long as it works, so that callers hardly
 * notice.  It holds no lock while it sleeps.
 */
#include "postgres.h"

#include <limits.h>

#include "core/clock.h"
#include "core/compat.h"
#include "core/late.h"
#include "core/node.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "utils/guc.h"
#include "workers/saver.h"

#define WORK_NS		INT64CONST(1000000) /* how long it works before it sleeps */
#define SLEEP_RATIO 9

/* How long it waits at a stop for the other processes that use the memory. */
#define STOP_WAIT_NS	INT64CONST(600000000000)
#define STOP_NAP_MS		5

PGDLLEXPORT void ratelimit_saver_main(Datum arg);

static int64 working_since = 0; /* on the monotonic clock */

/* Sleep for at most so many milliseconds, or, if -1, until the latch is set. */
static void
sleep_ms(long ms)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

	(void) WaitLatch(MyLatch, ms < 0 ? events : events | WL_TIMEOUT, ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Called while saving: sleep if it is time to.  Returns false if saving has to stop.
 */
static bool
breathe(void)
{
	int64		worked = monotonic_ns() - working_since;

	if (worked >= WORK_NS)
	{
		sleep_ms(Min(worked * SLEEP_RATIO / 1000000, 1000));
		working_since = monotonic_ns();
	}
	return !ShutdownRequestPending;
}

/*
 * Without preloading: the saver has been told to stop.  If that is because the server
 * stops, wait until the other processes that use the memory have ended, and be the
 * last, which saves the state (core/late.c).  They have been told to end, too, and
 * the postmaster waits for them, so this does not make the stop longer.  Should they
 * wait for this process in turn, it gives up at last, and one of them saves.
 */
static void
wait_for_others(void)
{
	int64		until = monotonic_ns() + STOP_WAIT_NS;

	while (!late_alone() && server_is_stopping() && monotonic_ns() < until)
		sleep_ms(STOP_NAP_MS);
}

/* The main function of the saver. */
void
ratelimit_saver_main(Datum arg)
{
	int64		saved_at = saved_loaded_mono();

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();
	if (!late_worker_begins(LATE_SAVER))
		proc_exit(0);

	if (saved_at == 0)
		saved_at = monotonic_ns();
	/* the file may say that it was saved very long ago, but sums must not overflow */
	saved_at = Max(saved_at, monotonic_ns() - INT_MAX * INT64CONST(1000000000));

	while (!ShutdownRequestPending)
	{
		int64		interval = save_interval_setting * INT64CONST(1000000000);
		int64		left;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			continue;
		}
		left = saved_at + interval - monotonic_ns();
		if (interval == 0)
			sleep_ms(-1);
		else if (left > 0)
			sleep_ms(left / 1000000 + 1);
		else
		{
			working_since = monotonic_ns();
			(void) saved_save(breathe);
			saved_at = monotonic_ns();
		}
	}
	if (late_attached())
		wait_for_others();
	/* if only this process was told to stop, the postmaster starts another one */
	proc_exit(1);
}

/*
 * Have the postmaster start the saver, and keep it running.  Returns false if there
 * is no background worker slot for it.
 */
bool
saver_register(void)
{
	BackgroundWorker worker = {0};

	/* pg_upgrade's server loads no state, and must not save its empty memory */
	if (IsBinaryUpgrade)
		return true;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	/*
	 * Without preloading, it may be the first process to need shared memory, after a
	 * crash.  It then loads the saved state, for which crash recovery must be over.
	 */
	worker.bgw_start_time = process_shared_preload_libraries_in_progress ?
		BgWorkerStart_PostmasterStart : BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "ratelimit", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_saver_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ratelimit saver", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit saver", BGW_MAXLEN);
	if (!process_shared_preload_libraries_in_progress)
		return RegisterDynamicBackgroundWorker(&worker, NULL);
	RegisterBackgroundWorker(&worker);
	return true;
}
