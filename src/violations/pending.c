/*
 * violations/pending.c
 *		Violations not yet written, as views show them and flushes take them.
 *
 * How entries are kept: violations/entries.h.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "violations/entries.h"
#include "violations/fold.h"
#include "violations/pending.h"

/* Places for entries, those that are free included. */
uint32
violations_entries(void)
{
	return violations ? hashed_entries(violations->groups) + N_LAST : 0;
}

/* Copy out the names of an entry in use, holding its partition's lock. */
static void
copy_names(const Entry *entry, ViolationView *view)
{
	BucketId	id;

	entry_id(entry, &id);
	memcpy(view->gateway, entry->name, entry->gateway_len);
	view->gateway[entry->gateway_len] = '\0';
	memcpy(view->limiter, id.limiter, id.limiter_len);
	view->limiter[id.limiter_len] = '\0';
	memcpy(view->key, id.key, id.key_len);
	view->key[id.key_len] = '\0';
}

/*
 * The entry's violations that are not written for sure, and whose they are; false
 * if there are none, or not of that database, if one is given.
 */
bool
violations_view(uint32 at, Oid database, ViolationView *view, Oid *owner)
{
	Entry	   *entry = &entries[at];
	LWLock	   *lock = partition_lock(at);

	if (((volatile uint32 *) violation_tags)[at] < TAG_FIRST)
		return false;
	/* without the lock, a flush may move the count or give up the entry */
	LWLockAcquire(lock, LW_SHARED);
	view->count = 0;
	*owner = entry->database;
	if (violation_tags[at] >= TAG_FIRST && (!OidIsValid(database) || *owner == database))
	{
		copy_names(entry, view);
		view->count = count_of(pg_atomic_read_u64(&entry->word)) + asides[at].taken;
	}
	LWLockRelease(lock);
	view->last_at = violation_wall_time((int64) pg_atomic_read_u64(&entry->last_at));
	return view->count > 0;
}

/* The databases that have violations to write: their number, at most max. */
int
violations_databases(Oid *databases, int max)
{
	int			n = 0;
	int			i = 0;

	for (uint32 at = 0; at < violations_entries(); at++)
	{
		Oid			database;

		if (((volatile uint32 *) violation_tags)[at] < TAG_FIRST ||
			count_of(pg_atomic_read_u64(&entries[at].word)) == 0)
			continue;
		database = entries[at].database;
		/* mostly the same one as before */
		if (i < n && databases[i] == database)
			continue;
		for (i = 0; i < n && databases[i] != database; i++)
			;
		if (i == n && n < max)
			databases[n++] = database;
	}
	return n;
}

/* Violations that could not even be counted as others. */
int64
violations_lost(void)
{
	return violations ? (int64) pg_atomic_read_u64(&violations->lost) : 0;
}

/*
 * Take the entry's count for a flush of this database; false if there is none.
 * The caller is this database's only flush, and settles what it took.
 */
bool
violations_take(uint32 at, ViolationView *view)
{
	Entry	   *entry = &entries[at];
	Aside	   *aside = &asides[at];
	LWLock	   *lock = partition_lock(at);
	uint64		word = 0;

	if (((volatile uint32 *) violation_tags)[at] < TAG_FIRST)
		return false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (violation_tags[at] >= TAG_FIRST && entry->database == MyDatabaseId)
		word = pg_atomic_read_u64(&entry->word);
	do
	{
		view->count = count_of(word);
		/* it may have to go back: leave the rest to the next flush */
		if (view->count == 0 || view->count + aside->taken > (int64) MAX_COUNT)
		{
			LWLockRelease(lock);
			return false;
		}
	} while (!pg_atomic_compare_exchange_u64(&entry->word, &word, word & ~COUNT_MASK));
	copy_names(entry, view);
	view->again = aside->taken > 0;
	fold_entry(at, view->count, true);
	entry->folded = entry->tracked = 0;
	aside->taken += view->count;
	LWLockRelease(lock);
	return true;
}

/*
 * The flush of a database that took from the entry has ended: what it took is
 * written, and an entry that has got nothing since is given up; or it is pending
 * again.  Nothing of this if the database's extension was dropped meanwhile.
 */
void
violations_settle(uint32 at, Oid database, bool written)
{
	Entry	   *entry = &entries[at];
	Aside	   *aside = &asides[at];
	LWLock	   *lock = partition_lock(at);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (violation_tags[at] < TAG_FIRST || entry->database != database)
		 /* not ours any more */ ;
	else if (written)
	{
		aside->taken = 0;
		close_entry(at);
	}
	else
	{
		pg_atomic_fetch_add_u64(&entry->word, aside->taken);
		entry->folded += aside->taken;
		entry->tracked += aside->taken;
		aside->taken = 0;
	}
	LWLockRelease(lock);
}

/* The database, or its extension, is gone: so are its violations. */
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
			entry->folded = entry->tracked = 0;
			asides[at].taken = 0;
			close_entry(at);
		}
		LWLockRelease(lock);
	}
}
