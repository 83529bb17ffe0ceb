/*
 * stats.c
 *		Counts of decisions, per limiter.
 *
 * A call counts in its backend's own memory; the sums go to shared memory when
 * the transaction ends, or after FLUSH_AFTER calls of a long one.  So counting
 * costs next to nothing, and what the view shows is complete but for running
 * transactions.
 *
 * In shared memory each (database, limiter) has an entry, made when first counted
 * and kept until its database goes.  Entries are made and taken away under the
 * lock; counters are atomic.  When all are taken, further limiters are counted
 * together, under OTHER_LIMITER.
 */
#include "ratelimit.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "snapshot.h"
#include "stats.h"

#define MAX_LIMITERS	1024
#define LOCAL_LIMITERS	8
#define FLUSH_AFTER		1000
#define OTHER_LIMITER	"(other)"

typedef struct SharedLimiter
{
	Oid			database;		/* the lock; InvalidOid: free */
	uint8		limiter_len;
	char		limiter[MAX_LIMITER_LEN];
	pg_atomic_uint64 counts[N_COUNTS];
} SharedLimiter;

static SharedLimiter *limiters = NULL;	/* MAX_LIMITERS of them */
static LWLock *limiters_lock;

/* What this backend has counted and not yet added to shared memory. */
typedef struct LocalLimiter
{
	int			limiter_len;	/* 0: unused */
	char		limiter[MAX_LIMITER_LEN];
	uint64		counts[N_COUNTS];
	int			calls;
	SharedLimiter *shared;		/* where they go, if it still is the limiter's */
} LocalLimiter;

static LocalLimiter locals[LOCAL_LIMITERS];
static uint32 next_victim = 0;	/* wraps around to a multiple */

Size
stats_size(void)
{
	return mul_size(MAX_LIMITERS, sizeof(SharedLimiter));
}

/* Holding AddinShmemInitLock. */
void
stats_startup(void *memory, LWLock *lock, bool found)
{
	limiters = memory;
	limiters_lock = lock;
	if (found)
		return;
	for (int i = 0; i < MAX_LIMITERS; i++)
	{
		limiters[i].database = InvalidOid;
		for (int j = 0; j < N_COUNTS; j++)
			pg_atomic_init_u64(&limiters[i].counts[j], 0);
	}
}

/* The limiter's entry, holding the lock; NULL if it has none. */
static SharedLimiter *
find_shared(Oid database, const char *limiter, int len)
{
	for (int i = 0; i < MAX_LIMITERS; i++)
		if (limiters[i].database == database &&
			limiters[i].limiter_len == len &&
			memcmp(limiters[i].limiter, limiter, len) == 0)
			return &limiters[i];
	return NULL;
}

/* The limiter's entry, made if need be, holding the lock exclusively. */
static SharedLimiter *
find_or_make(Oid database, const char *limiter, int len)
{
	SharedLimiter *shared = find_shared(database, limiter, len);
	SharedLimiter *unused = NULL;
	int			n_unused = 0;

	if (shared)
		return shared;
	for (int i = MAX_LIMITERS - 1; i >= 0; i--)
	{
		if (OidIsValid(limiters[i].database))
			continue;
		unused = &limiters[i];
		n_unused++;
	}
	/* some entries are kept for databases that have none for the rest yet */
	if (n_unused <= MAX_LIMITERS / 16 &&
		(len != strlen(OTHER_LIMITER) || memcmp(limiter, OTHER_LIMITER, len) != 0))
		return find_or_make(database, OTHER_LIMITER, strlen(OTHER_LIMITER));
	if (!unused)
		return NULL;

	for (int j = 0; j < N_COUNTS; j++)
		pg_atomic_write_u64(&unused->counts[j], 0);
	memcpy(unused->limiter, limiter, len);
	unused->limiter_len = len;
	unused->database = database;
	return unused;
}

/*
 * Add what has been counted for a limiter to shared memory.
 *
 * An entry only ever passes to another limiter when its own database drops the
 * extension; so one look without the lock will do, and what is counted in the
 * very moment of dropping may be lost or go astray.
 */
static void
flush_local(LocalLimiter *local)
{
	SharedLimiter *shared = local->shared;

	if (local->calls == 0)
		return;
	if (!shared || shared->database != MyDatabaseId ||
		shared->limiter_len != local->limiter_len ||
		memcmp(shared->limiter, local->limiter, local->limiter_len) != 0)
	{
		LWLockAcquire(limiters_lock, LW_EXCLUSIVE);
		local->shared = shared = find_or_make(MyDatabaseId, local->limiter, local->limiter_len);
		LWLockRelease(limiters_lock);
	}
	for (int j = 0; j < N_COUNTS; j++)
	{
		if (local->counts[j] > 0 && shared)
			pg_atomic_fetch_add_u64(&shared->counts[j], local->counts[j]);
		local->counts[j] = 0;
	}
	local->calls = 0;
}

/* Add everything counted so far to shared memory. */
void
stats_flush(void)
{
	for (int i = 0; i < LOCAL_LIMITERS; i++)
		flush_local(&locals[i]);
}

static void
stats_at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE || event == XACT_EVENT_PARALLEL_COMMIT ||
		event == XACT_EVENT_PARALLEL_ABORT)
		stats_flush();
}

/* When the library is loaded. */
void
stats_init(void)
{
	RegisterXactCallback(stats_at_xact_end, NULL);
}

/* Where a limiter is counted in this backend. */
static LocalLimiter *
find_local(const char *limiter, int len)
{
	LocalLimiter *local;

	for (int i = 0; i < LOCAL_LIMITERS; i++)
		if (locals[i].limiter_len == len &&
			memcmp(locals[i].limiter, limiter, len) == 0)
			return &locals[i];

	local = &locals[next_victim++ % LOCAL_LIMITERS];
	flush_local(local);
	local->limiter_len = len;
	memcpy(local->limiter, limiter, len);
	local->shared = NULL;
	return local;
}

/* The limiter that this backend counts for from here on. */
static LocalLimiter *current = &locals[0];

/* Count for this limiter from here on. */
void
stats_set_limiter(const char *limiter, int len)
{
	if (limiters)
		current = find_local(limiter, len);
}

/* Count one call of the limiter last set. */
void
stats_count(StatsCount what)
{
	if (!limiters)
		return;
	current->counts[what]++;
	if (++current->calls >= FLUSH_AFTER)
		flush_local(current);
}

/* Visit the n-th limiter of this database; false when there is none. */
bool
stats_get(int n, char *limiter, int *len, uint64 *counts)
{
	bool		found = false;

	if (!limiters)
		return false;
	LWLockAcquire(limiters_lock, LW_SHARED);
	for (int i = 0; i < MAX_LIMITERS && !found; i++)
	{
		if (limiters[i].database != MyDatabaseId || n-- > 0)
			continue;
		*len = limiters[i].limiter_len;
		memcpy(limiter, limiters[i].limiter, *len);
		for (int j = 0; j < N_COUNTS; j++)
			counts[j] = pg_atomic_read_u64(&limiters[i].counts[j]);
		found = true;
	}
	LWLockRelease(limiters_lock);
	return found;
}

/* This database's counts start anew. */
void
stats_reset(void)
{
	stats_flush();
	LWLockAcquire(limiters_lock, LW_SHARED);
	for (int i = 0; i < MAX_LIMITERS; i++)
		if (limiters[i].database == MyDatabaseId)
			for (int j = 0; j < N_COUNTS; j++)
				pg_atomic_write_u64(&limiters[i].counts[j], 0);
	LWLockRelease(limiters_lock);
}

/* The database, or its extension, is gone. */
void
stats_forget_database(Oid database)
{
	LWLockAcquire(limiters_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_LIMITERS; i++)
		if (limiters[i].database == database)
			limiters[i].database = InvalidOid;
	LWLockRelease(limiters_lock);
}

/* Saved for the next start (snapshot.c). */
typedef struct SavedLimiter
{
	uint64		counts[N_COUNTS];
	Oid			database;
	uint32		limiter_len;
	char		limiter[MAX_LIMITER_LEN];
} SavedLimiter;

void
stats_save(Saving *saving)
{
	for (int i = 0; i < MAX_LIMITERS && snapshot_go_on(saving); i++)
	{
		SavedLimiter record;

		memset(&record, 0, sizeof(record));
		LWLockAcquire(limiters_lock, LW_SHARED);
		record.database = limiters[i].database;
		record.limiter_len = limiters[i].limiter_len;
		memcpy(record.limiter, limiters[i].limiter, MAX_LIMITER_LEN);
		for (int j = 0; j < N_COUNTS; j++)
			record.counts[j] = pg_atomic_read_u64(&limiters[i].counts[j]);
		LWLockRelease(limiters_lock);
		if (OidIsValid(record.database))
			snapshot_put(saving, SAVED_LIMITER, &record,
						 offsetof(SavedLimiter, limiter) + record.limiter_len);
	}
}

bool
stats_load(SavedKind kind, const char *bytes, Size size, Loading *loading)
{
	SavedLimiter record;
	SharedLimiter *shared;

	if (size < offsetof(SavedLimiter, limiter) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (size - offsetof(SavedLimiter, limiter) != record.limiter_len ||
		!OidIsValid(record.database) ||
		!snapshot_name_valid(record.limiter, record.limiter_len, MAX_LIMITER_LEN))
		return false;
	for (int j = 0; j < N_COUNTS; j++)
		if (record.counts[j] > PG_INT64_MAX / 2)
			return false;
	if (!loading->take)
		return true;
	shared = find_or_make(record.database, record.limiter, record.limiter_len);
	for (int j = 0; j < N_COUNTS && shared; j++)
		pg_atomic_fetch_add_u64(&shared->counts[j], record.counts[j]);
	return true;
}
