/*
 * memory/grow.c
 *		Growing: a partition uses twice as many groups, and its buckets move.
 *
 * A bucket that moves is made in its new slot while the word of its old one
 * is locked, and that is then emptied, so nothing can be taken from both.  Searches
 * hold no lock, so they may look for a bucket where it is not any more, or not yet:
 * - The layout is set to "moving" before the first bucket moves and to the new one after
 *	 the last.  A search reads the layout, then tags, then, if the bucket was not there,
 *	 the layout again, with barriers in between.  If it is the same, and nothing was
 *	 moving, no bucket moved meanwhile, and the bucket was absent at some moment in
 *	 between.  If not, the search waits until nothing moves, and starts anew
 *	 (find_elsewhere()).
 * - A search that does find the bucket need not know: whether the slot still is the
 *	 bucket's is settled by its word, as ever.
 * - A partition only grows, each time to twice its groups, so at most ten times (from 4
 *	 groups to MAX_GROWING_GROUPS) in the life of a server, and a search starts anew at
 *	 most as often.  Growing looks at each slot in use once, at most 32,768, waits for
 *	 nothing, and takes some 0.5 us for each bucket: 7 ms for the 13,000 or so that a
 *	 partition mostly has when it grows for the last time.
 *
 * A bucket whose word is locked when it is its turn, or changes again and again, is left
 * where it is (leave_behind()).  There it is found: the layout then says that some were
 * left (LAYOUT_LEFT), and who does not find a bucket by this layout looks where each
 * earlier one has it.  One of these is the layout by which the bucket was made; all
 * slots before it on that way have been used, and so end no search, and the home group's
 * reach is set to lead to it.  Nobody makes the bucket a second time, as that takes a
 * search that does not find it.  The next time the partition grows it moves; a
 * partition that has grown for the last time keeps the mark until the server stops,
 * which costs calls on buckets that are not here a few groups more to look at.
 */
#include "postgres.h"

#include "memory/claim.h"
#include "memory/grow.h"
#include "memory/partitions.h"
#include "storage/s_lock.h"

/* How often to try to lock a bucket's word. */
#define MOVE_TRIES		100

/* The bucket in a slot.  Holding the partition's lock: the word may be locked or not. */
static void
bucket_in(const Slot *slot, BucketId *id, char *names)
{
	slot_names(slot, names);
	make_bucket_id(id, slot->database, names, slot->u.bucket.name.limiter_len,
				   names + slot->u.bucket.name.limiter_len, slot->u.bucket.name.key_len);
}

/*
 * A bucket stays where it is, as its word is locked or changes all the time, while the
 * layout becomes this: see to it that searches find it.  True if only those do that go
 * by earlier layouts, too.
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

		/* a search would end at a slot that was never used */
		while (i < length && probe_slot(&probe, i) != n &&
			   store.tags[probe_slot(&probe, i)] != TAG_FREE)
			i++;
		if (i < length && probe_slot(&probe, i) == n)
		{
			extend_reach(&probe, i);
			return shift > layout;
		}
	}
	/* it was on one of these ways when it was made, so it is now */
	Assert(false);
	return true;
}

/*
 * Move the slot's bucket, if it lives, to where the partition's layout has it.  True if
 * it was left behind.
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
			fill_slots(&id, &rule, full_at_of(slot, word), slots_needed(&id), claimed, words);
		else
			pg_atomic_fetch_add_u64(&store.header->evicted[partition], 1);
	}
	empty_slot(n);
	unlock_changed(slot, word, 0);
	return false;
}

/*
 * Use twice as many groups of a partition, holding its lock and no words in it;
 * false if all are used.
 *
 * From the last group to the first: a bucket then moves to groups whose buckets
 * have moved already, mostly to one that only its own group comes to, so there is
 * room.  (Were there none, which takes 512 slots in a row, it would give way.)
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

/* Claim slots for a bucket, growing the partition if that is what it takes. */
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
