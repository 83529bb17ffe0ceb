/*
 * violations/part.c
 *		The memory of entries for violations, and how it is saved.
 *
 * This file says as a Part (core/parts.h) what the entries need: their memory, their
 * locks, and the records that are saved for the next start.  How entries are laid out
 * and found is in violations/entries.h.  Episodes, tracks and due flags are parts of
 * their own.
 *
 * The order of parts (ratelimit.c) is the order in which they are saved, loaded, and
 * made to forget a database.  This part comes after the memory of buckets, and before
 * episodes, tracks and due flags:
 *
 * - Loading: entries are found by hashes of buckets, whose seed is loaded with the
 *   buckets.  Episodes, tracks and due flags may be loaded later, because loading an
 *   entry tells them nothing.  They know what was saved from their own records.
 * - Saving: save() folds first, so that the episodes, tracks and due flags that are
 *   saved after it know of all violations.  What is loaded counts as folded, so they
 *   would never learn what they did not know when they were saved.
 * - Forgetting: as long as an entry is there, a fold may tell the others of it.  They
 *   forget the database when none of its entries is left.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "storage/shmem.h"
#include "violations/count.h"
#include "violations/entries.h"
#include "violations/fold.h"
#include "violations/part.h"
#include "violations/pending.h"

/*
 * Size and start
 */

static uint32
groups_per_partition(void)
{
	uint32		wanted = max_violations_setting + max_violations_setting / 4;

	return wanted / (N_PARTITIONS * GROUP_ENTRIES) + 1;
}

static Size
size(void)
{
	Size		n = hashed_entries(groups_per_partition()) + N_LAST;

	return add_size(CACHELINEALIGN(sizeof(Violations)),
					mul_size(n, sizeof(uint32) + sizeof(Entry) + sizeof(Aside)));
}

static int
locks(void)
{
	return N_PARTITIONS;
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;
	Size		n;

	violation_locks = my_locks;
	violations = (Violations *) p;
	p += CACHELINEALIGN(sizeof(Violations));
	if (!found)
	{
		uint32		all = hashed_entries(groups_per_partition());

		violations->groups = groups_per_partition();
		violations->seed = secret_seed();
		pg_atomic_init_u64(&violations->slice_began, 0);
		pg_atomic_init_u64(&violations->slice_ends, 0);
		pg_atomic_init_u64(&violations->lost, 0);
		pg_atomic_init_u64(&violations->fold_at, 0);
		/* with the same seed, a role has the same cell in both */
		shares_init(&violations->rooms[ROOM_KEYS], violations->seed, max_violations_setting);
		shares_init(&violations->rooms[ROOM_OTHERS], violations->seed,
					(all - max_violations_setting) / 2);
	}
	gateway_use_seed(violations->seed);
	n = hashed_entries(violations->groups) + N_LAST;
	entries = (Entry *) p;
	p += n * sizeof(Entry);
	asides = (Aside *) p;
	p += n * sizeof(Aside);
	violation_tags = (uint32 *) p;
	if (!found)
	{
		memset(violation_tags, 0, n * sizeof(uint32));
		memset(entries, 0, n * sizeof(Entry));
		memset(asides, 0, n * sizeof(Aside));
		for (Size i = 0; i < n; i++)
		{
			pg_atomic_init_u64(&entries[i].word, 0);
			pg_atomic_init_u64(&entries[i].last_at, 0);
		}
	}
}

/*
 * Saving
 */

/* Kinds of records. */
#define SAVED_LOST		0		/* one record: violations_lost() */
#define SAVED_VIOLATION 1		/* pending; only in files of a clean stop */
#define N_SAVED_KINDS	2

typedef struct SavedViolation
{
	int64		count;
	int64		age;			/* of the last violation, nanoseconds */
	Oid			database;
	uint8		gateway_len;
	uint8		limiter_len;
	uint8		key_len;
	char		names[MAX_GATEWAY_LEN + MAX_LIMITER_LEN + MAX_KEY_LEN];
} SavedViolation;

/*
 * Save how many violations were lost and, at a clean stop, those pending.  No other
 * process is there at a clean stop.
 */
static void
save(Saving *saving)
{
	int64		lost = Max(violations_lost(), 0);

	/* episodes and flags, which are saved after this, must know of all of it */
	violations_fold_to_save(saving);
	saved_put(saving, SAVED_LOST, &lost, sizeof(lost));
	for (uint32 at = 0; saving->at_stop && at < violations_entries(); at++)
	{
		ViolationView view;
		SavedViolation record = {0};
		char	   *p = record.names;

		if (!violations_view(at, InvalidOid, &view, &record.database))
			continue;
		record.count = view.count;
		record.age = saving->mono - (int64) pg_atomic_read_u64(&entries[at].last_at);
		record.gateway_len = strlen(view.gateway);
		record.limiter_len = strlen(view.limiter);
		record.key_len = strlen(view.key);
		memcpy(p, view.gateway, record.gateway_len);
		p += record.gateway_len;
		memcpy(p, view.limiter, record.limiter_len);
		p += record.limiter_len;
		memcpy(p, view.key, record.key_len);
		p += record.key_len;
		saved_put(saving, SAVED_VIOLATION, &record, p - (char *) &record);
	}
}

static bool
load_violation(const char *bytes, Size size, Loading *loading)
{
	SavedViolation record;
	char		name[MAX_GATEWAY_LEN + 1];
	const char *limiter;
	const char *key;
	BucketId	id;
	Gateway		gateway;

	if (size < offsetof(SavedViolation, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	limiter = record.names + record.gateway_len;
	key = limiter + record.limiter_len;
	if (size - offsetof(SavedViolation, names) !=
		record.gateway_len + record.limiter_len + record.key_len ||
		!OidIsValid(record.database) ||
		record.count <= 0 || record.count > MAX_VIOLATIONS_PENDING ||
		!saved_name_valid(record.names, record.gateway_len, MAX_GATEWAY_LEN) ||
		!saved_name_valid(limiter, record.limiter_len, MAX_LIMITER_LEN) ||
		!saved_name_valid(key, record.key_len, MAX_KEY_LEN))
		return false;
	if (!loading->take)
		return true;

	make_bucket_id(&id, record.database, limiter, record.limiter_len, key, record.key_len);
	memcpy(name, record.names, record.gateway_len);
	name[record.gateway_len] = '\0';
	gateway_set(&gateway, name);
	violations_add_saved(&id, &gateway, record.count, saved_mono(loading, record.age));
	return true;
}

static bool
load(int kind, const char *bytes, Size size, Loading *loading)
{
	int64		lost;

	if (kind == SAVED_VIOLATION)
		return load_violation(bytes, size, loading);
	if (size != sizeof(lost))
		return false;
	memcpy(&lost, bytes, size);
	if (lost < 0)
		return false;
	if (loading->take)
		pg_atomic_write_u64(&violations->lost, lost);
	return true;
}

const Part	violations_part = {
	.name = "ratelimit violations",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = violations_forget_database,
	.n_kinds = N_SAVED_KINDS,
	.pending = true,
	.save = save,
	.load = load
};
