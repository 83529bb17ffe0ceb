/*
 * memory/administration.c
 *		What administrators and the ends of transactions do to buckets in shared
 *		memory: reset them, give tokens back, forget a database's.
 *
 * Nothing here makes a bucket.  memory/slots.h explains how buckets are kept.
 *
 * As in consume_locked(), what to write is worked out before the word is locked.
 * These operations are rare, so if another process changes the bucket meanwhile they
 * start anew.
 */
#include "postgres.h"

#include "core/oids.h"
#include "memory/administration.h"
#include "memory/search.h"
#include "memory/wait.h"
#include "miscadmin.h"

/* Slots between looks at whether the caller has been cancelled. */
#define CHECK_EVERY		1024

/* Make the bucket full.  Return whether it was here, and not full. */
bool
memory_reset(const BucketId *id)
{
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &word)) != NULL)
	{
		State		state;
		bool		living;

		if (!read_state(slot, word, &state))
			continue;
		living = state_owes(&state, monotonic_ns()) > 0;
		if (!lock_word(slot, word))
			continue;
		unlock_changed(slot, word, 0);
		return living;
	}
	return false;
}

/*
 * Giving back
 *
 * A transaction that has been undone gives back what it took, at a point where
 * nothing may fail and nobody can cancel.  A word that stays locked is that of a
 * stopped process.  Its bucket is given up after a second, and the tokens stay taken.
 * As the same process may hold more words, for a while the next ones are not waited
 * for.
 */
#define GIVE_PATIENCE	INT64CONST(1000000000)	/* ns */
#define IMPATIENT_FOR	INT64CONST(10000000000)

/*
 * Find the bucket, waiting without end only if that can be cancelled.  Return false
 * if the bucket is not here, or is given up.
 */
static bool
find_to_give(const BucketId *id, Slot **slot, uint64 *word)
{
	static int64 impatient_until = 0;
	int64		patience = monotonic_ns() < impatient_until ? 0 : GIVE_PATIENCE;
	FindResult	result;

	for (int round = 0; (result = find_once(id, slot, word)) == FIND_BUSY; round++)
	{
		if (!give_way_for(round, INTERRUPTS_CAN_BE_PROCESSED() ? NULL : &patience))
		{
			impatient_until = monotonic_ns() + IMPATIENT_FOR;
			return false;
		}
	}
	return result == FIND_HERE;
}

/*
 * Put tokens back, by the bucket's own parameters; *given is how many it had room
 * for.  Return false if the bucket is not here, or is given up.
 */
bool
memory_give(const BucketId *id, double tokens, double *given)
{
	Slot	   *slot;
	uint64		word;

	while (find_to_give(id, &slot, &word))
	{
		State		state;
		BucketRule	own;
		int64		now = monotonic_ns();
		Owed		owed;
		Owed		left;

		if (!read_state(slot, word, &state))
			continue;
		bucket_rule(&own, state.capacity, state.refill, tokens);
		owed = state_owes(&state, now);
		/* what was taken in another period is not given back to this one */
		if (bucket_in_period(state.refill) && state.refill != id->ends)
		{
			*given = 0;
			return true;
		}
		left = bucket_give(&own, owed);
		if (!lock_word(slot, word))
			continue;
		unlock_changed(slot, word, own.timed ? now + left : left);
		*given = left > 0 ? tokens : Min(tokens, bucket_lacks(&own, owed));
		return true;
	}
	return false;
}

/*
 * Settle a reservation of so many tokens, of which so many are used, by the bucket's
 * own parameters; *left is what the bucket then has.  Return false if the bucket is
 * not here, or is given up.
 */
bool
memory_settle(const BucketId *id, double reserved, double used, double *left)
{
	Slot	   *slot;
	uint64		word;

	while (find_to_give(id, &slot, &word))
	{
		State		state;
		BucketRule	own;
		int64		now = monotonic_ns();
		Owed		owed;

		if (!read_state(slot, word, &state))
			continue;
		bucket_rule(&own, state.capacity, state.refill, reserved);
		owed = state_owes(&state, now);
		/* what was reserved in another period is not settled in this one */
		if (bucket_in_period(state.refill) && state.refill != id->ends)
		{
			*left = bucket_tokens(&own, owed);
			return true;
		}
		owed = bucket_settle(&own, used, owed);
		if (!lock_word(slot, word))
			continue;
		unlock_changed(slot, word, own.timed ? now + owed : owed);
		*left = bucket_tokens(&own, owed);
		return true;
	}
	return false;
}

/* memory_give() where nothing may fail, after whatever else has failed. */
void
memory_give_back(const BucketId *id, double tokens)
{
	double		given;

	HOLD_INTERRUPTS();
	(void) memory_give(id, tokens, &given);
	RESUME_INTERRUPTS();
}

/*
 * Does the slot's bucket have this limiter, with or without a period?  The answer is
 * reliable only as that of slot_is() is.
 */
static bool
limiter_is(const Slot *slot, const char *limiter, int limiter_len)
{
	char		names[MAX_NAMES];
	int			len = slot->u.bucket.name.limiter_len;

	if (len < limiter_len)
		return false;
	slot_names(slot, names);
	return memcmp(names, limiter, limiter_len) == 0 &&
		(len == limiter_len || names[limiter_len] == PERIOD_SEPARATOR);
}

/* Which buckets to make full, and how far that has got. */
typedef struct Reset
{
	Oid			database;
	const char *limiter;		/* NULL: those of every limiter ... */
	int			limiter_len;
	bool		blocks;			/* ... and, if set, blocks, too */
	int64	   *patience;		/* of a caller that cannot be cancelled, or NULL */
	int64		visited;		/* slots */
	int64		done;			/* buckets that have been made full */
} Reset;

/* Make the slot's bucket full if it is wanted and lives.  Return whether it did. */
static bool
reset_slot(uint32 n, const Reset *reset)
{
	Slot	   *slot = &store.slots[n];

	while (((volatile uint32 *) store.tags)[n] >= TAG_FIRST)
	{
		uint64		word;
		State		state;
		bool		living;

		if (!read_word_for(slot, &word, reset->patience))
			return false;
		if (slot->database != reset->database)
			return false;
		if (reset->limiter ? !limiter_is(slot, reset->limiter, reset->limiter_len) :
			!reset->blocks && slot->u.bucket.name.bytes[0] == BLOCK_PREFIX)
		{
			if (unchanged(slot, word))
				return false;
			continue;
		}
		if (!read_state(slot, word, &state))
			continue;
		living = state_owes(&state, monotonic_ns()) > 0;
		if (!living)
			return false;
		if (!lock_word(slot, word))
			continue;
		unlock_changed(slot, word, 0);
		return true;
	}
	return false;
}

/* Reset the slot's bucket if it is wanted; for visit_slots(). */
static bool
visit_to_reset(uint32 n, void *arg)
{
	Reset	   *reset = arg;

	if (reset->visited++ % CHECK_EVERY == 0)
		CHECK_FOR_INTERRUPTS();
	reset->done += reset_slot(n, reset);
	return true;
}

/*
 * Make all buckets of a database, or of a limiter in it, full, except blocks.  Return
 * how many were not full.
 */
int64
memory_reset_all(Oid database, const char *limiter, int limiter_len)
{
	Reset		reset = {database, limiter, limiter_len};

	visit_slots(visit_to_reset, &reset, NULL);
	return reset.done;
}

/*
 * Make all buckets of a database that is gone full, so that their slots are free.
 * This happens while a transaction commits, so a bucket that a stopped process holds
 * is given up after a second, and may stay, as if that process had made one more
 * call.
 */
void
memory_forget_database(Oid database)
{
	int64		patience = GIVE_PATIENCE;
	Reset		reset = {database,.blocks = true,.patience = &patience};

	visit_slots(visit_to_reset, &reset, &patience);
}

/* Return the database of the slot's bucket if it lives, else InvalidOid. */
static Oid
living_in(uint32 n)
{
	Slot	   *slot = &store.slots[n];

	while (((volatile uint32 *) store.tags)[n] >= TAG_FIRST)
	{
		uint64		word = pg_atomic_read_u64(&slot->word);
		Oid			database;
		State		state;

		/* it may live, as a process uses it, for which we must not wait */
		if (word & WORD_LOCKED)
			return slot->database;
		pg_read_barrier();
		database = slot->database;
		if (!read_state(slot, word, &state))
			continue;
		return state_owes(&state, monotonic_ns()) > 0 ? database : InvalidOid;
	}
	return InvalidOid;
}

/*
 * Add to a list of n databases those that have living buckets here.  Return how many
 * the list then has, at most max.
 */
int
memory_databases(Oid *databases, int n, int max)
{
	for (uint32 slot = 0; slot < n_slots(); slot++)
	{
		Oid			database;

		if (slot % CHECK_EVERY == 0)
			CHECK_FOR_INTERRUPTS();
		/* most are of one database, so hardly any has to be looked at closely */
		database = store.slots[slot].database;
		if (!OidIsValid(database) || oids_have(databases, n, database))
			continue;
		database = living_in(slot);
		if (OidIsValid(database))
			n = oids_add(databases, n, max, database);
	}
	return n;
}
