/*
 * memory/together.c
 *		Calls on several buckets in shared memory that are decided together: all of
 *		them or none.
 *
 * They are decided with all of the buckets' words locked, so no other process sees
 * half of the calls, or takes part in half of them.  With a partition's lock or a
 * word held we wait for nothing: if another process holds a word, or a bucket has
 * changed since it was read, we release everything and start anew, after a while with
 * naps in between.
 *
 * Buckets that are not here are made with their partitions' locks held, which are
 * taken before any word is locked.  One that begins with fewer tokens than its
 * capacity (decide/policies.c) is made even if nothing is taken from it: it refills
 * from then on.  memory/slots.h explains how buckets are kept.
 */
#include "postgres.h"

#include "memory/claim.h"
#include "memory/grow.h"
#include "memory/partitions.h"
#include "memory/search.h"
#include "memory/spill.h"
#include "memory/together.h"
#include "memory/wait.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"

#define ALL_SPINS		10		/* how many rounds come before the first nap */

/* Release all claimed slots. */
static void
release_all(Held *held, int n)
{
	for (int i = 0; i < n; i++)
	{
		release_slots(held[i].claimed, held[i].words, held[i].n_claimed);
		held[i].n_claimed = 0;
	}
}

/*
 * Find the calls' buckets.  "locked" has the partitions that are locked.  Add to it
 * those of buckets that are not here, and return ALL_MISSING if that adds any.  If
 * none may be made, one that is not here ends the search instead: its partition must
 * not be locked, because the next try would then take it for one to make a bucket in.
 */
static AllResult
find_all(const BucketCall *calls, int n, PlaceMode mode, Held *held,
		 PartitionSet *locked)
{
	AllResult	result = ALL_DECIDED;

	for (int i = 0; i < n; i++)
	{
		int			partition = memory_partition(calls[i].id.hash);

		switch (find_once(&calls[i].id, &held[i].slot, &held[i].word))
		{
			case FIND_HERE:
				break;
			case FIND_BUSY:
				return ALL_BUSY;
			case FIND_ABSENT:
				if (mode == PLACE_NOTHING)
					return ALL_ELSEWHERE;
				if (partition_set_has(locked, partition))
					break;
				partition_set_add(locked, partition);
				result = ALL_MISSING;
				break;
		}
	}
	return result;
}

/*
 * Claim slots for those of the calls' buckets that are not here.  The locks of their
 * partitions are held.
 */
static AllResult
claim_absent(BucketCall *calls, int n, PlaceMode mode, Held *held)
{
	AllResult	result = ALL_DECIDED;

	for (int i = 0; i < n; i++)
	{
		Probe		probe = probe_of(calls[i].id.hash);
		int			partition = memory_partition(calls[i].id.hash);

		if (held[i].slot)
			continue;
		if (period_is_stale(calls[i].rule.refill))
		{
			result = ALL_ELSEWHERE;
			continue;
		}
		if ((mode == PLACE_OR_SPILL || mode == PLACE_OR_EVICT) &&
			spill_is_set(partition))
		{
			calls[i].decision.in_table = true;
			result = ALL_ELSEWHERE;
			continue;
		}
		if (calls[i].rule.take == 0 && calls[i].absent == 0)
			continue;			/* nothing to keep: no bucket is made */
		if (claim_slots(&probe, (probe.layout & LAYOUT_SHIFT) ? 1 : groups_for(mode),
						slots_needed(&calls[i].id), held[i].claimed, held[i].words))
			held[i].n_claimed = slots_needed(&calls[i].id);
		else if (probe.layout & LAYOUT_SHIFT)
		{
			release_all(held, n);
			(void) grow_partition(partition);
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

/*
 * Lock the words of the buckets that are here, call by call.  Return for how many
 * calls that succeeded; n if it did for all.
 */
static int
lock_all(const BucketCall *calls, Held *held, int n)
{
	for (int i = 0; i < n; i++)
	{
		Slot	   *slot = held[i].slot;
		uint64		word = held[i].word;

		if (!slot)
			continue;
		/* others may take from the bucket all the time: lock what it is now */
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

/* Decide calls on buckets whose words are all locked, and release them. */
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
			owed = bucket_in_period(rule->refill) ? full_at_of(slot, held[i].word) :
				owed_of(slot, held[i].word, now);
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
		BucketRule	joined;
		Owed		full_at;

		if (apply)
			(void) bucket_take(rule, &decision->owed);
		if (slot && bucket_in_period(rule->refill))
		{
			joined = *rule;
			bucket_join_period(&joined, slot->u.bucket.capacity, slot->u.bucket.refill);
			decision->ends = joined.refill != rule->refill ? joined.refill : 0;
			rule = &joined;
		}
		full_at = decision->owed + (rule->timed ? now : 0);

		if (slot && apply)
			unlock_with_rule(slot, held[i].word, rule, full_at);
		else if (slot)
			unlock_unchanged(slot, held[i].word);
		else if (held[i].n_claimed > 0 && (apply || calls[i].absent > 0))
		{
			fill_slots(&calls[i].id, rule, full_at,
					   held[i].n_claimed, held[i].claimed, held[i].words);
			held[i].n_claimed = 0;
		}
	}
}

/* Do what memory_try_all() says, with the partitions' locks held. */
static AllResult
try_all(BucketCall *calls, int n, PlaceMode mode, bool apply, Held *held,
		PartitionSet *locked)
{
	AllResult	result;

	for (int i = 0; i < n; i++)
		held[i].n_claimed = 0;
	result = find_all(calls, n, mode, held, locked);
	if (result == ALL_DECIDED)
		result = claim_absent(calls, n, mode, held);
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
			memory_unlock_partition(64 * i + pg_rightmost_one_pos64(bits));
}

/*
 * Lock the partitions without waiting.  Return false, with none locked, if one of
 * them is not free.
 */
static bool
lock_partitions(const PartitionSet *set)
{
	PartitionSet done = {{0}};

	for (int i = 0; i < lengthof(set->bits); i++)
		for (uint64 bits = set->bits[i]; bits != 0; bits &= bits - 1)
		{
			int			partition = 64 * i + pg_rightmost_one_pos64(bits);

			if (!memory_try_lock_partition(partition))
			{
				unlock_partitions(&done);
				return false;
			}
			partition_set_add(&done, partition);
		}
	return true;
}

/*
 * Try once to decide calls on different buckets.  Their costs are taken from all of
 * the buckets, or from none if one of the calls is denied or "apply" is false.
 * "locked" has the partitions that earlier tries have found that they need to lock;
 * at first it is empty.
 *
 * ALL_ELSEWHERE means that some buckets are not here, but belong in the table;
 * decision.in_table says which, unless the mode is PLACE_NOTHING.  Or some rules are
 * stale (core/clock.c).
 *
 * This waits for nothing, so the caller may hold locks on pages of the table.
 */
AllResult
memory_try_all(BucketCall *calls, int n, PlaceMode mode, bool apply,
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

/* Raise the error for ALL_NO_ROOM. */
void
memory_fail_no_room(int n)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("shared memory has no room for %d buckets at once", n),
			 errhint("Increase ratelimit.max_buckets.")));
}

/*
 * Try until the calls are decided.  Return false if some buckets belong in the table.
 */
bool
memory_consume_all(BucketCall *calls, int n, PlaceMode mode, bool apply)
{
	PartitionSet locked = {{0}};

	for (int round = 0;; round++)
	{
		AllResult	result;

		CHECK_FOR_INTERRUPTS();
		result = memory_try_all(calls, n, mode, apply, &locked);
		if (result == ALL_DECIDED || result == ALL_ELSEWHERE)
			return result == ALL_DECIDED;
		if (result == ALL_NO_ROOM)
			memory_fail_no_room(n);
		/* a round takes as long as many spins, so few come before a nap */
		if (result == ALL_BUSY && round >= ALL_SPINS)
			give_way(SPINS + round - ALL_SPINS);
	}
}
