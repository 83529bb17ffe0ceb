/*
 * memory/living.c
 *		Looking at the living buckets in shared memory: showing them one by one, and
 *		counting them.
 *
 * Nothing here changes a bucket, takes a lock, or makes a call wait.  All slots are
 * looked at in the order in which they lie in memory, which the processor reads ahead.
 * Most of what is looked at is not wanted, and the slot's name and database tell so
 * before its word is read.  They may be read in this way although others change slots:
 * they do not change as long as a bucket is in its slot.  So a bucket that is in its
 * slot all the time is never passed over, and of one that is made or taken away
 * meanwhile either answer is right.  What is wanted is then read as memory/slots.h says.
 *
 * A bucket that moves meanwhile, because its partition grows, may be seen twice, or not
 * at all.  A caller for whom that matters goes through the slots again, until
 * memory_layouts() is the same before and after.
 */
#include "postgres.h"

#include "memory/living.h"
#include "memory/slots.h"
#include "miscadmin.h"

/* Slots between looks at the clock, and at whether the caller has been cancelled. */
#define CHECK_EVERY		1024

StaticAssertDecl(MAX_LIMITER_LEN + 1 < INLINE_BYTES,
				 "the first bytes lack what separates limiter and period");

/* How many slots there are. */
uint32
memory_slots(void)
{
	return n_slots();
}

/*
 * A number that tells whether buckets have moved meanwhile: it is smaller then.  0 if
 * some are moving.
 *
 * Whoever moves buckets sets a layout to "moving" before the first and to the new layout
 * after the last, with write barriers in between (memory/grow.c).  The barriers here keep
 * what the caller reads of slots between its two calls.  So if both numbers are the same, and
 * not 0, what it has read was not moved meanwhile.
 */
uint32
memory_layouts(void)
{
	uint32		sum = 1;

	pg_memory_barrier();
	for (uint32 i = 0; i < store.partitions; i++)
	{
		uint32		layout = pg_atomic_read_u32(&store.header->layout[i]);

		if (layout & LAYOUT_MOVING)
			return 0;
		sum += layout & LAYOUT_SHIFT;
	}
	pg_memory_barrier();
	return sum;
}

/* How many buckets of the partition have given way since the first start. */
int64
memory_evicted(int partition)
{
	return (int64) pg_atomic_read_u64(&store.header->evicted[partition]);
}

/* What a bucket owes at this time; in a period that is over, nothing. */
static Owed
owed_at(double capacity, double refill, Owed full_at, int64 now)
{
	if (bucket_timed(capacity, refill))
		return Max(full_at - now, 0);
	return bucket_in_period(refill) && period_is_over(refill, 0) ? 0 : full_at;
}

/* May the slot have a bucket that is wanted?  See above. */
static bool
may_have(const Slot *slot, Oid database, const BucketFilter *filter)
{
	const NameHead *name = &slot->u.bucket.name;
	int			at = Min(name->limiter_len, HEAD_BYTES);

	if (slot->database != database ||
		(filter->blocks && name->bytes[0] != BLOCK_PREFIX))
		return false;
	return !filter->key ||
		(name->key_len == filter->key_len &&
		 memcmp(name->bytes + at, filter->key, Min(filter->key_len, HEAD_BYTES - at)) == 0);
}

/* Copy out the slot's bucket if it lives, and is wanted. */
bool
memory_view(uint32 n, Oid database, const BucketFilter *filter, BucketView *view)
{
	Slot	   *slot = &store.slots[n];
	char		name[MAX_NAMES];

	while (((volatile uint32 *) store.tags)[n] >= TAG_FIRST)
	{
		uint64		word;
		Owed		full_at;

		if (!may_have(slot, database, filter))
			return false;
		word = read_word(slot);
		view->capacity = slot->u.bucket.capacity;
		view->refill = slot->u.bucket.refill;
		view->limiter_len = slot->u.bucket.name.limiter_len;
		view->key_len = slot->u.bucket.name.key_len;
		full_at = full_at_of(slot, word);
		slot_names(slot, name);
		if (!may_have(slot, database, filter) || !unchanged(slot, word))
			continue;

		if (filter->key &&
			memcmp(name + view->limiter_len, filter->key, filter->key_len) != 0)
			return false;
		view->owed = owed_at(view->capacity, view->refill, full_at, monotonic_ns());
		if (view->owed <= 0)
			return false;
		memcpy(view->limiter, name, view->limiter_len);
		memcpy(view->key, name + view->limiter_len, view->key_len);
		return true;
	}
	return false;
}

/*
 * Does the slot have a living bucket of this database?  Copy the first INLINE_BYTES of
 * its limiter.
 */
static bool
living_limiter(uint32 n, Oid database, int64 now, char *limiter, int *len)
{
	Slot	   *slot = &store.slots[n];

	while (slot->database == database)
	{
		uint64		word = read_word(slot);
		State		state;

		*len = Min(slot->u.bucket.name.limiter_len, INLINE_BYTES);
		memcpy(limiter, slot->u.bucket.name.bytes, HEAD_BYTES);
		if (*len > HEAD_BYTES)
			memcpy(limiter + HEAD_BYTES, store.tails[n].name, TAIL_BYTES);
		if (slot->database == database && read_state(slot, word, &state))
			return owed_at(state.capacity, state.refill, state.full_at, now) > 0;
	}
	return false;
}

/* Call count() for each living bucket of the database. */
void
memory_count(Oid database, CountBucket count, void *arg)
{
	int64		now = 0;

	for (uint32 n = 0; n < n_slots(); n++)
	{
		char		limiter[INLINE_BYTES];
		int			len;

		if (n % CHECK_EVERY == 0)
		{
			CHECK_FOR_INTERRUPTS();
			now = monotonic_ns();
		}
		if (store.tags[n] >= TAG_FIRST &&
			living_limiter(n, database, now, limiter, &len))
			count(n / GROUP_SLOTS % store.partitions, limiter, len, arg);
	}
}
