/*
 * memory/claim.c
 *		Claiming slots that are free, filling and emptying them, and choosing which
 *		bucket gives way if no slot is free.
 *
 * The caller of everything here holds the partition's lock, or is the only process.
 * When a bucket may be made at all is decided elsewhere (memory/place.c,
 * memory/together.c).  memory/slots.h explains how buckets are kept, and who may wait
 * for what.
 *
 * Reading a slot that may be changing.  The holder of the partition's lock decides
 * without the words' locks which slots are free and which bucket is nearest to full
 * (claim_slot(), evict_one()), while others decide on those buckets and change their
 * parameters.  This is safe for three reasons:
 * - Whether the slot has a bucket, and which, does not change, as that takes the
 *	 partition's lock.  So capacity, refill and base are values that somebody stored
 *	 after checking them, and never the bytes of a name.
 * - Each of them is 8 bytes, aligned, and so is read whole.  Together they may belong
 *	 to different states: the capacity to one, the refill to another, the base and the
 *	 word to a third.  The arithmetic accepts any such mixture, because any capacity >
 *	 0 goes with any refill >= 0 if both are finite (bucket_timed() divides only by a
 *	 refill > 0).  A bucket that is a period's stays one, and has a refill below 0 in
 *	 every state, with which the capacity does not count.  And base * 2^36 + word / 2 stays within 128 bits for any two 64-bit
 *	 numbers.  The result may be wrong.
 * - The result is acted upon only if the word can then be locked at the value that
 *	 was read before the rest.  Every change of the rest locks the word and leaves it
 *	 another value, so that success proves that nothing was changing, and that the
 *	 result is right.
 *
 * So a wrong result that says "free" or "nearest" is thrown away, and a wrong one
 * that says "in use" only means that another slot is taken.
 *
 * Without the partition's lock a slot may become another bucket's, or the rest of a
 * name.  There, a slot's content is only compared for equality before the word has
 * been seen to be unchanged (read_state()); swap_word() keeps to integers that cannot
 * overflow.
 */
#include "postgres.h"

#include "memory/claim.h"

/* Empty a slot that the caller has locked, and free its bucket's continuations. */
void
empty_slot(uint32 n)
{
	Slot	   *slot = &store.slots[n];

	if (OidIsValid(slot->database))
	{
		uint32		next = slot->link;

		while (next != NO_SLOT)
		{
			store.slots[next].link = NO_SLOT;
			next = store.slots[next].u.continuation.next;
		}
	}
	slot->database = InvalidOid;
	slot->link = NO_SLOT;
	slot->u.continuation.next = NO_SLOT;
	store.tags[n] = TAG_CONTINUATION;
}

/*
 * Lock and empty the slot if it is free or its bucket is full again.  Return false if
 * it is neither, or if it is locked already: by another process, or because this call
 * has claimed it.  A continuation is free once its bucket is, which is then emptied
 * as well.
 */
bool
claim_slot(uint32 n, int64 now, uint64 *word)
{
	*word = pg_atomic_read_u64(&store.slots[n].word);
	if (*word & WORD_LOCKED)
		return false;
	pg_read_barrier();
	if (store.tags[n] >= TAG_FIRST)
	{
		if (owed_of(&store.slots[n], *word, now) > 0)
			return false;
	}
	else if (store.tags[n] == TAG_CONTINUATION && store.slots[n].link != NO_SLOT)
	{
		uint32		owner = store.slots[n].link;
		uint64		owner_word;

		if (!claim_slot(owner, now, &owner_word))
			return false;
		unlock_changed(&store.slots[owner], owner_word, 0);
	}
	/* this fails if the bucket has come to life meanwhile */
	if (!lock_word(&store.slots[n], *word))
		return false;
	empty_slot(n);
	return true;
}

/*
 * How far the bucket is from full, for choosing which one gives way.  Buckets that
 * never refill, and blocks, come last.
 */
static double
distance_from_full(const Slot *slot, uint64 word, int64 now)
{
	double		owed = (double) owed_of(slot, word, now);

	/* a period's bucket will be full when the period ends */
	if (bucket_in_period(slot->u.bucket.refill) && owed > 0)
		return Max(-slot->u.bucket.refill - (double) wall_clock_us(), 0) * 1000;
	if (bucket_timed(slot->u.bucket.capacity, slot->u.bucket.refill) &&
		!limiter_is_block(slot->u.bucket.name.bytes,
						  slot->u.bucket.name.limiter_len))
		return owed;
	return owed * 1e60;
}

static bool
is_held(const Slot *slot, const Held *held, int n_held)
{
	for (int i = 0; i < n_held; i++)
		if (held[i].slot == slot)
			return true;
	return false;
}

/* How often to try, as others may change the chosen bucket all the time. */
#define EVICT_TRIES		100

/*
 * Let the bucket on the way that is nearest to full give way.  Buckets that the
 * caller holds, and those whose words are locked just now, are passed over.
 */
EvictResult
evict_one(const Probe *probe, int partition, const Held *held, int n_held)
{
	for (int i = 0; i < EVICT_TRIES; i++)
	{
		int64		now = monotonic_ns();
		uint32		nearest = NO_SLOT;
		uint64		nearest_word = 0;
		double		least = 0;
		bool		locked = false;

		for (uint32 j = 0; j < probe_length(probe, EVICT_GROUPS); j++)
		{
			uint32		n = probe_slot(probe, j);
			uint64		word;
			double		distance;

			if (store.tags[n] < TAG_FIRST)
			{
				if (store.tags[n] == TAG_FREE || store.slots[n].link == NO_SLOT)
					continue;
				n = store.slots[n].link;
			}
			if (is_held(&store.slots[n], held, n_held))
				continue;
			word = pg_atomic_read_u64(&store.slots[n].word);
			if (word & WORD_LOCKED)
			{
				locked = true;
				continue;
			}
			pg_read_barrier();
			distance = distance_from_full(&store.slots[n], word, now);
			if (nearest == NO_SLOT || distance < least)
			{
				nearest = n;
				nearest_word = word;
				least = distance;
			}
		}
		if (nearest == NO_SLOT)
			return locked ? EVICT_BUSY : EVICT_NONE;
		if (lock_word(&store.slots[nearest], nearest_word))
		{
			empty_slot(nearest);
			unlock_changed(&store.slots[nearest], nearest_word, 0);
			pg_atomic_fetch_add_u64(&store.header->evicted[partition], 1);
			return EVICTED;
		}
	}
	return EVICT_BUSY;
}

/* Release claimed slots that have not been filled, and so are free. */
void
release_slots(const uint32 *claimed, const uint64 *words, int n)
{
	while (n-- > 0)
		unlock_changed(&store.slots[claimed[n]], words[n], 0);
}

/* See to it that searches reach the i-th slot on the way. */
void
extend_reach(const Probe *probe, uint32 i)
{
	if (*reach_of(probe) < i / GROUP_SLOTS)
		*reach_of(probe) = i / GROUP_SLOTS;
}

/*
 * Lock and empty as many slots as a bucket needs, on its way through so many groups.
 * The first is for the bucket itself.  Return false, with no slot locked, if the way
 * does not have enough free ones.
 */
bool
claim_slots(const Probe *probe, uint32 groups, int needed, uint32 *claimed, uint64 *words)
{
	int64		now = monotonic_ns();
	int			n = 0;

	for (uint32 i = 0; i < probe_length(probe, groups) && n < needed; i++)
	{
		claimed[n] = probe_slot(probe, i);
		if (!claim_slot(claimed[n], now, &words[n]))
			continue;
		if (n++ == 0)
			extend_reach(probe, i);
	}
	if (n == needed)
		return true;
	release_slots(claimed, words, n);
	return false;
}

/* Write the bucket into its claimed slots, and release them. */
void
fill_slots(const BucketId *id, const BucketRule *rule, Owed full_at,
		   int needed, const uint32 *claimed, const uint64 *words)
{
	char		names[MAX_NAMES];
	Slot	   *slot = &store.slots[claimed[0]];

	memcpy(names, id->limiter, id->limiter_len);
	memcpy(names + id->limiter_len, id->key, id->key_len);

	for (int i = 1; i < needed; i++)
	{
		Slot	   *more = &store.slots[claimed[i]];
		const char *name = names + INLINE_BYTES + (i - 1) * FURTHER_BYTES;

		more->link = claimed[0];
		more->u.continuation.next = i + 1 < needed ? claimed[i + 1] : NO_SLOT;
		memcpy(more->u.continuation.name, name, CONTINUATION_BYTES);
		memcpy(store.tails[claimed[i]].name, name + CONTINUATION_BYTES, TAIL_BYTES);
		unlock_changed(more, words[i], 0);
	}

	slot->database = id->database;
	slot->link = needed > 1 ? claimed[1] : NO_SLOT;
	slot->u.bucket.name = id->name;
	if (!name_is_short(id))
		memcpy(store.tails[claimed[0]].name, names + HEAD_BYTES, TAIL_BYTES);
	store.tags[claimed[0]] = probe_of(id->hash).tag;
	unlock_with_rule(slot, words[0], rule, full_at);
}

/* How many slots the bucket takes, with its continuations. */
int
slots_needed(const BucketId *id)
{
	int			beyond = id->limiter_len + id->key_len - INLINE_BYTES;

	return 1 + (Max(beyond, 0) + FURTHER_BYTES - 1) / FURTHER_BYTES;
}
