/*
 * memory/slots.h
 *		The slots that buckets in shared memory live in.
 *
 * Layout.  Slots of fixed size stand in groups of 16, in one array: the first
 * group of every partition, then the second of every partition, and so on.  Each
 * group has a line of 16 tags (32 bits of the hash of the slot's key), so that one
 * cache line tells which slots to look at.
 * A key's hash names its partition, its home group, and the place in the group
 * to look at first; the way goes on from group to group of the partition.  A new
 * key takes the first slot on its way that is free.  A tag is
 * zero until its slot is first used and never again, so a search ends at the first
 * zero: had the key come by, it would have stayed there.  It also ends at the
 * reach of the home group: no key at home there lives further away.
 *
 * Growing.  At first a partition uses a small part of its groups, so that few
 * buckets do not lie on many pages: waiting for those costs a call more than all
 * that it does.  Whenever a home group is full, twice as many groups are used, and
 * the buckets move to where they then belong.  The partition's layout says how many
 * groups are used, and, meanwhile, that buckets are moving.  Once all groups are used,
 * keys go on to other groups than their home.  How this goes together with searches
 * that hold no lock: memory/place.c.
 *
 * A bucket that is full again equals one that is absent, so its slot is free
 * without anybody freeing it.
 *
 * Identity.  A bucket has its limiter and key whole; two keys never share a
 * bucket whatever their hashes.  What does not fit in the slot goes on in the slot's
 * tail, in an array of its own, and from there in other slots of the same partition
 * (tag TAG_CONTINUATION, no database) and their tails.
 *
 * The word.  When a bucket will be full (nanoseconds on the monotonic clock;
 * for a bucket that never refills: units taken) is base * 2^36 + word / 2; the
 * lowest bit of the word is a lock.
 *
 * A decision on a living bucket reads the word, then identity, parameters and
 * base, and then moves the word by compare-and-swap.  Nothing is locked, nobody
 * waits, and of several callers at once one always gets on.  It is right because
 * everything but the word changes only while the word is locked, and a word that
 * was locked and released again never has a value that it had before: then the
 * swap fails and the caller starts anew.  So a swap that succeeds proves that
 * all that was read since the word belongs together.  A decision that changes
 * nothing (denied, or cost 0) reads the word once more instead.
 *
 * That a word's value does not come back: without the lock it is only ever
 * increased (an allowed call makes the bucket fuller later, never sooner).  With
 * the lock any state may follow any other, but base absorbs the difference and
 * word / 2 still grows, by at most 2^36, and starts anew at 2^62 (WORD_VALUES).
 * One step without the lock adds less than 2^48 (MAX_ADVANCE; larger steps take the
 * lock).  So before the value comes around to one that some caller still holds from
 * its one load, at least 2^14 changes without the lock, making up 146 years of bucket
 * time, or 2^26 with it must fall between that load and that caller's swap, and the
 * last of them must end on just that value.
 *
 * Barriers.  Loading the word is followed by a read barrier, and re-reading it is
 * preceded by one.  The swap that locks is followed by a write barrier: PostgreSQL
 * calls a compare-and-swap a full barrier, but where it is a load-acquire and a
 * store-release (ARM64 without LSE), stores that follow may be seen before the
 * store-release.  Whoever then reads the word twice, as a denial does, would find it
 * unlocked both times and in between half of a change.  (A swap cannot be deceived: it
 * and the locking swap cannot both succeed on one value.)  Releasing is preceded by
 * a write barrier.  That also has to keep what was read under the lock from being read
 * after the release; with every compiler PostgreSQL supports it is a release fence, or
 * stronger, and does.
 *
 * The lock is taken for what is rare: a bucket's parameters change, it is reset,
 * its slot passes to another key, it moves, the time it will be full moves by more than
 * MAX_ADVANCE at once (for instance 78 hours after its last use) or is centuries
 * away, the word's value starts anew, or several buckets are decided on together.
 * Whoever holds a word never throws, allocates, waits or checks for interrupts.
 *
 * How long a word is held (as measured on one core of a Xeon, without cache misses):
 * - for one call with other parameters, or by an administrator: while a dozen
 *	 instructions write what was worked out before, some 10 ns.  If others change the
 *	 bucket all the time it is worked out with the word held, in at most 1.1 us (three
 *	 divisions of 192 bits);
 * - for a call on several buckets: each of up to 64 words until all are locked and
 *	 decided: 1.4 us where parameters do not change (11 us for a quota of 1e17 at a
 *	 token a year), mostly 28 us where all do, and at most 70 us;
 * - while a bucket moves: until room is found for it, 0.3 us, with a cache miss or two
 *	 0.6 us; in a partition whose groups are all full 512 slots are looked at first, up
 *	 to 0.1 ms.
 * As long as its process runs, that is.  It may lose its processor, or be stopped, for any
 * length of time.
 *
 * Waiting.  So nobody may depend on a word's being released, or on a layout's becoming
 * settled.  A caller that holds nothing waits for a word with a few spins and then in
 * naps, which end by cancelling and by timeouts (give_way()).  Where an error is not
 * possible, at the end of a transaction and while state is saved, waiting ends after
 * a second, and the bucket is left out (give_way_for()).  A caller that holds a
 * partition's lock, or a word, waits for no word, layout or lock: it passes the bucket
 * over (claiming, evicting, moving), or releases everything, and starts anew after a
 * nap (find_once(), memory_try_lock_partition()).  As nobody waits while holding
 * something, nobody deadlocks, in whatever order things are locked.
 *
 * Partition lock (LWLock, exclusive): taken to make a bucket, or to move or evict one,
 * which alone set tags and identities.  Who holds it may read those of any slot of the
 * partition.  It is held for a microsecond, and while the partition grows.  It is not
 * waited for in the LWLock's queue, which cannot be cancelled, but in naps.
 *
 * A backend killed inside is followed by a restart of the whole server, which
 * starts with fresh memory; cancelling cannot interrupt there, as nothing checks
 * for interrupts.
 */
#ifndef RATELIMIT_MEMORY_SLOTS_H
#define RATELIMIT_MEMORY_SLOTS_H

#include "core/call.h"
#include "core/clock.h"
#include "memory/partition_set.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#define GROUP_SLOTS			16
#define PROBE_GROUPS		32	/* that a way may lead through */
#define EVICT_GROUPS		8	/* the same where another bucket gives way instead */
#define MIN_PARTITION_SLOTS 256
#define FIRST_GROUPS		4	/* of a partition, or more, used from the start */
#define MAX_GROWING_GROUPS	4096	/* of larger ones all: moving must not last */

#define LAYOUT_SHIFT		0xFF	/* groups are used >> this */
#define LAYOUT_MOVING		0x100	/* buckets are on the move */
#define LAYOUT_LEFT			0x200	/* some are where an earlier layout has them */

#define TAG_FREE			0	/* never used */
#define TAG_CONTINUATION	1	/* no bucket here: a long key's rest, or nothing */
#define TAG_FIRST			2

#define WORD_LOCKED			UINT64CONST(1)
#define WORD_VALUES			(UINT64CONST(1) << 62)
#define BASE_UNIT			((Owed) 1 << 36)
#define MAX_ADVANCE			((Owed) 1 << 48)

/* bytes of limiter and key beyond HEAD_BYTES, which are in the bucket's slot */
#define TAIL_BYTES			56	/* in its tail */
#define CONTINUATION_BYTES	44	/* in a further slot, which has a tail as well */
#define INLINE_BYTES		(HEAD_BYTES + TAIL_BYTES)
#define FURTHER_BYTES		(CONTINUATION_BYTES + TAIL_BYTES)
#define MAX_CONTINUATIONS	3
#define MAX_NAMES			(INLINE_BYTES + MAX_CONTINUATIONS * FURTHER_BYTES)
#define NO_SLOT				PG_UINT32_MAX

/*
 * Everything but the word changes only while the word is locked; but a continuation's
 * link also does when its bucket is taken away, holding the partition's lock, and is
 * read only by its holder.  One cache line has all of a bucket with a short name.
 */
typedef struct Slot
{
	pg_atomic_uint64 word;
	Oid			database;		/* InvalidOid: no bucket here */
	uint32		link;			/* of a bucket: the slot of its first
								 * continuation, or NO_SLOT; of a continuation:
								 * its bucket's slot; NO_SLOT: free */
	union
	{
		struct
		{
			int64		base;
			double		capacity;
			double		refill;
			NameHead	name;
		}			bucket;
		struct
		{
			uint32		next;	/* next continuation, or NO_SLOT */
			char		name[CONTINUATION_BYTES];
		}			continuation;
	}			u;
} Slot;

typedef struct Tail
{
	char		name[TAIL_BYTES];
} Tail;

StaticAssertDecl(sizeof(Slot) == 64, "a slot is not a cache line");
StaticAssertDecl(sizeof(Slot) + sizeof(Tail) + sizeof(uint32) <= 128,
				 "a bucket takes more than 128 bytes");
StaticAssertDecl(1 + MAX_LIMITER_LEN + MAX_KEY_LEN <= MAX_NAMES,
				 "the longest names do not fit");

typedef struct Header
{
	uint64		seed;			/* of the hash, unlike in every server */
	uint32		partitions;		/* a power of two */
	uint32		groups;			/* a partition */
	/* read by every call: */
	pg_atomic_uint32 block_cells;	/* that are used: decide/blocks.c */
	pg_atomic_uint32 layout[MAX_PARTITIONS];
	char		pad[PG_CACHE_LINE_SIZE];
	pg_atomic_uint64 evicted[MAX_PARTITIONS];	/* since the first start */
} Header;

/*
 * Where it all is; and a copy of what never changes, for a call touches few pages.
 * What every call needs comes first, in one cache line.
 */
typedef struct Store
{
	Header	   *header;			/* NULL: not preloaded */
	uint32		partitions;
	uint32		groups;
	uint32	   *tags;			/* partitions * groups * GROUP_SLOTS */
	Slot	   *slots;			/* as many */
	uint8	   *reach;			/* of each group: 0 is itself */
	uint64		secrets[3];		/* of the hash, from its seed */
	Tail	   *tails;			/* of the slots */
	LWLockPadded *locks;		/* a partition each */
} Store;

extern Store store;

extern uint64 wait_for_word(Slot *slot) pg_attribute_cold;
extern uint32 wait_for_layout(uint32 partition, int64 *patience);
extern bool slot_has_names(const Slot *slot, const BucketId *id);
extern void slot_names(const Slot *slot, char *names);
extern void unlock_changed(Slot *slot, uint64 word, Owed full_at);

/* All slots. */
static inline uint32
n_slots(void)
{
	return store.partitions * store.groups * GROUP_SLOTS;
}

/* Where a key's slot may be, and the order to look in. */
typedef struct Probe
{
	uint32		tag;
	uint32		layout;			/* of the partition, as it was */
	uint32		used;			/* groups that it uses */
	uint32		partition;
	uint32		home;			/* group in the partition */
	uint32		way;			/* place in the group */
} Probe;

/* The way in a layout.  The hash's bits: 0-6 partition, 7-38 tag, 28-31 way, 32-63 group. */
static inline Probe
probe_in(uint64 hash, uint32 layout)
{
	Probe		probe;

	probe.tag = (uint32) (hash >> 7);
	if (probe.tag < TAG_FIRST)
		probe.tag += TAG_FIRST;
	probe.partition = hash & (store.partitions - 1);
	probe.layout = layout;
	probe.used = store.groups >> (probe.layout & LAYOUT_SHIFT);
	probe.home = (uint32) (((hash >> 32) * probe.used) >> 32);
	probe.way = (hash >> 28) % GROUP_SLOTS;
	return probe;
}

static inline uint32
layout_for(uint64 hash)
{
	return pg_atomic_read_u32(&store.header->layout[hash & (store.partitions - 1)]);
}

/* The way in the layout that the partition now has. */
static inline Probe
probe_of(uint64 hash)
{
	return probe_in(hash, layout_for(hash));
}

/* A group of a partition, among all groups. */
static inline uint32
group_number(uint32 partition, uint32 group)
{
	return group * store.partitions + partition;
}

/* The i-th slot of a partition. */
static inline uint32
partition_slot(uint32 partition, uint32 i)
{
	return group_number(partition, i / GROUP_SLOTS) * GROUP_SLOTS + i % GROUP_SLOTS;
}

/* How many slots a way leads through, of so many groups. */
static inline uint32
probe_length(const Probe *probe, uint32 groups)
{
	return Min(probe->used, groups) * GROUP_SLOTS;
}

/*
 * The first slot of the group of the i-th slot on the way.  Ways from neighbouring
 * homes go apart, as those that run into each other grow long; by steps that are
 * primes, and larger than any partition, they lead to every group.
 */
static inline uint32
probe_group(const Probe *probe, uint32 i)
{
	static const uint32 steps[] = {
		2147483647, 2147483629, 2147483587, 2147483579,
		2147483563, 2147483549, 2147483543, 2147483497
	};
	uint32		group = probe->home;

	if (i >= GROUP_SLOTS)
		group = (group + i / GROUP_SLOTS *
				 (steps[probe->tag % lengthof(steps)] % probe->used)) % probe->used;
	return group_number(probe->partition, group) * GROUP_SLOTS;
}

/* The i-th slot on the way. */
static inline uint32
probe_slot(const Probe *probe, uint32 i)
{
	return probe_group(probe, i) + (probe->way + i) % GROUP_SLOTS;
}

/* How many groups after its home the way leads through. */
static inline volatile uint8 *
reach_of(const Probe *probe)
{
	return &store.reach[group_number(probe->partition, probe->home)];
}

/* Read the word, once it is not locked.  May wait, and so be cancelled. */
static inline uint64
read_word(Slot *slot)
{
	uint64		word = pg_atomic_read_u64(&slot->word);

	if (unlikely(word & WORD_LOCKED))
		word = wait_for_word(slot);
	pg_read_barrier();
	return word;
}

/* Has nothing changed since the word was read? */
static inline bool
unchanged(Slot *slot, uint64 word)
{
	pg_read_barrier();
	return pg_atomic_read_u64(&slot->word) == word;
}

/*
 * Lock the slot if its word, which was not locked, still is what it was.  Nothing
 * that is then written there is seen before the lock is.
 */
static inline bool
lock_word(Slot *slot, uint64 word)
{
	if (!pg_atomic_compare_exchange_u64(&slot->word, &word, word | WORD_LOCKED))
		return false;
	pg_write_barrier();
	return true;
}

/* Release a slot that lock_word() locked, its content unchanged. */
static inline void
unlock_unchanged(Slot *slot, uint64 word)
{
	pg_write_barrier();
	pg_atomic_write_u64(&slot->word, word);
}

static inline Owed
full_at_of(const Slot *slot, uint64 word)
{
	return (Owed) slot->u.bucket.base * BASE_UNIT + (Owed) (word >> 1);
}

/* What a bucket of these parameters owes at a time. */
static inline Owed
owed_by(double capacity, double refill, Owed full_at, int64 now)
{
	if (!bucket_timed(capacity, refill))
		return full_at;
	return full_at > now ? full_at - now : 0;
}

/* The same of a slot that is locked, or may be claimed: see claim_slot(). */
static inline Owed
owed_of(const Slot *slot, uint64 word, int64 now)
{
	return owed_by(slot->u.bucket.capacity, slot->u.bucket.refill,
				   full_at_of(slot, word), now);
}

/* A bucket's state, as it was when its word was read. */
typedef struct State
{
	double		capacity;
	double		refill;
	Owed		full_at;
} State;

/* Copy it; false if it has changed since: what a changing slot holds is not for arithmetic. */
static inline bool
read_state(Slot *slot, uint64 word, State *state)
{
	state->capacity = slot->u.bucket.capacity;
	state->refill = slot->u.bucket.refill;
	state->full_at = full_at_of(slot, word);
	return unchanged(slot, word);
}

static inline Owed
state_owes(const State *state, int64 now)
{
	return owed_by(state->capacity, state->refill, state->full_at, now);
}

/* What it owes by a rule. */
static inline Owed
state_owes_by(const State *state, int64 now, const BucketRule *rule)
{
	Owed		owed = state_owes(state, now);

	if (state->capacity != rule->capacity || state->refill != rule->refill)
		owed = bucket_carry(state->capacity, state->refill, owed, rule);
	return owed;
}

/* Is this the slot's bucket?  Certain if the word then turns out unchanged. */
static inline bool
slot_is(const Slot *slot, const BucketId *id)
{
	return slot->database == id->database &&
		same_head(&slot->u.bucket.name, &id->name) &&
		(name_is_short(id) || slot_has_names(slot, id));
}

#endif							/* RATELIMIT_MEMORY_SLOTS_H */
