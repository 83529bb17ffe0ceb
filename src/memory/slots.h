/*
 * memory/slots.h
 *		The slots that buckets live in, in shared memory: their layout, and the rules
 *		for reading, locking and releasing them.
 *
 * All of memory/ keeps to what this comment says.  How a bucket is searched for is in
 * memory/search.h, how a call is decided in memory/short_way.h, how slots are claimed
 * and filled in memory/claim.c, and how a partition grows in memory/grow.c.
 *
 * Layout.  Slots have a fixed size and stand in groups of 16, in one array: the first
 * group of every partition, then the second group of every partition, and so on.
 * Each group has a line of 16 tags (32 bits of the hash of each slot's key), so that
 * one cache line tells which slots to look at.  A key's hash names its partition, its
 * home group, and the place in the group to look at first.  From there the key's way
 * leads from group to group of the partition.  A new key takes the first free slot on
 * its way.  A tag is zero until its slot is first used, and never again, so a search
 * ends at the first zero: a key that had come by would have taken that slot.  A
 * search also ends at the reach of the home group: no key of that home lives further
 * away.
 *
 * Growing.  At first a partition uses a small part of its groups, so that few buckets
 * do not lie on many pages: waiting for pages costs a call more than everything else
 * that it does.  Whenever a home group is full, the partition begins to use twice as
 * many groups, and its buckets move to where they then belong.  The partition's
 * layout says how many groups are used and, meanwhile, that buckets are moving.  Once
 * all groups are used, a key whose home group is full takes a slot in another group.
 * memory/grow.c explains how growing goes together with searches that hold no lock.
 *
 * A bucket that is full again equals a bucket that is absent, so its slot becomes
 * free without being freed by anybody.  A bucket in a period (core/bucket.h) is full
 * again when the period is over.  The end of the period is in the slot, so a call of
 * another period finds other parameters, takes the lock, and begins the bucket anew.
 * From then on calls of that period swap the word as all others do.
 *
 * Identity.  A slot has all of its bucket's limiter and key, so two keys never share
 * a bucket, whatever their hashes are.  The part of the name that does not fit in the
 * slot goes on in the slot's tail, which is in an array of its own, and from there in
 * further slots of the same partition (these have the tag TAG_CONTINUATION and no
 * database) and in their tails.
 *
 * The word.  The word says when the bucket will be full, in nanoseconds on the
 * monotonic clock (for a bucket that never refills, or that is in a period, it says
 * how many units are taken): base * 2^36 + word / 2.  The lowest bit of the word is a
 * lock.
 *
 * A decision on a living bucket reads the word, then identity, parameters and base,
 * and then moves the word by compare-and-swap.  It locks nothing and waits for
 * nobody, and of several callers at once one always succeeds.  This is right because
 * everything except the word changes only while the word is locked, and a word that
 * was locked and released again never has a value that it had before: the swap then
 * fails, and the caller starts anew.  So a swap that succeeds proves that all that
 * was read since the word was read belongs together.  A decision that changes nothing
 * (denied, or cost 0) reads the word once more instead.
 *
 * Why a word's value does not come back.  Without the lock the value only increases
 * (an allowed call makes the bucket full later, never sooner).  With the lock any
 * state may follow any other, but base absorbs the difference, and word / 2 still
 * grows, by at most 2^36, and starts anew at 2^62 (WORD_VALUES).  One step without
 * the lock adds less than 2^48 (MAX_ADVANCE; larger steps take the lock).  So the
 * value can come around to one that some caller still holds from its one load only if
 * at least 2^13 changes without the lock, which make up 73 years of bucket time, or
 * 2^25 changes with the lock fall between that load and that caller's swap, and if
 * the last of them ends on exactly that value.
 *
 * Barriers.  Loading the word is followed by a read barrier, and re-reading it is
 * preceded by one.  The swap that locks is followed by a write barrier: PostgreSQL
 * calls a compare-and-swap a full barrier, but where it is a load-acquire and a
 * store-release (ARM64 without LSE), stores that follow may be seen before the
 * store-release is.  A process that then reads the word twice, as a denial does,
 * would find it unlocked both times, and half of a change in between.  (A swap cannot
 * be deceived in this way: it and the locking swap cannot both succeed on one value.)
 * Releasing is preceded by a write barrier.  That barrier must also keep what was
 * read under the lock from being read after the release.  It does, because with every
 * compiler that PostgreSQL supports it is a release fence, or stronger, or, on x86,
 * where the processor does not let a store overtake earlier loads, at least a barrier
 * to the compiler.
 *
 * What the lock is for.  It is taken for what is rare: a bucket's parameters change,
 * it is reset, its slot passes to another key, it moves, the time when it will be
 * full moves by MAX_ADVANCE or more at once (for instance 78 hours after its last
 * use) or is centuries away, the word's value starts anew, or several buckets are
 * decided on together.  A process that holds a word does not throw, allocate, wait or
 * check for interrupts.
 *
 * How long a word is held (as measured on one core of a Xeon, without cache misses):
 * - A call with other parameters, or an administrator, holds it while a dozen
 *	 instructions write what was worked out before: some 10 ns.  If others change the
 *	 bucket all the time, the result is worked out with the word held, in at most 1.1
 *	 us (three divisions of 192 bits).
 * - A call on several buckets holds each of up to 64 words until all are locked and
 *	 decided: 1.4 us if no parameters change (11 us for a quota of 1e17 at a token a
 *	 year), mostly 28 us if all do, and at most 70 us.
 * - A bucket's move holds its word until room is found: 0.3 us, or 0.6 us with a
 *	 cache miss or two.  In a partition whose groups are all full, 512 slots are
 *	 looked at first, which takes up to 0.1 ms.
 * These times are those of a process that runs.  It may also lose its processor, or
 * be stopped, for any length of time.
 *
 * Waiting.  Therefore no process may depend on a word's being released, or on a
 * layout's becoming settled.  A caller that holds nothing waits for a word with a few
 * spins and then in naps, which cancelling and timeouts end (give_way()).  Where an
 * error is not possible, at the end of a transaction and while state is saved,
 * waiting ends after a second, and the bucket is left out (give_way_for()).  A caller
 * that holds a partition's lock, or a word, waits for no word, layout or lock: it
 * passes the bucket over (claiming, evicting, moving), or it releases everything and
 * starts anew after a nap (find_once(), memory_try_lock_partition()).  As nobody
 * waits while holding something, there is no deadlock, in whatever order things are
 * locked.
 *
 * The partition's lock (an LWLock, taken exclusively) is held to make a bucket, and
 * to move or evict one; only this sets tags and identities.  Its holder may read
 * those of any slot of the partition.  It is held for a microsecond, or while the
 * partition grows.  Processes do not wait for it in the LWLock's queue, which cannot
 * be cancelled, but in naps.
 *
 * If a backend is killed while it holds a word or a partition's lock, the whole
 * server restarts, with fresh memory.  Cancelling cannot interrupt there, because
 * nothing checks for interrupts.
 */
#ifndef RATELIMIT_MEMORY_SLOTS_H
#define RATELIMIT_MEMORY_SLOTS_H

#include "core/call.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/tags.h"
#include "memory/partition_set.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#define GROUP_SLOTS			GROUP_PLACES
#define PROBE_GROUPS		32	/* how many groups a way leads through */
#define EVICT_GROUPS		8	/* the same if another bucket gives way instead */
#define MIN_PARTITION_SLOTS 256
#define FIRST_GROUPS		4	/* a partition uses this many or more at first */
#define MAX_GROWING_GROUPS	4096	/* a larger partition uses all of its groups
									 * from the start: growing would take too long */

#define LAYOUT_SHIFT		0xFF	/* the partition uses its groups >> this */
#define LAYOUT_MOVING		0x100	/* buckets are moving */
#define LAYOUT_LEFT			0x200	/* some are where an earlier layout has them */

#define TAG_CONTINUATION	1	/* it has the rest of a long name, or nothing */

#define WORD_LOCKED			UINT64CONST(1)
#define WORD_VALUES			(UINT64CONST(1) << 62)
#define BASE_UNIT			((Owed) 1 << 36)
#define MAX_ADVANCE			((Owed) 1 << 48)

/*
 * Bytes of limiter and key: HEAD_BYTES of them are in the bucket's slot, and the next
 * ones in its tail.  The rest is in further slots and their tails.
 */
#define TAIL_BYTES			56	/* in a tail */
#define CONTINUATION_BYTES	44	/* in a further slot */
#define INLINE_BYTES		(HEAD_BYTES + TAIL_BYTES)
#define FURTHER_BYTES		(CONTINUATION_BYTES + TAIL_BYTES)
#define MAX_CONTINUATIONS	4
#define MAX_NAMES			(INLINE_BYTES + MAX_CONTINUATIONS * FURTHER_BYTES)
#define NO_SLOT				PG_UINT32_MAX

/*
 * Everything except the word changes only while the word is locked.  There is one
 * exception: a continuation's link also changes when its bucket is taken away, under
 * the partition's lock, and only a holder of that lock uses it.  A bucket with a
 * short name is all in one cache line.
 */
typedef struct Slot
{
	pg_atomic_uint64 word;
	Oid			database;		/* InvalidOid if there is no bucket here */
	uint32		link;			/* in a bucket's slot: its first continuation,
								 * or NO_SLOT; in a continuation: its bucket's
								 * slot, or NO_SLOT if the slot is free */
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

/* What follows a slot's name, in an array of its own. */
typedef struct Tail
{
	char		name[TAIL_BYTES];
} Tail;

StaticAssertDecl(sizeof(Slot) == 64, "a slot is not a cache line");
StaticAssertDecl(sizeof(Slot) + sizeof(Tail) + sizeof(uint32) <= 128,
				 "a bucket takes more than 128 bytes");
StaticAssertDecl(MAX_BUCKET_LIMITER_LEN + MAX_KEY_LEN <= MAX_NAMES,
				 "the longest names do not fit");

/* The beginning of the shared memory of buckets. */
typedef struct Header
{
	uint64		seed;			/* of the hash; each server has its own */
	uint32		partitions;		/* how many there are: a power of two */
	uint32		groups;			/* in each partition */
	/* every call reads these: */
	pg_atomic_uint32 block_cells;	/* used cells: memory/block_filter.c */
	pg_atomic_uint32 layout[MAX_PARTITIONS];
	char		pad[PG_CACHE_LINE_SIZE];
	pg_atomic_uint64 evicted[MAX_PARTITIONS];	/* buckets, since the first start */
} Header;

/*
 * Addresses of the shared structures, with copies of the fields that never change, so
 * that a call touches fewer pages.  All of it is in one cache line.
 */
typedef struct Store
{
	Header	   *header;			/* NULL if there is no shared memory */
	uint32		partitions;
	uint32		groups;
	uint32	   *tags;			/* partitions * groups * GROUP_SLOTS */
	Slot	   *slots;			/* as many as tags */
	uint8	   *reach;			/* of each group: see reach_of() */
	Tail	   *tails;			/* one for each slot */
	LWLockPadded *locks;		/* one for each partition */
} Store;

extern hidden_data Store store;

extern uint64 wait_for_word(Slot *slot) pg_attribute_cold;
extern bool read_word_for(Slot *slot, uint64 *word, int64 *patience);
extern void visit_slots(bool (*visit) (uint32 n, void *arg), void *arg, int64 *patience);
extern uint32 wait_for_layout(uint32 partition, int64 *patience);
extern bool slot_has_names(const Slot *slot, const BucketId *id);
extern void slot_names(const Slot *slot, char *names);
extern void unlock_changed(Slot *slot, uint64 word, Owed full_at);
extern void unlock_with_rule(Slot *slot, uint64 word, const BucketRule *rule,
							 Owed full_at);

/* How many slots there are. */
static inline uint32
n_slots(void)
{
	return store.partitions * store.groups * GROUP_SLOTS;
}

/* Where a key's slot may be, and in which order to look. */
typedef struct Probe
{
	uint32		tag;
	uint32		layout;			/* the partition's, when the way was worked out */
	uint32		used;			/* groups that the partition then used */
	uint32		partition;
	uint32		home;			/* the home group, in the partition */
	uint32		way;			/* where to begin in each group */
} Probe;

/*
 * Work out the way in a layout.  Of the hash, bits 0-6 give the partition, 7-38 the
 * tag, 28-31 the way, and 32-63 the group.
 */
static inline Probe
probe_in(uint64 hash, uint32 layout)
{
	Probe		probe;

	probe.tag = tag_from((uint32) (hash >> 7));
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

/* Work out the way in the layout that the partition now has. */
static inline Probe
probe_of(uint64 hash)
{
	return probe_in(hash, layout_for(hash));
}

/* The number of a partition's group among all groups. */
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

/* How many slots the way leads through in so many groups. */
static inline uint32
probe_length(const Probe *probe, uint32 groups)
{
	return Min(probe->used, groups) * GROUP_SLOTS;
}

/*
 * The first slot of the group that has the i-th slot on the way.  Ways from
 * neighbouring homes go apart, by steps of which the tag chooses one, because ways
 * that run into each other grow long.  Each way leads to every group, because its
 * step is a prime that is larger than any partition.
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

/* How many groups after its home the way has to be searched through. */
static inline volatile uint8 *
reach_of(const Probe *probe)
{
	return &store.reach[group_number(probe->partition, probe->home)];
}

/* Read the word once it is not locked.  This may wait, and so be cancelled. */
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
 * Lock the slot if its word, which was not locked, is still the same.  Nothing that
 * is then written there can be seen before the lock can.
 */
static inline bool
lock_word(Slot *slot, uint64 word)
{
	if (!pg_atomic_compare_exchange_u64(&slot->word, &word, word | WORD_LOCKED))
		return false;
	pg_write_barrier();
	return true;
}

/* Release a slot that lock_word() has locked, and whose content is unchanged. */
static inline void
unlock_unchanged(Slot *slot, uint64 word)
{
	pg_write_barrier();
	pg_atomic_write_u64(&slot->word, word);
}

/* When the slot's bucket will be full, if its word is this. */
static inline Owed
full_at_of(const Slot *slot, uint64 word)
{
	return (Owed) slot->u.bucket.base * BASE_UNIT + (Owed) (word >> 1);
}

/* What a bucket with these parameters owes now. */
static inline Owed
owed_by(double capacity, double refill, Owed full_at, int64 now)
{
	if (!bucket_timed(capacity, refill))
		return bucket_in_period(refill) && period_is_over(refill, PERIOD_GRACE) ? 0 :
			full_at;
	return full_at > now ? full_at - now : 0;
}

/* The same for a slot that is locked, or may be claimed: see memory/claim.c. */
static inline Owed
owed_of(const Slot *slot, uint64 word, int64 now)
{
	return owed_by(slot->u.bucket.capacity, slot->u.bucket.refill,
				   full_at_of(slot, word), now);
}

/* A bucket's state when its word was read. */
typedef struct State
{
	double		capacity;
	double		refill;
	Owed		full_at;
} State;

/*
 * Copy the state; false if the bucket has changed since its word was read.  What a
 * changing slot has must not reach the arithmetic.
 */
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

/* What it owes once its parameters are those of the rule. */
static inline Owed
state_owes_by(const State *state, int64 now, const BucketRule *rule)
{
	/* of two periods, their ends say which is the later one, and not the clock */
	Owed		owed = bucket_in_period(rule->refill) ? state->full_at :
		state_owes(state, now);

	if (state->capacity != rule->capacity || state->refill != rule->refill)
		owed = bucket_carry(state->capacity, state->refill, owed, rule);
	return owed;
}

/*
 * Does the slot have this bucket?  The answer is reliable only if the word is
 * unchanged afterwards.
 */
static inline bool
slot_is(const Slot *slot, const BucketId *id)
{
	return slot->database == id->database &&
		same_head(&slot->u.bucket.name, &id->name) &&
		(name_is_short(id) || slot_has_names(slot, id));
}

#endif							/* RATELIMIT_MEMORY_SLOTS_H */
