/*
 * memory/slots.c
 *		Slots in shared memory: releasing them, waiting for them, visiting all of
 *		them, and comparing names, as far as this is not inline in memory/slots.h.
 *
 * memory/slots.h explains how buckets are kept, and why a decision needs no lock.
 */
#include "postgres.h"

#include "memory/slots.h"
#include "memory/wait.h"

Store		store pg_attribute_aligned(PG_CACHE_LINE_SIZE) = {NULL};

/*
 * Release a slot whose word was "word" when it was locked.  If it has a bucket, that
 * is to be full at full_at, and base is set so that it is.
 */
void
unlock_changed(Slot *slot, uint64 word, Owed full_at)
{
	uint64		value = (word >> 1) + 1;

	if (OidIsValid(slot->database))
	{
		/* the next value that is full_at modulo 2^36 */
		value += ((uint64) full_at - value) & (uint64) (BASE_UNIT - 1);
		value &= WORD_VALUES - 1;
		slot->u.bucket.base = (int64) ((full_at - (Owed) value) / BASE_UNIT);
	}
	else
		value &= WORD_VALUES - 1;
	pg_write_barrier();
	pg_atomic_write_u64(&slot->word, value << 1);
}

/* Do the same for a bucket that is to have this rule's parameters. */
void
unlock_with_rule(Slot *slot, uint64 word, const BucketRule *rule, Owed full_at)
{
	slot->u.bucket.capacity = rule->capacity;
	slot->u.bucket.refill = rule->refill;
	unlock_changed(slot, word, full_at);
}

/* Wait until the word is not locked, and return it. */
uint64
wait_for_word(Slot *slot)
{
	uint64		word;

	for (int round = 0; (word = pg_atomic_read_u64(&slot->word)) & WORD_LOCKED; round++)
		give_way(round);
	return word;
}

/*
 * Read the word like read_word(), but wait with patience, as give_way_for() does.
 * Return false if the word is still locked when that is used up.
 */
bool
read_word_for(Slot *slot, uint64 *word, int64 *patience)
{
	for (int round = 0; (*word = pg_atomic_read_u64(&slot->word)) & WORD_LOCKED; round++)
		if (!give_way_for(round, patience))
			return false;
	pg_read_barrier();
	return true;
}

/*
 * Return the partition's layout once no buckets are moving.  Wait with patience, as
 * give_way_for() does: they may still be moving when that is used up.
 */
uint32
wait_for_layout(uint32 partition, int64 *patience)
{
	pg_atomic_uint32 *layout = &store.header->layout[partition];
	uint32		now;

	for (int round = 0; (now = pg_atomic_read_u32(layout)) & LAYOUT_MOVING; round++)
		if (!give_way_for(round, patience))
			break;
	return now;
}

/*
 * Visit every slot, partition after partition, until visit() returns false.  A bucket
 * that moves meanwhile may be passed over, so a partition whose layout has changed is
 * visited again, and visit() must allow for seeing a bucket twice.  The patience,
 * which may be NULL, is for waiting until no buckets are moving.
 */
void
visit_slots(bool (*visit) (uint32 n, void *arg), void *arg, int64 *patience)
{
	uint32		per_partition = store.groups * GROUP_SLOTS;

	for (uint32 partition = 0; partition < store.partitions; partition++)
	{
		uint32		before;

		do
		{
			before = wait_for_layout(partition, patience);
			/* the slots are read after the layout, and before it is read again */
			pg_read_barrier();
			for (uint32 i = 0; i < per_partition; i++)
				if (!visit(partition_slot(partition, i), arg))
					return;
			pg_read_barrier();
		} while (pg_atomic_read_u32(&store.header->layout[partition]) != before);
	}
}

/*
 * Copy a bucket's limiter and key into MAX_NAMES bytes.  If the slot changes
 * meanwhile the result is anything, but nothing beyond is read or written.
 */
void
slot_names(const Slot *slot, char *names)
{
	int			len = slot->u.bucket.name.limiter_len + slot->u.bucket.name.key_len;
	uint32		next = slot->link;

	memcpy(names, slot->u.bucket.name.bytes, HEAD_BYTES);
	if (len > HEAD_BYTES)
		memcpy(names + HEAD_BYTES, store.tails[slot - store.slots].name, TAIL_BYTES);
	for (int done = INLINE_BYTES; done < Min(len, MAX_NAMES) && next < n_slots();
		 done += FURTHER_BYTES)
	{
		Assert(done + FURTHER_BYTES <= MAX_NAMES);
		memcpy(names + done, store.slots[next].u.continuation.name, CONTINUATION_BYTES);
		memcpy(names + done + CONTINUATION_BYTES, store.tails[next].name, TAIL_BYTES);
		next = store.slots[next].u.continuation.next;
	}
}

/*
 * Does the slot have this limiter and key?  Their lengths have been compared already.
 */
bool
slot_has_names(const Slot *slot, const BucketId *id)
{
	char		names[MAX_NAMES];

	slot_names(slot, names);
	return memcmp(names, id->limiter, id->limiter_len) == 0 &&
		memcmp(names + id->limiter_len, id->key, id->key_len) == 0;
}
