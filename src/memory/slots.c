/*
 * memory/slots.c
 *		Slots: what is too long to be inline.
 *
 * How buckets are kept, and why a decision needs no lock: memory/slots.h.
 */
#include "postgres.h"

#include "core/hot.h"
#include "memory/slots.h"
#include "memory/wait.h"

Store		store hot_data pg_attribute_aligned(PG_CACHE_LINE_SIZE) = {NULL};

/*
 * Release a slot whose word was "word" when it was locked.  For a bucket,
 * full_at is when it will be full; base is set to suit.
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

/* Wait until the word is not locked. */
uint64
wait_for_word(Slot *slot)
{
	uint64		word;

	for (int round = 0; (word = pg_atomic_read_u64(&slot->word)) & WORD_LOCKED; round++)
		give_way(round);
	return word;
}

/*
 * The partition's layout once no buckets are on the move.  With patience, which may be
 * NULL, they still may be when that is used up.
 */
uint32
wait_for_layout(uint32 partition, int64 *patience)
{
	pg_atomic_uint32 *layout = &store.header->layout[partition];
	uint32		now;

	for (int round = 0; (now = pg_atomic_read_u32(layout)) & LAYOUT_MOVING; round++)
	{
		if (!patience)
			give_way(round);
		else if (!give_way_for(round, patience))
			break;
	}
	return now;
}

/* The name of a bucket, into MAX_NAMES bytes; of one that is changing anything. */
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

/* Is this the slot's limiter and key?  Their lengths are right. */
bool
slot_has_names(const Slot *slot, const BucketId *id)
{
	char		names[MAX_NAMES];

	slot_names(slot, names);
	return memcmp(names, id->limiter, id->limiter_len) == 0 &&
		memcmp(names + id->limiter_len, id->key, id->key_len) == 0;
}
