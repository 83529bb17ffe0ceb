/*
 * violations/count.c
 *		Violations not yet written, counted in shared memory.
 *
 * One entry per (database, gateway, limiter, key), found as buckets are in
 * memory/store.c: tags in groups, a search of bounded length.  Its word holds the
 * count and, above it, a generation, which changes whenever the entry passes to
 * other names.  A denied call reads the word, compares the names, and adds by
 * compare-and-swap: the swap fails if the entry changed hands meanwhile, so the
 * count goes to these names or the search starts anew.  Nothing is locked and
 * nobody waits.  (A generation comes back after 2^19 changes of hands, and an
 * entry changes hands once per flush, or when a role takes its share; all of which
 * would have to happen between one call's load and its swap.)
 *
 * Making an entry, and giving one up, take the lock of its partition.  Giving up
 * is a swap, too, from a count of zero to CLOSED, to which nobody adds.
 *
 * Bounded: there is room for max_violations entries (and a quarter more, so that
 * searches stay short).  Past that, violations of new keys count for the key
 * OTHER_KEY of their gateway and limiter, whose entries may use half of that
 * quarter; past that, for OTHER_KEY of gateway and limiter OTHER_KEY, of which there
 * is one entry for a database, in a place apart.  So the total stays true.  Should
 * there be none for more than MAX_DATABASES databases, or an entry at 2^42, they are
 * counted in "lost", which the administrator sees.
 *
 * Anybody may choose names, so a full room is shared (violations/shares.c): a role that has
 * less than its fair share gets the place of an entry of a role that has more.  The
 * violations of that one then count for its OTHER_KEY.
 *
 * Flushing (violations/flush.c) takes counts: what was taken stands beside the entry until the
 * flush's transaction has ended, and then is dropped, or goes back to the count.
 * Only one flush per database runs at a time, and "taken" belongs to it.
 *
 * Folding: episodes and flags (violations/episodes.c) learn of violations not one by one,
 * but of an entry's growth.  Flags count it by slices of time, so a denied call that
 * is the first in a slice for its entry tells them of the growth before.  Everything
 * else is told in a fold of all entries: by whoever reads episodes, flushes, saves,
 * and by the launcher, at least once per slice.  (A key that several gateways deny
 * has several entries.  One of them may rest while the key's track goes on with
 * another's; only the launcher's folds see to its growth being told of in time.)  A
 * fold takes a few entries at a time, so nobody waits for more than these, and no
 * call ever pays for more than its own entry.
 */
#include "ratelimit.h"

#include <unistd.h>

#include "common/hashfn.h"
#include "memory/databases.h"
#include "violations/episodes.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "violations/shares.h"
#include "core/saved_file.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "violations/count.h"

#define GROUP_ENTRIES	16
#define PROBE_GROUPS	8
#define N_PARTITIONS	16
#define N_LAST			MAX_DATABASES	/* further entries, for ROOM_LAST */

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
	/* the partition's lock, all of the rest */
	int64		folded;			/* of count: told to episodes */
	int64		tracked;		/* of count: told to flags */
	Oid			database;
	uint8		gateway_len;
	SlotName	bucket;
	char		name[MAX_GATEWAY_LEN + MAX_LIMITER_LEN + MAX_KEY_LEN];	/* in this order */
} Entry;

StaticAssertDecl(offsetof(Entry, name) == 64,
				 "what tells entries apart takes more than a cache line");

/* What calls do not need of an entry; the partition's lock. */
typedef struct Aside
{
	int64		taken;			/* by a flush that has not ended */
	int64		since;			/* monotonic clock, of the first violation that is
								 * not folded; 0: not known */
	int			cell;			/* of whoever made it, in the room's shares */
} Aside;

/* Rooms for entries. */
typedef enum Room
{
	ROOM_KEYS,					/* max_violations */
	ROOM_OTHERS,				/* those of OTHER_KEY */
	N_ROOMS,
	ROOM_LAST = N_ROOMS			/* N_LAST: those where all names are OTHER_KEY */
} Room;

typedef struct Violations
{
	/* every denied call reads these, and they hardly ever change */
	uint64		seed;
	uint32		groups;			/* a partition */
	pg_atomic_uint64 slice_began;	/* monotonic clock */
	pg_atomic_uint64 slice_ends;
	pg_atomic_uint64 lost;
	pg_atomic_uint64 fold_at;	/* monotonic clock: by the launcher */

	char		pad[PG_CACHE_LINE_SIZE];
	Shares		rooms[N_ROOMS];
} Violations;

static Violations *shared = NULL;	/* NULL: not preloaded */
static LWLockPadded *locks;		/* of the partitions */
static uint32 *tags;
static Entry *entries;
static Aside *asides;

/* Whose violation it is; what an entry is looked up by. */
typedef struct Names
{
	const BucketId *id;
	const struct Gateway *gateway;
	uint64		hash;
	bool		last;			/* they are those of ROOM_LAST */
} Names;

/* Entries folded at a time: about a tenth of a millisecond. */
#define FOLD_BATCH	(4 * GROUP_ENTRIES)

/* The launcher does not fold for more of its time than this. */
#define FOLD_TIME_RATIO 10

/*
 * Size and start
 */

static uint32
groups_per_partition(void)
{
	uint32		wanted = max_violations_setting + max_violations_setting / 4;

	return wanted / (N_PARTITIONS * GROUP_ENTRIES) + 1;
}

/* Entries found by a hash; those of ROOM_LAST follow. */
static Size
hashed_entries(uint32 groups)
{
	return (Size) groups * N_PARTITIONS * GROUP_ENTRIES;
}

Size
violations_size(void)
{
	Size		n = hashed_entries(groups_per_partition()) + N_LAST;

	return add_size(CACHELINEALIGN(sizeof(Violations)),
					mul_size(n, sizeof(uint32) + sizeof(Entry) + sizeof(Aside)));
}

/* The partitions' locks and those of violations/episodes.c. */
int
violations_locks(void)
{
	return N_PARTITIONS + episodes_locks();
}

/* Holding AddinShmemInitLock. */
void
violations_startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;
	Size		n;

	locks = my_locks;
	episodes_use_locks(my_locks + N_PARTITIONS);
	shared = (Violations *) p;
	p += CACHELINEALIGN(sizeof(Violations));
	if (!found)
	{
		uint32		all = hashed_entries(groups_per_partition());

		shared->groups = groups_per_partition();
		shared->seed = secret_seed();
		pg_atomic_init_u64(&shared->slice_began, 0);
		pg_atomic_init_u64(&shared->slice_ends, 0);
		pg_atomic_init_u64(&shared->lost, 0);
		pg_atomic_init_u64(&shared->fold_at, 0);
		/* a cell is the same role in both */
		shares_init(&shared->rooms[ROOM_KEYS], shared->seed, max_violations_setting);
		shares_init(&shared->rooms[ROOM_OTHERS], shared->seed,
					(all - max_violations_setting) / 2);
	}
	n = hashed_entries(shared->groups) + N_LAST;
	entries = (Entry *) p;
	p += n * sizeof(Entry);
	asides = (Aside *) p;
	p += n * sizeof(Aside);
	tags = (uint32 *) p;
	if (!found)
	{
		memset(tags, 0, n * sizeof(uint32));
		memset(entries, 0, n * sizeof(Entry));
		memset(asides, 0, n * sizeof(Aside));
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
hash_gateway(Gateway *gateway)
{
	gateway->hash = !shared ? 0 :
		hash_bytes_extended((const unsigned char *) gateway->name, gateway->len,
							shared->seed);
}

static void
set_gateway(Gateway *gateway, const char *wanted)
{
	strlcpy(gateway->raw, wanted, sizeof(gateway->raw));
	gateway->len = strlcpy(gateway->name, gateway->raw, sizeof(gateway->name));
	if (!pg_verifymbstr(gateway->name, gateway->len, true))
		for (char *p = gateway->name; *p; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	hash_gateway(gateway);
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
	names->hash = hash_combine64(id->hash, gateway->hash);
	names->last = false;
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

static void fold_entry(uint32 at, int64 count, bool make);
static void track_entry(uint32 at, int64 count);

/* The lock of an entry's partition; the last entries belong to the last one. */
static inline LWLock *
partition_lock(uint32 at)
{
	uint32		partition = at / GROUP_ENTRIES / shared->groups;

	return &locks[Min(partition, N_PARTITIONS - 1)].lock;
}

/* The i-th entry on the way of names, and the length of that. */
static inline uint32
names_entry(const Names *names, uint32 i)
{
	return names->last ?
		hashed_entries(shared->groups) + (uint32) (names->hash + i) % N_LAST :
		probe_entry(names->hash, i);
}

static inline uint32
names_length(const Names *names)
{
	return names->last ? N_LAST : probe_length();
}

/*
 * Reuse of an entry
 *
 * The question is whether a call can add to an entry that has passed to other
 * names.  An entry is in one of three states, and its tag and word tell which:
 *
 * free			tag TAG_FREE or TAG_GIVEN_UP; word 0 or (generation, CLOSED)
 * closing		any tag; word (generation, CLOSED)
 * in use		tag of its names' hash; word (generation, count)
 *
 * They change only with the partition's lock held: close_entry(), make_entry().  Calls
 * read and add without it:
 *
 *	call (add_to_entry)					maker (make_entry)
 *	c1 tag is that of my names?			m1 write the names
 *	c2 read word						m2 write barrier
 *	   read barrier						m3 word: (next generation, n)
 *	c3 names are mine?					m4 write barrier
 *	c4 swap word for word + n			m5 tag
 *
 * A call adds only if c4 finds what c2 read.  Let that be (g, c), with c not CLOSED.
 * As the generation grows whenever an entry is closed and whenever it is made, the
 * word had generation g at all times between c2 and c4, and the entry was in use, by
 * the same names.  What remains to be seen is that c3 read these names, and whole:
 *
 * - not those before: m1 is before m3 in memory (m2), c2 has read what m3 wrote or
 *   what was swapped for it later, and c3 comes after c2 (read barrier).
 * - not those after: the next maker's m1 comes after the entry was closed, by a swap
 *   of the word under the lock.  The next maker takes the lock after that was released,
 *   so m1 is not in memory before the close is.  Had c3 read what that m1 wrote, the
 *   closed word would have been in memory then, and c4, whose store comes after what
 *   is read before it, would not find (g, c).  (c4's own load may be executed before
 *   c3.  But then c4 succeeds only if nobody has written the word since that load.)
 *
 * A word of 0 (never used) has no names yet that a call could have found by c1; and
 * should c2 be executed before c1, as ARM64 may, and read 0, m3 makes c4 fail.
 *
 * When c4 fails because of the generation, the entry may have been made for the call's
 * own names meanwhile: the search starts anew (*again).  When the word is CLOSED, these
 * names have no entry, or a new one elsewhere.  The call then takes the partition's
 * lock and looks again, which is certain, before it makes one.
 *
 * On ARM64 without LSE a swap is a loop of ldaxr and stlxr.  Stores that follow it
 * may be in memory before the stlxr is; what comes before it may not be after it.  Two
 * stores follow a swap here.  The tag of an entry that was just closed: a call that
 * sees the tag TAG_GIVEN_UP and could still have read a word that is not CLOSED
 * passes it by and waits for the lock, like any other that comes too late.  And
 * last_at of an entry that was just added to: it may by then be of other names, which
 * then seem to have been denied now, a moment after they were.  For neither does it
 * matter which comes first.  For a third store it does, m1 after the close.  Mostly
 * the release of the lock is in between, and puts all before it into memory first;
 * where the maker closes an entry itself (displace_entry()), there is a write barrier.
 */

/*
 * An entry got violations in an earlier slice, and is about to get more: tell flags of
 * the ones before.
 */
static pg_noinline void
track_before(uint32 at, const Names *names)
{
	LWLock	   *lock = partition_lock(at);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (tags[at] >= TAG_FIRST && entry_is(&entries[at], names))
		track_entry(at, count_of(pg_atomic_read_u64(&entries[at].word)));
	LWLockRelease(lock);
}

/*
 * Add n to the entry if its names are these.  False if they are not; *again if
 * they may have been until now.
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
	if (!entry_is(entry, names))
		return false;
	if (unlikely((int64) pg_atomic_read_u64(&entry->last_at) <
				 (int64) pg_atomic_read_u64(&shared->slice_began)))
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

/* The same for a database's last entry. */
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

			if (((volatile uint32 *) tags)[at] == tag_of(names->hash) &&
				add_to_entry(at, names, n, now, locked, &again))
				return true;
		}
	} while (again);
	return false;
}

/* Add n to the entry if it is there; else false.  locked: holding its partition's lock. */
static bool
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

			for (uint32 j = 0; j < GROUP_ENTRIES && !again; j++)
			{
				uint32		at = group + (uint32) (names->hash + j) % GROUP_ENTRIES;
				uint32		found = ((volatile uint32 *) tags)[at];

				if (found == TAG_FREE)
					return false;
				if (found == tag && add_to_entry(at, names, n, now, locked, &again))
					return true;
			}
		}
	} while (again);
	return false;
}

/* Write the entry, which is closed or was never used; holding its partition's lock. */
static void
write_entry(uint32 at, const Names *names, int64 n, int64 now, int cell)
{
	Entry	   *entry = &entries[at];
	uint64		generation;
	char	   *p = entry->name;

	entry->database = names->id->database;
	entry->gateway_len = names->gateway->len;
	entry->bucket = names->id->name;
	memcpy(p, names->gateway->name, names->gateway->len);
	p += names->gateway->len;
	memcpy(p, names->id->limiter, names->id->limiter_len);
	p += names->id->limiter_len;
	memcpy(p, names->id->key, names->id->key_len);
	pg_atomic_write_u64(&entry->last_at, (uint64) now);
	entry->folded = entry->tracked = 0;
	asides[at].taken = 0;
	asides[at].since = now;
	asides[at].cell = cell;

	/* names before the generation that goes with them, tag last */
	generation = (pg_atomic_read_u64(&entry->word) & ~COUNT_MASK) + ONE_GENERATION;
	pg_write_barrier();
	pg_atomic_write_u64(&entry->word, generation + n);
	pg_write_barrier();
	((volatile uint32 *) tags)[at] = tag_of(names->hash);
}

/* Make the entry, holding its partition's lock; false if there is no room. */
static bool
make_entry(const Names *names, int64 n, int64 now, int cell)
{
	for (uint32 i = 0; i < names_length(names); i++)
	{
		uint32		at = names_entry(names, i);

		if (tags[at] >= TAG_FIRST)
			continue;
		write_entry(at, names, n, now, cell);
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

static Room
room_for(const char *gateway, int gateway_len, const char *limiter, int limiter_len,
		 const char *key, int key_len)
{
	if (!is_other(key, key_len))
		return ROOM_KEYS;
	return is_other(gateway, gateway_len) && is_other(limiter, limiter_len) ?
		ROOM_LAST : ROOM_OTHERS;
}

static Room
room_of_names(const Names *names)
{
	return room_for(names->gateway->name, names->gateway->len,
					names->id->limiter, names->id->limiter_len,
					names->id->key, names->id->key_len);
}

/* The room of an entry in use, holding its partition's lock. */
static Room
room_of_entry(const Entry *entry)
{
	const char *limiter = entry->name + entry->gateway_len;

	return room_for(entry->name, entry->gateway_len, limiter, entry->bucket.limiter_len,
					limiter + entry->bucket.limiter_len, entry->bucket.key_len);
}

/* Violations whose entry has gone to somebody else. */
typedef struct Displaced
{
	int64		count;			/* 0: nobody's */
	int64		last_at;
	int			cell;			/* of whoever made their entry */
	Room		room;
	Oid			database;
	int			limiter_len;
	char		limiter[MAX_LIMITER_LEN];
	Gateway		gateway;
} Displaced;

/*
 * The entry that is to give way in this room, to somebody of this cell, on the way of
 * a hash: the one of the fewest violations among those whose makers have more than
 * their share.  -1 if there is none.
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

		/* what a flush has taken may have to come back */
		if (tags[at] < TAG_FIRST || count >= least || asides[at].taken > 0 ||
			room_of_entry(&entries[at]) != room ||
			!shares_is_above(&shared->rooms[room], asides[at].cell, cell))
			continue;
		found = at;
		least = count;
	}
	return found;
}

/*
 * Make the entry in the place of another, holding the lock of their partition; false
 * if none gives way.
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
	/* on ARM64, what is written from here on might be seen before it is closed */
	pg_write_barrier();
	fold_entry(at, displaced->count, true);

	displaced->last_at = (int64) pg_atomic_read_u64(&entry->last_at);
	displaced->cell = asides[at].cell;
	displaced->room = room;
	displaced->database = entry->database;
	displaced->limiter_len = entry->bucket.limiter_len;
	memcpy(displaced->limiter, entry->name + entry->gateway_len, displaced->limiter_len);
	/* of another database, perhaps, with another encoding */
	displaced->gateway.len = entry->gateway_len;
	memcpy(displaced->gateway.name, entry->name, entry->gateway_len);
	displaced->gateway.name[entry->gateway_len] = '\0';
	hash_gateway(&displaced->gateway);
	((volatile uint32 *) tags)[at] = TAG_GIVEN_UP;
	shares_pass(&shared->rooms[room], displaced->cell, cell);
	/* not just there: searches end at the first entry that was never used */
	return make_entry(names, n, now, cell);
}

static void count_others(Oid database, const char *limiter, int limiter_len,
						 const Gateway *gateway, int64 n, int64 now, int cell);
static void count_last(Oid database, int64 n, int64 now);

/*
 * Make an entry for the names, and count n, if there may be one.  It is at the expense
 * of a cell, NO_CELL: the caller's.
 */
static pg_noinline bool
make_and_count(const Names *names, int64 n, int64 now, int cell)
{
	LWLock	   *lock = partition_lock(names_entry(names, 0));
	Room		room = room_of_names(names);
	Shares	   *shares = room < N_ROOMS ? &shared->rooms[room] : NULL;
	bool		taken = false;
	bool		counted;
	Displaced	displaced = {0};

	if (shares && cell == NO_CELL)
		cell = shares_my_cell(shares, names->id->database);
	/* take a place before making the entry, not to exceed them */
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

/* Count n for a database's last entry, which takes what finds no other. */
static void
count_last(Oid database, int64 n, int64 now)
{
	BucketId	id;
	Gateway		nobody;
	Names		names;

	set_gateway(&nobody, OTHER_KEY);
	make_bucket_id(&id, database, OTHER_KEY, strlen(OTHER_KEY),
				   OTHER_KEY, strlen(OTHER_KEY));
	set_names(&names, &id, &nobody);
	names.last = true;
	if (!add_if_there(&names, n, now, false) &&
		!make_and_count(&names, n, now, NO_CELL))
		pg_atomic_fetch_add_u64(&shared->lost, n);
}

/* Count n for the key OTHER_KEY of gateway and limiter, or for the last entry. */
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
 * Count n for the names or, if there is no room, for the others.  Then flags are told
 * at once, if they are to be: a full room hides nobody from them.
 */
static void
count_names(const Names *names, int64 n, int64 now, int cell, bool flag)
{
	const BucketId *id = names->id;

	if (room_of_names(names) == ROOM_LAST)
	{
		count_last(id->database, n, now);
		return;
	}
	if (add_if_there(names, n, now, false) || make_and_count(names, n, now, cell))
		return;
	if (flag && !is_other(id->key, id->key_len))
		flags_count(id, n, now);
	count_others(id->database, id->limiter, id->limiter_len, names->gateway, n, now, cell);
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

/* A violation comes after the end of the current slice: it is another one. */
static pg_noinline void
next_slice(int64 now)
{
	int64		slice_ns = episodes_slice();
	int64		began = now / slice_ns * slice_ns;

	/* who comes at the same time writes the same, or what is as good */
	pg_atomic_write_u64(&shared->slice_began, (uint64) began);
	pg_atomic_write_u64(&shared->slice_ends, (uint64) (began + slice_ns));
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
	if (unlikely(now >= (int64) pg_atomic_read_u64(&shared->slice_ends)))
		next_slice(now);
	set_names(&names, id, my_gateway());

	/* mostly its entry is in the first place */
	first = probe_entry(names.hash, 0);
	if (((volatile uint32 *) tags)[first] != tag_of(names.hash) ||
		!add_to_entry(first, &names, n, now, false, &again))
		count_names(&names, n, now, NO_CELL, true);
	return true;
}

/* What was saved is loaded: to episodes and flags it is nothing new. */
void
violations_restored(void)
{
	for (uint32 at = 0; at < violations_entries(); at++)
	{
		entries[at].folded = count_of(pg_atomic_read_u64(&entries[at].word));
		entries[at].tracked = entries[at].folded;
		asides[at].since = 0;
	}
}

/*
 * Reading
 */

uint32
violations_entries(void)
{
	return shared ? hashed_entries(shared->groups) + N_LAST : 0;
}

/* The wall clock when the monotonic one said "then". */
static TimestampTz
wall_time(int64 then)
{
	return GetCurrentTimestamp() - (monotonic_ns() - then) / 1000;
}

/* The names of an entry in use, holding its partition's lock; without a hash. */
static void
entry_id(const Entry *entry, BucketId *id)
{
	id->database = entry->database;
	id->limiter_len = entry->bucket.limiter_len;
	id->key_len = entry->bucket.key_len;
	id->limiter = entry->name + entry->gateway_len;
	id->key = id->limiter + id->limiter_len;
	id->name = entry->bucket;
	id->hash = 0;
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

	if (((volatile uint32 *) tags)[at] < TAG_FIRST)
		return false;
	/* without the lock, a flush may move the count or give up the entry */
	LWLockAcquire(lock, LW_SHARED);
	view->count = 0;
	*owner = entry->database;
	if (tags[at] >= TAG_FIRST && (!OidIsValid(database) || *owner == database))
	{
		copy_names(entry, view);
		view->count = count_of(pg_atomic_read_u64(&entry->word)) + asides[at].taken;
	}
	LWLockRelease(lock);
	view->last_at = wall_time((int64) pg_atomic_read_u64(&entry->last_at));
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

		if (((volatile uint32 *) tags)[at] < TAG_FIRST ||
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
	return shared ? (int64) pg_atomic_read_u64(&shared->lost) : 0;
}

/*
 * Folding, taking, settling
 */

/*
 * Tell flags of what this entry has grown by, up to a count of "now"; holding its
 * partition's lock.
 */
static void
track_entry(uint32 at, int64 count_now)
{
	Entry	   *entry = &entries[at];
	BucketId	id;

	if (count_now <= entry->tracked)
		return;
	entry_id(entry, &id);
	if (!is_other(id.key, id.key_len))
		flags_count(&id, count_now - entry->tracked,
					(int64) pg_atomic_read_u64(&entry->last_at));
	entry->tracked = count_now;
}

/*
 * Tell flags and episodes of what this entry has grown by, up to a count of "now";
 * holding its partition's lock.  Episodes not yet, if that made a new episode, and
 * that is not wanted.
 */
static void
fold_entry(uint32 at, int64 count_now, bool make)
{
	Entry	   *entry = &entries[at];
	Aside	   *aside = &asides[at];
	int64		last_at = (int64) pg_atomic_read_u64(&entry->last_at);
	BucketId	id;

	track_entry(at, count_now);
	if (count_now <= entry->folded)
		return;
	entry_id(entry, &id);
	if (!is_other(id.key, id.key_len))
	{
		TimestampTz wall = wall_time(last_at);
		TimestampTz since = wall;

		if (aside->since != 0 && aside->since < last_at)
			since -= (last_at - aside->since) / 1000;
		if (!episodes_add(&id, count_now - entry->folded, since, wall, make))
			return;
	}
	entry->folded = count_now;
	aside->since = 0;
}

/* Fold the entries of a partition from the n-th on, a batch of them. */
static void
fold_batch(int partition, uint32 n, bool make)
{
	uint32		first = partition * shared->groups * GROUP_ENTRIES;
	uint32		end = first + Min(n + FOLD_BATCH, shared->groups * GROUP_ENTRIES);
	uint32		at = first + n;

	/* most of the room is empty, mostly */
	while (at < end && ((volatile uint32 *) tags)[at] < TAG_FIRST)
		at++;
	if (at == end)
		return;
	LWLockAcquire(&locks[partition].lock, LW_EXCLUSIVE);
	for (; at < end; at++)
		if (tags[at] >= TAG_FIRST)
			fold_entry(at, count_of(pg_atomic_read_u64(&entries[at].word)), make);
	LWLockRelease(&locks[partition].lock);
}

/*
 * Fold all entries: first those whose episode is there, or a new one might take the
 * place of one that goes on as well.  While saving, until that is to stop; else
 * interrupts are served.
 */
static void
fold(Saving *saving)
{
	int64		began = monotonic_ns();
	int64		pause;

	/*
	 * One partition after the other: whoever was waiting for a lock that has been
	 * released finds it free for long enough.
	 */
	for (int make = 0; make <= 1; make++)
		for (uint32 n = 0; n < shared->groups * GROUP_ENTRIES; n += FOLD_BATCH)
			for (int partition = 0; partition < N_PARTITIONS; partition++)
			{
				if (!saving)
					CHECK_FOR_INTERRUPTS();
				else if (!snapshot_go_on(saving))
					return;
				fold_batch(partition, n, make);
			}
	pause = Max(episodes_slice(), FOLD_TIME_RATIO * (monotonic_ns() - began));
	pg_atomic_write_u64(&shared->fold_at, (uint64) (began + pause));
}

void
violations_fold(void)
{
	if (shared)
		fold(NULL);
}

void
violations_fold_to_save(Saving *saving)
{
	fold(saving);
}

/* Milliseconds until the launcher is to fold. */
long
violations_fold_wait(void)
{
	int64		left = (int64) pg_atomic_read_u64(&shared->fold_at) - monotonic_ns();

	return (long) Min((Max(left, 0) + 999999) / 1000000, INT_MAX);
}

/* The launcher has taken up settings: flags are counted anew if flag_window changed. */
void
violations_set_window(void)
{
	/* what was before belongs to the old window */
	violations_fold();
	if (!episodes_set_window())
		return;
	pg_atomic_write_u64(&shared->slice_ends, 0);
	pg_atomic_write_u64(&shared->fold_at, 0);
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

	if (((volatile uint32 *) tags)[at] < TAG_FIRST)
		return false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (tags[at] >= TAG_FIRST && entry->database == MyDatabaseId)
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

/* Give up the entry if its count is zero; holding its partition's lock. */
static void
close_entry(uint32 at)
{
	Entry	   *entry = &entries[at];
	uint64		word = pg_atomic_read_u64(&entry->word);
	Room		room = room_of_entry(entry);

	if (count_of(word) != 0 ||
		!pg_atomic_compare_exchange_u64(&entry->word, &word,
										((word & ~COUNT_MASK) + ONE_GENERATION) | CLOSED))
		return;
	((volatile uint32 *) tags)[at] = TAG_GIVEN_UP;
	if (room < N_ROOMS)
		shares_give(&shared->rooms[room], asides[at].cell);
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
	if (tags[at] < TAG_FIRST || entry->database != database)
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
violations_forget_database(Oid database)
{
	if (!shared)
		return;
	for (uint32 at = 0; at < violations_entries(); at++)
	{
		Entry	   *entry = &entries[at];
		LWLock	   *lock = partition_lock(at);

		if (((volatile uint32 *) tags)[at] < TAG_FIRST || entry->database != database)
			continue;
		LWLockAcquire(lock, LW_EXCLUSIVE);
		if (tags[at] >= TAG_FIRST && entry->database == database)
		{
			pg_atomic_fetch_and_u64(&entry->word, ~COUNT_MASK);
			entry->folded = entry->tracked = 0;
			asides[at].taken = 0;
			close_entry(at);
		}
		LWLockRelease(lock);
	}
	episodes_forget_database(database);
}

/*
 * Saved for the next start (core/saved_file.c)
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
	Names		names;

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
	set_names(&names, &id, &gateway);
	count_names(&names, record.count, snapshot_mono(loading, record.age), NO_CELL, false);
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
