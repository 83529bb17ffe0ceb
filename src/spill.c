/*
 * spill.c
 *		Which partitions of shared memory have buckets in the table.
 *
 * A bucket is in exactly one place.  Per database and partition there is one
 * mark: while it is set, a key of that database that is not found in the
 * partition has its bucket in rate_limit_buckets; while it is not, in shared
 * memory or nowhere.  This file keeps the marks and the rule for setting and
 * clearing them; the tiers themselves are in shmem_store.c and table_store.c.
 *
 * Setting.  When a partition has no room, the caller sets the mark while it
 * holds the partition's lock exclusively, as does whoever makes a bucket: so
 * no bucket is made in memory for a key once its bucket may be in the table.
 *
 * Clearing.  The worker clears a mark when no row is left and none can come.
 * A writer announces itself (writers + 1, until its transaction ends) before it
 * reads the mark, and trusts a set mark only when announced.  The cleaner holds
 * SHARE lock on the table, so nobody has uncommitted changes in it (those of a
 * prepared transaction included), sees with a fresh snapshot that no row is
 * left, and then, with the partition's lock held, clears the mark, looks at
 * writers, and sets the mark again unless there are none.  Both sides write,
 * pass a full barrier, and read what the other one wrote, so either the writer
 * sees the mark cleared and goes on to the partition's lock, where it looks
 * again; or the cleaner sees the writer.
 *
 * Rows that were there before the server started (the table survives a clean
 * restart, and a time without preloading) are found by the first caller of each
 * database that misses in shared memory: it looks through the table and marks
 * their partitions, see table_find_spilled().  On a standby the table cannot be
 * read, nor have rows.
 *
 * A database takes its entry when it first needs one.  Should all entries be
 * taken, a further database keeps every bucket in the table.
 */
#include "ratelimit.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"

typedef struct SpillDatabase
{
	Oid			database;		/* registry lock; InvalidOid: free */
	pg_atomic_uint32 known;		/* the table has been looked through */
	pg_atomic_uint32 writers;	/* announced transactions */
	pg_atomic_uint64 marks[MAX_PARTITIONS / 64];	/* set, cleared: holding the
													 * partition's lock */
} SpillDatabase;

static SpillDatabase *databases = NULL; /* MAX_DATABASES of them */
static LWLock *registry_lock;

/* This backend's entry, once known; its database cannot go while it is here. */
static SpillDatabase *my_database = NULL;

/* Is this backend's transaction counted in my_database->writers? */
static bool announced = false;

static void spill_at_xact_end(XactEvent event, void *arg);

Size
spill_size(void)
{
	return mul_size(MAX_DATABASES, sizeof(SpillDatabase));
}

/* Holding AddinShmemInitLock. */
void
spill_startup(void *memory, LWLock *lock, bool found)
{
	databases = memory;
	registry_lock = lock;
	if (!found)
	{
		for (int i = 0; i < MAX_DATABASES; i++)
		{
			databases[i].database = InvalidOid;
			pg_atomic_init_u32(&databases[i].known, 0);
			pg_atomic_init_u32(&databases[i].writers, 0);
			for (int j = 0; j < MAX_PARTITIONS / 64; j++)
				pg_atomic_init_u64(&databases[i].marks[j], 0);
		}
	}
}

/* This database's entry; NULL if all are taken. */
static SpillDatabase *
my_entry(void)
{
	SpillDatabase *mine = NULL;
	SpillDatabase *unused = NULL;
	static bool looked = false;

	if (looked)
		return my_database;

	RegisterXactCallback(spill_at_xact_end, NULL);
	looked = true;
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES && !mine; i++)
	{
		if (databases[i].database == MyDatabaseId)
			mine = &databases[i];
		else if (!unused && !OidIsValid(databases[i].database))
			unused = &databases[i];
	}
	if (!mine && unused)
	{
		mine = unused;
		mine->database = MyDatabaseId;
	}
	LWLockRelease(registry_lock);

	my_database = mine;
	return mine;
}

/* Has the table been looked through since the server started? */
bool
spill_known(void)
{
	SpillDatabase *mine = my_entry();

	return !mine || pg_atomic_read_u32(&mine->known) != 0;
}

/* The table has been looked through; these partitions have rows. */
void
spill_set_known(const PartitionSet *with_rows)
{
	SpillDatabase *mine = my_entry();

	if (!mine)
		return;
	for (int i = 0; i < MAX_PARTITIONS / 64; i++)
		pg_atomic_fetch_or_u64(&mine->marks[i], with_rows->bits[i]);
	pg_atomic_write_u32(&mine->known, 1);
}

/* Certain only while holding the partition's lock, or announced and true. */
bool
spill_is_set(int partition)
{
	SpillDatabase *mine = my_entry();

	if (!mine)
		return true;
	return pg_atomic_read_u64(&mine->marks[partition / 64]) >> (partition % 64) & 1;
}

/*
 * May this transaction write rows of the partition?  If so it is announced
 * until it ends, and the mark cannot go before.
 */
bool
spill_announce(int partition)
{
	SpillDatabase *mine = my_entry();

	if (!mine)
		return true;
	if (announced)
	{
		/* fetch_add below was the barrier */
		return spill_is_set(partition);
	}

	pg_atomic_fetch_add_u32(&mine->writers, 1);
	if (spill_is_set(partition))
	{
		announced = true;
		return true;
	}
	pg_atomic_fetch_sub_u32(&mine->writers, 1);
	return false;
}

/* Mark the partition, whose lock the caller holds, and announce a writer. */
void
spill_mark(int partition)
{
	SpillDatabase *mine = my_entry();

	if (!mine)
		return;
	if (!announced)
	{
		pg_atomic_fetch_add_u32(&mine->writers, 1);
		announced = true;
	}
	pg_atomic_fetch_or_u64(&mine->marks[partition / 64],
						   (uint64) 1 << (partition % 64));
}

/* The marked partitions of this database. */
PartitionSet
spill_marked(void)
{
	SpillDatabase *mine = my_entry();
	PartitionSet set = {{0}};

	if (mine)
		for (int i = 0; i < MAX_PARTITIONS / 64; i++)
			set.bits[i] = pg_atomic_read_u64(&mine->marks[i]);
	return set;
}

/*
 * Clear the marks of all partitions without rows.  The caller holds SHARE lock
 * on the table and has seen its rows with a snapshot taken after that.
 */
void
spill_clear(const PartitionSet *with_rows)
{
	SpillDatabase *mine = my_entry();
	PartitionSet marked = spill_marked();

	if (!mine)
		return;
	for (int i = 0; i < shmem_partitions(); i++)
	{
		uint64		bit = (uint64) 1 << (i % 64);

		if (!partition_set_has(&marked, i) || partition_set_has(with_rows, i))
			continue;
		shmem_lock_partition(i);
		pg_atomic_fetch_and_u64(&mine->marks[i / 64], ~bit);
		if (pg_atomic_read_u32(&mine->writers) > 0)
			pg_atomic_fetch_or_u64(&mine->marks[i / 64], bit);
		shmem_unlock_partition(i);
	}
}

/* The databases that have marks: at most max of them, their number. */
int
spill_databases(Oid *result, int max)
{
	int			n = 0;

	LWLockAcquire(registry_lock, LW_SHARED);
	for (int i = 0; i < MAX_DATABASES && n < max; i++)
	{
		bool		marked = false;

		for (int j = 0; j < MAX_PARTITIONS / 64; j++)
			marked |= pg_atomic_read_u64(&databases[i].marks[j]) != 0;
		if (marked && OidIsValid(databases[i].database))
			result[n++] = databases[i].database;
	}
	LWLockRelease(registry_lock);
	return n;
}

/*
 * The database's extension, and so its table, is gone, or the database itself.
 * Nobody can be writing rows: the dropping transaction holds the table's lock.
 */
void
spill_forget_database(Oid database, bool dropped)
{
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (databases[i].database != database)
			continue;
		for (int j = 0; j < MAX_PARTITIONS / 64; j++)
			pg_atomic_write_u64(&databases[i].marks[j], 0);
		pg_atomic_write_u32(&databases[i].known, 0);
		if (dropped)
			databases[i].database = InvalidOid;
	}
	LWLockRelease(registry_lock);
}

/* However the transaction ends, its rows are now seen by all or by nobody. */
static void
spill_at_xact_end(XactEvent event, void *arg)
{
	if (!announced)
		return;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		announced = false;
		pg_atomic_fetch_sub_u32(&my_database->writers, 1);
	}
}
