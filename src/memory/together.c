/*
 * memory/together.c
 *		Calls on several buckets, decided together: all or nothing.
 *
 * Calls on several buckets are decided with all of their words locked, so nobody
 * sees, or takes part in, half of it.  With a partition's lock or a word held nothing is
 * waited for: whatever is in somebody else's hands, or has changed since it was read,
 * makes us release all and start anew, after a while with naps in between.
 *
 * Buckets that are not here are made with their partitions' locks held, taken
 * before any word is locked.
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

#define ALL_SPINS		10		/* rounds before the first nap */

static void
release_all(Held *held, int n)
{
	for (int i = 0; i < n; i++)
	{
		release_slots(held[i].claimed, held[i].words, held[i].n_claimed);
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
		int			partition = memory_partition(calls[i].id.hash);

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
		int			partition = memory_partition(calls[i].id.hash);

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
			fill_slots(&calls[i].id, rule, full_at,
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
			memory_unlock_partition(64 * i + pg_rightmost_one_pos64(bits));
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

void
memory_fail_no_room(int n)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("shared memory has no room for %d buckets at once", n),
			 errhint("Increase ratelimit.max_buckets.")));
}

/* The same until it is decided; false if some belong into the table. */
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
		/* each round takes as long as many spins */
		if (result == ALL_BUSY && round >= ALL_SPINS)
			give_way(SPINS + round - ALL_SPINS);
	}
}
