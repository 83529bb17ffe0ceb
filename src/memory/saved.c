/*
 * memory/saved.c
 *		Buckets in shared memory, as they are saved for the next start.
 *
 * The file they go to: core/saved_file.c.  How they are kept: memory/slots.h.
 *
 * Each bucket is copied as a decision reads it, without a lock.  So a file is of
 * no one moment: each bucket is as it was when its turn came.  One that becomes
 * full meanwhile and is made anew in another slot may turn up twice; the one that
 * was saved later is loaded last, and holds.
 *
 * The hash's seed is saved, too.  If memory has the same dimensions at the next
 * start, every bucket comes to where it was: in any other order they might not all
 * find room; and the partitions that have spilled are known.  If it has not,
 * buckets go where there is room.
 */
#include "memory/slots.h"

#include <math.h>

#include "decide/blocks.h"
#include "core/saved_file.h"

/* Slots between looks at whether to go on. */
#define SAVE_BATCH	512

/* Nanoseconds, in all of a save, to wait for what others hold. */
#define SAVE_PATIENCE	INT64CONST(1000000000)

typedef struct SavedStore
{
	uint64		seed;
	uint32		partitions;
	uint32		groups;
	uint64		evicted[MAX_PARTITIONS];
	uint8		shift[MAX_PARTITIONS];	/* of the layout */
} SavedStore;

typedef struct SavedBucket
{
	double		capacity;
	double		refill;
	uint64		owed[2];		/* when saving began; lower half first */
	Oid			database;
	uint32		places[1 + MAX_CONTINUATIONS];	/* slots that it lives in */
	uint8		limiter_len;
	uint8		key_len;
	char		names[MAX_NAMES];
} SavedBucket;

StaticAssertDecl(sizeof(SavedStore) <= MAX_SAVED_SIZE &&
				 sizeof(SavedBucket) <= MAX_SAVED_SIZE, "a record is too large");

/*
 * Saving
 */

void
shmem_save(Saving *saving)
{
	SavedStore	record = {0};

	record.seed = store.header->seed;
	record.partitions = store.partitions;
	record.groups = store.groups;
	for (int i = 0; i < MAX_PARTITIONS; i++)
	{
		record.evicted[i] = pg_atomic_read_u64(&store.header->evicted[i]);
		record.shift[i] = pg_atomic_read_u32(&store.header->layout[i]) & LAYOUT_SHIFT;
	}
	snapshot_put(saving, SAVED_STORE, &record, sizeof(record));
}

/*
 * Copy the slot's bucket if it lives; what it owed when saving began.  One that a
 * stopped process holds is left out: it would keep all others from being saved.
 */
static bool
copy_bucket(uint32 n, int64 began, int64 *patience, SavedBucket *record)
{
	Slot	   *slot = &store.slots[n];

	for (int round = 0; ((volatile uint32 *) store.tags)[n] >= TAG_FIRST; round++)
	{
		uint64		word = pg_atomic_read_u64(&slot->word);
		uint32		next;
		int			len;
		Owed		owed;

		if (word & WORD_LOCKED)
		{
			if (give_way_for(round, patience))
				continue;
			ereport(LOG,
					(errmsg("ratelimit: leaving a bucket out of the saved state"),
					 errdetail("A process that has been stopped is changing it.")));
			return false;
		}
		pg_read_barrier();
		next = slot->link;
		memset(record->places, 0, sizeof(record->places));
		record->places[0] = n;
		record->database = slot->database;
		record->capacity = slot->u.bucket.capacity;
		record->refill = slot->u.bucket.refill;
		record->limiter_len = slot->u.bucket.name.limiter_len;
		record->key_len = slot->u.bucket.name.key_len;
		owed = full_at_of(slot, word);
		slot_names(slot, record->names);
		len = record->limiter_len + record->key_len;
		for (int i = 1; i < lengthof(record->places) && next < shmem_slots() &&
			 INLINE_BYTES + (i - 1) * FURTHER_BYTES < len; i++)
		{
			record->places[i] = next;
			next = store.slots[next].u.continuation.next;
		}
		if (!unchanged(slot, word))
			continue;

		/* nothing of a slot that is changing may reach the arithmetic */
		if (!OidIsValid(record->database))
			return false;
		if (bucket_timed(record->capacity, record->refill))
		{
			if (owed <= monotonic_ns())
				return false;
			owed -= began;
		}
		record->owed[0] = (uint64) owed;
		record->owed[1] = (uint64) (owed >> 64);
		return owed > 0;
	}
	return false;
}

void
shmem_save_buckets(Saving *saving)
{
	SavedBucket record;
	uint32		per_partition = store.groups * GROUP_SLOTS;
	int64		patience = SAVE_PATIENCE;

	for (uint32 partition = 0; partition < store.partitions; partition++)
	{
		uint32		before;

		/* buckets that moved meanwhile may have passed us by */
		do
		{
			before = wait_for_layout(partition, &patience);
			pg_read_barrier();
			for (uint32 i = 0; i < per_partition; i++)
			{
				if (i % SAVE_BATCH == 0 && !snapshot_go_on(saving))
					return;
				if (copy_bucket(partition_slot(partition, i), saving->mono, &patience, &record))
					snapshot_put(saving, SAVED_BUCKET, &record,
								 offsetof(SavedBucket, names) + record.limiter_len + record.key_len);
			}
			pg_read_barrier();
		} while (pg_atomic_read_u32(&store.header->layout[partition]) != before);
	}
}

/*
 * Loading
 */

static bool
load_store(const char *bytes, Size size, Loading *loading)
{
	SavedStore	record;

	if (size != sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	for (int i = 0; i < MAX_PARTITIONS; i++)
		if (record.shift[i] > 31 || record.groups >> record.shift[i] == 0)
			return false;
	if (!loading->take)
		return true;

	loading->same_places = record.partitions == store.partitions &&
		record.groups == store.groups;
	if (loading->same_places)
	{
		use_seed(record.seed);
		for (int i = 0; i < MAX_PARTITIONS; i++)
			pg_atomic_write_u32(&store.header->layout[i], record.shift[i]);
	}
	for (int i = 0; i < MAX_PARTITIONS; i++)
		pg_atomic_fetch_add_u64(&store.header->evicted[loading->same_places ? i : 0],
								record.evicted[i]);
	return true;
}

static bool
load_bucket(const char *bytes, Size size, Loading *loading)
{
	SavedBucket record;
	BucketId	id;
	Owed		owed;
	const char *limiter = record.names;

	if (size < offsetof(SavedBucket, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (size != offsetof(SavedBucket, names) + record.limiter_len + record.key_len ||
		!OidIsValid(record.database) ||
		!isfinite(record.capacity) || record.capacity <= 0 ||
		!isfinite(record.refill) || record.refill < 0 ||
		!names_valid(limiter, record.limiter_len,
					 limiter + record.limiter_len, record.key_len))
		return false;
	owed = (Owed) ((uint128) record.owed[1] << 64 | record.owed[0]);
	if (owed <= 0 || owed > BUCKET_OWED_MAX)
		return false;
	if (!loading->take)
		return true;

	make_bucket_id(&id, record.database, limiter, record.limiter_len,
				   limiter + record.limiter_len, record.key_len);
	if (bucket_timed(record.capacity, record.refill))
		owed = Max(owed - loading->elapsed, 0);
	if (!shmem_restore(&id, record.capacity, record.refill, owed, loading->now,
					   loading->same_places ? record.places : NULL))
		loading->given_way++;
	if (*limiter == BLOCK_PREFIX)
		block_noticed(&id, owed);
	return true;
}

bool
shmem_load(SavedKind kind, const char *record, Size size, Loading *loading)
{
	return kind == SAVED_STORE ? load_store(record, size, loading) :
		load_bucket(record, size, loading);
}
