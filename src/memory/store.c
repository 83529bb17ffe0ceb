/*
 * memory/store.c
 *		Buckets in shared memory: start, and decisions on those that are there, but
 *		for what is inline (memory/consume.h).
 *
 * How they are kept, and why a decision needs no lock: memory/slots.h.
 */
#include "memory/consume.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"
#include "utils/wait_event.h"

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

/* For decide/blocks.c. */
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

/* May wait, and so be cancelled: the caller holds no other partition's lock. */
void
shmem_lock_partition(int partition)
{
	for (int round = 0; !shmem_try_lock_partition(partition); round++)
		give_way(round);
}

bool
shmem_try_lock_partition(int partition)
{
	return LWLockConditionalAcquire(&store.locks[partition].lock, LW_EXCLUSIVE);
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

/*
 * Waiting
 *
 * What is waited for here, a word, a layout, a partition's lock, is mostly held for
 * less than a microsecond, but its holder may have lost its processor, or have been
 * stopped by a signal, a debugger or the freezing of its container, for as long as
 * somebody likes.  So after a while the waiter sleeps, for longer and longer, and
 * heeds cancelling, timeouts and the server's end.  It never gives up by itself: that
 * is a matter for whoever can say what is then left undone, see give_way_for().
 */

#define FIRST_NAP		100		/* microseconds */
#define LONGEST_NAP		10000

static int
nap_length(int round)
{
	return Min(FIRST_NAP << Min(round - SPINS, 7), LONGEST_NAP);
}

/*
 * Let whoever holds something go on; round: how often the caller has been here since
 * it began to wait.  Heeds interrupts, and so may not return.
 */
void
give_way(int round)
{
	static uint32 event = 0;

	if (round < SPINS)
	{
		SPIN_DELAY();
		return;
	}
	CHECK_FOR_INTERRUPTS();
	if (event == 0 && INTERRUPTS_CAN_BE_PROCESSED())
		event = new_wait_event("RateLimitBucket");
	pgstat_report_wait_start(event ? event : PG_WAIT_EXTENSION);
	pg_usleep(nap_length(round));
	pgstat_report_wait_end();
	if (IsUnderPostmaster && INTERRUPTS_CAN_BE_PROCESSED() && !PostmasterIsAlive())
		proc_exit(1);
	CHECK_FOR_INTERRUPTS();
}

/*
 * The same for callers that must neither be cancelled nor wait for ever, such as the
 * end of a transaction.  False once so many nanoseconds of patience are used up.
 */
bool
give_way_for(int round, int64 *patience)
{
	if (round < SPINS)
	{
		SPIN_DELAY();
		return true;
	}
	if (*patience <= 0)
		return false;
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	pg_usleep(nap_length(round));
	pgstat_report_wait_end();
	*patience -= nap_length(round) * INT64CONST(1000);
	return true;
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

/*
 * Searching
 */

/* A search goes on after the home group, as far as that reaches. */
Slot *
search_further(const BucketId *id, Probe way, SearchMode mode, uint64 *word)
{
	Slot	   *slot = NULL;
	uint32		last = *reach_of(&way) * GROUP_SLOTS;

	for (uint32 i = GROUP_SLOTS; i <= last; i += GROUP_SLOTS)
		if (search_group(id, &way, i, mode, &slot, word))
			break;
	return slot;
}

/* A bucket that growing has left behind is where an earlier layout has it. */
static Slot *
search_left(const BucketId *id, uint32 layout, SearchMode mode, uint64 *word)
{
	Slot	   *slot = NULL;

	for (uint32 shift = (layout & LAYOUT_SHIFT) + 1; !slot && store.groups >> shift > 0; shift++)
	{
		Probe		way = probe_in(id->hash, shift);

		if (!search_group(id, &way, 0, mode, &slot, word) && *reach_of(&way) > 0)
			slot = search_further(id, way, mode, word);
	}
	return slot;
}

/* Is the layout that a way was worked out from the one that holds, and nothing moves? */
static bool
layout_holds(uint64 hash, uint32 layout)
{
	/* the tags were read before */
	pg_read_barrier();
	return layout == layout_for(hash) && !(layout & LAYOUT_MOVING);
}

/*
 * The bucket is not where this layout has it.  Was it left behind, or has the layout
 * changed?  Then it is searched for once nothing moves.
 */
Slot *
find_elsewhere(const BucketId *id, uint32 layout, uint64 *word)
{
	for (;;)
	{
		Slot	   *slot = NULL;
		Probe		way;

		if (layout & LAYOUT_LEFT)
			slot = search_left(id, layout, SEARCH_WAITING, word);
		if (slot || layout_holds(id->hash, layout))
			return slot;

		layout = wait_for_layout(shmem_partition(id->hash), NULL);
		way = probe_in(id->hash, layout);
		pg_read_barrier();
		if (!search_group(id, &way, 0, SEARCH_WAITING, &slot, word) && *reach_of(&way) > 0)
			slot = search_further(id, way, SEARCH_WAITING, word);
		if (slot)
			return slot;
	}
}

/* As find(), but without waiting for anything. */
FindResult
find_once(const BucketId *id, Slot **slot, uint64 *word)
{
	Probe		way = probe_of(id->hash);

	*slot = NULL;
	/* the tags are read after the layout */
	pg_read_barrier();
	if (!search_group(id, &way, 0, SEARCH_ONCE, slot, word) && *reach_of(&way) > 0)
		*slot = search_further(id, way, SEARCH_ONCE, word);
	if (!*slot && (way.layout & LAYOUT_LEFT))
		*slot = search_left(id, way.layout, SEARCH_ONCE, word);
	if (*slot)
		return (*word & WORD_LOCKED) ? FIND_BUSY : FIND_HERE;
	return layout_holds(id->hash, way.layout) ? FIND_ABSENT : FIND_BUSY;
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

/*
 * Deciding
 */

/*
 * Decide by locking the slot: what swap_word() leaves.  False if somebody else changed
 * the bucket meanwhile.
 *
 * What to write is worked out before the word is locked, which is then so for a dozen
 * instructions: a process that is stopped is hardly ever stopped there.  Where others
 * change the bucket all the time that may fail again and again, so whoever has failed
 * locks first.
 */
bool
consume_locked(Slot *slot, uint64 word, const BucketRule *rule,
			   Decision *decision)
{
	static int	failures = 0;	/* one after the other */
	bool		locked = failures > 1;
	State		state;
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
	decision->allowed = bucket_take(rule, &owed);
	decision->owed = owed;
	decision->now = now;

	if (!locked && !lock_word(slot, word))
	{
		failures++;
		return false;
	}
	failures = 0;
	slot->u.bucket.capacity = rule->capacity;
	slot->u.bucket.refill = rule->refill;
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
		State		state;
		Owed		owed;

		if (!read_state(slot, word, &state))
			continue;
		owed = state_owes_by(&state, monotonic_ns(), rule);
		decision->owed = owed;
		decision->allowed = bucket_take(rule, &owed);
		return true;
	}
	return false;
}
