/*
 * violations/count.c
 *		Counting violations in shared memory.
 *
 * A denied call adds to the entry of its names.  If there is no such entry, it makes
 * one.  If there is no room for one, it takes the place of an entry of a role that
 * has more than its fair share, or else counts for OTHER_KEY.  The layout of entries,
 * the rooms that limit them, and the order of locks are in violations/entries.h.
 * What becomes of the counts is not this file's business: see fold.c, pending.c and
 * flush.c.
 */
#include "postgres.h"

#include "core/clock.h"
#include "violations/count.h"
#include "violations/entries.h"
#include "violations/fold.h"
#include "violations/tracks.h"

/*
 * Reuse of an entry
 *
 * This shows why a call cannot add to an entry that has passed to other names.  An
 * entry is in one of three states, and its tag and word tell which:
 *
 * free			tag TAG_FREE or TAG_GIVEN_UP; word 0 or (generation, CLOSED)
 * closing		any tag; word (generation, CLOSED)
 * in use		tag of its names' hash; word (generation, count)
 *
 * The state changes only while the partition's lock is held: close_entry(),
 * displace_entry(), write_entry().  Calls read the entry and add to it without the
 * lock:
 *
 *	call (add_to_entry)					maker (write_entry)
 *	c1 is the tag that of my names?		m1 write the names
 *	c2 read word						m2 write barrier
 *	   read barrier						m3 word: (next generation, n)
 *	c3 are the names mine?				m4 write barrier
 *	c4 swap word for word + n			m5 tag
 *
 * A call adds only if c4 finds the generation that c2 read, and a count that is not
 * CLOSED.  Let the generation be g.  The generation grows whenever an entry is closed
 * and whenever one is made.  So the word had generation g at all times between c2 and
 * c4, and the entry was in use by the same names all the time.  It remains to show
 * that c3 read these names, and all of their bytes:
 *
 * - c3 did not read bytes of the names before.  m1 is before m3 in memory because of
 *   m2.  c2 has read what m3 wrote, or what was swapped for that later.  c3 comes
 *   after c2 because of the read barrier.
 * - c3 did not read bytes of the names after.  The next maker's m1 comes after the
 *   entry was closed by a swap of the word under the lock.  The next maker takes the
 *   lock after that lock was released, so m1 is not in memory before the close is.
 *   If c3 had read what that m1 wrote, the closed word would have been in memory
 *   then.  The store of c4 comes after what is read before it, so c4 would not have
 *   found g.  (c4's own load may be executed before c3.  But then c4 succeeds only if
 *   nobody has written the word since that load.)
 *
 * A word of 0 means that the entry was never used.  Such an entry has no tag yet by
 * which c1 could find it.  If c2 is executed before c1, which ARM64 allows, and reads
 * 0, then m3 has come between and makes c4 fail.
 *
 * When c4 fails because of the generation, the entry may have been made for the
 * call's own names meanwhile, so the search starts again (*again).  When the word is
 * CLOSED, these names have no entry, or a new one elsewhere.  Before the call makes
 * one, it takes the partition's lock and looks again, and under the lock the answer
 * is certain.
 *
 * On ARM64 without LSE a swap is a loop of ldaxr and stlxr.  Stores that follow the
 * swap may reach memory before the stlxr does, while what comes before the swap
 * cannot come after it.  Three stores that calls can see follow a swap here.  For two
 * of them the order does not matter:
 *
 * - The tag of an entry that was just closed.  A call may see TAG_GIVEN_UP although
 *   it could still have read a word that is not CLOSED.  It passes the entry by and
 *   waits for the lock, like any other call that comes too late.
 * - last_at of an entry that was just added to.  The entry may belong to other names
 *   by then.  These seem to have been denied now, which is a moment after they were.
 *
 * The third, m1 after the close, does not depend on the order in which the two are seen:
 * the call adds only by a swap of the word that it has read, and so does whoever closes
 * the entry, so one of them fails.  Usually the lock is released in between.  Where the
 * maker closes an entry itself (displace_entry()), there is a write barrier all the same.
 */

/*
 * Tell flags of an entry's violations.  The last of them came in an earlier slice,
 * and the entry is about to get more.
 */
static pg_noinline void
track_before(uint32 at, const Names *names)
{
	LWLock	   *lock = partition_lock(at);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (violation_tags[at] >= TAG_FIRST && entry_is(at, names))
		track_entry(at, count_of(pg_atomic_read_u64(&entries[at].word)));
	LWLockRelease(lock);
}

/*
 * Add n to the entry if it has these names.  Returns false if it does not; then
 * *again says that it may have got them meanwhile.  "locked": the caller holds the
 * partition's lock.
 */
static pg_attribute_always_inline bool
add_to_entry(uint32 at, const Names *names, int64 n, int64 now, bool locked,
			 bool *again)
{
	Entry	   *entry = &entries[at];
	uint64		word = pg_atomic_read_u64(&entry->word);
	uint64		generation = word & ~COUNT_MASK;

	*again = false;
	pg_read_barrier();
	if (!entry_is(at, names))
		return false;
	if (unlikely((int64) pg_atomic_read_u64(&entry->last_at) <
				 (int64) pg_atomic_read_u64(&violations->slice_began)))
	{
		if (locked)
			track_entry(at, count_of(word));
		else
			track_before(at, names);
	}
	while ((word & ~COUNT_MASK) == generation && (word & COUNT_MASK) != CLOSED)
	{
		if (count_of(word) + n > (int64) MAX_COUNT)
		{
			pg_atomic_fetch_add_u64(&violations->lost, n);
			return true;
		}
		if (pg_atomic_compare_exchange_u64(&entry->word, &word, word + n))
		{
			pg_atomic_write_u64(&entry->last_at, (uint64) now);
			return true;
		}
	}
	/* if the entry was just given up, these names may have a new one elsewhere */
	*again = (word & COUNT_MASK) != CLOSED;
	return false;
}

/* add_if_there() for a database's entry in ROOM_LAST. */
static pg_noinline bool
add_to_last(const Names *names, int64 n, int64 now, bool locked)
{
	bool		again;

	do
	{
		again = false;
		for (uint32 i = 0; i < N_LAST && !again; i++)
		{
			uint32		at = names_entry(names, i);

			if (((volatile uint32 *) violation_tags)[at] == tag_of(names->hash) &&
				add_to_entry(at, names, n, now, locked, &again))
				return true;
		}
	} while (again);
	return false;
}

/*
 * Add n to the entry of these names.  Returns false if there is none.  "locked": the
 * caller holds the partition's lock, which makes that answer certain.
 */
static pg_attribute_always_inline bool
add_if_there(const Names *names, int64 n, int64 now, bool locked)
{
	uint32		tag = tag_of(names->hash);
	uint32		length = probe_length();
	bool		again;

	if (unlikely(names->last))
		return add_to_last(names, n, now, locked);
	do
	{
		again = false;
		for (uint32 i = 0; i < length && !again; i += GROUP_ENTRIES)
		{
			uint32		group = probe_group(names->hash, i);
			uint32		looked = 0;
			uint32		at;
			TagResult	result = TAG_NO_MORE;

			while (!again && (result = next_tag(violation_tags, group,
												(uint32) names->hash, tag,
												&looked, &at)) == TAG_SAME)
				if (add_to_entry(at, names, n, now, locked, &again))
					return true;
			if (!again && result == TAG_NEVER_USED)
				return false;
		}
	} while (again);
	return false;
}

/*
 * Write the entry, which is closed or was never used.  The caller holds its
 * partition's lock.
 */
static void
write_entry(uint32 at, const Names *names, int64 n, int64 now, int cell)
{
	Entry	   *entry = &entries[at];
	uint64		generation;
	Aside	   *aside = &asides[at];
	char	   *p = aside->name;

	entry->database = names->id->database;
	entry->gateway_len = names->gateway->len;
	entry->gateway = names->gateway->head;
	entry->bucket = names->id->name;
	memcpy(p, names->gateway->name, names->gateway->len);
	p += names->gateway->len;
	memcpy(p, names->id->limiter, names->id->limiter_len);
	p += names->id->limiter_len;
	memcpy(p, names->id->key, names->id->key_len);
	pg_atomic_write_u64(&entry->last_at, (uint64) now);
	aside->folded = aside->tracked = names->told ? n : 0;
	aside->taken = 0;
	aside->since = names->told ? 0 : now;
	aside->cell = cell;

	/* the names come before their generation, and the tag comes last: see above */
	generation = (pg_atomic_read_u64(&entry->word) & ~COUNT_MASK) + ONE_GENERATION;
	pg_write_barrier();
	pg_atomic_write_u64(&entry->word, generation + n);
	pg_write_barrier();
	((volatile uint32 *) violation_tags)[at] = tag_of(names->hash);
}

/*
 * Make an entry in a free place.  Returns false if there is none on the way of these
 * names.  The caller holds the partition's lock.
 */
static bool
make_entry(const Names *names, int64 n, int64 now, int cell)
{
	for (uint32 i = 0; i < names_length(names); i++)
	{
		uint32		at = names_entry(names, i);

		if (violation_tags[at] >= TAG_FIRST)
			continue;
		write_entry(at, names, n, now, cell);
		return true;
	}
	return false;
}

/* Violations whose entry has been displaced. */
typedef struct Displaced
{
	int64		count;			/* 0: there are none */
	int64		last_at;
	int			cell;			/* of the role that made their entry */
	Room		room;
	Oid			database;
	int			limiter_len;
	char		limiter[MAX_LIMITER_LEN];
	Gateway		gateway;
} Displaced;

/*
 * The entry of this room, on the way of a hash, that gives way to an entry of this
 * cell: the one with the fewest violations among those whose cells have more than
 * their share.  Returns -1 if there is none.
 */
static int64
find_displaceable(uint64 hash, Room room, int cell)
{
	int64		found = -1;
	int64		least = PG_INT64_MAX;

	for (uint32 i = 0; i < probe_length(); i++)
	{
		uint32		at = probe_entry(hash, i);
		int64		count = count_of(pg_atomic_read_u64(&entries[at].word));

		/* the entry is still needed if a flush has to put back what it took */
		if (violation_tags[at] < TAG_FIRST || count >= least || asides[at].taken > 0 ||
			room_of_entry(at) != room ||
			!shares_is_above(&violations->rooms[room], asides[at].cell, cell))
			continue;
		found = at;
		least = count;
	}
	return found;
}

/*
 * Make an entry in the place of another one.  Returns false if none gives way.  The
 * caller holds the partition's lock, and counts elsewhere what was displaced.
 */
static bool
displace_entry(const Names *names, int64 n, int64 now, int cell, Room room,
			   Displaced *displaced)
{
	int64		at = find_displaceable(names->hash, room, cell);
	Entry	   *entry;
	uint64		word;

	if (at < 0)
		return false;
	entry = &entries[at];
	word = pg_atomic_read_u64(&entry->word);
	do
	{
		displaced->count = count_of(word);
	} while (!pg_atomic_compare_exchange_u64(&entry->word, &word,
											 ((word & ~COUNT_MASK) + ONE_GENERATION) | CLOSED));
	/* without this, ARM64 could make the new names visible before the close */
	pg_write_barrier();
	fold_entry(at, displaced->count, wall_clock_ahead(), true);

	displaced->last_at = (int64) pg_atomic_read_u64(&entry->last_at);
	displaced->cell = asides[at].cell;
	displaced->room = room;
	displaced->database = entry->database;
	displaced->limiter_len = entry->bucket.limiter_len;
	memcpy(displaced->limiter, asides[at].name + entry->gateway_len, displaced->limiter_len);
	/* not gateway_set(): the name may be in another database's encoding */
	displaced->gateway.len = entry->gateway_len;
	memcpy(displaced->gateway.name, asides[at].name, entry->gateway_len);
	displaced->gateway.name[entry->gateway_len] = '\0';
	gateway_complete(&displaced->gateway);
	((volatile uint32 *) violation_tags)[at] = TAG_GIVEN_UP;
	shares_pass(&violations->rooms[room], displaced->cell, cell);
	/*
	 * Take the first free place, which may be another one: searches end at the first
	 * entry that was never used.
	 */
	return make_entry(names, n, now, cell);
}

static void count_others(Oid database, const char *limiter, int limiter_len,
						 const Gateway *gateway, int64 n, int64 now, int cell);
static void count_last(Oid database, int64 n, int64 now);

/*
 * Make an entry for the names and count n in it.  Returns false if there is no room.
 * The entry's place is one of this cell's; NO_CELL stands for the calling role's
 * cell.
 */
static pg_noinline bool
make_and_count(const Names *names, int64 n, int64 now, int cell)
{
	LWLock	   *lock = partition_lock(names_entry(names, 0));
	Room		room = room_of_names(names);
	Shares	   *shares = room < N_ROOMS ? &violations->rooms[room] : NULL;
	bool		taken = false;
	bool		counted;
	Displaced	displaced = {0};

	if (shares && cell == NO_CELL)
		cell = shares_my_cell(shares, names->id->database);
	/* take a place before making the entry, so that there are never too many */
	if (shares)
		taken = shares_take(shares, cell);
	if (shares && !taken && !shares_is_below(shares, cell))
		return false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	counted = add_if_there(names, n, now, true);
	if (counted && taken)
		shares_give(shares, cell);
	if (!counted)
	{
		if (taken || !shares)
			counted = make_entry(names, n, now, cell);
		if (!counted && taken)
			shares_give(shares, cell);
		if (!counted && shares)
			counted = displace_entry(names, n, now, cell, room, &displaced);
	}
	LWLockRelease(lock);
	if (displaced.count > 0 && displaced.room == ROOM_KEYS)
		count_others(displaced.database, displaced.limiter, displaced.limiter_len,
					 &displaced.gateway, displaced.count, displaced.last_at,
					 displaced.cell);
	else if (displaced.count > 0)
		count_last(displaced.database, displaced.count, displaced.last_at);
	return counted;
}

/* Count n in the database's entry of ROOM_LAST, or as lost if it cannot have one. */
static void
count_last(Oid database, int64 n, int64 now)
{
	BucketId	id;
	Gateway		nobody;
	Names		names;

	gateway_set(&nobody, OTHER_KEY);
	make_bucket_id(&id, database, OTHER_KEY, strlen(OTHER_KEY),
				   OTHER_KEY, strlen(OTHER_KEY));
	set_names(&names, &id, &nobody);
	names.last = true;
	if (!add_if_there(&names, n, now, false) &&
		!make_and_count(&names, n, now, NO_CELL))
		pg_atomic_fetch_add_u64(&violations->lost, n);
}

/* Count n for the key OTHER_KEY of gateway and limiter, or in ROOM_LAST. */
static void
count_others(Oid database, const char *limiter, int limiter_len, const Gateway *gateway,
			 int64 n, int64 now, int cell)
{
	BucketId	id;
	Names		names;

	make_bucket_id(&id, database, limiter, limiter_len, OTHER_KEY, strlen(OTHER_KEY));
	set_names(&names, &id, gateway);
	if (!add_if_there(&names, n, now, false) && !make_and_count(&names, n, now, cell))
		count_last(database, n, now);
}

/*
 * Count n for names that have no entry.  If there is no room for one, count for
 * OTHER_KEY; then flags are told at once, unless they know already, so that a full
 * room hides no key from them.
 */
static pg_noinline void
count_new_names(const Names *names, int64 n, int64 now)
{
	const BucketId *id = names->id;

	if (room_of_names(names) == ROOM_LAST)
	{
		count_last(id->database, n, now);
		return;
	}
	if (make_and_count(names, n, now, NO_CELL))
		return;
	if (!names->told && !is_other(id->key, id->key_len))
		flags_count(id, n, now);
	count_others(id->database, id->limiter, id->limiter_len, names->gateway, n, now,
				 NO_CELL);
}

/*
 * Count n violations that were saved, the last of them at this time of the monotonic
 * clock.  Flags and episodes know of them already, also if the entry made here is
 * displaced by one that is loaded later.
 */
void
violations_add_saved(const BucketId *id, const Gateway *gateway, int64 n, int64 at)
{
	Names		names;

	set_names(&names, id, gateway);
	names.told = true;
	if (!add_if_there(&names, n, at, false))
		count_new_names(&names, n, at);
}

/*
 * A denial is likely to follow: prefetch its entry, which is usually in the first
 * place.  That makes a denied call 8 % faster if there are 10,000 keys.
 */
void
violations_expect(const BucketId *id)
{
	Names		names;
	uint32		first;

	set_names(&names, id, my_last_gateway());
	first = probe_entry(names.hash, 0);
	__builtin_prefetch(&violation_tags[first]);
	__builtin_prefetch(&entries[first]);
}

/* A violation has come after the end of the current slice.  Begin the next one. */
static pg_noinline void
next_slice(int64 now)
{
	int64		slice_ns = tracks_slice();
	int64		began = now / slice_ns * slice_ns;

	/* processes that do this at the same time write the same, or adjacent slices */
	pg_atomic_write_u64(&violations->slice_began, (uint64) began);
	pg_atomic_write_u64(&violations->slice_ends, (uint64) (began + slice_ns));
}

/*
 * Record n violations at a time of the monotonic clock; 0 means now.  Returns false
 * if there is no shared memory to record them in.
 */
bool
violations_add(const BucketId *id, int64 n, int64 now)
{
	Names		names;

	if (unlikely(!violations))
		return false;
	if (unlikely(now == 0))
		now = monotonic_ns();
	if (unlikely(now >= (int64) pg_atomic_read_u64(&violations->slice_ends)))
		next_slice(now);
	set_names(&names, id, my_gateway());

	if (!add_if_there(&names, n, now, false))
		count_new_names(&names, n, now);
	return true;
}
