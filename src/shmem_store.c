/*
 * shmem_store.c
 *		Buckets in shared memory: start, and decisions on those that are there, but
 *		for what is inline (shmem_consume.h).
 *
 * How they are kept, and why a decision needs no lock: shmem_slots.h.
 */
#include "shmem_consume.h"

#include "storage/shmem.h"

/* Of this backend's last call here: was it denied?  Denials come in rows. */
bool		shmem_denied_last hot_data = false;
uint64		shmem_last_hash hot_data = 0;

Store		store hot_data pg_attribute_aligned(PG_CACHE_LINE_SIZE) = {NULL};

/*
 * Size and start
 */

static void
dimensions(uint32 *partitions, uint32 *groups)
{
	uint32		n = MAX_PARTITIONS;

	while (n > 1 && max_buckets_setting / n < MIN_PARTITION_SLOTS)
		n /= 2;
	*partitions = n;
	/* a little more where there is room in 128 bytes a bucket: ways stay short */
	*groups = Max((max_buckets_setting / n + GROUP_SLOTS - 1) / GROUP_SLOTS,
				  (max_buckets_setting / 32 + (int64) max_buckets_setting) / n / GROUP_SLOTS);
}

Size
shmem_store_size(void)
{
	uint32		partitions;
	uint32		groups;
	Size		size;

	dimensions(&partitions, &groups);
	size = mul_size((Size) partitions * groups * GROUP_SLOTS,
					sizeof(uint32) + sizeof(Slot) + sizeof(Tail));
	size = add_size(size, CACHELINEALIGN((Size) partitions * groups));
	return add_size(size, CACHELINEALIGN(sizeof(Header)));
}

/* How much smaller than it may become a partition is at first. */
static uint32
first_shift(uint32 groups)
{
	uint32		shift = 0;

	while (groups <= MAX_GROWING_GROUPS && groups >> (shift + 1) >= FIRST_GROUPS)
		shift++;
	return shift;
}

/* One for each partition. */
int
shmem_store_locks(void)
{
	uint32		partitions;
	uint32		groups;

	dimensions(&partitions, &groups);
	return partitions;
}

/* Hash by this seed, as whoever is here does. */
void
use_seed(uint64 seed)
{
	store.header->seed = seed;
	for (int i = 0; i < lengthof(store.secrets); i++)
		store.secrets[i] = hash_bytes_uint32_extended(i, seed);
}

/* Holding AddinShmemInitLock. */
void
shmem_store_startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;
	Size		n;

	store.locks = my_locks;
	store.header = (Header *) p;
	if (!found)
	{
		memset(store.header, 0, sizeof(Header));
		dimensions(&store.header->partitions, &store.header->groups);
		if (!pg_strong_random(&store.header->seed, sizeof(uint64)))
			store.header->seed = (uint64) monotonic_ns();
		for (int i = 0; i < MAX_PARTITIONS; i++)
		{
			pg_atomic_init_u32(&store.header->layout[i], first_shift(store.header->groups));
			pg_atomic_init_u64(&store.header->evicted[i], 0);
		}
	}
	use_seed(store.header->seed);
	store.partitions = store.header->partitions;
	store.groups = store.header->groups;
	n = (Size) store.partitions * store.groups * GROUP_SLOTS;
	p += CACHELINEALIGN(sizeof(Header));
	store.reach = (uint8 *) p;
	p += CACHELINEALIGN(n / GROUP_SLOTS);
	store.tags = (uint32 *) p;
	p += n * sizeof(uint32);
	store.slots = (Slot *) p;
	store.tails = (Tail *) (p + n * sizeof(Slot));
	if (!found)
	{
		memset(store.reach, 0, n / GROUP_SLOTS);
		memset(store.tags, 0, n * sizeof(uint32));
		memset(store.slots, 0, n * sizeof(Slot));
		memset(store.tails, 0, n * sizeof(Tail));
		for (Size i = 0; i < n; i++)
			pg_atomic_init_u64(&store.slots[i].word, 0);
	}
}

/* For block.c. */
pg_atomic_uint32 *
shmem_store_block_cells(void)
{
	return &store.header->block_cells;
}

bool
shmem_attached(void)
{
	return store.header != NULL;
}

/*
 * Finding
 */

/* What the hashes of a database's and limiter's keys start from. */
uint64
shmem_hash_limiter(Oid database, const char *limiter, int len)
{
	return hash_name(store.secrets[2] ^ database, limiter, len);
}

uint64
shmem_hash(uint64 limiter_hash, const char *key, int len)
{
	return store.header ? hash_key(limiter_hash, key, len) : 0;
}

int
shmem_partitions(void)
{
	return store.partitions;
}

int
shmem_partition(uint64 hash)
{
	return hash & (store.partitions - 1);
}

void
shmem_lock_partition(int partition)
{
	LWLockAcquire(&store.locks[partition].lock, LW_EXCLUSIVE);
}

void
shmem_unlock_partition(int partition)
{
	LWLockRelease(&store.locks[partition].lock);
}

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

/* Wait until the word is not locked; it is for a few dozen instructions. */
uint64
wait_for_word(Slot *slot)
{
	uint64		word;
	SpinDelayStatus delay;

	init_local_spin_delay(&delay);
	while ((word = pg_atomic_read_u64(&slot->word)) & WORD_LOCKED)
		perform_spin_delay(&delay);
	finish_spin_delay(&delay);
	return word;
}

/* A search goes on after the home group, as far as that reaches. */
Slot *
search_further(const BucketId *id, Probe way, uint64 *word)
{
	Slot	   *slot = NULL;
	uint32		last = *reach_of(&way) * GROUP_SLOTS;

	for (uint32 i = GROUP_SLOTS; i <= last; i += GROUP_SLOTS)
		if (search_group(id, &way, i, &slot, word))
			break;
	return slot;
}

/*
 * A bucket was not there: has the partition's layout changed since the way to it was
 * worked out?  If so, returns once nothing moves.
 */
bool
way_changed(uint32 partition, uint32 was)
{
	pg_atomic_uint32 *layout = &store.header->layout[partition];
	SpinDelayStatus delay;

	/* the tags were read before */
	pg_read_barrier();
	if (was == pg_atomic_read_u32(layout) && !(was & LAYOUT_MOVING))
		return false;
	init_local_spin_delay(&delay);
	while (pg_atomic_read_u32(layout) & LAYOUT_MOVING)
		perform_spin_delay(&delay);
	finish_spin_delay(&delay);
	return true;
}

/* The name of a bucket, into MAX_NAMES bytes; of one that is changing anything. */
void
slot_names(const Slot *slot, char *names)
{
	int			len = slot->u.bucket.name.limiter_len + slot->u.bucket.name.key_len;
	uint32		next = slot->link;

	memcpy(names, slot->u.bucket.name.bytes, SLOT_BYTES);
	if (len > SLOT_BYTES)
		memcpy(names + SLOT_BYTES, store.tails[slot - store.slots].name, TAIL_BYTES);
	for (int done = INLINE_BYTES; done < Min(len, MAX_NAMES) && next < shmem_slots();
		 done += FURTHER_BYTES)
	{
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

/*
 * Deciding
 */

/* Decide with the slot locked: what swap_word() leaves. */
bool
consume_locked(Slot *slot, uint64 word, const BucketRule *rule,
			   Decision *decision)
{
	int64		now;
	Owed		owed;

	if (!lock_word(slot, word))
		return false;
	now = monotonic_ns();
	owed = owed_of(slot, word, now);
	if (slot->u.bucket.capacity != rule->capacity ||
		slot->u.bucket.refill != rule->refill)
	{
		owed = bucket_carry(slot->u.bucket.capacity, slot->u.bucket.refill,
							owed, rule);
		slot->u.bucket.capacity = rule->capacity;
		slot->u.bucket.refill = rule->refill;
	}
	decision->allowed = bucket_take(rule, &owed);
	decision->owed = owed;
	decision->now = now;
	unlock_changed(slot, word, rule->timed ? now + owed : owed);
	return true;
}

/* Decide a call on a bucket that is here; false if it is not. */
bool
shmem_consume(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	return consume_here(id, rule, decision);
}

/* What a call would find, changing nothing; false if the bucket is not here. */
bool
shmem_peek(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &word)) != NULL)
	{
		double		capacity = slot->u.bucket.capacity;
		double		refill = slot->u.bucket.refill;
		Owed		full_at = full_at_of(slot, word);
		Owed		owed;

		/* nothing of a slot that is changing may reach the arithmetic */
		if (!unchanged(slot, word))
			continue;
		if (bucket_timed(capacity, refill))
			owed = Max(full_at - monotonic_ns(), 0);
		else
			owed = full_at;
		if (capacity != rule->capacity || refill != rule->refill)
			owed = bucket_carry(capacity, refill, owed, rule);
		decision->owed = owed;
		decision->allowed = bucket_take(rule, &owed);
		return true;
	}
	return false;
}

