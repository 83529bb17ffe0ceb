/*
 * shared.c
 *		Shared memory: homes, workers, servers that lease from this one.
 *
 * It is made when the server starts, and anew after a crash of one of its processes.
 * Nothing of it is saved: leases that are forgotten have lost their tokens, and no
 * token is ever used twice.
 */
#include "postgres.h"

#include <time.h>

#include "leases.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "settings.h"
#include "shared.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define TRANCHE		"ratelimit_region"
#define N_LOCKS		65			/* one, and those of leases */

/* A worker that has not come by then is started again. */
#define START_TIME	INT64CONST(3000000)

/* A server that has not been seen for so long is not counted. */
#define SEEN_MS		60000

Shared	   *shared;

void
shared_request(void)
{
	RequestAddinShmemSpace(add_size(MAXALIGN(sizeof(Shared)), leases_size()));
	RequestNamedLWLockTranche(TRANCHE, N_LOCKS);
}

/* A home that has not been reached yet */
static void
home_init(Home *home)
{
	memset(home, 0, sizeof(Home));
	pg_atomic_init_u32(&home->state, HOME_NEW);
	pg_atomic_init_u64(&home->epoch, 0);
	pg_atomic_init_u64(&home->round_trip, 0);
	pg_atomic_init_u64(&home->asked, 0);
	pg_atomic_init_u64(&home->failed, 0);
	pg_atomic_init_u64(&home->taken, 0);
	pg_atomic_init_u64(&home->returned, 0);
	pg_atomic_init_u64(&home->lost, 0);
	pg_atomic_init_u64(&home->here, 0);
	pg_atomic_init_u64(&home->waited, 0);
	pg_atomic_init_u64(&home->denied, 0);
	pg_atomic_init_u64(&home->undecided, 0);
}

void
shared_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("ratelimit_region", sizeof(Shared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(Shared));
		shared->lock = &GetNamedLWLockTranche(TRANCHE)[0].lock;
		if (!pg_strong_random(&shared->epoch, sizeof(shared->epoch)) ||
			!pg_strong_random(&shared->seed, sizeof(shared->seed)))
			ereport(FATAL,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random numbers")));
		/* a bigint in SQL, and 0 means none */
		shared->epoch = (shared->epoch >> 1) | 1;
		pg_atomic_init_u32(&shared->n_homes, 0);
		for (int i = 0; i < MAX_HOMES; i++)
			home_init(&shared->homes[i]);
		for (int i = 0; i < MAX_WORKERS; i++)
			shared->workers[i].queue = -1;
	}
	leases_startup(found);
	LWLockRelease(AddinShmemInitLock);
}

/* Raise an error if there is no shared memory. */
void
shared_check(void)
{
	if (!shared)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ratelimit_region must be loaded via shared_preload_libraries")));
}

/* Microseconds of the monotonic clock. */
int64
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * USECS_PER_SEC + now.tv_nsec / 1000;
}

/* The databases that have a worker or a home, at most so many as there is room for */
#define MAX_DATABASES (MAX_WORKERS + MAX_HOMES)

static int
list_databases(Oid *databases)
{
	int			n = 0;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		if (shared->workers[i].pid == 0)
			databases[n++] = shared->workers[i].database;
	}
	for (int i = 0; i < pg_atomic_read_u32(&shared->n_homes); i++)
		databases[n++] = shared->homes[i].database;
	LWLockRelease(shared->lock);
	return n;
}

/*
 * Forget the workers, homes and leases of databases that have been dropped.  They are
 * looked for when there is no room, so nothing needs to notice DROP DATABASE, which may
 * also have been replayed.
 */
static void
forget_dropped_databases(void)
{
	Oid			databases[MAX_DATABASES];
	int			n = list_databases(databases);

	/* one that has been created, and then has got a worker or a home, is seen */
	AcceptInvalidationMessages();
	for (int i = 0; i < n; i++)
	{
		if (!OidIsValid(databases[i]) ||
			SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(databases[i])))
			continue;
		for (int j = 0; j < pg_atomic_read_u32(&shared->n_homes); j++)
		{
			if (shared->homes[j].database == databases[i])
				leases_forget_home(j);
		}
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		for (int j = 0; j < MAX_WORKERS; j++)
		{
			Worker	   *worker = &shared->workers[j];

			if (worker->database != databases[i])
				continue;
			worker->database = InvalidOid;
			worker->starting = 0;
			worker->queue = -1;
		}
		for (int j = 0; j < pg_atomic_read_u32(&shared->n_homes); j++)
		{
			if (shared->homes[j].database == databases[i])
				shared->homes[j].database = InvalidOid;
		}
		LWLockRelease(shared->lock);
	}
}

/* Find or make a home of this database, under shared->lock; -1: there is no room. */
static int
find_home(Oid server, const char *name)
{
	int			n_homes = pg_atomic_read_u32(&shared->n_homes);
	int			unused = n_homes < MAX_HOMES ? n_homes : -1;
	Home	   *home;

	for (int i = 0; i < n_homes; i++)
	{
		home = &shared->homes[i];
		if (home->database == MyDatabaseId && home->server == server)
		{
			namestrcpy(&home->name, name);
			return i;
		}
		if (home->database == InvalidOid)
			unused = i;
	}
	if (unused < 0)
		return -1;
	home = &shared->homes[unused];
	home_init(home);
	home->server = server;
	home->since = GetCurrentTimestamp();
	namestrcpy(&home->name, name);
	pg_write_barrier();
	home->database = MyDatabaseId;
	if (unused == n_homes)
	{
		pg_write_barrier();
		pg_atomic_write_u32(&shared->n_homes, n_homes + 1);
	}
	return unused;
}

/* The number of a home of this database; -1: there is no room for another one. */
int
home_index(Oid server, const char *name)
{
	int			n;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	n = find_home(server, name);
	LWLockRelease(shared->lock);
	if (n >= 0)
		return n;
	forget_dropped_databases();
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	n = find_home(server, name);
	LWLockRelease(shared->lock);
	return n;
}

/* Start the worker of this database.  Returns false if that is not possible. */
static bool
worker_start(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	strlcpy(worker.bgw_name, "ratelimit leases", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ratelimit leases", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "ratelimit_region", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ratelimit_region_main", BGW_MAXLEN);
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/*
 * The worker of this database, or a place for it; null: there is no room.  It is woken, or else
 * "start" says whether the caller starts it.
 */
static Worker *
worker_find(bool *start)
{
	Worker	   *worker = NULL;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		Worker	   *w = &shared->workers[i];

		if (w->database == MyDatabaseId)
		{
			worker = w;
			break;
		}
		if (!worker && w->database == InvalidOid)
			worker = w;
	}
	*start = false;
	if (worker && worker->pid != 0)
		SetLatch(worker->latch);
	else if (worker && worker->starting < now_us())
	{
		worker->database = MyDatabaseId;
		worker->starting = now_us() + START_TIME;
		*start = true;
	}
	LWLockRelease(shared->lock);
	return worker;
}

/*
 * See to it that the worker of this database looks at its queue.  Returns false if
 * there is no worker, and none can be started.
 */
bool
worker_wake(void)
{
	Worker	   *worker = NULL;
	bool		start;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_WORKERS && !worker; i++)
	{
		if (shared->workers[i].database == MyDatabaseId)
			worker = &shared->workers[i];
	}
	if (worker && worker->pid != 0)
	{
		SetLatch(worker->latch);
		LWLockRelease(shared->lock);
		return true;
	}
	LWLockRelease(shared->lock);

	worker = worker_find(&start);
	if (!worker)
	{
		forget_dropped_databases();
		worker = worker_find(&start);
	}
	if (!start)
		return worker != NULL;
	if (worker_start())
		return true;
	/* the next call tries again */
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	worker->starting = 0;
	LWLockRelease(shared->lock);
	return false;
}

/*
 * A server has taken tokens here, or given some back.  Returns how many servers have
 * taken some of late.
 */
int
server_seen(const char *name, double taken, double returned)
{
	TimestampTz now = GetCurrentTimestamp();
	LeasingServer *server = NULL;
	LeasingServer *oldest = NULL;
	int			n = 0;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->n_servers; i++)
	{
		LeasingServer *s = &shared->servers[i];

		if (!oldest || s->seen < oldest->seen)
			oldest = s;
		if (s->database != MyDatabaseId)
			continue;
		if (strcmp(s->name, name) == 0)
			server = s;
		else if (!TimestampDifferenceExceeds(s->seen, now, SEEN_MS))
			n++;
	}
	if (!server)
	{
		server = shared->n_servers < MAX_SERVERS ?
			&shared->servers[shared->n_servers++] : oldest;
		memset(server, 0, sizeof(*server));
		server->database = MyDatabaseId;
		strlcpy(server->name, name, sizeof(server->name));
	}
	server->seen = now;
	server->taken += taken;
	server->returned += returned;
	LWLockRelease(shared->lock);
	return n + 1;
}
