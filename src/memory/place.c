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
 */
#include "postgres.h"

#include "memory/claim.h"
#include "memory/consume.h"
#include "memory/grow.h"
#include "memory/partitions.h"
#include "memory/place.h"
#include "memory/search.h"
#include "memory/spill.h"
#include "memory/wait.h"

/* How far to look for room: not far where another bucket gives way anyway. */
uint32
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
	int			partition = memory_partition(id->hash);
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
	fill_slots(id, rule, owed + (rule->timed ? monotonic_ns() : 0),
		 slots_needed(id), claimed, words);
	return PLACED;
}

/*
 * Decide a call on a bucket that is not here, but owes so much, and make it, if it
 * is full no more; or let it, here or not, owe so much.  See memory_place().
 */
static bool
place_or_set(const BucketId *id, const BucketRule *rule, Owed owed, bool set,
			 PlaceMode mode, Decision *decision)
{
	int			partition = memory_partition(id->hash);
	PlaceResult result = PLACE_BUSY;

	for (int round = 0; result == PLACE_BUSY; round++)
	{
		Slot	   *slot;
		uint64		word;

		if (round > 0)
			give_way(round);
		memory_lock_partition(partition);

		/*
		 * Somebody else may have made it meanwhile, and may have its word locked: that
		 * is not waited for with the partition's lock held.
		 */
		if (find_once(id, &slot, &word) != FIND_ABSENT)
		{
			memory_unlock_partition(partition);
			if (set ? set_here(id, rule, owed) : memory_consume(id, rule, decision))
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
		memory_unlock_partition(partition);
	}
	return result == PLACED;
}

/*
 * Decide a call on a bucket that memory_consume() did not find, and make the
 * bucket, which so far owes what the caller says, if it is full no more.
 *
 * False if the bucket is not made here, but belongs into the table (see memory/spill.c),
 * or stays there, if the mode is PLACE_IF_ROOM.
 */
bool
memory_place(const BucketId *id, const BucketRule *rule, Owed owed,
			PlaceMode mode, Decision *decision)
{
	return place_or_set(id, rule, owed, false, mode, decision);
}

/* Let the bucket owe so much, under a rule that takes nothing; or false, likewise. */
bool
memory_set(const BucketId *id, const BucketRule *rule, Owed owed, PlaceMode mode)
{
	Decision	decision;

	return place_or_set(id, rule, owed, true, mode, &decision);
}

/*
 * See to it that the slot's bucket, by a rule, owes at least so much; false if it has
 * changed meanwhile.
 */
static bool
raise_here(Slot *slot, uint64 word, const BucketRule *rule, Owed owed)
{
	State		state;
	int64		now = monotonic_ns();
	Owed		most;

	if (!read_state(slot, word, &state))
		return false;
	most = Max(owed, state_owes_by(&state, now, rule));
	if (!lock_word(slot, word))
		return false;
	slot->u.bucket.capacity = rule->capacity;
	slot->u.bucket.refill = rule->refill;
	unlock_changed(slot, word, rule->timed ? now + most : most);
	return true;
}

/*
 * Take a bucket over from the table, whose row's page the caller has locked.  If it is
 * here already, it is to owe at least as much, if so asked; else it is made, if there is
 * room and it may be.  Waits for nothing: MOVE_BUSY if it would have to.
 */
MoveResult
memory_move_in(const BucketId *id, const BucketRule *rule, Owed owed, bool raise,
			  bool make)
{
	int			partition = memory_partition(id->hash);
	MoveResult	result = MOVE_BUSY;
	Slot	   *slot;
	uint64		word;

	if (!memory_try_lock_partition(partition))
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
	memory_unlock_partition(partition);
	return result;
}
