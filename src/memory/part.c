/*
 * memory/part.c
 *		Buckets in shared memory, as a part (core/parts.h): how much memory they take,
 *		and how it is set up when the server starts.
 *
 * memory/slots.h explains how buckets are kept, and memory/saved.c how they are
 * saved.
 */
#include "postgres.h"

#include "core/settings.h"
#include "memory/administration.h"
#include "memory/part.h"
#include "memory/saved.h"
#include "memory/slots.h"
#include "storage/shmem.h"

/* How many partitions there are, and how many groups each has. */
static void
dimensions(uint32 *partitions, uint32 *groups)
{
	uint32		n = MAX_PARTITIONS;

	while (n > 1 && max_buckets_setting / n < MIN_PARTITION_SLOTS)
		n /= 2;
	*partitions = n;
	/* a little more, for short ways, if it fits in 128 bytes a bucket */
	*groups = Max((max_buckets_setting / n + GROUP_SLOTS - 1) / GROUP_SLOTS,
				  (max_buckets_setting / 32 + (int64) max_buckets_setting) /
				  n / GROUP_SLOTS);
}

static Size
size(void)
{
	uint32		partitions;
	uint32		groups;
	Size		total;

	dimensions(&partitions, &groups);
	total = mul_size((Size) partitions * groups * GROUP_SLOTS,
					 sizeof(uint32) + sizeof(Slot) + sizeof(Tail));
	total = add_size(total, CACHELINEALIGN((Size) partitions * groups));
	return add_size(total, CACHELINEALIGN(sizeof(Header)));
}

/*
 * The shift in a partition's first layout: how much smaller it is than it may become.
 */
static uint32
first_shift(uint32 groups)
{
	uint32		shift = 0;

	while (groups <= MAX_GROWING_GROUPS && groups >> (shift + 1) >= FIRST_GROUPS)
		shift++;
	return shift;
}

/* There is one lock for each partition. */
static int
locks(void)
{
	uint32		partitions;
	uint32		groups;

	dimensions(&partitions, &groups);
	return partitions;
}

/* Attach shared memory, and make it if it was not found. */
static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;
	Size		n;

	store.locks = my_locks;
	store.header = (Header *) p;
	if (!found)
	{
		memset(store.header, 0, sizeof(Header));
		pg_atomic_init_u32(&store.header->block_cells, 0);
		dimensions(&store.header->partitions, &store.header->groups);
		store.header->seed = secret_seed();
		for (int i = 0; i < MAX_PARTITIONS; i++)
		{
			pg_atomic_init_u32(&store.header->layout[i],
							   first_shift(store.header->groups));
			pg_atomic_init_u64(&store.header->evicted[i], 0);
		}
	}
	hash_use_seed(store.header->seed);
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

static void
forget(Oid database, bool dropped)
{
	memory_forget_database(database);
}

const Part	memory_part = {
	.name = "ratelimit",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = MEMORY_KINDS,
	.save = memory_save,
	.load = memory_load
};
