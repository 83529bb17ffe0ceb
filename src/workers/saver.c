/*
 * workers/saver.c
 *		The background worker that saves state every ratelimit.save_interval.
 *
 * It is a process of its own because the launcher does not run on a standby, whose
 * buckets are worth saving, too, and reads catalogs, so it may wait.  It needs shared
 * memory only, and is connected to nothing.  What is saved, and how: core/saved_file.c.
 *
 * Saving a million buckets is a third of a second of work.  It is spread: the
 * saver sleeps nine times as long as it works, so that callers hardly notice.
 * Nothing is locked meanwhile.
 */
#include "postgres.h"

#include <limits.h>

#include "core/clock.h"
#include "core/compat.h"
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

#define WORK_NS		INT64CONST(1000000) /* before it sleeps */
#define SLEEP_RATIO 9

PGDLLEXPORT void ratelimit_saver_main(Datum arg);

static int64 working_since = 0; /* monotonic clock */

/* Sleep for at most so many milliseconds; -1: until something happens. */
static void
sleep_ms(long ms)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

	(void) WaitLatch(MyLatch, ms < 0 ? events : events | WL_TIMEOUT, ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* While saving: sleep when it is time to; false if the server stops. */
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

void
ratelimit_saver_main(Datum arg)
{
	int64		saved_at = saved_loaded_mono();

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();

	if (saved_at == 0)
		saved_at = monotonic_ns();
	/* it is as long ago as the file says, but sums are not to overflow */
	saved_at = Max(saved_at, monotonic_ns() - INT_MAX * INT64CONST(1000000000));

	/* the last state is the postmaster's to save */
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
	/* should it not be the server that stops, the postmaster starts another */
	proc_exit(1);
}

void
saver_register(void)
{
	BackgroundWorker worker = {0};

	/* nothing is loaded then: what it would save is nothing */
	if (IsBinaryUpgrade)
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_PostmasterStart;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "ratelimit", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_saver_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "ratelimit saver", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit saver", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
