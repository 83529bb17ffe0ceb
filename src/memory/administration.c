/*
 * memory/administration.c
 *		Buckets in shared memory, as an administrator resets and looks at them.
 *
 * How they are kept: memory/slots.h.
 */
#include "postgres.h"

#include "memory/administration.h"
#include "memory/search.h"
#include "memory/wait.h"
#include "miscadmin.h"

/*
 * As in consume_locked(), what to write is worked out before the word is locked.  These
 * are rare, so if somebody else changes the bucket meanwhile they start anew.
 */

/* Make the bucket full.  Was it here, and not full? */
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
 * A transaction that has been undone gives back what it took, where nothing may fail
 * and nobody can cancel.  A bucket whose word stays locked, which only that of a stopped
 * process does, is given up after a second: its tokens then stay taken.  As the same
 * process may hold more, the next ones are not waited for.
 */
#define GIVE_PATIENCE	INT64CONST(1000000000)	/* ns */
#define IMPATIENT_FOR	INT64CONST(10000000000)

/* Find the bucket, waiting as the caller may; false if it is not here, or given up. */
static bool
find_to_give(const BucketId *id, Slot **slot, uint64 *word)
{
	static int64 impatient_until = 0;
	int64		patience = monotonic_ns() < impatient_until ? 0 : GIVE_PATIENCE;
	FindResult	result;

	for (int round = 0; (result = find_once(id, slot, word)) == FIND_BUSY; round++)
	{
		if (INTERRUPTS_CAN_BE_PROCESSED())
			give_way(round);
		else if (!give_way_for(round, &patience))
		{
			impatient_until = monotonic_ns() + IMPATIENT_FOR;
			return false;
		}
	}
	return result == FIND_HERE;
}

/*
 * Put tokens back, by the bucket's own parameters; how many it had room for.
 * False if it is not here.
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
		left = bucket_give(&own, owed);
		if (!lock_word(slot, word))
			continue;
		unlock_changed(slot, word, own.timed ? now + left : left);
		*given = left > 0 ? tokens : Min(tokens, bucket_lacks(&own, owed));
		return true;
	}
	return false;
}

/* The same where nothing may fail, whatever it was that failed before. */
void
memory_give_back(const BucketId *id, double tokens)
{
	double		given;

	HOLD_INTERRUPTS();
	(void) memory_give(id, tokens, &given);
	RESUME_INTERRUPTS();
}

static bool
limiter_is(const Slot *slot, const char *limiter, int limiter_len)
{
	char		names[MAX_NAMES];

	if (slot->u.bucket.name.limiter_len != limiter_len)
		return false;
	slot_names(slot, names);
	return memcmp(names, limiter, limiter_len) == 0;
}

/* Which buckets are to be made full. */
typedef struct Wanted
{
	Oid			database;
	const char *limiter;		/* NULL: every limiter's ... */
	int			limiter_len;
	bool		blocks;			/* ... and blocks, too */
	int64	   *patience;		/* of one who cannot be cancelled, or NULL */
} Wanted;

/* Make the slot's bucket full if it is wanted, and was not. */
static bool
reset_slot(uint32 n, const Wanted *wanted)
{
	Slot	   *slot = &store.slots[n];

	for (int round = 0; ((volatile uint32 *) store.tags)[n] >= TAG_FIRST; round++)
	{
		uint64		word = pg_atomic_read_u64(&slot->word);
		State		state;
		bool		living;

		if (word & WORD_LOCKED)
		{
			if (!wanted->patience)
				give_way(round);
			else if (!give_way_for(round, wanted->patience))
				return false;
			continue;
		}
		pg_read_barrier();
		if (slot->database != wanted->database)
			return false;
		if (wanted->limiter ? !limiter_is(slot, wanted->limiter, wanted->limiter_len) :
			!wanted->blocks && slot->u.bucket.name.bytes[0] == BLOCK_PREFIX)
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

static int64
reset_slots(const Wanted *wanted)
{
	uint32		per_partition = store.groups * GROUP_SLOTS;
	int64		reset = 0;

	for (uint32 partition = 0; partition < store.partitions; partition++)
	{
		uint32		before;

		/* buckets that moved meanwhile may have passed us by */
		do
		{
			before = wait_for_layout(partition, wanted->patience);
			pg_read_barrier();
			for (uint32 i = 0; i < per_partition; i++)
			{
				if (i % 1024 == 0)
					CHECK_FOR_INTERRUPTS();
				reset += reset_slot(partition_slot(partition, i), wanted);
			}
			pg_read_barrier();
		} while (pg_atomic_read_u32(&store.header->layout[partition]) != before);
	}
	return reset;
}

/*
 * Make all buckets of a database, or of a limiter in it, full, blocks excepted;
 * how many.
 */
int64
memory_reset_all(Oid database, const char *limiter, int limiter_len)
{
	Wanted		wanted = {database, limiter, limiter_len};

	return reset_slots(&wanted);
}

/*
 * The database's buckets are no more: all are full, and their slots free.  This happens
 * as a transaction commits, so what a stopped process holds is given up after a
 * second, and may stay: as if that process had called once more.
 */
void
memory_forget_database(Oid database)
{
	int64		patience = GIVE_PATIENCE;
	Wanted		wanted = {database,.blocks = true,.patience = &patience};

	(void) reset_slots(&wanted);
}

/* The database of the slot's bucket, if it lives; else InvalidOid. */
static Oid
living_in(uint32 n)
{
	Slot	   *slot = &store.slots[n];

	while (((volatile uint32 *) store.tags)[n] >= TAG_FIRST)
	{
		uint64		word = pg_atomic_read_u64(&slot->word);
		Oid			database;
		State		state;

		/* somebody is at it, so it may live: the launcher must not wait for that */
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

/* Add to n databases those that have living buckets here: their number, at most max. */
int
memory_databases(Oid *databases, int n, int max)
{
	for (uint32 slot = 0; slot < n_slots(); slot++)
	{
		Oid			database;
		int			i;

		if (slot % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		/* most are of one database: nearly none is looked at closely */
		database = store.slots[slot].database;
		for (i = 0; i < n && databases[i] != database; i++)
			;
		if (i < n || !OidIsValid(database) || !OidIsValid(database = living_in(slot)))
			continue;
		for (i = 0; i < n && databases[i] != database; i++)
			;
		if (i == n && n < max)
			databases[n++] = database;
	}
	return n;
}

uint32
memory_slots(void)
{
	return n_slots();
}

/*
 * Copy out the slot's bucket if it lives and is the database's.  Who looks at one
 * slot after the other may see a bucket that moves meanwhile twice, or not.
 */
bool
memory_view(uint32 n, Oid database, BucketView *view)
{
	Slot	   *slot = &store.slots[n];
	char		name[MAX_NAMES];

	while (((volatile uint32 *) store.tags)[n] >= TAG_FIRST)
	{
		uint64		word = read_word(slot);
		Owed		full_at;

		if (slot->database != database)
		{
			if (unchanged(slot, word))
				return false;
			continue;
		}
		view->capacity = slot->u.bucket.capacity;
		view->refill = slot->u.bucket.refill;
		view->limiter_len = slot->u.bucket.name.limiter_len;
		view->key_len = slot->u.bucket.name.key_len;
		full_at = full_at_of(slot, word);
		slot_names(slot, name);
		if (!unchanged(slot, word))
			continue;

		memcpy(view->limiter, name, view->limiter_len);
		memcpy(view->key, name + view->limiter_len, view->key_len);
		if (bucket_timed(view->capacity, view->refill))
			view->owed = Max(full_at - monotonic_ns(), 0);
		else
			view->owed = full_at;
		return view->owed > 0;
	}
	return false;
}

/* Of one partition: slots, living buckets of a database, evictions so far. */
void
memory_partition_stats(int partition, Oid database, int64 *n_slots,
					  int64 *living, int64 *evicted)
{
	uint32		per_partition = store.groups * GROUP_SLOTS;
	BucketView	view;

	*n_slots = per_partition;
	*living = 0;
	for (uint32 i = 0; i < per_partition; i++)
		*living += memory_view(partition_slot(partition, i), database, &view);
	*evicted = (int64) pg_atomic_read_u64(&store.header->evicted[partition]);
}
