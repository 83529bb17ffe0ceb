/*
 * worker.c
 *		The worker of a database: it asks homes for the portions that leases need, and gives
 *		back what is not used.
 *
 * The first call that needs it starts it (shared.c), and it ends when there has been no
 * lease for some time.  It waits for the network and for callers outside of any
 * transaction, and holds no lock then.  When the server stops, it gives back what it can
 * within a short time.
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "homes.h"
#include "leases.h"
#include "link.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "settings.h"
#include "storage/ipc.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#define MAX_PORTIONS 1000

/* All of these are microseconds. */
#define SWEEP_TIME	INT64CONST(200000)	/* between two sweeps */
#define LOOK_TIME	INT64CONST(1000000) /* between two looks at the catalogs */
#define IDLE_TIME	INT64CONST(10000000)	/* without a lease, until the worker ends */
#define LAST_TIME	INT64CONST(1000000) /* to give back leases when the server stops */

PGDLLEXPORT void ratelimit_region_main(Datum arg);

static Link links[MAX_HOMES];
static bool ready[MAX_HOMES];
static bool wanted[MAX_HOMES];
static Portion portions[MAX_PORTIONS];

static void
links_are_stale(Datum arg, int cacheid, uint32 hashvalue)
{
	for (int i = 0; i < MAX_HOMES; i++)
		links[i].stale = true;
}

/* Take the place of this database's worker, or end if it has one. */
static void
begin(void)
{
	Worker	   *worker = NULL;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		if (shared->workers[i].database == MyDatabaseId)
			worker = &shared->workers[i];
	}
	if (worker && worker->pid == 0)
	{
		worker->pid = MyProcPid;
		worker->latch = MyLatch;
		worker->starting = 0;
	}
	else
		worker = NULL;
	LWLockRelease(shared->lock);
	if (!worker)
		proc_exit(0);
}

/*
 * Give up the place, so that the next call that needs a worker starts another one.  If
 * there are leases in the queue, it stays with this database.
 */
static void
leave(int code, Datum arg)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		Worker	   *worker = &shared->workers[i];

		if (worker->pid != MyProcPid)
			continue;
		worker->pid = 0;
		worker->latch = NULL;
		if (worker->queue < 0)
			worker->database = InvalidOid;
	}
	/* nobody knows any more whether they are away */
	for (int i = 0; i < pg_atomic_read_u32(&shared->n_homes); i++)
	{
		if (shared->homes[i].database == MyDatabaseId)
			pg_atomic_write_u32(&shared->homes[i].state, HOME_NEW);
	}
	LWLockRelease(shared->lock);
}

static int
n_homes(void)
{
	int			n = pg_atomic_read_u32(&shared->n_homes);

	pg_read_barrier();
	return n;
}

/* Look at the catalogs: false if the extension is not there any more. */
static bool
look_at_catalogs(void)
{
	bool		there;

	StartTransactionCommand();
	there = OidIsValid(extension_schema("ratelimit_region", NULL));
	CommitTransactionCommand();
	return there;
}

/* Go on with all links. */
static void
step_links(int64 now)
{
	for (int i = 0; i < n_homes(); i++)
	{
		if (shared->homes[i].database != MyDatabaseId)
			continue;
		links[i].home = i;
		link_step(&links[i], wanted[i], now);
		ready[i] = links[i].state == LINK_READY && !links[i].stale;
	}
}

/* Send portions, which may be those of several homes and epochs. */
static void
send_portions(int n, bool ask)
{
	static Portion sorted[MAX_PORTIONS];

	for (int home = 0; home < n_homes(); home++)
	{
		uint64		epoch = 0;
		int			k = 0;

		for (int i = 0; i < n; i++)
		{
			if (portions[i].home != home)
				continue;
			if (!ask && k > 0 && portions[i].epoch != epoch)
			{
				link_return(&links[home], sorted, k);
				k = 0;
			}
			epoch = portions[i].epoch;
			sorted[k++] = portions[i];
		}
		if (k > 0 && ask)
			link_ask(&links[home], sorted, k);
		else if (k > 0)
			link_return(&links[home], sorted, k);
	}
}

/* Wait for callers, for homes, or until there is something to do. */
static void
wait_for_work(int64 until)
{
	WaitEventSet *set = create_wait_event_set(MAX_HOMES + 2);
	WaitEvent	events[8];
	int64		now = now_us();

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < n_homes(); i++)
	{
		int			what = link_events(&links[i]);
		int64		deadline = link_deadline(&links[i]);

		if (what)
			AddWaitEventToSet(set, what, PQsocket(links[i].conn), NULL, NULL);
		if (deadline > now && wanted[i])
			until = Min(until, deadline);
	}
	if (until > now)
		(void) WaitEventSetWait(set, (until - now + 999) / 1000, events, lengthof(events),
								PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	ResetLatch(MyLatch);
}

/* Is a query of some link under way? */
static bool
under_way(void)
{
	for (int i = 0; i < MAX_HOMES; i++)
	{
		if (links[i].first)
			return true;
	}
	return false;
}

/* The server stops, or the extension is gone: give back what can be given back. */
static void
give_back_all(void)
{
	int64		until = now_us() + LAST_TIME;
	int			n;

	while ((n = leases_sweep(portions, MAX_PORTIONS, ready, now_us(), 1, true, wanted)) > 0)
		send_portions(n, false);
	while (under_way() && now_us() < until)
	{
		step_links(now_us());
		if (under_way())
			wait_for_work(Min(until, now_us() + 100000));
	}
	for (int i = 0; i < MAX_HOMES; i++)
	{
		if (links[i].conn)
			link_close(&links[i], NULL);
	}
}

/* The main function of the worker; its argument is the database. */
void
ratelimit_region_main(Datum arg)
{
	MemoryContext context;
	int64		swept;
	int64		looked;
	int64		used;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	if (!shared)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	begin();
	before_shmem_exit(leave, (Datum) 0);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	context = AllocSetContextCreate(TopMemoryContext, "ratelimit leases",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, links_are_stale, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, links_are_stale, (Datum) 0);
	leases_forget_asked();
	pgstat_report_activity(STATE_RUNNING, "ratelimit: leases");
	swept = now_us() - SWEEP_TIME;
	looked = used = now_us();

	while (!ShutdownRequestPending)
	{
		int64		now = now_us();
		int			n;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (now - looked >= LOOK_TIME)
		{
			looked = now;
			if (!look_at_catalogs())
				break;
		}
		if (now - swept >= SWEEP_TIME)
		{
			n = leases_sweep(portions, MAX_PORTIONS, ready, now, (now - swept) / 1e6, false,
							 wanted);
			send_portions(n, false);
			swept = now;
			for (int i = 0; i < MAX_HOMES; i++)
			{
				if (wanted[i])
					used = now;
			}
			if (now - used >= IDLE_TIME && !under_way())
				break;
		}
		step_links(now);
		while ((n = leases_pop(portions, MAX_PORTIONS, ready, wanted)) > 0)
			send_portions(n, true);
		step_links(now_us());
		wait_for_work(swept + SWEEP_TIME);
	}
	give_back_all();
	proc_exit(0);
}
