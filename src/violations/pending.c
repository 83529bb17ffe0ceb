/*
 * violations/pending.c
 *		Violations that are not written yet: showing them, taking them for a flush.
 *
 * A flush takes the counts of entries here, and settles each of them when its
 * transaction has ended.  The flush itself is in violations/flush.c, and counting in
 * violations/count.c.  How entries are laid out and locked is in
 * violations/entries.h.
 */
#include "postgres.h"

#include "core/oids.h"
#include "miscadmin.h"
#include "violations/entries.h"
#include "violations/fold.h"
#include "violations/pending.h"

/* The number of places for entries, including free ones. */
uint32
violations_entries(void)
{
	return violations ? hashed_entries(violations->groups) + N_LAST : 0;
}

/* Copy the names of an entry in use.  The caller holds its partition's lock. */
static void
copy_names(uint32 at, ViolationView *view)
{
	uint8		gateway_len = entries[at].gateway_len;
	BucketId	id;

	entry_id(at, &id);
	memcpy(view->gateway, asides[at].name, gateway_len);
	view->gateway[gateway_len] = '\0';
	memcpy(view->limiter, id.limiter, id.limiter_len);
	view->limiter[id.limiter_len] = '\0';
	memcpy(view->key, id.key, id.key_len);
	view->key[id.key_len] = '\0';
}

/*
 * Show the entry's violations that are not certain to be written, and set *owner to
 * their database.  Returns false if there are none.  If a database is given, others'
 * entries have none.
 */
bool
violations_view(uint32 at, Oid database, ViolationView *view, Oid *owner)
{
	Entry	   *entry = &entries[at];
	LWLock	   *lock = partition_lock(at);

	if (((volatile uint32 *) violation_tags)[at] < TAG_FIRST)
		return false;
	/* without the lock, a flush could move the count or give up the entry */
	LWLockAcquire(lock, LW_SHARED);
	view->count = 0;
	*owner = entry->database;
	if (violation_tags[at] >= TAG_FIRST && (!OidIsValid(database) || *owner == database))
	{
		copy_names(at, view);
		view->count = count_of(pg_atomic_read_u64(&entry->word)) + asides[at].taken;
	}
	LWLockRelease(lock);
	view->last_at = wall_time((int64) pg_atomic_read_u64(&entry->last_at),
							  wall_clock_ahead());
	return view->count > 0;
}

/*
 * Find the databases that have violations to write, at most max.  Returns their
 * number.
 */
int
violations_databases(Oid *databases, int max)
{
	Oid			last = InvalidOid;
	int			n = 0;

	for (uint32 at = 0; at < violations_entries(); at++)
	{
		Oid			database;

		if (((volatile uint32 *) violation_tags)[at] < TAG_FIRST ||
			count_of(pg_atomic_read_u64(&entries[at].word)) == 0)
			continue;
		database = entries[at].database;
		/* it is usually the database of the entry before */
		if (database != last)
			n = oids_add(databases, n, max, database);
		last = database;
	}
	return n;
}

/* How many violations could not be counted in any entry. */
int64
violations_lost(void)
{
	return violations ? (int64) pg_atomic_read_u64(&violations->lost) : 0;
}

/*
 * Take the entry's count for a flush of this database.  Returns false if there is
 * none.  The caller is the only flush of this database, and settles later what it
 * took.  "ahead" is wall_clock_ahead().
 */
bool
violations_take(uint32 at, int64 ahead, ViolationView *view)
{
	Entry	   *entry = &entries[at];
	Aside	   *aside = &asides[at];
	LWLock	   *lock = partition_lock(at);
	uint64		word = 0;
	int64		count;

	if (((volatile uint32 *) violation_tags)[at] < TAG_FIRST)
		return false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (violation_tags[at] >= TAG_FIRST && entry->database == MyDatabaseId)
		word = pg_atomic_read_u64(&entry->word);
	do
	{
		count = count_of(word);
		/* it must fit into the count if it goes back: the rest is left to the next flush */
		view->count = Min(count, (int64) MAX_COUNT - aside->taken);
		if (view->count <= 0)
		{
			LWLockRelease(lock);
			return false;
		}
	} while (!pg_atomic_compare_exchange_u64(&entry->word, &word, word - view->count));
	copy_names(at, view);
	view->again = aside->taken > 0;
	fold_entry(at, count, ahead, true);
	aside->folded = Min(aside->folded, count - view->count);
	aside->tracked = Min(aside->tracked, count - view->count);
	aside->taken += view->count;
	LWLockRelease(lock);
	return true;
}

/*
 * The flush that took from the entry has ended.  If what it took is written, the
 * entry is given up unless it has got violations since.  Otherwise what it took is
 * pending again.  If the database's extension was dropped meanwhile, this does
 * nothing.
 */
void
violations_settle(uint32 at, Oid database, bool written)
{
	Entry	   *entry = &entries[at];
	Aside	   *aside = &asides[at];
	LWLock	   *lock = partition_lock(at);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (violation_tags[at] < TAG_FIRST || entry->database != database)
		 /* the entry is no longer of this flush */ ;
	else if (written)
	{
		aside->taken = 0;
		close_entry(at);
	}
	else
	{
		pg_atomic_fetch_add_u64(&entry->word, aside->taken);
		aside->folded += aside->taken;
		aside->tracked += aside->taken;
		aside->taken = 0;
	}
	LWLockRelease(lock);
}

/* The database or its extension is gone.  Drop its violations. */
void
violations_forget_database(Oid database, bool dropped)
{
	for (uint32 at = 0; at < violations_entries(); at++)
	{
		Entry	   *entry = &entries[at];
		LWLock	   *lock = partition_lock(at);

		if (((volatile uint32 *) violation_tags)[at] < TAG_FIRST || entry->database != database)
			continue;
		LWLockAcquire(lock, LW_EXCLUSIVE);
		if (violation_tags[at] >= TAG_FIRST && entry->database == database)
		{
			pg_atomic_fetch_and_u64(&entry->word, ~COUNT_MASK);
			asides[at].folded = asides[at].tracked = asides[at].taken = 0;
			close_entry(at);
		}
		LWLockRelease(lock);
	}
}
