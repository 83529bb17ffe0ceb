/*
 * shmem_admin.c
 *		Buckets in shared memory, as an administrator resets and looks at them.
 *
 * How they are kept: shmem_slots.h.
 */
#include "shmem_slots.h"

#include "miscadmin.h"

/* Make the bucket full.  Was it here, and not full? */
bool
shmem_reset(const BucketId *id)
{
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &word)) != NULL)
	{
		if (lock_word(slot, word))
		{
			bool		living = owed_of(slot, word, monotonic_ns()) > 0;

			unlock_changed(slot, word, 0);
			return living;
		}
	}
	return false;
}

/* See to it that a bucket, by a rule, owes at least so much; false if not here. */
bool
shmem_raise(const BucketId *id, const BucketRule *rule, Owed owed)
{
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &word)) != NULL)
	{
		int64		now;

		if (!lock_word(slot, word))
			continue;
		now = monotonic_ns();
		owed = Max(owed, bucket_carry(slot->u.bucket.capacity, slot->u.bucket.refill,
									  owed_of(slot, word, now), rule));
		slot->u.bucket.capacity = rule->capacity;
		slot->u.bucket.refill = rule->refill;
		unlock_changed(slot, word, rule->timed ? now + owed : owed);
		return true;
	}
	return false;
}

/*
 * Put tokens back, by the bucket's own parameters; how many it had room for.
 * False if it is not here.
 */
bool
shmem_give(const BucketId *id, double tokens, double *given)
{
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &word)) != NULL)
	{
		int64		now;
		BucketRule	own;
		Owed		owed;
		Owed		left;

		if (!lock_word(slot, word))
			continue;
		now = monotonic_ns();
		bucket_rule(&own, slot->u.bucket.capacity, slot->u.bucket.refill, tokens);
		owed = owed_of(slot, word, now);
		left = bucket_give(&own, owed);
		unlock_changed(slot, word, own.timed ? now + left : left);
		*given = left > 0 ? tokens : Min(tokens, bucket_lacks(&own, owed));
		return true;
	}
	return false;
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

/* Make the slot's bucket full if it is of the database, and the limiter, if any. */
static bool
reset_slot(uint32 n, Oid database, const char *limiter, int limiter_len)
{
	Slot	   *slot = &store.slots[n];

	while (((volatile uint32 *) store.tags)[n] >= TAG_FIRST)
	{
		uint64		word = read_word(slot);
		bool		living = false;

		if (slot->database != database)
			return false;
		if (!lock_word(slot, word))
			continue;
		if (slot->database == database &&
			(limiter ? limiter_is(slot, limiter, limiter_len) :
			 slot->u.bucket.name.bytes[0] != BLOCK_PREFIX))
		{
			living = owed_of(slot, word, monotonic_ns()) > 0;
			unlock_changed(slot, word, 0);
		}
		else
			unlock_unchanged(slot, word);
		return living;
	}
	return false;
}

/*
 * Make all buckets of a database, or of a limiter in it, full, blocks excepted;
 * how many.
 */
int64
shmem_reset_all(Oid database, const char *limiter, int limiter_len)
{
	uint32		per_partition = store.groups * GROUP_SLOTS;
	int64		reset = 0;

	for (uint32 partition = 0; partition < store.partitions; partition++)
	{
		pg_atomic_uint32 *layout = &store.header->layout[partition];
		uint32		before;

		/* buckets that moved meanwhile may have passed us by */
		do
		{
			before = pg_atomic_read_u32(layout);
			pg_read_barrier();
			for (uint32 i = 0; i < per_partition; i++)
			{
				if (i % 1024 == 0)
					CHECK_FOR_INTERRUPTS();
				reset += reset_slot(partition_slot(partition, i), database,
									limiter, limiter_len);
			}
			pg_read_barrier();
		} while (pg_atomic_read_u32(layout) != before || (before & LAYOUT_MOVING));
	}
	return reset;
}

/* Add to n databases those that have buckets here: their number, at most max. */
int
shmem_databases(Oid *databases, int n, int max)
{
	for (uint32 slot = 0; slot < shmem_slots(); slot++)
	{
		Oid			database = store.slots[slot].database;
		int			i;

		if (slot % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (store.tags[slot] < TAG_FIRST || !OidIsValid(database))
			continue;
		for (i = 0; i < n && databases[i] != database; i++)
			;
		if (i == n && n < max)
			databases[n++] = database;
	}
	return n;
}

uint32
shmem_slots(void)
{
	return store.partitions * store.groups * GROUP_SLOTS;
}

/*
 * Copy out the slot's bucket if it lives and is the database's.  Who looks at one
 * slot after the other may see a bucket that moves meanwhile twice, or not.
 */
bool
shmem_view(uint32 n, Oid database, BucketView *view)
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
shmem_partition_stats(int partition, Oid database, int64 *n_slots,
					  int64 *living, int64 *evicted)
{
	uint32		per_partition = store.groups * GROUP_SLOTS;
	BucketView	view;

	*n_slots = per_partition;
	*living = 0;
	for (uint32 i = 0; i < per_partition; i++)
		*living += shmem_view(partition_slot(partition, i), database, &view);
	*evicted = (int64) pg_atomic_read_u64(&store.header->evicted[partition]);
}
