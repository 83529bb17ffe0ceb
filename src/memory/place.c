/*
 * memory/place.c
 *		Making buckets in shared memory, moving them and taking them away, all with
 *		their partition's lock held.
 *
 * How they are kept, and who may wait for what: memory/slots.h.
 *
 * A bucket is in one slot.  A bucket is made only by the holder of its partition's lock
 * who has not found it (find_once()), and while that lock is held nobody else makes,
 * moves or takes away one there.
 *
 * Reading a slot that may be changing.  The holder of the partition's lock decides
 * without the words' locks which slots are free and which bucket is nearest to full
 * (claim_slot(), evict_one()), while others decide on those buckets, and change their
 * parameters.  Nothing can go wrong on the way:
 * - That the slot has a bucket, and which, does not change, as that takes the
 *	 partition's lock.  So capacity, refill and base are what somebody stored who had
 *	 checked them, never the bytes of a name.
 * - Each is 8 bytes, aligned, and so read whole.  Together they may be of different
 *	 states: one's capacity, another's refill, a third's base and word.  The arithmetic
 *	 takes any such mixture, as any capacity > 0 goes with any refill >= 0, both
 *	 finite (bucket_timed() divides only by a refill > 0), and base * 2^36 + word / 2
 *	 stays within 128 bits for any two 64-bit numbers.  What comes out may be wrong.
 * - It is acted upon only if the word can then be locked at the value that was read
 *	 before the rest.  As every change of the rest locks the word and leaves it another
 *	 value, that proves that nothing was changing, and that what came out is right.
 * So a wrong answer that says "free" or "nearest" is thrown away, and one that says "in
 * use" only means that another slot is taken.
 * Without the partition's lock, where a slot may become another bucket's, or the rest of
 * a name, nothing but comparisons for equality is done before the word has been seen to
 * be unchanged (read_state()); swap_word() keeps to integers that cannot overflow.
 *
 * Growing.  A bucket that moves is made in its new slot while the word of its old one
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
#include "memory/slots.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/s_lock.h"

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
 * is neither, or locked.
 */
static bool
claim_slot(uint32 n, int64 now, uint64 *word)
{
	/* somebody is at it; or it is one that we have claimed */
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
	/* fails if the bucket came to life meanwhile */
	if (!lock_word(&store.slots[n], *word))
		return false;
	empty(n);
	return true;
}

/*
 * How far from full, for choosing what gives way: those that never refill, and
 * blocks, last.
 */
static double
distance_from_full(const Slot *slot, uint64 word, int64 now)
{
	double		owed = (double) owed_of(slot, word, now);

	if (bucket_timed(slot->u.bucket.capacity, slot->u.bucket.refill) &&
		slot->u.bucket.name.bytes[0] != BLOCK_PREFIX)
		return owed;
	return owed * 1e60;
}

/* What a call holds while it is decided together with others. */
typedef struct Held
{
	Slot	   *slot;			/* NULL: not here */
	uint64		word;
	int			n_claimed;
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];
} Held;

static bool
is_held(const Slot *slot, const Held *held, int n_held)
{
	for (int i = 0; i < n_held; i++)
		if (held[i].slot == slot)
			return true;
	return false;
}

typedef enum EvictResult
{
	EVICTED,
	EVICT_BUSY,					/* those that could give way are in use just now */
	EVICT_NONE					/* there is none that could give way */
} EvictResult;

/* How often to try: others may change the chosen bucket all the time. */
#define EVICT_TRIES		100

/*
 * Of the buckets on the way, the one nearest to full gives way; but not one that is
 * held, nor one whose word is locked just now.
 */
static EvictResult
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
			empty(nearest);
			unlock_changed(&store.slots[nearest], nearest_word, 0);
			pg_atomic_fetch_add_u64(&store.header->evicted[partition], 1);
			return EVICTED;
		}
	}
	return EVICT_BUSY;
}

/* Release slots that were claimed, and are free. */
static void
release(const uint32 *claimed, const uint64 *words, int n)
{
	while (n-- > 0)
		unlock_changed(&store.slots[claimed[n]], words[n], 0);
}

/* A search is to find what is so far on the way. */
static void
extend_reach(const Probe *probe, uint32 i)
{
	if (*reach_of(probe) < i / GROUP_SLOTS)
		*reach_of(probe) = i / GROUP_SLOTS;
}

/*
 * Lock and empty slots for a bucket: needed of them, the first for the bucket
 * itself, on its way through so many groups.  False, and none locked, if there
 * are not that many.
 */
static bool
claim(const Probe *probe, uint32 groups, int needed, uint32 *claimed, uint64 *words)
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
	release(claimed, words, n);
	return false;
}

/* Write the bucket into its claimed slots and release them. */
static void
fill(const BucketId *id, const BucketRule *rule, Owed full_at,
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
	slot->u.bucket.capacity = rule->capacity;
	slot->u.bucket.refill = rule->refill;
	slot->link = needed > 1 ? claimed[1] : NO_SLOT;
	slot->u.bucket.name = id->name;
	if (!name_is_short(id))
		memcpy(store.tails[claimed[0]].name, names + SLOT_BYTES, TAIL_BYTES);
	store.tags[claimed[0]] = probe_of(id->hash).tag;
	unlock_changed(slot, words[0], full_at);
}

static int
slots_needed(const BucketId *id)
{
	int			beyond = id->limiter_len + id->key_len - INLINE_BYTES;

	return 1 + (Max(beyond, 0) + FURTHER_BYTES - 1) / FURTHER_BYTES;
}

/*
 * Growing
 */

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
		if (claim(&probe, PROBE_GROUPS, slots_needed(&id), claimed, words))
			fill(&id, &rule, full_at_of(slot, word), slots_needed(&id), claimed, words);
		else
			pg_atomic_fetch_add_u64(&store.header->evicted[partition], 1);
	}
	empty(n);
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
static bool
grow(int partition)
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
static bool
claim_or_grow(const BucketId *id, uint32 groups, uint32 *claimed, uint64 *words)
{
	for (;;)
	{
		Probe		probe = probe_of(id->hash);

		if (claim(&probe, (probe.layout & LAYOUT_SHIFT) ? 1 : groups,
				  slots_needed(id), claimed, words))
			return true;
		if (!grow(shmem_partition(id->hash)))
			return false;
	}
}

/* How far to look for room: not far where another bucket gives way anyway. */
static uint32
groups_for(PlaceMode mode)
{
	return mode == PLACE_OR_SPILL || mode == PLACE_IF_ROOM ? PROBE_GROUPS : EVICT_GROUPS;
}

/* Let a bucket owe so much, if it is here. */
static bool
set_here(const BucketId *id, const BucketRule *rule, Owed owed)
{
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &word)) != NULL)
	{
		Owed		full_at = owed + (rule->timed ? monotonic_ns() : 0);

		if (!lock_word(slot, word))
			continue;
		slot->u.bucket.capacity = rule->capacity;
		slot->u.bucket.refill = rule->refill;
		unlock_changed(slot, word, full_at);
		return true;
	}
	return false;
}

typedef enum PlaceResult
{
	PLACED,						/* or full, and so nowhere */
	PLACE_ELSEWHERE,			/* in the table */
	PLACE_BUSY					/* start anew */
} PlaceResult;

/* Make a bucket that is not here, holding its partition's lock. */
static PlaceResult
place_locked(const BucketId *id, const BucketRule *rule, Owed owed, PlaceMode mode)
{
	int			partition = shmem_partition(id->hash);
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];

	while (!claim_or_grow(id, groups_for(mode), claimed, words))
	{
		Probe		probe = probe_of(id->hash);

		if (mode == PLACE_OR_SPILL)
			spill_mark(partition);
		if (mode == PLACE_OR_SPILL || mode == PLACE_IF_ROOM)
			return PLACE_ELSEWHERE;
		if (evict_one(&probe, partition, NULL, 0) != EVICTED)
			return PLACE_BUSY;
	}
	fill(id, rule, owed + (rule->timed ? monotonic_ns() : 0),
		 slots_needed(id), claimed, words);
	return PLACED;
}

/*
 * Decide a call on a bucket that is not here, but owes so much, and make it, if it
 * is full no more; or let it, here or not, owe so much.  See shmem_place().
 */
static bool
place_or_set(const BucketId *id, const BucketRule *rule, Owed owed, bool set,
			 PlaceMode mode, Decision *decision)
{
	int			partition = shmem_partition(id->hash);
	PlaceResult result = PLACE_BUSY;

	for (int round = 0; result == PLACE_BUSY; round++)
	{
		Slot	   *slot;
		uint64		word;

		if (round > 0)
			give_way(round);
		shmem_lock_partition(partition);

		/*
		 * Somebody else may have made it meanwhile, and may have its word locked: that
		 * is not waited for with the partition's lock held.
		 */
		if (find_once(id, &slot, &word) != FIND_ABSENT)
		{
			shmem_unlock_partition(partition);
			if (set ? set_here(id, rule, owed) : shmem_consume(id, rule, decision))
				return true;
			continue;
		}
		/* from here on nobody can make it */
		if ((mode == PLACE_OR_SPILL || mode == PLACE_OR_EVICT) && spill_is_set(partition))
			result = PLACE_ELSEWHERE;
		else
		{
			decision->owed = owed;
			decision->allowed = bucket_take(rule, &decision->owed);
			result = decision->owed > 0 ?
				place_locked(id, rule, decision->owed, mode) : PLACED;
		}
		shmem_unlock_partition(partition);
	}
	return result == PLACED;
}

/*
 * Decide a call on a bucket that shmem_consume() did not find, and make the
 * bucket, which so far owes what the caller says, if it is full no more.
 *
 * False if the bucket is not made here, but belongs into the table (see memory/spill.c),
 * or stays there, if the mode is PLACE_IF_ROOM.
 */
bool
shmem_place(const BucketId *id, const BucketRule *rule, Owed owed,
			PlaceMode mode, Decision *decision)
{
	return place_or_set(id, rule, owed, false, mode, decision);
}

/* Let the bucket owe so much, under a rule that takes nothing; or false, likewise. */
bool
shmem_set(const BucketId *id, const BucketRule *rule, Owed owed, PlaceMode mode)
{
	Decision	decision;

	return place_or_set(id, rule, owed, true, mode, &decision);
}

/*
 * Take a bucket over from the table, whose row's page the caller has locked.  If it is
 * here already, it is to owe at least as much, if so asked; else it is made, if there is
 * room and it may be.  Waits for nothing: MOVE_BUSY if it would have to.
 */
MoveResult
shmem_move_in(const BucketId *id, const BucketRule *rule, Owed owed, bool raise,
			  bool make)
{
	int			partition = shmem_partition(id->hash);
	MoveResult	result = MOVE_BUSY;
	Slot	   *slot;
	uint64		word;

	if (!shmem_try_lock_partition(partition))
		return MOVE_BUSY;
	switch (find_once(id, &slot, &word))
	{
		case FIND_BUSY:
			break;
		case FIND_HERE:
			if (!raise || raise_here(slot, word, rule, owed))
				result = MOVED;
			break;
		case FIND_ABSENT:
			result = MOVE_NO_ROOM;
			if (make)
				switch (place_locked(id, rule, owed, PLACE_IF_ROOM))
				{
					case PLACED:
						result = MOVED;
						break;
					case PLACE_ELSEWHERE:
						break;
					case PLACE_BUSY:
						result = MOVE_BUSY;
						break;
				}
			break;
	}
	shmem_unlock_partition(partition);
	return result;
}

/*
 * All or nothing
 *
 * Calls on several buckets are decided with all of their words locked, so nobody
 * sees, or takes part in, half of it.  With a partition's lock or a word held nothing is
 * waited for: whatever is in somebody else's hands, or has changed since it was read,
 * makes us release all and start anew, after a while with naps in between.
 *
 * Buckets that are not here are made with their partitions' locks held, taken
 * before any word is locked.
 */

#define ALL_SPINS		10		/* rounds before the first nap */

static void
release_all(Held *held, int n)
{
	for (int i = 0; i < n; i++)
	{
		release(held[i].claimed, held[i].words, held[i].n_claimed);
		held[i].n_claimed = 0;
	}
}

/* Find the calls' buckets, and claim slots for those that are not here. */
static AllResult
find_or_claim(BucketCall *calls, int n, PlaceMode mode, Held *held,
			  PartitionSet *locked)
{
	AllResult	result = ALL_DECIDED;

	for (int i = 0; i < n; i++)
	{
		int			partition = shmem_partition(calls[i].id.hash);

		held[i].n_claimed = 0;
		switch (find_once(&calls[i].id, &held[i].slot, &held[i].word))
		{
			case FIND_HERE:
				break;
			case FIND_BUSY:
				return ALL_BUSY;
			case FIND_ABSENT:
				if (partition_set_has(locked, partition))
					break;
				partition_set_add(locked, partition);
				result = ALL_MISSING;
				break;
		}
	}
	if (result != ALL_DECIDED)
		return mode == PLACE_NOTHING ? ALL_ELSEWHERE : result;

	for (int i = 0; i < n; i++)
	{
		Probe		probe = probe_of(calls[i].id.hash);
		int			partition = shmem_partition(calls[i].id.hash);

		if (held[i].slot)
			continue;
		if ((mode == PLACE_OR_SPILL || mode == PLACE_OR_EVICT) &&
			spill_is_set(partition))
		{
			calls[i].decision.in_table = true;
			result = ALL_ELSEWHERE;
			continue;
		}
		if (calls[i].rule.take == 0)
			continue;			/* stays as it is */
		if (claim(&probe, (probe.layout & LAYOUT_SHIFT) ? 1 : groups_for(mode),
				  slots_needed(&calls[i].id), held[i].claimed, held[i].words))
			held[i].n_claimed = slots_needed(&calls[i].id);
		else if (probe.layout & LAYOUT_SHIFT)
		{
			release_all(held, n);
			(void) grow(partition);
			return ALL_BUSY;
		}
		else if (mode == PLACE_OR_SPILL)
		{
			spill_mark(partition);
			calls[i].decision.in_table = true;
			result = ALL_ELSEWHERE;
		}
		else
			return evict_one(&probe, partition, held, n) == EVICT_NONE ?
				ALL_NO_ROOM : ALL_BUSY;
	}
	return result;
}

/* Lock the words of the buckets that are here; how many, if not all of them. */
static int
lock_all(const BucketCall *calls, Held *held, int n)
{
	for (int i = 0; i < n; i++)
	{
		Slot	   *slot = held[i].slot;
		uint64		word = held[i].word;

		if (!slot)
			continue;
		/* others may take from it all the time: go by what it says now */
		while (!lock_word(slot, word))
		{
			word = pg_atomic_read_u64(&slot->word);
			if (word & WORD_LOCKED)
				return i;
		}
		if (word != held[i].word && !slot_is(slot, &calls[i].id))
		{
			unlock_unchanged(slot, word);
			return i;
		}
		held[i].word = word;
	}
	return n;
}

/* Decide on buckets all of whose words are locked, and release them. */
static void
decide_locked(BucketCall *calls, int n, Held *held, bool apply)
{
	int64		now = monotonic_ns();

	for (int i = 0; i < n; i++)
	{
		const BucketRule *rule = &calls[i].rule;
		Decision   *decision = &calls[i].decision;
		Slot	   *slot = held[i].slot;
		Owed		owed = calls[i].absent;

		if (slot)
			owed = owed_of(slot, held[i].word, now);
		if (slot && (slot->u.bucket.capacity != rule->capacity ||
					 slot->u.bucket.refill != rule->refill))
			owed = bucket_carry(slot->u.bucket.capacity, slot->u.bucket.refill,
								owed, rule);
		decision->now = now;
		decision->owed = owed;
		decision->allowed = bucket_take(rule, &owed);
		apply &= decision->allowed;
	}

	for (int i = 0; i < n; i++)
	{
		const BucketRule *rule = &calls[i].rule;
		Decision   *decision = &calls[i].decision;
		Slot	   *slot = held[i].slot;
		Owed		full_at;

		if (apply)
			(void) bucket_take(rule, &decision->owed);
		full_at = decision->owed + (rule->timed ? now : 0);

		if (slot && apply)
		{
			slot->u.bucket.capacity = rule->capacity;
			slot->u.bucket.refill = rule->refill;
			unlock_changed(slot, held[i].word, full_at);
		}
		else if (slot)
			unlock_unchanged(slot, held[i].word);
		else if (held[i].n_claimed > 0 && apply)
		{
			fill(&calls[i].id, rule, full_at,
				 held[i].n_claimed, held[i].claimed, held[i].words);
			held[i].n_claimed = 0;
		}
	}
}

/* One try, the partitions' locks held. */
static AllResult
try_all(BucketCall *calls, int n, PlaceMode mode, bool apply, Held *held,
		PartitionSet *locked)
{
	AllResult	result;

	for (int i = 0; i < n; i++)
		held[i].n_claimed = 0;
	result = find_or_claim(calls, n, mode, held, locked);
	if (result == ALL_DECIDED)
	{
		int			n_locked = lock_all(calls, held, n);

		if (n_locked == n)
			decide_locked(calls, n, held, apply);
		else
		{
			result = ALL_BUSY;
			while (n_locked-- > 0)
				if (held[n_locked].slot)
					unlock_unchanged(held[n_locked].slot, held[n_locked].word);
		}
	}
	release_all(held, n);
	return result;
}

static void
unlock_partitions(const PartitionSet *set)
{
	for (int i = 0; i < lengthof(set->bits); i++)
		for (uint64 bits = set->bits[i]; bits != 0; bits &= bits - 1)
			shmem_unlock_partition(64 * i + pg_rightmost_one_pos64(bits));
}

/* Lock the partitions, without waiting; false, and none locked, if one is not free. */
static bool
lock_partitions(const PartitionSet *set)
{
	PartitionSet done = {{0}};

	for (int i = 0; i < lengthof(set->bits); i++)
		for (uint64 bits = set->bits[i]; bits != 0; bits &= bits - 1)
		{
			int			partition = 64 * i + pg_rightmost_one_pos64(bits);

			if (!shmem_try_lock_partition(partition))
			{
				unlock_partitions(&done);
				return false;
			}
			partition_set_add(&done, partition);
		}
	return true;
}

/*
 * Try once to decide calls on different buckets: from all of them what they cost is
 * taken, or from none, also if it is not to be applied.  "locked" is what earlier
 * tries have found that they need; at first it is empty.
 *
 * ALL_ELSEWHERE: some are not here, but belong into the table; decision.in_table says
 * which.  Those of mode PLACE_NOTHING do not say.
 *
 * Waits for nothing, so the caller may hold locks on pages of the table.
 */
AllResult
shmem_try_all(BucketCall *calls, int n, PlaceMode mode, bool apply,
			  PartitionSet *locked)
{
	Held		held[MAX_CALLS];
	PartitionSet now_locked = *locked;
	AllResult	result;

	Assert(n <= MAX_CALLS);
	if (!lock_partitions(&now_locked))
		return ALL_BUSY;
	result = try_all(calls, n, mode, apply, held, locked);
	unlock_partitions(&now_locked);
	return result;
}

void
shmem_fail_no_room(int n)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("shared memory has no room for %d buckets at once", n),
			 errhint("Increase ratelimit.max_buckets.")));
}

/* The same until it is decided; false if some belong into the table. */
bool
shmem_consume_all(BucketCall *calls, int n, PlaceMode mode, bool apply)
{
	PartitionSet locked = {{0}};

	for (int round = 0;; round++)
	{
		AllResult	result;

		CHECK_FOR_INTERRUPTS();
		result = shmem_try_all(calls, n, mode, apply, &locked);
		if (result == ALL_DECIDED || result == ALL_ELSEWHERE)
			return result == ALL_DECIDED;
		if (result == ALL_NO_ROOM)
			shmem_fail_no_room(n);
		/* each round takes as long as many spins */
		if (result == ALL_BUSY && round >= ALL_SPINS)
			give_way(SPINS + round - ALL_SPINS);
	}
}

/* Lock and empty these slots if all are on the way and free; else false. */
static bool
claim_places(const Probe *probe, int needed, const uint32 *places,
			 uint32 *claimed, uint64 *words)
{
	int64		now = monotonic_ns();
	int			n = 0;

	Assert(needed > 0);
	for (int i = 0; i < needed; i++)
	{
		uint32		j = 0;

		while (j < probe_length(probe, PROBE_GROUPS) && probe_slot(probe, j) != places[i])
			j++;
		if (j == probe_length(probe, PROBE_GROUPS) ||
			!claim_slot(places[i], now, &words[n]))
			break;
		if (n == 0)
			extend_reach(probe, j);
		claimed[n++] = places[i];
	}
	if (n == needed)
		return true;
	release(claimed, words, n);
	return false;
}

/* Searches end at a slot that was never used: let there be none before this one. */
static void
free_way(const Probe *probe, uint32 place)
{
	for (uint32 i = 0; probe_slot(probe, i) != place; i++)
	{
		uint32		n = probe_slot(probe, i);

		if (store.tags[n] == TAG_FREE)
		{
			store.slots[n].link = NO_SLOT;
			store.tags[n] = TAG_CONTINUATION;
		}
	}
}

/*
 * Make a bucket that was saved, as of "now", or bring it up to date: in the slots
 * that it had, if these are known.  False if another had to give way for it.  At
 * the start of the server: nobody else is here, and no lock is taken.
 */
bool
shmem_restore(const BucketId *id, double capacity, double refill, Owed owed,
			  int64 now, const uint32 *places)
{
	Probe		probe = probe_of(id->hash);
	BucketRule	rule = {.capacity = capacity,.refill = refill};
	Owed		full_at = owed + (bucket_timed(capacity, refill) ? now : 0);
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];
	bool		room = true;
	uint64		word;
	Slot	   *slot = find(id, &word);

	if (slot && lock_word(slot, word))
	{
		slot->u.bucket.capacity = capacity;
		slot->u.bucket.refill = refill;
		unlock_changed(slot, word, owed > 0 ? full_at : 0);
		return true;
	}
	if (owed <= 0)
		return true;
	if (places && claim_places(&probe, slots_needed(id), places, claimed, words))
		free_way(&probe, claimed[0]);
	else
		while (!claim_or_grow(id, PROBE_GROUPS, claimed, words))
		{
			room = false;
			probe = probe_of(id->hash);
			(void) evict_one(&probe, shmem_partition(id->hash), NULL, 0);
		}
	fill(id, &rule, full_at, slots_needed(id), claimed, words);
	return room;
}
