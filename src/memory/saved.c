/*
 * memory/saved.c
 *		Saving the buckets in shared memory for the next start, and loading them.
 *
 * core/saved_file.c has the file that they are in, and memory/slots.h explains how
 * buckets are kept.
 *
 * Each bucket is copied as a decision reads it, without a lock.  So the file does not
 * show one moment: each bucket is as it was when its turn came.  A bucket that
 * becomes full meanwhile and is made anew in another slot may be saved twice, and so
 * may those of a partition that grows meanwhile.  The one that was saved later is
 * loaded last, and counts.
 *
 * The hash's seed is saved, too.  If memory has the same dimensions at the next
 * start, every bucket returns to the slots where it was: in any other order the
 * buckets might not all find room.  It also returns to the partition where it was, so
 * the evictions of each partition are still its own.  If the dimensions differ,
 * buckets go where there is room.
 */
#include "postgres.h"

#include <math.h>

#include "memory/block_filter.h"
#include "memory/claim.h"
#include "memory/grow.h"
#include "memory/partitions.h"
#include "memory/saved.h"
#include "memory/search.h"

/* Slots between looks at whether to go on. */
#define SAVE_BATCH	512

/* Nanoseconds that all of a save may wait for what other processes hold. */
#define SAVE_PATIENCE	INT64CONST(1000000000)

/* Kinds of records. */
#define SAVED_STORE		0		/* one record: how buckets are placed */
#define SAVED_BUCKET	1		/* a record for each bucket */

typedef struct SavedStore
{
	uint64		seed;
	uint32		partitions;
	uint32		groups;
	uint64		evicted[MAX_PARTITIONS];
	uint8		shift[MAX_PARTITIONS];	/* of the layouts */
} SavedStore;

typedef struct SavedBucket
{
	double		capacity;
	double		refill;
	uint64		owed[2];		/* what it owed when saving began; lower half first */
	Oid			database;
	uint32		places[1 + MAX_CONTINUATIONS];	/* the slots that it lives in */
	uint8		limiter_len;
	uint8		key_len;
	char		names[MAX_NAMES];
} SavedBucket;

StaticAssertDecl(sizeof(SavedStore) <= MAX_SAVED_SIZE &&
				 sizeof(SavedBucket) <= MAX_SAVED_SIZE, "a record is too large");

/*
 * Saving
 */

static void
save_store(Saving *saving)
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
	saved_put(saving, SAVED_STORE, &record, sizeof(record));
}

/*
 * Copy the slot's bucket if it lives, with what it owed when saving began.  Return
 * false if it does not live.  A bucket that a stopped process holds is left out, as
 * waiting for it would keep all others from being saved.
 */
static bool
copy_bucket(uint32 n, int64 began, int64 *patience, SavedBucket *record)
{
	Slot	   *slot = &store.slots[n];

	while (((volatile uint32 *) store.tags)[n] >= TAG_FIRST)
	{
		uint64		word;
		uint32		next;
		int			len;
		Owed		owed;

		if (!read_word_for(slot, &word, patience))
		{
			ereport(LOG,
					(errmsg("ratelimit: leaving a bucket out of the saved state"),
					 errdetail("A process that has been stopped is changing it.")));
			return false;
		}
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
		for (int i = 1; i < lengthof(record->places) && next < n_slots() &&
			 INLINE_BYTES + (i - 1) * FURTHER_BYTES < len; i++)
		{
			record->places[i] = next;
			next = store.slots[next].u.continuation.next;
		}
		if (!unchanged(slot, word))
			continue;

		/* the copy is consistent, so it may reach the arithmetic */
		if (!OidIsValid(record->database))
			return false;
		if (bucket_timed(record->capacity, record->refill))
		{
			if (owed <= monotonic_ns())
				return false;
			owed -= began;
		}
		else if (bucket_in_period(record->refill) &&
				 period_is_over(record->refill, PERIOD_GRACE))
			return false;
		record->owed[0] = (uint64) owed;
		record->owed[1] = (uint64) (owed >> 64);
		return owed > 0;
	}
	return false;
}

/* How far saving the buckets has got. */
typedef struct BucketSaving
{
	Saving	   *saving;
	int64		patience;		/* that is left */
	int64		visited;		/* slots */
} BucketSaving;

/* Save the slot's bucket if it lives; for visit_slots(). */
static bool
visit_to_save(uint32 n, void *arg)
{
	BucketSaving *mine = arg;
	SavedBucket record;

	if (mine->visited++ % SAVE_BATCH == 0 && !saved_go_on(mine->saving))
		return false;
	if (copy_bucket(n, mine->saving->mono, &mine->patience, &record))
	{
		saved_put(mine->saving, SAVED_BUCKET, &record,
				  offsetof(SavedBucket, names) + record.limiter_len + record.key_len);
		mine->saving->buckets++;
	}
	return true;
}

void
memory_save(Saving *saving)
{
	BucketSaving buckets = {.saving = saving,.patience = SAVE_PATIENCE};

	save_store(saving);
	visit_slots(visit_to_save, &buckets, &buckets.patience);
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
		store.header->seed = record.seed;
		hash_use_seed(record.seed);
		for (int i = 0; i < MAX_PARTITIONS; i++)
			pg_atomic_write_u32(&store.header->layout[i], record.shift[i]);
	}
	for (int i = 0; i < MAX_PARTITIONS; i++)
		pg_atomic_fetch_add_u64(&store.header->evicted[loading->same_places ? i : 0],
								record.evicted[i]);
	return true;
}

/*
 * Lock and empty these slots if all of them are on the way, and free.  Otherwise
 * return false, with no slot locked.
 */
static bool
claim_places(const Probe *probe, int needed, const uint32 *places,
			 uint32 *claimed, uint64 *words)
{
	int64		now = monotonic_ns();
	int			n = 0;

	Assert(needed > 0);
	for (int i = 0; i < needed; i++)
	{
		uint32		j = 0;

		while (j < probe_length(probe, PROBE_GROUPS) && probe_slot(probe, j) != places[i])
			j++;
		if (j == probe_length(probe, PROBE_GROUPS) ||
			!claim_slot(places[i], now, &words[n]))
			break;
		if (n == 0)
			extend_reach(probe, j);
		claimed[n++] = places[i];
	}
	if (n == needed)
		return true;
	release_slots(claimed, words, n);
	return false;
}

/*
 * Let all slots before this place on the way count as used, because a search ends at
 * a slot that has never been used.
 */
static void
free_way(const Probe *probe, uint32 place)
{
	for (uint32 i = 0; probe_slot(probe, i) != place; i++)
	{
		uint32		n = probe_slot(probe, i);

		if (store.tags[n] == TAG_FREE)
		{
			store.slots[n].link = NO_SLOT;
			store.tags[n] = TAG_CONTINUATION;
		}
	}
}

/*
 * Make a bucket that was saved, owing so much at the time "now", or bring it up to
 * date if it is here already.  It gets the slots that it had, if these are known.
 * Return false if another bucket had to give way for it.  This is done while the
 * server starts: there is no other process, and no lock is taken.
 */
static bool
restore(const BucketId *id, double capacity, double refill, Owed owed,
		int64 now, const uint32 *places)
{
	Probe		probe = probe_of(id->hash);
	BucketRule	rule = {.capacity = capacity,.refill = refill};
	Owed		full_at = owed + (bucket_timed(capacity, refill) ? now : 0);
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];
	bool		room = true;
	uint64		word;
	Slot	   *slot = find(id, &word);

	if (slot && lock_word(slot, word))
	{
		unlock_with_rule(slot, word, &rule, owed > 0 ? full_at : 0);
		return true;
	}
	if (owed <= 0)
		return true;
	if (places && claim_places(&probe, slots_needed(id), places, claimed, words))
		free_way(&probe, claimed[0]);
	else
		while (!claim_or_grow(id, PROBE_GROUPS, claimed, words))
		{
			room = false;
			probe = probe_of(id->hash);
			(void) evict_one(&probe, memory_partition(id->hash), NULL, 0);
		}
	fill_slots(id, &rule, full_at, slots_needed(id), claimed, words);
	return room;
}

static bool
load_bucket(const char *bytes, Size size, Loading *loading)
{
	SavedBucket record;
	BucketId	id;
	Owed		owed;
	bool		in_period;
	const char *limiter = record.names;

	if (size < offsetof(SavedBucket, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (size != offsetof(SavedBucket, names) + record.limiter_len + record.key_len ||
		!OidIsValid(record.database) ||
		!names_valid(limiter, record.limiter_len,
					 limiter + record.limiter_len, record.key_len) ||
		!isfinite(record.refill) || !(record.capacity > 0))
		return false;
	in_period = plain_limiter_len(limiter, record.limiter_len) < record.limiter_len;
	if (in_period != bucket_in_period(record.refill) ||
		(!in_period && !isfinite(record.capacity)) ||
		(in_period && record.refill < -PERIOD_END_MAX))
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
	else if (in_period && period_is_over(record.refill, PERIOD_GRACE))
		owed = 0;
	if (!restore(&id, record.capacity, record.refill, owed, loading->now,
				 loading->same_places ? record.places : NULL))
		loading->given_way++;
	loading->buckets++;
	if (limiter_is_block(limiter, record.limiter_len))
		block_noticed(&id, owed);
	return true;
}

bool
memory_load(int kind, const char *record, Size size, Loading *loading)
{
	return kind == SAVED_STORE ? load_store(record, size, loading) :
		load_bucket(record, size, loading);
}
