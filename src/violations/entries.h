/*
 * violations/entries.h
 *		Violations not yet written, counted in shared memory: their entries.
 *
 * One entry per (database, gateway, limiter, key), found as buckets are in
 * memory/slots.h: tags in groups, a search of bounded length.  Its word holds the
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
#ifndef RATELIMIT_VIOLATIONS_ENTRIES_H
#define RATELIMIT_VIOLATIONS_ENTRIES_H

#include "common/hashfn.h"
#include "core/names.h"
#include "memory/databases.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "violations/gateway.h"
#include "violations/shares.h"

#define OTHER_KEY			"(other)"

/* The most that one key can have pending. */
#define MAX_VIOLATIONS_PENDING (INT64CONST(1) << 43)

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
	NameHead	bucket;
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

extern Violations *violations;	/* NULL: not preloaded */
extern LWLockPadded *violation_locks;	/* of the partitions */
extern uint32 *violation_tags;
extern Entry *entries;
extern Aside *asides;

/* Whose violation it is; what an entry is looked up by. */
typedef struct Names
{
	const BucketId *id;
	const struct Gateway *gateway;
	uint64		hash;
	bool		last;			/* they are those of ROOM_LAST */
} Names;

extern void close_entry(uint32 at);
extern void entry_id(const Entry *entry, BucketId *id);
extern Room room_of_names(const Names *names);
extern Room room_of_entry(const Entry *entry);
extern bool is_other(const char *key, int key_len);

/* Entries found by a hash; those of ROOM_LAST follow. */
static inline Size
hashed_entries(uint32 groups)
{
	return (Size) groups * N_PARTITIONS * GROUP_ENTRIES;
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
		same_head(&entry->bucket, &id->name) &&
		same_bytes(entry->name, gateway->name, gateway->len) &&
		(name_is_short(id) ||
		 (same_bytes(entry->name + gateway->len, id->limiter, id->limiter_len) &&
		  same_bytes(entry->name + gateway->len + id->limiter_len,
					 id->key, id->key_len)));
}

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
	uint32		group = (uint32) (((hash >> 32) * violations->groups) >> 32) +
		i / GROUP_ENTRIES;

	if (group >= violations->groups)
		group -= violations->groups;
	return (partition_of(hash) * violations->groups + group) * GROUP_ENTRIES;
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
	return Min(violations->groups, PROBE_GROUPS) * GROUP_ENTRIES;
}

/* The lock of an entry's partition; the last entries belong to the last one. */
static inline LWLock *
partition_lock(uint32 at)
{
	uint32		partition = at / GROUP_ENTRIES / violations->groups;

	return &violation_locks[Min(partition, N_PARTITIONS - 1)].lock;
}

/* The i-th entry on the way of names, and the length of that. */
static inline uint32
names_entry(const Names *names, uint32 i)
{
	return names->last ?
		hashed_entries(violations->groups) + (uint32) (names->hash + i) % N_LAST :
		probe_entry(names->hash, i);
}

static inline uint32
names_length(const Names *names)
{
	return names->last ? N_LAST : probe_length();
}

#endif							/* RATELIMIT_VIOLATIONS_ENTRIES_H */
