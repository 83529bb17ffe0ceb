/*
 * shmem_place.c
 *		Making buckets in shared memory and taking them away, all with their
 *		partition's lock held.
 *
 * How they are kept: shmem_slots.h.
 */
#include "shmem_slots.h"

/* The slot is locked.  What was in it is no more; its continuations are free. */
static void
empty(uint32 n)
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
 * Lock and empty the slot if it is free or its bucket is full again; false if it
 * is neither.
 */
static bool
claim_slot(uint32 n, int64 now, uint64 *word)
{
	*word = read_word(&store.slots[n]);
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
	/* fails if the bucket came to life meanwhile */
	if (!lock_word(&store.slots[n], *word))
		return false;
	empty(n);
	return true;
}

/* How far from full, for choosing what gives way; those that never refill last. */
static double
distance_from_full(const Slot *slot, uint64 word, int64 now)
{
	double		owed = (double) owed_of(slot, word, now);

	if (bucket_timed(slot->u.bucket.capacity, slot->u.bucket.refill))
		return owed;
	return owed * 1e60;
}

/* Of the buckets on the way, the one nearest to full gives way. */
static void
evict_one(const Probe *probe, int partition)
{
	for (;;)
	{
		int64		now = monotonic_ns();
		uint32		nearest = NO_SLOT;
		uint64		nearest_word = 0;
		double		least = 0;

		for (uint32 i = 0; i < probe_length(); i++)
		{
			uint32		n = probe_slot(probe, i);
			uint64		word;
			double		distance;

			if (store.tags[n] < TAG_FIRST)
			{
				if (store.tags[n] == TAG_FREE || store.slots[n].link == NO_SLOT)
					continue;
				n = store.slots[n].link;
			}
			word = read_word(&store.slots[n]);
			distance = distance_from_full(&store.slots[n], word, now);
			if (nearest == NO_SLOT || distance < least)
			{
				nearest = n;
				nearest_word = word;
				least = distance;
			}
		}
		if (nearest == NO_SLOT)
			return;				/* all are free by now */
		if (lock_word(&store.slots[nearest], nearest_word))
		{
			empty(nearest);
			unlock_changed(&store.slots[nearest], nearest_word, 0);
			pg_atomic_fetch_add_u64(&store.header->evicted[partition], 1);
			return;
		}
	}
}

/*
 * Lock and empty slots for a bucket: needed of them, the first for the bucket
 * itself.  False, and none locked, if there are not that many.
 */
static bool
claim(const Probe *probe, int needed, uint32 *claimed, uint64 *words)
{
	int64		now = monotonic_ns();
	int			n = 0;

	for (uint32 i = 0; i < probe_length() && n < needed; i++)
	{
		claimed[n] = probe_slot(probe, i);
		if (claim_slot(claimed[n], now, &words[n]))
			n++;
	}
	if (n == needed)
		return true;
	while (n-- > 0)
		unlock_changed(&store.slots[claimed[n]], words[n], 0);
	return false;
}

/* Write the bucket into its claimed slots and release them. */
static void
fill(const BucketId *id, const BucketRule *rule, Owed full_at, uint32 tag,
	 int needed, const uint32 *claimed, const uint64 *words)
{
	char		name[INLINE_BYTES + MAX_CONTINUATIONS * CONTINUATION_BYTES];
	Slot	   *slot = &store.slots[claimed[0]];

	memcpy(name, id->limiter, id->limiter_len);
	memcpy(name + id->limiter_len, id->key, id->key_len);

	for (int i = 1; i < needed; i++)
	{
		Slot	   *more = &store.slots[claimed[i]];

		more->link = claimed[0];
		more->u.continuation.next = i + 1 < needed ? claimed[i + 1] : NO_SLOT;
		memcpy(more->u.continuation.name,
			   name + INLINE_BYTES + (i - 1) * CONTINUATION_BYTES,
			   CONTINUATION_BYTES);
		unlock_changed(more, words[i], 0);
	}

	slot->database = id->database;
	slot->u.bucket.capacity = rule->capacity;
	slot->u.bucket.refill = rule->refill;
	slot->link = needed > 1 ? claimed[1] : NO_SLOT;
	slot->u.bucket.limiter_len = id->limiter_len;
	slot->u.bucket.key_len = id->key_len;
	memcpy(slot->u.bucket.name, name, INLINE_BYTES);
	store.tags[claimed[0]] = tag;
	unlock_changed(slot, words[0], full_at);
}

static int
slots_needed(const BucketId *id)
{
	int			beyond = id->limiter_len + id->key_len - INLINE_BYTES;

	return 1 + (Max(beyond, 0) + CONTINUATION_BYTES - 1) / CONTINUATION_BYTES;
}

/*
 * Decide a call on a bucket that shmem_consume() did not find, and make the
 * bucket, which so far owes what the caller says, if it is full no more.
 *
 * False if the bucket is not made here, but belongs into the table (see spill.c),
 * or stays there, if the mode is PLACE_IF_ROOM.
 */
bool
shmem_place(const BucketId *id, const BucketRule *rule, Owed owed,
			PlaceMode mode, Decision *decision)
{
	int			partition = shmem_partition(id->hash);
	Probe		probe = probe_of(id->hash);
	int			needed = slots_needed(id);
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];

	shmem_lock_partition(partition);

	/* Somebody else may have made it meanwhile: nobody can from here on. */
	if (shmem_consume(id, rule, decision))
	{
		shmem_unlock_partition(partition);
		return true;
	}

	if ((mode == PLACE_OR_SPILL || mode == PLACE_OR_EVICT) && spill_is_set(partition))
	{
		shmem_unlock_partition(partition);
		return false;
	}

	decision->owed = owed;
	decision->allowed = bucket_take(rule, &decision->owed);
	while (decision->owed > 0)
	{
		if (claim(&probe, needed, claimed, words))
		{
			fill(id, rule,
				 decision->owed + (rule->timed ? monotonic_ns() : 0),
				 probe.tag, needed, claimed, words);
			break;
		}
		if (mode == PLACE_OR_SPILL)
			spill_mark(partition);
		if (mode == PLACE_OR_SPILL || mode == PLACE_IF_ROOM)
		{
			shmem_unlock_partition(partition);
			return false;
		}
		evict_one(&probe, partition);
	}

	shmem_unlock_partition(partition);
	return true;
}

/*
 * Make a bucket that was saved, as of "now", or bring it up to date.  False if
 * another had to give way for it.  At the start of the server: nobody else is
 * here, and no lock is taken.
 */
bool
shmem_restore(const BucketId *id, double capacity, double refill, Owed owed, int64 now)
{
	Probe		probe = probe_of(id->hash);
	BucketRule	rule = {.capacity = capacity,.refill = refill};
	Owed		full_at = owed + (bucket_timed(capacity, refill) ? now : 0);
	int			needed = slots_needed(id);
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];
	bool		room = true;
	uint64		word;
	Slot	   *slot = find(id, &probe, &word);

	if (slot && lock_word(slot, word))
	{
		slot->u.bucket.capacity = capacity;
		slot->u.bucket.refill = refill;
		unlock_changed(slot, word, owed > 0 ? full_at : 0);
		return true;
	}
	if (owed <= 0)
		return true;
	while (!claim(&probe, needed, claimed, words))
	{
		room = false;
		evict_one(&probe, shmem_partition(id->hash));
	}
	fill(id, &rule, full_at, probe.tag, needed, claimed, words);
	return room;
}

/* The database's buckets are no more. */
void
shmem_forget_database(Oid database)
{
	uint32		per_partition = store.header->groups * GROUP_SLOTS;

	for (uint32 partition = 0; partition < store.header->partitions; partition++)
	{
		shmem_lock_partition(partition);
		for (uint32 i = 0; i < per_partition; i++)
		{
			uint32		n = partition * per_partition + i;
			uint64		word;

			if (store.tags[n] < TAG_FIRST || store.slots[n].database != database)
				continue;
			do
			{
				word = read_word(&store.slots[n]);
			} while (!lock_word(&store.slots[n], word));
			empty(n);
			unlock_changed(&store.slots[n], word, 0);
		}
		shmem_unlock_partition(partition);
	}
}
