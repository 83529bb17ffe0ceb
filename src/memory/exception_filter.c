/*
 * memory/exception_filter.c
 *		Which keys may have exceptions.
 *
 * Few keys have a row in rate_limit_exceptions, and the other calls must not pay for
 * looking for one.  For nearly every key the filter tells that there is none, whether
 * for the key itself or for a network that it is an address of.  It is a Bloom filter
 * whose keys have all of their bits in one word.
 *
 * All databases share one filter in shared memory, of a fixed size; their hashes
 * differ.  With 100,000 rows, one of some 20,000 other keys has to be looked for in
 * vain, with a million rows one of 30.  Without shared memory each session has its own
 * filter, of a size that fits the table.
 *
 * What a row has set is not taken away when the row goes: the filter is emptied when
 * more than half of what was added since it was last emptied is probably gone.  Bits
 * are set by atomic operations, without a lock.  Emptying takes the lock, increments
 * the generation before the first bit goes, and thereby voids all marks that say what
 * the filter holds.  Whoever tests a bit compares the generation afterwards with the
 * one of which the filter was known to be complete; a barrier in between orders the
 * two.  So a bit that is missing because of emptying is not taken for an answer.
 *
 * What the filter must hold, and who puts it there, is up to table/exceptions.c.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "memory/exception_filter.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#define SHARED_WORDS	131072	/* 1 MB */
#define SHARED_AREAS	65536	/* 256 kB */
#define MIN_WORDS		64
#define MAX_WORDS		65536	/* of a session's own filter: 512 kB */
#define MIN_AREAS		64
#define MAX_AREAS		32768

ExceptionFilter exception_filter;

static ExceptionFilterHead *shared_head = NULL;
static LWLock *lock;			/* protects the marks, and emptying */
static MemoryContext context = NULL;	/* of the session's own filter */

static Size
head_size(void)
{
	return CACHELINEALIGN(sizeof(ExceptionFilterHead));
}

static Size
size(void)
{
	return head_size() + SHARED_WORDS * sizeof(pg_atomic_uint64) +
		SHARED_AREAS * sizeof(pg_atomic_uint32);
}

static int
locks(void)
{
	return 1;
}

/* Use this memory as the filter. */
static void
use_memory(char *memory, uint32 words, uint32 areas)
{
	exception_filter.head = (ExceptionFilterHead *) memory;
	exception_filter.words = (pg_atomic_uint64 *) (memory + head_size());
	exception_filter.areas = (pg_atomic_uint32 *) (exception_filter.words + words);
	exception_filter.word_mask = words - 1;
	exception_filter.area_mask = areas - 1;
}

/* Initialize the memory in use: no key has an exception. */
static void
init_memory(uint32 generation)
{
	pg_atomic_init_u32(&exception_filter.head->generation, generation);
	pg_atomic_init_u32(&exception_filter.head->added, 0);
	pg_atomic_init_u32(&exception_filter.head->base, 0);
	for (uint32 i = 0; i <= exception_filter.word_mask; i++)
		pg_atomic_init_u64(&exception_filter.words[i], 0);
	for (uint32 i = 0; i <= exception_filter.area_mask; i++)
		pg_atomic_init_u32(&exception_filter.areas[i], 0);
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	shared_head = memory;
	lock = &my_locks[0].lock;
	use_memory(memory, SHARED_WORDS, SHARED_AREAS);
	if (!found)
		init_memory(1);
}

const Part	exception_filter_part = {
	.name = "ratelimit exceptions",
	.size = size,
	.locks = locks,
	.startup = startup
};

/* The smallest power of two from "min" to "max" that is not below n. */
static uint32
power_of_two(uint32 n, uint32 min, uint32 max)
{
	return pg_nextpower2_32(Min(Max(n, min), max));
}

/*
 * Have a filter that is large enough for so many rows, or is as large as it may
 * become.  It may be a new one, which is empty.
 */
void
exception_filter_attach(uint32 rows)
{
	static uint64 secret = 0;
	uint32		words = power_of_two(rows / 2, MIN_WORDS, MAX_WORDS);
	uint32		areas = power_of_two(rows / 4, MIN_AREAS, MAX_AREAS);
	uint32		generation = 1;

	if (shared_head)
	{
		exception_filter.seed = hash_fold(hash_secrets[2] ^ MyDatabaseId, hash_secrets[0]);
		return;
	}
	if (exception_filter.head)
	{
		if (words <= exception_filter.word_mask + 1)
			return;
		generation = pg_atomic_read_u32(&exception_filter.head->generation) + 1;
		exception_filter.head = NULL;
	}
	if (!context)
		context = AllocSetContextCreate(TopMemoryContext, "ratelimit exception filter",
										ALLOCSET_START_SMALL_SIZES);
	MemoryContextReset(context);
	if (secret == 0)
		secret = pg_prng_uint64(&pg_global_prng_state);
	exception_filter.seed = secret;
	use_memory(MemoryContextAllocHuge(context, head_size() +
									  words * sizeof(pg_atomic_uint64) +
									  areas * sizeof(pg_atomic_uint32)),
			   words, areas);
	init_memory(generation);
}

/* Should the filter be emptied, because it probably holds much that is gone? */
bool
exception_filter_is_full(void)
{
	uint64		added = pg_atomic_read_u32(&exception_filter.head->added);

	return added > (uint64) exception_filter.word_mask + 1 &&
		added > 2 * (uint64) pg_atomic_read_u32(&exception_filter.head->base);
}

/* Empty the filter, if it is still full. */
void
exception_filter_clear(void)
{
	exception_mark_lock();
	if (exception_filter_is_full())
	{
		pg_atomic_fetch_add_u32(&exception_filter.head->generation, 1);
		pg_atomic_write_u32(&exception_filter.head->added, 0);
		pg_atomic_write_u32(&exception_filter.head->base, 0);
		pg_write_barrier();
		for (uint32 i = 0; i <= exception_filter.word_mask; i++)
			pg_atomic_write_u64(&exception_filter.words[i], 0);
		for (uint32 i = 0; i <= exception_filter.area_mask; i++)
			pg_atomic_write_u32(&exception_filter.areas[i], 0);
	}
	exception_mark_unlock();
}

/* Set the bits of a hash.  Returns how many words have changed. */
static uint32
add(uint64 hash)
{
	uint64		bits;
	pg_atomic_uint64 *word = exception_word(hash, &bits);

	if ((pg_atomic_read_u64(word) & bits) == bits)
		return 0;
	return (pg_atomic_fetch_or_u64(word, bits) & bits) == bits ? 0 : 1;
}

static void
add_area(pg_atomic_uint32 *area, uint32 bit)
{
	if ((pg_atomic_read_u32(area) & bit) == 0)
		(void) pg_atomic_fetch_or_u32(area, bit);
}

/* The hash of a network. */
static uint64
network_hash(const Address *network)
{
	uint64		seed = hash_fold(network->high ^ hash_secrets[1],
								 exception_filter.seed ^ (network->bits << 1 | network->v6));

	return hash_fold(network->low ^ seed, hash_secrets[0] ^ exception_filter.seed);
}

/* Note that there is a row with the key.  Returns how many words have changed. */
uint32
exception_filter_add_key(const char *key, int len)
{
	return add(exception_key_hash(key, len));
}

/*
 * The length with which a network is in the filter: IPv6 networks are there as networks
 * of the next length that is divisible by four, and none has length 0.  So every length
 * has a bit in 32.
 */
static int
length_in_filter(bool v6, int bits)
{
	if (!v6)
		return Max(bits, 1);
	return Max((bits + 3) / 4 * 4, 4);
}

static uint32
length_bit(bool v6, int bits)
{
	uint32		n = v6 ? bits / 4 : bits;

	return (uint32) 1 << ((n - 1) & 31);
}

/* Add to the network its nth part, of those that have so many bits. */
static void
add_part(Address *network, int bits, uint32 n)
{
	if (!network->v6)
		network->low |= (uint64) n << (32 - bits);
	else if (bits <= 64)
		network->high |= (uint64) n << (64 - bits);
	else
		network->low |= (uint64) n << (128 - bits);
}

/* Tell all areas that share addresses with the network, which is as the filter has it. */
static void
add_to_areas(const Address *network)
{
	uint32		bit = length_bit(network->v6, network->bits);
	int			area_bits = network->v6 ? 32 : 16;
	uint64		first = network->v6 ? network->high >> 32 : network->low >> 16;
	uint32		n = 1;

	if (network->bits < area_bits)
		n = (uint32) 1 << (area_bits - network->bits);
	if (n > exception_filter.area_mask)
	{
		for (uint32 i = 0; i <= exception_filter.area_mask; i++)
			add_area(&exception_filter.areas[i], bit);
		return;
	}
	for (uint32 i = 0; i < n; i++)
		add_area(exception_area(network->v6, first + i), bit);
}

/* Set the bits of the marker of a network, if it has one. */
static uint32
add_marker(const Address *network)
{
	uint32		bit = length_bit(network->v6, network->bits);

	if (network->v6)
		return (bit & MARKED_48) ? add(exception_marker_hash(48, network->high >> 16)) : 0;
	if (bit & MARKED_24)
		return add(exception_marker_hash(24, network->low >> 8));
	return (bit & MARKED_20) ? add(exception_marker_hash(20, network->low >> 12)) : 0;
}

/* Note that there is a row with the network.  Returns how many words have changed. */
uint32
exception_filter_add_network(const Address *network)
{
	int			bits = length_in_filter(network->v6, network->bits);
	uint32		changed = 0;

	for (uint32 i = 0; i < (uint32) 1 << (bits - network->bits); i++)
	{
		Address		part = *network;

		part.bits = bits;
		add_part(&part, bits, i);
		changed += add(network_hash(&part)) + add_marker(&part);
		add_to_areas(&part);
	}
	return changed;
}

/* May there be a row with the network of so many bits that the address is in? */
bool
exception_filter_has_network(const Address *address, int bits)
{
	Address		network = *address;

	address_cut(&network, length_in_filter(address->v6, bits));
	return exception_filter_has(network_hash(&network));
}

/* May there be a row with a network that the address is in? */
bool
exception_filter_has_networks_of(const Address *address)
{
	uint64		area = address->v6 ? address->high >> 32 : address->low >> 16;
	uint32		lengths = pg_atomic_read_u32(exception_area(address->v6, area));
	uint32		longest = length_bit(address->v6,
									 length_in_filter(address->v6, address->bits));

	lengths &= longest | (longest - 1);
	while (lengths != 0)
	{
		int			bit = pg_rightmost_one_pos32(lengths);

		if (exception_filter_has_network(address, address->v6 ? (bit + 1) * 4 : bit + 1))
			return true;
		lengths &= lengths - 1;
	}
	return false;
}

void
exception_mark_lock(void)
{
	if (shared_head)
		LWLockAcquire(lock, LW_EXCLUSIVE);
}

void
exception_mark_unlock(void)
{
	if (shared_head)
		LWLockRelease(lock);
}
