/*
 * violations/entries.h
 *		Entries that count violations in shared memory until they are written.
 *
 * This header describes the entries, how an entry is found, and which locks protect
 * it.  Other files of this folder work with entries: count.c adds to them, fold.c
 * tells episodes and flags how much they have grown, pending.c shows them and takes
 * their counts for a flush, and part.c makes their memory and saves them.
 *
 * There is one entry per (database, gateway, limiter, key).  Entries are found as
 * buckets are (memory/slots.h): by tags in groups, with a search of bounded length.
 * An entry's word holds the count and, above it, a generation, which changes whenever
 * the entry passes to other names.  A denied call reads the word, compares the names,
 * and adds by compare-and-swap.  The swap fails if the entry has passed to other
 * names meanwhile, so either the count goes to the call's names or the search starts
 * again.  Adding takes no lock and does not wait; only the first call of a slice for
 * its entry takes the partition's lock (see "Folding").  (A generation comes back
 * after the entry has changed its names 2^19 times.  It changes them once per flush,
 * or when a role takes its share, and all of that would have to happen between one
 * call's load and its swap.)
 *
 * Making an entry and giving one up take the lock of its partition.  An entry is
 * given up by a swap, too, which puts CLOSED in the place of the count.  The count is
 * zero then, unless the entry is displaced and its violations count elsewhere.
 * Nobody adds to CLOSED.
 *
 * Bounds: there are max_violations places for entries (and the array has a quarter
 * more, so that searches stay short).  When they are in use, violations of new keys
 * count for the key OTHER_KEY of their gateway and limiter, whose entries may use
 * half of that quarter.  When this is in use as well, violations count for OTHER_KEY
 * of gateway and limiter OTHER_KEY; each database has one such entry, in an array of
 * its own.  So the total stays true.  Violations are counted in "lost", which the
 * administrator sees, if more than MAX_DATABASES databases need that last entry, or
 * if an entry has reached a count of 2^42.
 *
 * Every role may choose names, so a full room is shared (violations/shares.c): a role
 * that has less than its fair share gets the place of an entry of a role that has
 * more.  The violations of the displaced entry then count for OTHER_KEY of their
 * gateway and limiter.
 *
 * Flushing (violations/flush.c) takes counts.  What a flush has taken stands beside
 * the entry until the flush's transaction has ended, and is then dropped or added to
 * the count again.  Only one flush per database runs at a time, and "taken" belongs
 * to it.
 *
 * Folding (violations/fold.c): episodes and flags are not told of each violation, but
 * of how much an entry has grown.  Flags count by slices of time, so the first denied
 * call of a slice for its entry tells them how much the entry had grown before.
 * Everything else is told in a fold of all entries.  Whoever reads episodes, flushes,
 * or saves folds first, and the launcher folds at least once per slice.  (A key that
 * several gateways deny has several entries.  One of them may rest while the key's
 * track goes on with another's; then only the launcher's folds tell of its growth in
 * time.)  A fold handles a few entries at a time, so nobody waits for more than
 * these, and no call pays for more than its own entry.
 *
 * Order of locks: a partition's lock comes first, and nobody holds two of them.
 * While holding it, a process takes either the episodes' lock, or a track's lock and
 * then the lock of the due flags.
 */
#ifndef RATELIMIT_VIOLATIONS_ENTRIES_H
#define RATELIMIT_VIOLATIONS_ENTRIES_H

#include "common/hashfn.h"
#include "core/compat.h"
#include "core/names.h"
#include "core/tags.h"
#include "memory/databases.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "violations/gateway.h"
#include "violations/shares.h"

#define OTHER_KEY			"(other)"

/* The most violations that an entry can have pending, those taken included. */
#define MAX_VIOLATIONS_PENDING (INT64CONST(1) << 43)

#define GROUP_ENTRIES	GROUP_PLACES
#define PROBE_GROUPS	8
#define N_PARTITIONS	16
#define N_LAST			MAX_DATABASES	/* entries of ROOM_LAST, after the others */

#define TAG_GIVEN_UP	1		/* the entry was used before */

#define COUNT_BITS		44
#define COUNT_MASK		((UINT64CONST(1) << COUNT_BITS) - 1)
#define ONE_GENERATION	(UINT64CONST(1) << COUNT_BITS)
#define CLOSED			COUNT_MASK	/* in the count's place: given up */
#define MAX_COUNT		(COUNT_MASK / 4)	/* as much again may be taken */

/*
 * What a denied call needs of an entry with short names: one cache line, so that the
 * entries of many keys lie on few pages.
 */
typedef struct Entry
{
	pg_atomic_uint64 word;		/* generation and count */
	pg_atomic_uint64 last_at;	/* of the last violation, monotonic clock */
	/* all below changes only under the partition's lock */
	Oid			database;
	uint8		gateway_len;
	GatewayHead gateway;
	NameHead	bucket;
} Entry;

StaticAssertDecl(sizeof(Entry) == 64, "an entry is not a cache line");

/*
 * The rest of an entry, which changes only under the partition's lock.  Without it,
 * only long names are read.
 */
typedef struct Aside
{
	int64		folded;			/* part of the count that episodes know */
	int64		tracked;		/* part of the count that flags know */
	int64		taken;			/* by a flush that has not ended */
	int64		since;			/* of the first violation that is not folded,
								 * monotonic clock; 0: not known */
	int			cell;			/* of the role that made it, in the room's shares */
	/* gateway, limiter and key, one after the other */
	char		name[MAX_GATEWAY_LEN + MAX_LIMITER_LEN + MAX_KEY_LEN];
} Aside;

/* A room is a number of places for entries of one kind. */
typedef enum Room
{
	ROOM_KEYS,					/* max_violations places */
	ROOM_OTHERS,				/* entries whose key is OTHER_KEY */
	N_ROOMS,
	ROOM_LAST = N_ROOMS			/* entries whose names are all OTHER_KEY */
} Room;

typedef struct Violations
{
	/* every denied call reads these fields, which hardly ever change */
	uint64		seed;
	uint32		groups;			/* in each partition */
	pg_atomic_uint64 slice_began;	/* the current slice, monotonic clock */
	pg_atomic_uint64 slice_ends;
	pg_atomic_uint64 lost;		/* violations_lost() */
	pg_atomic_uint64 fold_at;	/* the launcher's next fold, monotonic clock */

	char		pad[PG_CACHE_LINE_SIZE];
	Shares		rooms[N_ROOMS];
} Violations;

extern hidden_data Violations *violations;	/* NULL if not preloaded */
extern hidden_data LWLockPadded *violation_locks;	/* one per partition */
extern hidden_data uint32 *violation_tags;
extern hidden_data Entry *entries;
extern hidden_data Aside *asides;

/* The names that a violation is counted for, by which its entry is found. */
typedef struct Names
{
	const BucketId *id;
	const struct Gateway *gateway;
	uint64		hash;
	bool		last;			/* the names are those of ROOM_LAST */
	bool		told;			/* flags and episodes know of the violations */
} Names;

extern void close_entry(uint32 at);
extern void entry_id(uint32 at, BucketId *id);
extern Room room_of_names(const Names *names);
extern Room room_of_entry(uint32 at);
extern bool is_other(const char *key, int key_len);

/* The number of entries that are found by a hash.  Those of ROOM_LAST follow them. */
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
	/* the bucket's hash covers all the other names */
	names->hash = hash_combine64(id->hash, gateway->hash);
	names->last = false;
	names->told = false;
}

/*
 * Does the entry have these names?  Without the lock, the answer is reliable only if
 * the entry's word is unchanged afterwards.
 */
static inline bool
entry_is(uint32 at, const Names *names)
{
	const Entry *entry = &entries[at];
	const char *name = asides[at].name;
	const BucketId *id = names->id;
	const Gateway *gateway = names->gateway;

	return entry->database == id->database &&
		entry->gateway_len == gateway->len &&
		same_head(&entry->bucket, &id->name) &&
		same_gateway_head(&entry->gateway, &gateway->head) &&
		(gateway_is_short(gateway) ||
		 memcmp(name, gateway->name, gateway->len) == 0) &&
		(name_is_short(id) ||
		 (memcmp(name + gateway->len, id->limiter, id->limiter_len) == 0 &&
		  memcmp(name + gateway->len + id->limiter_len, id->key, id->key_len) == 0));
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
	return tag_from((uint32) (hash >> 4));
}

/* The first entry of the group that the i-th entry on the way of a hash is in. */
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

/* The number of entries on the way of a hash. */
static inline uint32
probe_length(void)
{
	return Min(violations->groups, PROBE_GROUPS) * GROUP_ENTRIES;
}

/* The lock of an entry's partition.  Entries of ROOM_LAST use the last one. */
static inline LWLock *
partition_lock(uint32 at)
{
	uint32		partition = at / GROUP_ENTRIES / violations->groups;

	return &violation_locks[Min(partition, N_PARTITIONS - 1)].lock;
}

/* The i-th entry on the way of these names. */
static inline uint32
names_entry(const Names *names, uint32 i)
{
	return names->last ?
		hashed_entries(violations->groups) + (uint32) (names->hash + i) % N_LAST :
		probe_entry(names->hash, i);
}

/* The number of entries on the way of these names. */
static inline uint32
names_length(const Names *names)
{
	return names->last ? N_LAST : probe_length();
}

#endif							/* RATELIMIT_VIOLATIONS_ENTRIES_H */
