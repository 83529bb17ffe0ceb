/*
 * memory/grow.c
 *		Growing: a partition begins to use twice as many groups, and its buckets move.
 *
 * The caller of everything here holds the partition's lock, or is the only process.
 * memory/slots.h explains how buckets are kept, and memory/search.c how they are
 * found.
 *
 * A bucket that moves is made in its new slot while the word of its old slot is
 * locked, and the old slot is then emptied, so nothing can be taken from both.
 * Searches hold no lock, so they may look for a bucket where it is not any more, or
 * not yet:
 * - The layout is set to "moving" before the first bucket moves, and to the new
 *	 layout after the last.  A search reads the layout, then tags, and then, if the
 *	 bucket was not there, the layout again, with barriers in between.  If the layout
 *	 is the same, and nothing was moving, then no bucket moved meanwhile, and the
 *	 bucket was absent at some moment in between.  Otherwise the search waits until
 *	 nothing moves, and starts anew (find_elsewhere()).
 * - A search that does find the bucket need not look at the layout: the word settles,
 *	 as always, whether the slot is still the bucket's.
 * - A partition only grows, each time to twice its groups, so it grows at most ten
 *	 times (from 4 groups to MAX_GROWING_GROUPS) in the life of a server, and a search
 *	 starts anew at most as often.  Growing looks at each slot in use once, at most
 *	 32,768, waits for nothing, and takes some 0.5 us for each bucket: 7 ms for the
 *	 13,000 or so that a partition mostly has when it grows for the last time.
 *
 * A bucket whose word is locked when it is its turn, or changes again and again, is
 * left where it is (leave_behind()).  It is still found there: the layout then says
 * that some buckets were left (LAYOUT_LEFT), and a search that does not find a bucket
 * by this layout looks where each earlier layout has it.  One of these is the layout
 * by which the bucket was made.  All slots before it on that way have been used, and
 * so end no search, and the reach of its home group is set to lead to it.  Nobody
 * makes the bucket a second time, as that takes a search that does not find it.  The
 * bucket moves the next time the partition grows.  A partition that has grown for the
 * last time keeps the mark until the server stops, so that calls on buckets that are
 * not here look at a few more groups.
 */
#include "postgres.h"

#include "memory/claim.h"
#include "memory/grow.h"
#include "memory/partitions.h"
#include "storage/s_lock.h"

/* How often to try to lock the word of a bucket that is to move. */
#define MOVE_TRIES		100

/*
 * Tell which bucket a slot has; "names" has room for its limiter and key.  The word
 * need not be locked, as identities change only under the partition's lock.
 */
static void
bucket_in(const Slot *slot, BucketId *id, char *names)
{
	slot_names(slot, names);
	make_bucket_id(id, slot->database, names, slot->u.bucket.name.limiter_len,
				   names + slot->u.bucket.name.limiter_len, slot->u.bucket.name.key_len);
}

/*
 * Leave a bucket where it is while the layout becomes this one, because its word is
 * locked or changes all the time, and see to it that searches find it.  Return true
 * if only searches by an earlier layout do.
 */
static bool
leave_behind(uint32 n, uint32 layout)
{
	char		names[MAX_NAMES];
	BucketId	id;

	bucket_in(&store.slots[n], &id, names);
	for (uint32 shift = layout; store.groups >> shift > 0; shift++)
	{
		Probe		probe = probe_in(id.hash, shift);
		uint32		length = probe_length(&probe, PROBE_GROUPS);
		uint32		i = 0;

		/* a search ends at a slot that has never been used */
		while (i < length && probe_slot(&probe, i) != n &&
			   store.tags[probe_slot(&probe, i)] != TAG_FREE)
			i++;
		if (i < length && probe_slot(&probe, i) == n)
		{
			extend_reach(&probe, i);
			return shift > layout;
		}
	}
	/* it was on one of these ways when it was made, and so it still is */
	Assert(false);
	return true;
}

/*
 * Move the slot's bucket, if it lives, to where this layout has it.  Return true if
 * it was left behind, where only earlier layouts have it.
 */
static bool
move_bucket(uint32 n, int partition, uint32 layout)
{
	Slot	   *slot = &store.slots[n];
	char		names[MAX_NAMES];
	BucketId	id;
	BucketRule	rule = {0};
	Probe		probe;
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];
	uint64		word;

	for (int i = 0;; i++)
	{
		word = pg_atomic_read_u64(&slot->word);
		if (!(word & WORD_LOCKED) && lock_word(slot, word))
			break;
		if (i >= MOVE_TRIES)
			return leave_behind(n, layout);
		SPIN_DELAY();
	}

	if (owed_of(slot, word, monotonic_ns()) > 0)
	{
		bucket_in(slot, &id, names);
		probe = probe_in(id.hash, layout);
		if (n / GROUP_SLOTS == group_number(partition, probe.home))
		{
			unlock_unchanged(slot, word);
			return false;
		}
		rule.capacity = slot->u.bucket.capacity;
		rule.refill = slot->u.bucket.refill;
		if (claim_slots(&probe, PROBE_GROUPS, slots_needed(&id), claimed, words))
			fill_slots(&id, &rule, full_at_of(slot, word),
					   slots_needed(&id), claimed, words);
		else
			pg_atomic_fetch_add_u64(&store.header->evicted[partition], 1);
	}
	empty_slot(n);
	unlock_changed(slot, word, 0);
	return false;
}

/*
 * Let a partition use twice as many groups.  Return false if it uses all of them
 * already.  The caller holds the partition's lock, and no words in the partition.
 *
 * The groups' buckets move from the last group to the first.  So each bucket moves to
 * a group whose buckets have moved already, and mostly to one that only its own
 * group's buckets move to, so that there is room.  A bucket that finds no free slot
 * among the 512 on its way gives way.
 */
bool
grow_partition(int partition)
{
	pg_atomic_uint32 *layout = &store.header->layout[partition];
	uint32		shift = pg_atomic_read_u32(layout) & LAYOUT_SHIFT;
	uint32		used = store.groups >> shift;
	bool		left = false;

	if (shift == 0)
		return false;
	pg_atomic_write_u32(layout, (shift - 1) | LAYOUT_MOVING);
	pg_write_barrier();
	for (uint32 i = 0; i < used; i++)
		store.reach[group_number(partition, i)] = 0;
	for (uint32 i = used * GROUP_SLOTS; i-- > 0;)
		if (store.tags[partition_slot(partition, i)] >= TAG_FIRST)
			left |= move_bucket(partition_slot(partition, i), partition, shift - 1);
	pg_write_barrier();
	pg_atomic_write_u32(layout, (shift - 1) | (left ? LAYOUT_LEFT : 0));
	return true;
}

/*
 * Claim slots for a bucket.  If its home group is full and the partition can still
 * grow, let it grow; if it cannot, look through so many groups.  Return false if no
 * slot is free there.
 */
bool
claim_or_grow(const BucketId *id, uint32 groups, uint32 *claimed, uint64 *words)
{
	for (;;)
	{
		Probe		probe = probe_of(id->hash);

		if (claim_slots(&probe, (probe.layout & LAYOUT_SHIFT) ? 1 : groups,
						slots_needed(id), claimed, words))
			return true;
		if (!grow_partition(memory_partition(id->hash)))
			return false;
	}
}
