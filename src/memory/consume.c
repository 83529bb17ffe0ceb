/*
 * memory/consume.c
 *		Deciding calls on buckets that are in shared memory, as far as this is not
 *		inline in memory/short_way.h.
 *
 * Nothing here makes a bucket: that is done in memory/place.c.  memory/slots.h
 * explains how buckets are kept, and why a decision needs no lock.
 */
#include "postgres.h"

#include "memory/consume.h"
#include "memory/short_way.h"

bool		memory_denied_last = false;
uint64		memory_last_hash = 0;

/*
 * Decide what swap_word() leaves, by locking the slot.  Return false if somebody else
 * has changed the bucket meanwhile.
 *
 * What to write is worked out before the word is locked, so that the word is locked
 * for a dozen instructions only, and a process that is stopped is hardly ever stopped
 * there.  If others change the bucket all the time, the lock may fail again and
 * again, so after two failures the word is locked first.
 */
bool
consume_locked(Slot *slot, uint64 word, const BucketRule *rule,
			   Decision *decision)
{
	static int	failures = 0;	/* to lock, one after the other */
	bool		locked = failures > 1;
	State		state;
	BucketRule	joined;			/* the rule, in the bucket's period */
	Owed		owed;
	int64		now;

	if (bucket_rule_is_closed(rule))
	{
		/* the bucket keeps its parameters, as if nobody had called */
		decision->allowed = false;
		decision->owed = 0;
		decision->now = monotonic_ns();
		return true;
	}
	if (locked && !lock_word(slot, word))
		return false;
	if (!read_state(slot, word, &state) && !locked)
		return false;

	now = monotonic_ns();
	owed = state_owes_by(&state, now, rule);
	decision->allowed = bucket_take_or_give(rule, &owed);
	decision->owed = owed;
	decision->now = now;
	if (bucket_in_period(rule->refill))
	{
		joined = *rule;
		bucket_join_period(&joined, state.capacity, state.refill);
		decision->ends = joined.refill != rule->refill ? joined.refill : 0;
		rule = &joined;
	}

	if (!locked && !lock_word(slot, word))
	{
		failures++;
		return false;
	}
	failures = 0;
	unlock_with_rule(slot, word, rule, rule->timed ? now + owed : owed);
	return true;
}

/* Decide a call on a bucket that is here.  Return false if it is not. */
bool
memory_consume(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	return consume_here(id, rule, decision);
}

/*
 * Tell what a call would get, without changing anything.  Return false if the bucket
 * is not here.
 */
bool
memory_peek(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &word)) != NULL)
	{
		State		state;
		Owed		owed;

		if (!read_state(slot, word, &state))
			continue;
		owed = state_owes_by(&state, monotonic_ns(), rule);
		decision->owed = owed;
		decision->allowed = bucket_take(rule, &owed);
		decision->ends = 0;
		if (bucket_in_period(rule->refill) && state.refill < rule->refill)
		{
			BucketRule	joined = *rule;

			bucket_join_period(&joined, state.capacity, state.refill);
			decision->ends = joined.refill != rule->refill ? joined.refill : 0;
		}
		return true;
	}
	return false;
}
