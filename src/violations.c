/*
 * violations.c
 *		Violations not yet written, counted in shared memory.
 *
 * One entry per (database, gateway, limiter, key), found as buckets are in
 * shmem_store.c: tags in groups, a search of bounded length.  Its word holds the
 * count and, above it, a generation, which changes whenever the entry passes to
 * other names.  A denied call reads the word, compares the names, and adds by
 * compare-and-swap: the swap fails if the entry changed hands meanwhile, so the
 * count goes to these names or the search starts anew.  Nothing is locked and
 * nobody waits.  (A generation comes back after 2^20 changes of hands, and an
 * entry changes hands at most once per flush, all of which would have to happen
 * between one call's load and its swap.)
 *
 * Making an entry, and giving one up, take the lock of its partition.  Giving up
 * is a swap, too, from a count of zero to CLOSED, to which nobody adds.
 *
 * Bounded: there is room for max_violations entries (and a quarter more, so that
 * searches stay short).  Past that, violations of new keys count for the key
 * OTHER_KEY of their gateway and limiter, whose entries may use that quarter;
 * so the total stays true.  Should even that be full, or an entry at 2^42, they
 * are counted in "lost", which the administrator sees.
 *
 * Flushing (flush.c) takes counts: what was taken stands in the entry until the
 * flush's transaction has ended, and then is dropped, or goes back to the count.
 * Only one flush per database runs at a time, and "taken" belongs to it.
 *
 * Folding: episodes and flags (episodes.c) learn of violations not one by one
 * but in folds, here: every entry's growth since the last one.  All folds, and
 * all taking and settling, hold the fold lock.
 */
#include "ratelimit.h"

#include <unistd.h>

#include "common/hashfn.h"
#include "databases.h"
#include "episodes.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "snapshot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "violations.h"

#define GROUP_ENTRIES	16
#define PROBE_GROUPS	8
#define N_PARTITIONS	16

#define TAG_FREE		0		/* never used */
#define TAG_GIVEN_UP	1		/* used before */
#define TAG_FIRST		2

#define COUNT_BITS		44
#define COUNT_MASK		((UINT64CONST(1) << COUNT_BITS) - 1)
#define ONE_GENERATION	(UINT64CONST(1) << COUNT_BITS)
#define CLOSED			COUNT_MASK	/* instead of a count: given up */
#define MAX_COUNT		(COUNT_MASK / 4)	/* and as much may be taken */

typedef struct Entry
{
	pg_atomic_uint64 word;		/* generation and count */
	pg_atomic_uint64 last_at;	/* monotonic clock, of the last violation */
	int64		taken;			/* fold lock */
	int64		folded;			/* of count; fold lock */
	Oid			database;		/* this and the names: partition's lock */
	uint8		gateway_len;
	SlotName	bucket;
	char		name[MAX_GATEWAY_LEN + MAX_LIMITER_LEN + MAX_KEY_LEN];	/* in this order */
} Entry;

StaticAssertDecl(offsetof(Entry, name) == 64,
				 "what tells entries apart takes more than a cache line");

typedef struct Violations
{
	uint64		seed;
	uint32		groups;			/* a partition */
	pg_atomic_uint32 used;		/* entries, but for those of OTHER_KEY */
	pg_atomic_uint64 lost;
	pg_atomic_uint64 folded_at; /* monotonic clock */
} Violations;

static Violations *shared = NULL;	/* NULL: not preloaded */
static LWLockPadded *locks;		/* of the partitions, then the fold lock */
static uint32 *tags;
static Entry *entries;

/* Whose violation it is; what an entry is looked up by. */
typedef struct Names
{
	const BucketId *id;
	const struct Gateway *gateway;
	uint64		hash;
} Names;

#define FOLD_LOCK	(&locks[N_PARTITIONS].lock)

/*
 * Size and start
 */

static uint32
groups_per_partition(void)
{
	uint32		wanted = max_violations_setting + max_violations_setting / 4;

	return wanted / (N_PARTITIONS * GROUP_ENTRIES) + 1;
}

Size
violations_size(void)
{
	Size		n = (Size) groups_per_partition() * N_PARTITIONS * GROUP_ENTRIES;

	return add_size(CACHELINEALIGN(sizeof(Violations)),
					mul_size(n, sizeof(uint32) + sizeof(Entry)));
}

/* The partitions' and the fold lock. */
int
violations_locks(void)
{
	return N_PARTITIONS + 1;
}

/* Holding AddinShmemInitLock. */
void
violations_startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;
	Size		n;

	locks = my_locks;
	shared = (Violations *) p;
	p += CACHELINEALIGN(sizeof(Violations));
	if (!found)
	{
		shared->groups = groups_per_partition();
		if (!pg_strong_random(&shared->seed, sizeof(shared->seed)))
			shared->seed = (uint64) monotonic_ns();
		pg_atomic_init_u32(&shared->used, 0);
		pg_atomic_init_u64(&shared->lost, 0);
		pg_atomic_init_u64(&shared->folded_at, 0);
	}
	n = (Size) shared->groups * N_PARTITIONS * GROUP_ENTRIES;
	tags = (uint32 *) p;
	entries = (Entry *) (p + n * sizeof(uint32));
	if (!found)
	{
		memset(tags, 0, n * sizeof(uint32));
		memset(entries, 0, n * sizeof(Entry));
		for (Size i = 0; i < n; i++)
		{
			pg_atomic_init_u64(&entries[i].word, 0);
			pg_atomic_init_u64(&entries[i].last_at, 0);
		}
	}
}

/*
 * Names
 */

/* A gateway's name, and what is derived from it. */
typedef struct Gateway
{
	char		raw[MAX_GATEWAY_LEN + 1];	/* as set */
	char		name[MAX_GATEWAY_LEN + 1];	/* valid text */
	int			len;			/* of name */
	uint64		hash;
} Gateway;

static void
set_gateway(Gateway *gateway, const char *wanted)
{
	strlcpy(gateway->raw, wanted, sizeof(gateway->raw));
	gateway->len = strlcpy(gateway->name, gateway->raw, sizeof(gateway->name));
	if (!pg_verifymbstr(gateway->name, gateway->len, true))
		for (char *p = gateway->name; *p; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	gateway->hash = hash_bytes_extended((const unsigned char *) gateway->name,
										gateway->len, 0);
}

/*
 * The calling instance: ratelimit.gateway_name, else application_name, else
 * cluster_name, else the host's name.  Settings that come with a connection have
 * not been checked for the database's encoding: what is not valid in it is
 * shown as question marks.
 */
static pg_attribute_always_inline const Gateway *
my_gateway(void)
{
	static char host[MAX_GATEWAY_LEN + 1];
	static Gateway mine;
	const char *wanted = host;

	if (gateway_name_setting && gateway_name_setting[0])
		wanted = gateway_name_setting;
	else if (application_name && application_name[0])
		wanted = application_name;
	else if (cluster_name && cluster_name[0])
		wanted = cluster_name;
	else if (!host[0] && (gethostname(host, sizeof(host) - 1) != 0 || !host[0]))
		strlcpy(host, "unknown", sizeof(host));

	if (strcmp(wanted, mine.raw) != 0)
		set_gateway(&mine, wanted);
	return &mine;
}

const char *
violations_gateway(void)
{
	return my_gateway()->name;
}

static inline void
set_names(Names *names, const BucketId *id, const Gateway *gateway)
{
	names->id = id;
	names->gateway = gateway;
	/* the bucket's hash is of all the other names */
	names->hash = hash_combine64(id->hash, gateway->hash ^ shared->seed);
}

static inline bool
entry_is(const Entry *entry, const Names *names)
{
	const BucketId *id = names->id;
	const Gateway *gateway = names->gateway;

	return entry->database == id->database &&
		entry->gateway_len == gateway->len &&
		same_slot_name(&entry->bucket, &id->name) &&
		same_bytes(entry->name, gateway->name, gateway->len) &&
		(name_is_short(id) ||
		 (same_bytes(entry->name + gateway->len, id->limiter, id->limiter_len) &&
		  same_bytes(entry->name + gateway->len + id->limiter_len,
					 id->key, id->key_len)));
}

/*
 * Finding and counting
 */

static inline int64
count_of(uint64 word)
{
	return (word & COUNT_MASK) == CLOSED ? 0 : (int64) (word & COUNT_MASK);
}

static inline int
partition_of(uint64 hash)
{
	return hash % N_PARTITIONS;
}

static inline uint32
tag_of(uint64 hash)
{
	uint32		tag = (uint32) (hash >> 4);

	return tag < TAG_FIRST ? tag + TAG_FIRST : tag;
}

/* The first entry of the group of the i-th entry on the way of a hash. */
static inline uint32
probe_group(uint64 hash, uint32 i)
{
	uint32		group = (uint32) (((hash >> 32) * shared->groups) >> 32) +
		i / GROUP_ENTRIES;

	if (group >= shared->groups)
		group -= shared->groups;
	return (partition_of(hash) * shared->groups + group) * GROUP_ENTRIES;
}

/* The i-th entry on the way of a hash. */
static inline uint32
probe_entry(uint64 hash, uint32 i)
{
	return probe_group(hash, i) + (uint32) (hash + i) % GROUP_ENTRIES;
}

static inline uint32
probe_length(void)
{
	return Min(shared->groups, PROBE_GROUPS) * GROUP_ENTRIES;
}

/*
 * Add n to the entry if its names are these.  False if they are not; *again if
 * they may have been until now.
 */
static pg_attribute_always_inline bool
add_to_entry(Entry *entry, const Names *names, int64 n, int64 now, bool *again)
{
	uint64		word = pg_atomic_read_u64(&entry->word);
	uint64		generation = word & ~COUNT_MASK;

	*again = false;
	pg_read_barrier();
	if (!entry_is(entry, names))
		return false;
	while ((word & ~COUNT_MASK) == generation && (word & COUNT_MASK) != CLOSED)
	{
		if (count_of(word) + n > (int64) MAX_COUNT)
		{
			pg_atomic_fetch_add_u64(&shared->lost, n);
			return true;
		}
		if (pg_atomic_compare_exchange_u64(&entry->word, &word, word + n))
		{
			pg_atomic_write_u64(&entry->last_at, (uint64) now);
			return true;
		}
	}
	/* just given up; if these names have an entry, it is a new one */
	*again = (word & COUNT_MASK) != CLOSED;
	return false;
}

/* Add n to the entry if it is there; else false. */
static bool
add_if_there(const Names *names, int64 n, int64 now)
{
	uint32		tag = tag_of(names->hash);
	uint32		length = probe_length();
	bool		again;

	do
	{
		again = false;
		for (uint32 i = 0; i < length && !again; i += GROUP_ENTRIES)
		{
			uint32		group = probe_group(names->hash, i);

			for (uint32 j = 0; j < GROUP_ENTRIES && !again; j++)
			{
				uint32		at = group + (uint32) (names->hash + j) % GROUP_ENTRIES;
				uint32		found = ((volatile uint32 *) tags)[at];

				if (found == TAG_FREE)
					return false;
				if (found == tag &&
					add_to_entry(&entries[at], names, n, now, &again))
					return true;
			}
		}
	} while (again);
	return false;
}

/* Make the entry, holding its partition's lock; false if there is no room. */
static bool
make_entry(const Names *names, int64 n, int64 now)
{
	for (uint32 i = 0; i < probe_length(); i++)
	{
		uint32		at = probe_entry(names->hash, i);
		Entry	   *entry = &entries[at];
		uint64		generation;
		char	   *p = entry->name;

		if (tags[at] >= TAG_FIRST)
			continue;
		entry->database = names->id->database;
		entry->gateway_len = names->gateway->len;
		entry->bucket = names->id->name;
		memcpy(p, names->gateway->name, names->gateway->len);
		p += names->gateway->len;
		memcpy(p, names->id->limiter, names->id->limiter_len);
		p += names->id->limiter_len;
		memcpy(p, names->id->key, names->id->key_len);
		pg_atomic_write_u64(&entry->last_at, (uint64) now);

		/* names before the generation that goes with them, tag last */
		generation = (pg_atomic_read_u64(&entry->word) & ~COUNT_MASK) + ONE_GENERATION;
		pg_write_barrier();
		pg_atomic_write_u64(&entry->word, generation + n);
		pg_write_barrier();
		((volatile uint32 *) tags)[at] = tag_of(names->hash);
		return true;
	}
	return false;
}

/* Are these the names of the violations for which there was no room? */
static bool
is_other(const char *key, int key_len)
{
	return key_len == strlen(OTHER_KEY) && memcmp(key, OTHER_KEY, key_len) == 0;
}

/* Make an entry for the names, and count n, if there may be one. */
static pg_noinline bool
make_and_count(const Names *names, int64 n, int64 now)
{
	LWLock	   *lock = &locks[partition_of(names->hash)].lock;
	bool		other = is_other(names->id->key, names->id->key_len);
	bool		counted;

	/* take one of max_violations before making it, not to exceed them */
	if (!other &&
		pg_atomic_fetch_add_u32(&shared->used, 1) >= max_violations_setting)
	{
		pg_atomic_fetch_sub_u32(&shared->used, 1);
		return false;
	}

	LWLockAcquire(lock, LW_EXCLUSIVE);
	counted = add_if_there(names, n, now);
	if (counted && !other)
		pg_atomic_fetch_sub_u32(&shared->used, 1);
	if (!counted)
	{
		counted = make_entry(names, n, now);
		if (!counted && !other)
			pg_atomic_fetch_sub_u32(&shared->used, 1);
	}
	LWLockRelease(lock);
	return counted;
}

static void
count_names(const BucketId *id, const Gateway *gateway, int64 n, int64 now)
{
	Names		names;
	BucketId	other;
	Names		rest;

	set_names(&names, id, gateway);
	if (add_if_there(&names, n, now) || make_and_count(&names, n, now))
		return;
	make_bucket_id(&other, id->database, id->limiter, id->limiter_len,
				   OTHER_KEY, strlen(OTHER_KEY));
	set_names(&rest, &other, gateway);
	if (!add_if_there(&rest, n, now) && !make_and_count(&rest, n, now))
		pg_atomic_fetch_add_u64(&shared->lost, n);
}

/* A denial is likely to follow: fetch its entry, mostly in its first place. */
void
violations_expect(const BucketId *id)
{
	Names		names;
	uint32		first;

	set_names(&names, id, my_gateway());
	first = probe_entry(names.hash, 0);
	__builtin_prefetch(&tags[first]);
	__builtin_prefetch(&entries[first]);
	__builtin_prefetch(&entries[first].name);
}

/*
 * Record n violations at a time of the monotonic clock, 0: now.  False if there is no
 * shared memory to record them in.
 */
bool pg_attribute_hot
violations_add(const BucketId *id, int64 n, int64 now)
{
	Names		names;
	uint32		first;
	bool		again;

	if (unlikely(!shared))
		return false;
	if (unlikely(now == 0))
		now = monotonic_ns();
	/* the growth since the last fold should not be spread over much time */
	if (now - (int64) pg_atomic_read_u64(&shared->folded_at) > episodes_fold_interval())
		violations_fold(false);
	set_names(&names, id, my_gateway());

	/* mostly its entry is in the first place */
	first = probe_entry(names.hash, 0);
	if (((volatile uint32 *) tags)[first] != tag_of(names.hash) ||
		!add_to_entry(&entries[first], &names, n, now, &again))
		count_names(id, names.gateway, n, now);
	return true;
}

/* What was saved is loaded: to episodes and flags it is nothing new. */
void
violations_restored(void)
{
	for (uint32 at = 0; at < violations_entries(); at++)
		entries[at].folded = count_of(pg_atomic_read_u64(&entries[at].word));
}

/*
 * Reading
 */

uint32
violations_entries(void)
{
	return shared ? shared->groups * N_PARTITIONS * GROUP_ENTRIES : 0;
}

/* The wall clock when the monotonic one said "then". */
static TimestampTz
wall_time(int64 then)
{
	return GetCurrentTimestamp() - (monotonic_ns() - then) / 1000;
}

/*
 * Copy out the names of an entry of the database, or of any, and its word; false
 * if it is not in use.  Counts are read by the caller.
 */
static bool
copy_names(Entry *entry, uint32 at, Oid database, ViolationView *view, Oid *owner)
{
	for (;;)
	{
		uint64		word;
		int			gateway_len;
		int			limiter_len;
		int			key_len;

		if (((volatile uint32 *) tags)[at] < TAG_FIRST)
			return false;
		word = pg_atomic_read_u64(&entry->word);
		if ((word & COUNT_MASK) == CLOSED)
			return false;
		pg_read_barrier();
		*owner = entry->database;
		gateway_len = entry->gateway_len;
		limiter_len = Min(entry->bucket.limiter_len, MAX_LIMITER_LEN);
		key_len = entry->bucket.key_len;
		memcpy(view->gateway, entry->name, gateway_len);
		memcpy(view->limiter, entry->name + gateway_len, limiter_len);
		memcpy(view->key, entry->name + gateway_len + limiter_len, key_len);
		view->gateway[gateway_len] = '\0';
		view->limiter[limiter_len] = '\0';
		view->key[key_len] = '\0';
		pg_read_barrier();
		if ((pg_atomic_read_u64(&entry->word) & ~COUNT_MASK) != (word & ~COUNT_MASK))
			continue;
		return !OidIsValid(database) || *owner == database;
	}
}

/*
 * The entry's violations that are not written for sure, and whose they are; false
 * if there are none, or not of that database, if one is given.
 */
bool
violations_view(uint32 at, Oid database, ViolationView *view, Oid *owner)
{
	Entry	   *entry = &entries[at];

	if (((volatile uint32 *) tags)[at] < TAG_FIRST)
		return false;
	/* without the lock, a flush may move the count or give up the entry */
	LWLockAcquire(FOLD_LOCK, LW_SHARED);
	view->count = 0;
	if (copy_names(entry, at, database, view, owner))
		view->count = count_of(pg_atomic_read_u64(&entry->word)) + entry->taken;
	LWLockRelease(FOLD_LOCK);
	view->last_at = wall_time((int64) pg_atomic_read_u64(&entry->last_at));
	return view->count > 0;
}

/* The databases that have violations to write: their number, at most max. */
int
violations_databases(Oid *databases, int max)
{
	int			n = 0;

	for (uint32 at = 0; at < violations_entries(); at++)
	{
		Oid			database = entries[at].database;
		int			i;

		if (((volatile uint32 *) tags)[at] < TAG_FIRST ||
			count_of(pg_atomic_read_u64(&entries[at].word)) == 0)
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
	return shared ? (int64) pg_atomic_read_u64(&shared->lost) : 0;
}

/*
 * Folding, taking, settling: all with the fold lock held
 */

/*
 * Tell episodes of what this entry has grown by, up to a count of "now"; not yet
 * if that made a new episode, and that is not wanted.
 */
static void
fold_entry(uint32 at, int64 count_now, bool make)
{
	Entry	   *entry = &entries[at];
	ViolationView view;
	Oid			database;

	if (count_now <= entry->folded)
		return;
	if (copy_names(entry, at, InvalidOid, &view, &database) &&
		!is_other(view.key, strlen(view.key)) &&
		!episodes_add(database, view.limiter, view.key, count_now - entry->folded,
					  wall_time((int64) pg_atomic_read_u64(&entry->last_at)),
					  (int64) pg_atomic_read_u64(&entry->last_at), make))
		return;
	entry->folded = count_now;
}

/* Fold all entries.  Unless asked to wait, not if somebody is just doing so. */
void
violations_fold(bool wait)
{
	if (!shared)
		return;
	if (wait)
		LWLockAcquire(FOLD_LOCK, LW_EXCLUSIVE);
	else if (!LWLockConditionalAcquire(FOLD_LOCK, LW_EXCLUSIVE))
		return;
	for (int make = 0; make <= 1; make++)
		for (uint32 at = 0; at < violations_entries(); at++)
			if (((volatile uint32 *) tags)[at] >= TAG_FIRST)
				fold_entry(at, count_of(pg_atomic_read_u64(&entries[at].word)), make);
	pg_atomic_write_u64(&shared->folded_at, (uint64) monotonic_ns());
	LWLockRelease(FOLD_LOCK);
}

/*
 * Take the entry's count for a flush of this database; false if there is none.
 * The caller is this database's only flush, and settles what it took.
 */
bool
violations_take(uint32 at, ViolationView *view)
{
	Entry	   *entry = &entries[at];
	Oid			owner;
	uint64		word;

	if (((volatile uint32 *) tags)[at] < TAG_FIRST)
		return false;

	LWLockAcquire(FOLD_LOCK, LW_EXCLUSIVE);
	word = pg_atomic_read_u64(&entry->word);
	do
	{
		view->count = count_of(word);
		if (view->count == 0 || !copy_names(entry, at, MyDatabaseId, view, &owner))
		{
			LWLockRelease(FOLD_LOCK);
			return false;
		}
	} while (!pg_atomic_compare_exchange_u64(&entry->word, &word, word & ~COUNT_MASK));
	fold_entry(at, view->count, true);
	entry->folded = 0;
	entry->taken += view->count;
	LWLockRelease(FOLD_LOCK);
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
	LWLock	   *lock = &locks[at / GROUP_ENTRIES / shared->groups].lock;

	LWLockAcquire(FOLD_LOCK, LW_EXCLUSIVE);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (tags[at] < TAG_FIRST || entry->database != database)
		 /* not ours any more */ ;
	else if (written)
	{
		uint64		word = pg_atomic_read_u64(&entry->word);

		entry->taken = 0;
		if (count_of(word) == 0 &&
			pg_atomic_compare_exchange_u64(&entry->word, &word,
										   ((word & ~COUNT_MASK) + ONE_GENERATION) | CLOSED))
		{
			((volatile uint32 *) tags)[at] = TAG_GIVEN_UP;
			entry->folded = 0;
			if (!is_other(entry->name + entry->gateway_len + entry->bucket.limiter_len,
						  entry->bucket.key_len))
				pg_atomic_fetch_sub_u32(&shared->used, 1);
		}
	}
	else
	{
		pg_atomic_fetch_add_u64(&entry->word, entry->taken);
		entry->folded += entry->taken;
		entry->taken = 0;
	}
	LWLockRelease(lock);
	LWLockRelease(FOLD_LOCK);
}

/* The database, or its extension, is gone: so are its violations. */
void
violations_forget_database(Oid database)
{
	for (uint32 at = 0; at < violations_entries(); at++)
	{
		Entry	   *entry = &entries[at];
		uint64		word;

		if (((volatile uint32 *) tags)[at] < TAG_FIRST || entry->database != database)
			continue;
		word = pg_atomic_read_u64(&entry->word);
		while ((word & COUNT_MASK) != CLOSED &&
			   !pg_atomic_compare_exchange_u64(&entry->word, &word, word & ~COUNT_MASK))
			;
		violations_settle(at, database, true);
	}
	LWLockAcquire(FOLD_LOCK, LW_EXCLUSIVE);
	episodes_forget_database(database);
	LWLockRelease(FOLD_LOCK);
}

/* Hold the fold lock, under which episodes and flags stand. */
void
violations_lock(void)
{
	LWLockAcquire(FOLD_LOCK, LW_EXCLUSIVE);
}

void
violations_unlock(void)
{
	LWLockRelease(FOLD_LOCK);
}

/*
 * Saved for the next start (snapshot.c)
 */

typedef struct SavedViolation
{
	int64		count;
	int64		age;			/* nanoseconds since the last one */
	Oid			database;
	uint8		gateway_len;
	uint8		limiter_len;
	uint8		key_len;
	char		names[MAX_GATEWAY_LEN + MAX_LIMITER_LEN + MAX_KEY_LEN];
} SavedViolation;

/* How many were lost and, if asked for, those pending: nobody else is here then. */
void
violations_save(Saving *saving, bool pending)
{
	int64		lost = Max(violations_lost(), 0);

	snapshot_put(saving, SAVED_LOST, &lost, sizeof(lost));
	for (uint32 at = 0; pending && at < violations_entries(); at++)
	{
		ViolationView view;
		SavedViolation record = {0};
		char	   *p = record.names;

		if (!violations_view(at, InvalidOid, &view, &record.database))
			continue;
		record.count = view.count;
		record.age = saving->mono - (int64) pg_atomic_read_u64(&entries[at].last_at);
		record.gateway_len = strlen(view.gateway);
		record.limiter_len = strlen(view.limiter);
		record.key_len = strlen(view.key);
		memcpy(p, view.gateway, record.gateway_len);
		p += record.gateway_len;
		memcpy(p, view.limiter, record.limiter_len);
		p += record.limiter_len;
		memcpy(p, view.key, record.key_len);
		p += record.key_len;
		snapshot_put(saving, SAVED_VIOLATION, &record, p - (char *) &record);
	}
}

static bool
load_violation(const char *bytes, Size size, Loading *loading)
{
	SavedViolation record;
	char		name[MAX_GATEWAY_LEN + 1];
	const char *limiter;
	const char *key;
	BucketId	id;
	Gateway		gateway;

	if (size < offsetof(SavedViolation, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	limiter = record.names + record.gateway_len;
	key = limiter + record.limiter_len;
	if (size - offsetof(SavedViolation, names) !=
		record.gateway_len + record.limiter_len + record.key_len ||
		!OidIsValid(record.database) ||
		record.count <= 0 || record.count > MAX_VIOLATIONS_PENDING ||
		!snapshot_name_valid(record.names, record.gateway_len, MAX_GATEWAY_LEN) ||
		!snapshot_name_valid(limiter, record.limiter_len, MAX_LIMITER_LEN) ||
		!snapshot_name_valid(key, record.key_len, MAX_KEY_LEN))
		return false;
	if (!loading->take)
		return true;

	make_bucket_id(&id, record.database, limiter, record.limiter_len, key, record.key_len);
	memcpy(name, record.names, record.gateway_len);
	name[record.gateway_len] = '\0';
	set_gateway(&gateway, name);
	count_names(&id, &gateway, record.count, snapshot_mono(loading, record.age));
	return true;
}

bool
violations_load(SavedKind kind, const char *bytes, Size size, Loading *loading)
{
	int64		lost;

	if (kind == SAVED_VIOLATION)
		return load_violation(bytes, size, loading);
	if (size != sizeof(lost))
		return false;
	memcpy(&lost, bytes, size);
	if (lost < 0)
		return false;
	if (loading->take)
		pg_atomic_write_u64(&shared->lost, lost);
	return true;
}
