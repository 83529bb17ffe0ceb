/*
 * memory/place.c
 *		Making a bucket in shared memory that is not there yet: for a call, to set
 *		what it owes, or to take it over from the table.
 *
 * Slots for it are found in memory/claim.c.  Several buckets at once are made in
 * memory/together.c.  memory/slots.h explains how buckets are kept, and who may wait
 * for what.
 *
 * Why a bucket is in one slot only.  A bucket is made only by a process that holds
 * its partition's lock and has not found it (find_once()), and while that lock is
 * held no other process makes, moves or takes away a bucket there.
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

/*
 * How many groups to look through for room: fewer if another bucket gives way anyway.
 */
uint32
groups_for(PlaceMode mode)
{
	return mode == PLACE_OR_SPILL || mode == PLACE_IF_ROOM ? PROBE_GROUPS : EVICT_GROUPS;
}

/* Let a bucket owe so much, under this rule.  Return false if it is not here. */
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
		unlock_with_rule(slot, word, rule, full_at);
		return true;
	}
	return false;
}

typedef enum PlaceResult
{
	PLACED,						/* or it is full, and so is nowhere */
	PLACE_ELSEWHERE,			/* it belongs in the table */
	PLACE_BUSY					/* the caller must start anew */
} PlaceResult;

/* Make a bucket that is not here, with its partition's lock held. */
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
 * Do what memory_place() or, if "set" is true, memory_set() says.  The bucket may
 * have been made by somebody else by now.
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
		 * Somebody else may have made it meanwhile, and may have locked its word, for
		 * which we must not wait with the partition's lock held.
		 */
		if (find_once(id, &slot, &word) != FIND_ABSENT)
		{
			memory_unlock_partition(partition);
			if (set ? set_here(id, rule, owed) : memory_consume(id, rule, decision))
				return true;
			continue;
		}
		/* from here on nobody else can make it */
		if (((mode == PLACE_OR_SPILL || mode == PLACE_OR_EVICT) && spill_is_set(partition)) ||
			period_is_stale(rule->refill))
			result = PLACE_ELSEWHERE;
		else
		{
			decision->owed = owed;
			decision->allowed = bucket_take_or_give(rule, &decision->owed);
			result = decision->owed > 0 ?
				place_locked(id, rule, decision->owed, mode) : PLACED;
		}
		memory_unlock_partition(partition);
	}
	return result == PLACED;
}

/*
 * Decide a call on a bucket that memory_consume() did not find, and that so far owes
 * what the caller says.  Make the bucket if it is not full afterwards.
 *
 * Return false if the bucket is not made here: it belongs in the table (see
 * memory/spill.c), or, if the mode is PLACE_IF_ROOM, it stays there; or the rule is
 * stale (core/clock.c).
 */
bool
memory_place(const BucketId *id, const BucketRule *rule, Owed owed,
			 PlaceMode mode, Decision *decision)
{
	return place_or_set(id, rule, owed, false, mode, decision);
}

/*
 * Let the bucket owe so much, whether it is here or not, under a rule that takes
 * nothing.  Return false as memory_place() does.
 */
bool
memory_set(const BucketId *id, const BucketRule *rule, Owed owed, PlaceMode mode)
{
	Decision	decision;

	return place_or_set(id, rule, owed, true, mode, &decision);
}

/*
 * See to it that the slot's bucket owes at least so much, under this rule.  Return
 * false if the bucket has changed since its word was read.
 */
static bool
raise_here(Slot *slot, uint64 word, const BucketRule *rule, Owed owed)
{
	State		state;
	int64		now = monotonic_ns();
	Owed		most;

	if (!read_state(slot, word, &state))
		return false;
	/* what was used in an earlier period than the bucket's does not count */
	if (bucket_in_period(rule->refill) && state.refill < rule->refill)
		return true;
	most = Max(owed, state_owes_by(&state, now, rule));
	if (!lock_word(slot, word))
		return false;
	unlock_with_rule(slot, word, rule, rule->timed ? now + most : most);
	return true;
}

/*
 * Take a bucket over from the table; the caller has locked the page of its row.  If
 * the bucket is here already, "raise" says whether it is then to owe at least as much
 * as the row says.  If it is not, "make" says whether it is to be made, if there is
 * room.
 *
 * This waits for nothing, and returns MOVE_BUSY if it would have to.
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
