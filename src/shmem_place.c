/*
 * shmem_place.c
 *		Making buckets in shared memory and taking them away, all with their
 *		partition's lock held.
 *
 * How they are kept: shmem_slots.h.
 */
#include "shmem_slots.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"

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

/*
 * Of the buckets on the way, but for those held, the one nearest to full gives
 * way.  False if there is none that could.
 */
static bool
evict_one(const Probe *probe, int partition, const Held *held, int n_held)
{
	for (;;)
	{
		int64		now = monotonic_ns();
		uint32		nearest = NO_SLOT;
		uint64		nearest_word = 0;
		double		least = 0;

		for (uint32 i = 0; i < probe_length(probe, EVICT_GROUPS); i++)
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
			if (is_held(&store.slots[n], held, n_held))
				continue;
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
			return false;
		if (lock_word(&store.slots[nearest], nearest_word))
		{
			empty(nearest);
			unlock_changed(&store.slots[nearest], nearest_word, 0);
			pg_atomic_fetch_add_u64(&store.header->evicted[partition], 1);
			return true;
		}
	}
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

/* Move the slot's bucket to where it belongs, if it lives. */
static void
move_bucket(uint32 n, int partition)
{
	Slot	   *slot = &store.slots[n];
	char		names[MAX_NAMES];
	BucketId	id;
	BucketRule	rule = {0};
	Probe		probe;
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];
	uint64		word;

	do
	{
		word = read_word(slot);
	} while (!lock_word(slot, word));

	if (owed_of(slot, word, monotonic_ns()) > 0)
	{
		slot_names(slot, names);
		make_bucket_id(&id, slot->database, names, slot->u.bucket.name.limiter_len,
					   names + slot->u.bucket.name.limiter_len, slot->u.bucket.name.key_len);
		probe = probe_of(id.hash);
		if (n / GROUP_SLOTS == group_number(partition, probe.home))
		{
			unlock_unchanged(slot, word);
			return;
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

	if (shift == 0)
		return false;
	pg_atomic_write_u32(layout, (shift - 1) | LAYOUT_MOVING);
	pg_write_barrier();
	for (uint32 i = 0; i < used; i++)
		store.reach[group_number(partition, i)] = 0;
	for (uint32 i = used * GROUP_SLOTS; i-- > 0;)
		if (store.tags[partition_slot(partition, i)] >= TAG_FIRST)
			move_bucket(partition_slot(partition, i), partition);
	pg_write_barrier();
	pg_atomic_write_u32(layout, shift - 1);
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
		if (!lock_word(slot, word))
			continue;
		slot->u.bucket.capacity = rule->capacity;
		slot->u.bucket.refill = rule->refill;
		unlock_changed(slot, word, owed + (rule->timed ? monotonic_ns() : 0));
		return true;
	}
	return false;
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
	Probe		probe;
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];

	shmem_lock_partition(partition);

	/* Somebody else may have made it meanwhile: nobody can from here on. */
	if (set ? set_here(id, rule, owed) : shmem_consume(id, rule, decision))
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
		if (claim_or_grow(id, groups_for(mode), claimed, words))
		{
			fill(id, rule,
				 decision->owed + (rule->timed ? monotonic_ns() : 0),
				 slots_needed(id), claimed, words);
			break;
		}
		if (mode == PLACE_OR_SPILL)
			spill_mark(partition);
		if (mode == PLACE_OR_SPILL || mode == PLACE_IF_ROOM)
		{
			shmem_unlock_partition(partition);
			return false;
		}
		probe = probe_of(id->hash);
		(void) evict_one(&probe, partition, NULL, 0);
	}

	shmem_unlock_partition(partition);
	return true;
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
 * All or nothing
 *
 * Calls on several buckets are decided with all of their words locked, so nobody
 * sees, or takes part in, half of it.  Nobody who holds one of them for another
 * reason waits for anything; we hold many, so we wait for none: whose word is
 * locked when we come, or has changed since we read it, makes us release all and
 * start anew.
 *
 * Buckets that are not here are made with their partitions' locks held, taken in
 * order, and before any word is locked.  Searching waits for words, so it comes
 * first; claiming slots does not.  Evicting may wait for a word while slots are
 * claimed, but then all is released, and nobody who holds a word waits for a slot
 * that is claimed.
 */

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
		held[i].slot = find(&calls[i].id, &held[i].word);
		if (held[i].slot || partition_set_has(locked, partition))
			continue;
		partition_set_add(locked, partition);
		result = ALL_MISSING;
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
		{
			return evict_one(&probe, partition, held, n) ? ALL_BUSY : ALL_NO_ROOM;
		}
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
for_each_partition(const PartitionSet *set, void (*visit) (int partition))
{
	for (int i = 0; i < lengthof(set->bits); i++)
		for (uint64 bits = set->bits[i]; bits != 0; bits &= bits - 1)
			visit(64 * i + pg_rightmost_one_pos64(bits));
}

/*
 * Try once to decide calls on different buckets: from all of them what they cost is
 * taken, or from none, also if it is not to be applied.  "locked" is what earlier
 * tries have found that they need; at first it is empty.
 *
 * ALL_ELSEWHERE: some are not here, but belong into the table; decision.in_table says
 * which.  Those of mode PLACE_NOTHING do not say.
 */
AllResult
shmem_try_all(BucketCall *calls, int n, PlaceMode mode, bool apply,
			  PartitionSet *locked)
{
	Held		held[MAX_CALLS];
	PartitionSet now_locked = *locked;
	AllResult	result;

	Assert(n <= MAX_CALLS);
	for_each_partition(&now_locked, shmem_lock_partition);
	result = try_all(calls, n, mode, apply, held, locked);
	for_each_partition(&now_locked, shmem_unlock_partition);
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

		/* who has a word locked may have lost its processor: let it go on */
		if (result == ALL_BUSY && round > 10)
			pg_usleep(Min(round, 1000));
	}
}

/* Lock and empty these slots if all are on the way and free; else false. */
static bool
claim_places(const Probe *probe, int needed, const uint32 *places,
			 uint32 *claimed, uint64 *words)
{
	int64		now = monotonic_ns();
	int			n = 0;

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

/* The database's buckets are no more. */
void
shmem_forget_database(Oid database)
{
	uint32		per_partition = store.groups * GROUP_SLOTS;

	for (uint32 partition = 0; partition < store.partitions; partition++)
	{
		shmem_lock_partition(partition);
		for (uint32 i = 0; i < per_partition; i++)
		{
			uint32		n = partition_slot(partition, i);
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
