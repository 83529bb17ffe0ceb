/*
 * memory/databases.c
 *		The databases that use the extension, in shared memory: an entry for each, and
 *		how sessions ask for a worker.
 *
 * A database takes an entry when it first needs one, and keeps it until the database
 * is dropped, or the server stops.  When the extension is dropped the entry is
 * cleared.  Whose entry it is changes only under the registry's lock.  What the
 * fields are for, and what protects them, is said at the struct; other files use most
 * of them.  Starting the workers is up to workers/launcher.c.
 *
 * If all entries are taken, a further database has no entry, and keeps all of its
 * buckets in the table.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/compat.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "memory/databases.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

/* How sessions ask for a worker before the launcher's next round. */
typedef struct Launcher
{
	pg_atomic_uint32 process;	/* the launcher's number, from 1 on; 0 until it
								 * is there */
	pg_atomic_uint32 wanted;	/* has a session asked for a worker? */
} Launcher;

static SharedDatabase *databases = NULL;	/* MAX_DATABASES of them */
static Launcher *launcher;		/* after them, in the same memory */
static LWLock *registry_lock;

static Size
size(void)
{
	return add_size(mul_size(MAX_DATABASES, sizeof(SharedDatabase)), sizeof(Launcher));
}

/* Let an entry be as it is for a database that is new. */
static void
clear_entry(SharedDatabase *entry)
{
	pg_atomic_write_u32(&entry->known, 0);
	entry->memory_newer = false;
	/* the table may have rows (memory/spill.c) */
	for (int i = 0; i < MAX_PARTITIONS / 64; i++)
		pg_atomic_write_u64(&entry->marks[i], PG_UINT64_MAX);
	pg_atomic_write_u32(&entry->pass_wanted, 0);
	entry->clean_page = 0;
	memset(&entry->exceptions, 0, sizeof(ExceptionMark));
	memset(&entry->flushes, 0, sizeof(FlushStats));
	entry->unanswered = 0;
	entry->flushes.since = GetCurrentTimestamp();
}

static int
locks(void)
{
	return 1;
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	databases = memory;
	launcher = (Launcher *) (databases + MAX_DATABASES);
	registry_lock = &my_locks[0].lock;
	if (found)
		return;
	pg_atomic_init_u32(&launcher->process, 0);
	pg_atomic_init_u32(&launcher->wanted, 0);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		databases[i].database = InvalidOid;
		pg_atomic_init_u32(&databases[i].known, 0);
		for (int j = 0; j < MAX_PARTITIONS / 64; j++)
			pg_atomic_init_u64(&databases[i].marks[j], 0);
		for (int j = 0; j < MAX_PARTITIONS; j++)
			pg_atomic_init_u64(&databases[i].rows[j], 0);
		pg_atomic_init_u32(&databases[i].pass_wanted, 0);
		clear_entry(&databases[i]);
	}
}

/*
 * Return the entry of a database, which takes a free one if it has none yet; NULL if
 * all are taken.
 */
static SharedDatabase *
find_entry(Oid database)
{
	SharedDatabase *entry = NULL;
	SharedDatabase *unused = NULL;

	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES && !entry; i++)
	{
		if (databases[i].database == database)
			entry = &databases[i];
		else if (!unused && !OidIsValid(databases[i].database))
			unused = &databases[i];
	}
	if (!entry && unused)
	{
		entry = unused;
		clear_entry(entry);
		entry->database = database;
	}
	LWLockRelease(registry_lock);
	return entry;
}

/*
 * Return this database's entry, or NULL if it has none.  It stays this database's
 * while a backend of the database is there to ask.
 */
SharedDatabase *
my_shared_database(void)
{
	static SharedDatabase *mine = NULL;

	if (!mine && databases)
		mine = find_entry(MyDatabaseId);
	return mine;
}

/*
 * Call visit() for every entry in use, with the registry's lock held in shared mode.
 */
void
databases_visit(void (*visit) (SharedDatabase *entry, void *arg), void *arg)
{
	LWLockAcquire(registry_lock, LW_SHARED);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (OidIsValid(databases[i].database))
			visit(&databases[i], arg);
	}
	LWLockRelease(registry_lock);
}

/*
 * Forget a database whose extension is gone, with its tables, or that is gone itself.
 * No process can be writing there, because the dropping transaction holds the locks.
 */
static void
forget(Oid database, bool dropped)
{
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (databases[i].database != database)
			continue;
		clear_entry(&databases[i]);
		if (dropped)
			databases[i].database = InvalidOid;
	}
	LWLockRelease(registry_lock);
}

/* Ask for a worker that goes through this database's table soon. */
void
databases_wake_launcher(void)
{
	SharedDatabase *mine = my_shared_database();
	uint32		process;

	if (mine)
		pg_atomic_write_u32(&mine->pass_wanted, 1);
	if (pg_atomic_exchange_u32(&launcher->wanted, 1) != 0)
		return;
	process = pg_atomic_read_u32(&launcher->process);
	/* if that number is another process's by now, it wakes up for nothing */
	if (process > 0)
		SetLatch(&GetPGProcByNumber(process - 1)->procLatch);
}

/* This process is the launcher, to be woken up from now on. */
void
databases_launcher_is_here(void)
{
	pg_atomic_write_u32(&launcher->process, my_proc_number() + 1);
}

/* Has a session asked for a worker since the launcher's round began? */
bool
databases_worker_wanted(void)
{
	return pg_atomic_read_u32(&launcher->wanted) != 0;
}

/* Begin a round.  A session that asks from here on asks for another worker. */
void
databases_begin_round(void)
{
	(void) pg_atomic_exchange_u32(&launcher->wanted, 0);
}

/*
 * Note that a worker is going to be started in the database.  Return false if it is
 * too early for that, because the last ones did not get as far as connecting.
 */
bool
databases_try_worker(Oid database)
{
	SharedDatabase *entry = find_entry(database);
	bool		due = true;

	if (!entry)
		return true;
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	if (entry->unanswered > 0)
	{
		int64		pause = (int64) flush_interval_setting << Min(entry->unanswered, 10);

		pause = Min(pause, Max(MAX_BACKOFF_S, flush_interval_setting));
		due = monotonic_ns() - entry->started_at >= pause * INT64CONST(1000000000);
	}
	if (due)
	{
		entry->unanswered++;
		entry->started_at = monotonic_ns();
	}
	LWLockRelease(registry_lock);
	return due;
}

/* Note that the worker could not be started, because no slot was free for it. */
void
databases_no_worker(Oid database)
{
	SharedDatabase *entry = find_entry(database);

	if (!entry)
		return;
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	entry->unanswered = Max(entry->unanswered - 1, 0);
	LWLockRelease(registry_lock);
}

/* This process is the database's worker, and it has connected. */
void
databases_worker_connected(void)
{
	SharedDatabase *entry = my_shared_database();

	if (!entry)
		return;
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	entry->unanswered = 0;
	LWLockRelease(registry_lock);
}

/* Take the registry's lock, to change or copy the figures on flushes. */
void
databases_lock_flushes(void)
{
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
}

void
databases_unlock_flushes(void)
{
	LWLockRelease(registry_lock);
}

/*
 * What is saved of an entry for the next start (core/saved_file.c).  Marks are not
 * saved: when the server starts, the worker goes through the table anyway, for blocks
 * that have rows (decide/blocks.c), and because the server may have run without this
 * library meanwhile (memory/spill.c).  It does not matter any more whether flushes
 * were failing.
 */
typedef struct SavedDatabase
{
	TimestampTz since;
	int64		flushed;
	int64		failures;
	TimestampTz last_flush;
	TimestampTz last_error_at;
	Oid			database;
	char		last_error[sizeof(((FlushStats *) NULL)->last_error)];
} SavedDatabase;

StaticAssertDecl(sizeof(SavedDatabase) <= MAX_SAVED_SIZE, "a record is too large");

static void
save(Saving *saving)
{
	for (int i = 0; i < MAX_DATABASES && saved_go_on(saving); i++)
	{
		SavedDatabase record;
		FlushStats *flushes = &databases[i].flushes;

		memset(&record, 0, sizeof(record));
		LWLockAcquire(registry_lock, LW_SHARED);
		record.database = databases[i].database;
		record.since = flushes->since;
		record.flushed = flushes->flushed;
		record.failures = flushes->failures;
		record.last_flush = flushes->last_flush;
		record.last_error_at = flushes->last_error_at;
		memcpy(record.last_error, flushes->last_error, sizeof(record.last_error));
		LWLockRelease(registry_lock);
		if (OidIsValid(record.database))
			saved_put(saving, 0, &record, sizeof(record));
	}
}

static bool
load(int kind, const char *bytes, Size size, Loading *loading)
{
	SavedDatabase record;
	SharedDatabase *entry;

	if (size != sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (!OidIsValid(record.database) || record.flushed < 0 || record.failures < 0 ||
		!IS_VALID_TIMESTAMP(record.since) || !IS_VALID_TIMESTAMP(record.last_flush) ||
		!IS_VALID_TIMESTAMP(record.last_error_at) ||
		!memchr(record.last_error, '\0', sizeof(record.last_error)))
		return false;
	if (!loading->take || (entry = find_entry(record.database)) == NULL)
		return true;

	entry->flushes.since = record.since;
	entry->flushes.flushed = record.flushed;
	entry->flushes.failures = record.failures;
	entry->flushes.last_flush = record.last_flush;
	entry->flushes.last_error_at = record.last_error_at;
	strlcpy(entry->flushes.last_error, record.last_error, sizeof(record.last_error));
	entry->memory_newer = loading->rows_stay;
	pg_atomic_write_u32(&entry->pass_wanted, 1);
	return true;
}

const Part	databases_part = {
	.name = "ratelimit databases",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = 1,
	.save = save,
	.load = load
};
