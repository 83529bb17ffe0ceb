/*
 * shmem_store.c
 *		Buckets in shared memory.
 *
 * Layout.  Slots of fixed size stand in groups of 16, groups in partitions, the
 * partitions in one array.  Each group has a line of 16 tags (32 bits of the
 * hash of the slot's key), so that one cache line tells which slots to look at.
 * A key's hash names its partition, its first group, and the place in the group
 * to look at first; its slot is within PROBE_GROUPS groups from there, wrapping
 * around in the partition.  A new key takes the first slot on that way that is
 * free.  A tag is zero until its slot is first used and never again, so a search
 * ends at the first zero: had the key come by, it would have stayed there.
 *
 * A bucket that is full again equals one that is absent, so its slot is free
 * without anybody freeing it.
 *
 * Identity.  A slot holds its key and limiter whole; two keys never share a
 * bucket whatever their hashes.  What does not fit in the slot continues in
 * others of the same partition (tag TAG_CONTINUATION, no database).
 *
 * The word.  When a bucket will be full (nanoseconds on the monotonic clock;
 * for a bucket that never refills: units taken) is base * 2^36 + word / 2; the
 * lowest bit of the word is a lock.
 *
 * A decision on a living bucket reads the word, then identity, parameters and
 * base, and then moves the word by compare-and-swap.  Nothing is locked, nobody
 * waits, and of several callers at once one always gets on.  It is right because
 * everything but the word changes only while the word is locked, and a word that
 * was locked and released again never has a value that it had before: then the
 * swap fails and the caller starts anew.  So a swap that succeeds proves that
 * all that was read since the word belongs together.  A decision that changes
 * nothing (denied, or cost 0) reads the word once more instead.
 *
 * That a word's value does not come back: without the lock it is only ever
 * increased (an allowed call makes the bucket fuller later, never sooner).  With
 * the lock any state may follow any other, but base absorbs the difference and
 * word / 2 still grows, by at most 2^36.  It has 63 bits and one step adds less
 * than 2^48 (MAX_ADVANCE; larger steps take the lock), so before it comes
 * around to a value that some caller still holds from its one load, at least
 * 32768 changes, making up 292 years of bucket time, must fall between that load
 * and that caller's swap and end on the same nanosecond.
 *
 * Barriers: loading the word is followed by a read barrier, and re-reading it
 * preceded by one; the swap that locks is a full barrier; releasing is preceded
 * by a write barrier.
 *
 * The lock is taken for what is rare: a bucket's parameters change, it is reset,
 * its slot passes to another key, the time it will be full moves by more than
 * MAX_ADVANCE at once (for instance 78 hours after its last use).  It is held
 * for a few dozen instructions that cannot fail, so waiting for it spins.
 *
 * Partition lock (LWLock, exclusive): taken to make a bucket, which alone sets
 * tags and identities.  Never held across anything that throws, allocates or
 * waits for more than a word's lock.  Order: partition lock, then a word's lock;
 * at most 1 + MAX_CONTINUATIONS words are locked at once, all by the holder of
 * the partition's lock, and every other locker holds one word and waits for
 * nothing.
 *
 * A backend killed inside is followed by a restart of the whole server, which
 * starts with fresh memory; cancelling cannot interrupt here, as nothing checks
 * for interrupts.
 */
#include "ratelimit.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"

#define GROUP_SLOTS			16
#define PROBE_GROUPS		8
#define MIN_PARTITION_SLOTS 256

#define TAG_FREE			0	/* never used */
#define TAG_CONTINUATION	1	/* no bucket here: a long key's rest, or nothing */
#define TAG_FIRST			2

#define WORD_LOCKED			UINT64CONST(1)
#define WORD_VALUES			(UINT64CONST(1) << 63)
#define BASE_UNIT			((Owed) 1 << 36)
#define MAX_ADVANCE			((Owed) 1 << 48)

#define INLINE_BYTES		78	/* of limiter and key */
#define CONTINUATION_BYTES	100
#define MAX_CONTINUATIONS	3
#define NO_SLOT				PG_UINT32_MAX

/* Everything but the word changes only while the word is locked. */
typedef struct Slot
{
	pg_atomic_uint64 word;
	Oid			database;		/* InvalidOid: no bucket here */
	uint32		link;			/* of a bucket: the slot of its first
								 * continuation, or NO_SLOT; of a continuation:
								 * its bucket's slot; NO_SLOT: free */
	union
	{
		struct
		{
			int64		base;
			double		capacity;
			double		refill;
			uint8		limiter_len;
			uint8		key_len;
			char		name[INLINE_BYTES]; /* limiter, then key */
		}			bucket;
		struct
		{
			uint32		next;	/* next continuation, or NO_SLOT */
			char		name[CONTINUATION_BYTES];
		}			continuation;
	}			u;
} Slot;

StaticAssertDecl(sizeof(Slot) + sizeof(uint32) <= 128,
				 "a bucket takes more than 128 bytes");
StaticAssertDecl(MAX_LIMITER_LEN + MAX_KEY_LEN <=
				 INLINE_BYTES + MAX_CONTINUATIONS * CONTINUATION_BYTES,
				 "the longest names do not fit");

typedef struct Header
{
	uint64		seed;			/* of the hash, unlike in every server */
	uint32		partitions;		/* a power of two */
	uint32		groups;			/* a partition */
	pg_atomic_uint64 evicted[MAX_PARTITIONS];	/* since the server started */
} Header;

static Header *header = NULL;	/* NULL: not preloaded */
static LWLockPadded *locks;		/* a partition each */
static uint32 *tags;			/* partitions * groups * GROUP_SLOTS */
static Slot *slots;				/* as many */

/* Where a key's slot may be, and the order to look in. */
typedef struct Probe
{
	uint32		tag;
	uint32		first_slot;		/* of the partition */
	uint32		home;			/* group in the partition */
	uint32		way;			/* place in the group */
} Probe;

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
	*groups = (max_buckets_setting / n + GROUP_SLOTS - 1) / GROUP_SLOTS;
}

Size
shmem_store_size(void)
{
	uint32		partitions;
	uint32		groups;
	Size		size;

	dimensions(&partitions, &groups);
	size = mul_size((Size) partitions * groups * GROUP_SLOTS,
					sizeof(uint32) + sizeof(Slot));
	return add_size(size, CACHELINEALIGN(sizeof(Header)));
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

/* Holding AddinShmemInitLock. */
void
shmem_store_startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;
	Size		n;

	locks = my_locks;
	header = (Header *) p;
	if (!found)
	{
		memset(header, 0, sizeof(Header));
		dimensions(&header->partitions, &header->groups);
		if (!pg_strong_random(&header->seed, sizeof(header->seed)))
			header->seed = (uint64) monotonic_ns();
		for (int i = 0; i < MAX_PARTITIONS; i++)
			pg_atomic_init_u64(&header->evicted[i], 0);
	}
	n = (Size) header->partitions * header->groups * GROUP_SLOTS;
	p += CACHELINEALIGN(sizeof(Header));
	tags = (uint32 *) p;
	slots = (Slot *) (p + n * sizeof(uint32));
	if (!found)
	{
		memset(tags, 0, n * sizeof(uint32));
		memset(slots, 0, n * sizeof(Slot));
		for (Size i = 0; i < n; i++)
			pg_atomic_init_u64(&slots[i].word, 0);
	}
}

bool
shmem_attached(void)
{
	return header != NULL;
}

/*
 * Finding
 */

/* What the hashes of a database's and limiter's keys start from. */
uint64
shmem_hash_limiter(Oid database, const char *limiter, int len)
{
	if (!header)
		return 0;
	return hash_bytes_extended((const unsigned char *) limiter, len,
							   header->seed ^ ((uint64) database << 32));
}

uint64
shmem_hash(uint64 limiter_hash, const char *key, int len)
{
	if (!header)
		return 0;
	return hash_bytes_extended((const unsigned char *) key, len, limiter_hash);
}

int
shmem_partitions(void)
{
	return header->partitions;
}

int
shmem_partition(uint64 hash)
{
	return hash & (header->partitions - 1);
}

void
shmem_lock_partition(int partition)
{
	LWLockAcquire(&locks[partition].lock, LW_EXCLUSIVE);
}

void
shmem_unlock_partition(int partition)
{
	LWLockRelease(&locks[partition].lock);
}

/* The hash's bits: 0-6 partition, 7-38 tag, 28-31 way, 32-63 group. */
static inline Probe
probe_of(uint64 hash)
{
	Probe		probe;

	probe.tag = (uint32) (hash >> 7);
	if (probe.tag < TAG_FIRST)
		probe.tag += TAG_FIRST;
	probe.first_slot = shmem_partition(hash) * header->groups * GROUP_SLOTS;
	probe.home = (uint32) (((hash >> 32) * header->groups) >> 32);
	probe.way = (hash >> 28) % GROUP_SLOTS;
	return probe;
}

/* How many slots a search may look at. */
static inline uint32
probe_length(void)
{
	return Min(header->groups, PROBE_GROUPS) * GROUP_SLOTS;
}

/* The i-th slot on the way. */
static inline uint32
probe_slot(const Probe *probe, uint32 i)
{
	uint32		group = probe->home + i / GROUP_SLOTS;

	if (group >= header->groups)
		group -= header->groups;
	return probe->first_slot + group * GROUP_SLOTS +
		(probe->way + i) % GROUP_SLOTS;
}

/* Read the word, once it is not locked. */
static inline uint64
read_word(Slot *slot)
{
	uint64		word = pg_atomic_read_u64(&slot->word);

	if (unlikely(word & WORD_LOCKED))
	{
		SpinDelayStatus delay;

		init_local_spin_delay(&delay);
		do
		{
			perform_spin_delay(&delay);
			word = pg_atomic_read_u64(&slot->word);
		} while (word & WORD_LOCKED);
		finish_spin_delay(&delay);
	}
	pg_read_barrier();
	return word;
}

/* Has nothing changed since the word was read? */
static inline bool
unchanged(Slot *slot, uint64 word)
{
	pg_read_barrier();
	return pg_atomic_read_u64(&slot->word) == word;
}

/* Lock the slot if its word still is what it was. */
static inline bool
lock_word(Slot *slot, uint64 word)
{
	return pg_atomic_compare_exchange_u64(&slot->word, &word, word | WORD_LOCKED);
}

/* Release a slot that lock_word() locked, its content unchanged. */
static inline void
unlock_unchanged(Slot *slot, uint64 word)
{
	pg_write_barrier();
	pg_atomic_write_u64(&slot->word, word);
}

/*
 * Release a slot whose word was "word" when it was locked.  For a bucket,
 * full_at is when it will be full; base is set to suit.
 */
static void
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

static inline Owed
full_at_of(const Slot *slot, uint64 word)
{
	return (Owed) slot->u.bucket.base * BASE_UNIT + (Owed) (word >> 1);
}

/* What the bucket owes at a time; by its own parameters. */
static inline Owed
owed_of(const Slot *slot, uint64 word, int64 now)
{
	Owed		full_at = full_at_of(slot, word);

	if (!bucket_timed(slot->u.bucket.capacity, slot->u.bucket.refill))
		return full_at;
	return full_at > now ? full_at - now : 0;
}

/* The part of the name that stands in the slot itself, and the rest. */
static bool
rest_is(const Slot *slot, const BucketId *id)
{
	uint32		next = slot->link;
	int			done = INLINE_BYTES;
	int			len = id->limiter_len + id->key_len;

	while (done < len)
	{
		const Slot *more;
		int			n = Min(len - done, CONTINUATION_BYTES);
		int			from_limiter = Max(Min(id->limiter_len - done, n), 0);

		/* a slot that is changing under us may say anything */
		if (next >= shmem_slots())
			return false;
		more = &slots[next];
		if (memcmp(more->u.continuation.name, id->limiter + done, from_limiter) != 0 ||
			memcmp(more->u.continuation.name + from_limiter,
				   id->key + done + from_limiter - id->limiter_len,
				   n - from_limiter) != 0)
			return false;
		done += n;
		next = more->u.continuation.next;
	}
	return true;
}

/* Is this the slot's bucket?  Certain if the word then turns out unchanged. */
static inline bool
slot_is(const Slot *slot, const BucketId *id)
{
	int			inline_key;

	if (slot->database != id->database ||
		slot->u.bucket.limiter_len != id->limiter_len ||
		slot->u.bucket.key_len != id->key_len)
		return false;
	inline_key = Min(id->key_len, INLINE_BYTES - id->limiter_len);
	if (memcmp(slot->u.bucket.name + id->limiter_len, id->key, inline_key) != 0 ||
		memcmp(slot->u.bucket.name, id->limiter, id->limiter_len) != 0)
		return false;
	return inline_key == id->key_len || rest_is(slot, id);
}

/*
 * The bucket's slot and its word, or NULL.  Without the partition's lock, NULL
 * may be out of date, and a slot is certain only with its word unchanged.
 */
static inline Slot *
find(const BucketId *id, const Probe *way, uint64 *word)
{
	uint32		length = probe_length();

	for (uint32 i = 0; i < length; i++)
	{
		uint32		n = probe_slot(way, i);
		uint32		tag = ((volatile uint32 *) tags)[n];

		if (tag == way->tag)
		{
			*word = read_word(&slots[n]);
			if (slot_is(&slots[n], id))
				return &slots[n];
		}
		else if (tag == TAG_FREE)
			return NULL;
	}
	return NULL;
}

/*
 * Deciding
 */

/* Decide with the slot locked: whatever consume_swap() leaves. */
static bool
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

/* The time that the arithmetic is to go by. */
static inline int64
clock_for(const BucketRule *rule)
{
	return rule->timed ? monotonic_ns() : 0;
}

/* Try to decide; false if somebody else changed the bucket meanwhile. */
static inline bool
consume_swap(Slot *slot, uint64 word, const BucketRule *rule, Owed now,
			 Decision *decision)
{
	Owed		full_at;
	Owed		owed;
	Owed		value;

	if (slot->u.bucket.capacity != rule->capacity ||
		slot->u.bucket.refill != rule->refill)
		return consume_locked(slot, word, rule, decision);

	full_at = full_at_of(slot, word);
	owed = Max(full_at - now, 0);
	decision->allowed = bucket_take(rule, &owed);
	decision->owed = owed;
	decision->now = (int64) now;
	if (!decision->allowed || rule->take == 0)
		return unchanged(slot, word);

	value = (Owed) (word >> 1) + (now + owed - full_at);
	if (now + owed - full_at >= MAX_ADVANCE || value >= (Owed) WORD_VALUES)
		return consume_locked(slot, word, rule, decision);
	return pg_atomic_compare_exchange_u64(&slot->word, &word,
										  (uint64) value << 1);
}

/* Decide a call on a bucket that is here; false if it is not. */
bool
shmem_consume(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	static uint64 last_hash = 0;
	Probe		way = probe_of(id->hash);
	Slot	   *slot;
	uint64		word;
	int64		early = 0;

	/*
	 * A bucket that this backend has not just used is far away, mostly in its
	 * first place: fetch that while we look at the clock.
	 */
	if (id->hash != last_hash && rule->timed)
	{
		uint32		first = probe_slot(&way, 0);

		__builtin_prefetch(&tags[first]);
		__builtin_prefetch(&slots[first]);
		__builtin_prefetch(&slots[first].u.bucket.name[16]);
		early = monotonic_ns();
	}
	last_hash = id->hash;

	while ((slot = find(id, &way, &word)) != NULL)
	{
		bool		done = consume_swap(slot, word, rule,
										early ? early : clock_for(rule), decision);

		/*
		 * By a clock from before the word, a later call of somebody else may seem
		 * to be of the future, and this one too early: look again.
		 */
		if (done && (decision->allowed || !early))
			return true;
		early = 0;
	}
	return false;
}

/* What a call would find, changing nothing; false if the bucket is not here. */
bool
shmem_peek(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	Probe		way = probe_of(id->hash);
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &way, &word)) != NULL)
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

/*
 * Making: all with the partition's lock held
 */

/* The slot is locked.  What was in it is no more; its continuations are free. */
static void
empty(uint32 n)
{
	Slot	   *slot = &slots[n];

	if (OidIsValid(slot->database))
	{
		uint32		next = slot->link;

		while (next != NO_SLOT)
		{
			slots[next].link = NO_SLOT;
			next = slots[next].u.continuation.next;
		}
	}
	slot->database = InvalidOid;
	slot->link = NO_SLOT;
	slot->u.continuation.next = NO_SLOT;
	tags[n] = TAG_CONTINUATION;
}

/*
 * Lock and empty the slot if it is free or its bucket is full again; false if it
 * is neither.
 */
static bool
claim_slot(uint32 n, int64 now, uint64 *word)
{
	*word = read_word(&slots[n]);
	if (tags[n] >= TAG_FIRST)
	{
		if (owed_of(&slots[n], *word, now) > 0)
			return false;
	}
	else if (tags[n] == TAG_CONTINUATION && slots[n].link != NO_SLOT)
	{
		uint32		owner = slots[n].link;
		uint64		owner_word;

		if (!claim_slot(owner, now, &owner_word))
			return false;
		unlock_changed(&slots[owner], owner_word, 0);
	}
	/* fails if the bucket came to life meanwhile */
	if (!lock_word(&slots[n], *word))
		return false;
	empty(n);
	return true;
}

/* How far from full, for choosing what gives way; those that never refill last. */
static double
distance_from_full(const Slot *slot, uint64 word, int64 now)
{
	double		owed = (double) owed_of(slot, word, now);

	if (bucket_timed(slot->u.bucket.capacity, slot->u.bucket.refill))
		return owed;
	return owed * 1e60;
}

/* Of the buckets on the way, the one nearest to full gives way. */
static void
evict_one(const Probe *probe, int partition)
{
	for (;;)
	{
		int64		now = monotonic_ns();
		uint32		nearest = NO_SLOT;
		uint64		nearest_word = 0;
		double		least = 0;

		for (uint32 i = 0; i < probe_length(); i++)
		{
			uint32		n = probe_slot(probe, i);
			uint64		word;
			double		distance;

			if (tags[n] < TAG_FIRST)
			{
				if (tags[n] == TAG_FREE || slots[n].link == NO_SLOT)
					continue;
				n = slots[n].link;
			}
			word = read_word(&slots[n]);
			distance = distance_from_full(&slots[n], word, now);
			if (nearest == NO_SLOT || distance < least)
			{
				nearest = n;
				nearest_word = word;
				least = distance;
			}
		}
		if (nearest == NO_SLOT)
			return;				/* all are free by now */
		if (lock_word(&slots[nearest], nearest_word))
		{
			empty(nearest);
			unlock_changed(&slots[nearest], nearest_word, 0);
			pg_atomic_fetch_add_u64(&header->evicted[partition], 1);
			return;
		}
	}
}

/*
 * Lock and empty slots for a bucket: needed of them, the first for the bucket
 * itself.  False, and none locked, if there are not that many.
 */
static bool
claim(const Probe *probe, int needed, uint32 *claimed, uint64 *words)
{
	int64		now = monotonic_ns();
	int			n = 0;

	for (uint32 i = 0; i < probe_length() && n < needed; i++)
	{
		claimed[n] = probe_slot(probe, i);
		if (claim_slot(claimed[n], now, &words[n]))
			n++;
	}
	if (n == needed)
		return true;
	while (n-- > 0)
		unlock_changed(&slots[claimed[n]], words[n], 0);
	return false;
}

/* Write the bucket into its claimed slots and release them. */
static void
fill(const BucketId *id, const BucketRule *rule, Owed full_at, uint32 tag,
	 int needed, const uint32 *claimed, const uint64 *words)
{
	char		name[INLINE_BYTES + MAX_CONTINUATIONS * CONTINUATION_BYTES];
	Slot	   *slot = &slots[claimed[0]];

	memcpy(name, id->limiter, id->limiter_len);
	memcpy(name + id->limiter_len, id->key, id->key_len);

	for (int i = 1; i < needed; i++)
	{
		Slot	   *more = &slots[claimed[i]];

		more->link = claimed[0];
		more->u.continuation.next = i + 1 < needed ? claimed[i + 1] : NO_SLOT;
		memcpy(more->u.continuation.name,
			   name + INLINE_BYTES + (i - 1) * CONTINUATION_BYTES,
			   CONTINUATION_BYTES);
		unlock_changed(more, words[i], 0);
	}

	slot->database = id->database;
	slot->u.bucket.capacity = rule->capacity;
	slot->u.bucket.refill = rule->refill;
	slot->link = needed > 1 ? claimed[1] : NO_SLOT;
	slot->u.bucket.limiter_len = id->limiter_len;
	slot->u.bucket.key_len = id->key_len;
	memcpy(slot->u.bucket.name, name, INLINE_BYTES);
	tags[claimed[0]] = tag;
	unlock_changed(slot, words[0], full_at);
}

static int
slots_needed(const BucketId *id)
{
	int			beyond = id->limiter_len + id->key_len - INLINE_BYTES;

	return 1 + (Max(beyond, 0) + CONTINUATION_BYTES - 1) / CONTINUATION_BYTES;
}

/*
 * Decide a call on a bucket that shmem_consume() did not find, and make the
 * bucket, which so far owes what the caller says, if it is full no more.
 *
 * False if the bucket is not made here, but belongs into the table (see spill.c),
 * or stays there, if the mode is PLACE_IF_ROOM.
 */
bool
shmem_place(const BucketId *id, const BucketRule *rule, Owed owed,
			PlaceMode mode, Decision *decision)
{
	int			partition = shmem_partition(id->hash);
	Probe		probe = probe_of(id->hash);
	int			needed = slots_needed(id);
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];

	shmem_lock_partition(partition);

	/* Somebody else may have made it meanwhile: nobody can from here on. */
	if (shmem_consume(id, rule, decision))
	{
		shmem_unlock_partition(partition);
		return true;
	}

	if ((mode == PLACE_OR_SPILL || mode == PLACE_OR_EVICT) && spill_is_set(partition))
	{
		shmem_unlock_partition(partition);
		return false;
	}

	decision->owed = owed;
	decision->allowed = bucket_take(rule, &decision->owed);
	while (decision->owed > 0)
	{
		if (claim(&probe, needed, claimed, words))
		{
			fill(id, rule,
				 decision->owed + (rule->timed ? monotonic_ns() : 0),
				 probe.tag, needed, claimed, words);
			break;
		}
		if (mode == PLACE_OR_SPILL)
			spill_mark(partition);
		if (mode == PLACE_OR_SPILL || mode == PLACE_IF_ROOM)
		{
			shmem_unlock_partition(partition);
			return false;
		}
		evict_one(&probe, partition);
	}

	shmem_unlock_partition(partition);
	return true;
}

/*
 * Administering
 */

/* Make the bucket full.  Was it here, and not full? */
bool
shmem_reset(const BucketId *id)
{
	Probe		way = probe_of(id->hash);
	Slot	   *slot;
	uint64		word;

	while ((slot = find(id, &way, &word)) != NULL)
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

/* Make all buckets of a database, or of a limiter in it, full; how many. */
int64
shmem_reset_all(Oid database, const char *limiter, int limiter_len)
{
	int64		reset = 0;

	for (uint32 n = 0; n < shmem_slots(); n++)
	{
		Slot	   *slot = &slots[n];

		if (n % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		while (((volatile uint32 *) tags)[n] >= TAG_FIRST)
		{
			uint64		word = read_word(slot);

			if (slot->database != database)
				break;
			if (!lock_word(slot, word))
				continue;
			if (slot->database == database &&
				(!limiter ||
				 (slot->u.bucket.limiter_len == limiter_len &&
				  memcmp(slot->u.bucket.name, limiter, limiter_len) == 0)))
			{
				if (owed_of(slot, word, monotonic_ns()) > 0)
					reset++;
				unlock_changed(slot, word, 0);
			}
			else
				unlock_unchanged(slot, word);
			break;
		}
	}
	return reset;
}

/* The database's buckets are no more. */
void
shmem_forget_database(Oid database)
{
	uint32		per_partition = header->groups * GROUP_SLOTS;

	for (uint32 partition = 0; partition < header->partitions; partition++)
	{
		shmem_lock_partition(partition);
		for (uint32 i = 0; i < per_partition; i++)
		{
			uint32		n = partition * per_partition + i;
			uint64		word;

			if (tags[n] < TAG_FIRST || slots[n].database != database)
				continue;
			do
			{
				word = read_word(&slots[n]);
			} while (!lock_word(&slots[n], word));
			empty(n);
			unlock_changed(&slots[n], word, 0);
		}
		shmem_unlock_partition(partition);
	}
}

uint32
shmem_slots(void)
{
	return header->partitions * header->groups * GROUP_SLOTS;
}

/* Copy out the slot's bucket if it lives and is the database's. */
bool
shmem_view(uint32 n, Oid database, BucketView *view)
{
	Slot	   *slot = &slots[n];
	char		name[INLINE_BYTES + MAX_CONTINUATIONS * CONTINUATION_BYTES];

	while (((volatile uint32 *) tags)[n] >= TAG_FIRST)
	{
		uint64		word = read_word(slot);
		uint32		next = slot->link;
		Owed		full_at;
		int			done = INLINE_BYTES;

		if (slot->database != database)
		{
			if (unchanged(slot, word))
				return false;
			continue;
		}
		view->capacity = slot->u.bucket.capacity;
		view->refill = slot->u.bucket.refill;
		view->limiter_len = slot->u.bucket.limiter_len;
		view->key_len = slot->u.bucket.key_len;
		full_at = full_at_of(slot, word);
		memcpy(name, slot->u.bucket.name, INLINE_BYTES);
		while (done < view->limiter_len + view->key_len &&
			   next < shmem_slots() && done < (int) sizeof(name))
		{
			memcpy(name + done, slots[next].u.continuation.name, CONTINUATION_BYTES);
			done += CONTINUATION_BYTES;
			next = slots[next].u.continuation.next;
		}
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
	uint32		per_partition = header->groups * GROUP_SLOTS;
	BucketView	view;

	*n_slots = per_partition;
	*living = 0;
	for (uint32 i = 0; i < per_partition; i++)
		*living += shmem_view(partition * per_partition + i, database, &view);
	*evicted = (int64) pg_atomic_read_u64(&header->evicted[partition]);
}
