/*
 * databases.c
 *		The databases that use the extension, in shared memory.
 *
 * A database takes an entry when it first needs one and keeps it until it or its
 * extension is dropped, or the server stops.  Whose entry it is changes only
 * under the registry's lock; what the fields are for, and under what they
 * change, stands at the struct.
 *
 * Should all entries be taken, a further database has none, and keeps all of its
 * buckets in the table.
 */
#include "ratelimit.h"

#include "databases.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

static SharedDatabase *databases = NULL;	/* MAX_DATABASES of them */
static LWLock *registry_lock;

Size
databases_size(void)
{
	return mul_size(MAX_DATABASES, sizeof(SharedDatabase));
}

static void
clear_entry(SharedDatabase *entry)
{
	pg_atomic_write_u32(&entry->known, 0);
	for (int i = 0; i < MAX_PARTITIONS / 64; i++)
		pg_atomic_write_u64(&entry->marks[i], 0);
	memset(&entry->flushes, 0, sizeof(FlushStats));
	entry->flushes.since = GetCurrentTimestamp();
}

/* Holding AddinShmemInitLock. */
void
databases_startup(void *memory, LWLock *lock, bool found)
{
	databases = memory;
	registry_lock = lock;
	if (found)
		return;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		databases[i].database = InvalidOid;
		pg_atomic_init_u32(&databases[i].known, 0);
		for (int j = 0; j < MAX_PARTITIONS / 64; j++)
			pg_atomic_init_u64(&databases[i].marks[j], 0);
		clear_entry(&databases[i]);
	}
}

/* The entry of a database, taken if need be; NULL if there is none to take. */
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
 * This database's entry, or NULL.  It cannot go while a backend of the database
 * is here to ask.
 */
SharedDatabase *
my_shared_database(void)
{
	static SharedDatabase *mine = NULL;

	if (!mine && databases)
		mine = find_entry(MyDatabaseId);
	return mine;
}

/* Call visit() for every entry, holding the registry's lock shared. */
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
 * The database's extension is gone, with its tables, or the database itself.
 * Nobody can be writing there: the dropping transaction holds the locks.
 */
void
databases_forget(Oid database, bool dropped)
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

/* Change or copy the flush figures under the registry's lock. */
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
