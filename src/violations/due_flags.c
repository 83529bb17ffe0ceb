/*
 * violations/due_flags.c
 *		Flags that are due, in shared memory, until the worker has written them.
 *
 * violations/tracks.c decides which flags are due, and violations/flags.c writes
 * them.  There is room for MAX_DUE_FLAGS.  If a key's flag finds no room, the key's
 * next violations make it due again.
 *
 * One lock protects all of it.  It may be taken while holding a track's lock, and no
 * other lock is taken while holding it.  Under it a process does at most
 * MAX_DUE_FLAGS steps of a few nanoseconds, except that copying a flag takes longer
 * than that.
 *
 * Flags are found by a hash with a secret seed.  The seed is not saved for the next
 * start, because the names are saved whole.
 *
 * The order of parts (ratelimit.c).  Due flags come after tracks, for two reasons:
 *
 * - Saving: a track that is saved as due promises that its flag is written.  The flag
 *   is then saved later, unless it has been written meanwhile.  In the other order, a
 *   flag that becomes due in between would be missing although its track is saved as
 *   due, and it would not become due again as long as the key's violations stay above
 *   the threshold.
 * - Forgetting a database: as long as a track is there, it may make its flag due.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/oids.h"
#include "core/saved_file.h"
#include "violations/due_flags.h"
#include "violations/names.h"
#include "violations/saved_names.h"

#define MAX_DUE_FLAGS	1024
#define NOWHERE			(-1)

typedef struct DueFlags
{
	uint64		seed;
	/* the lock protects the fields below */
	uint64		hashes[MAX_DUE_FLAGS];	/* hash_due(); 0 if the place is free */
	DueFlag		flags[MAX_DUE_FLAGS];
} DueFlags;

static DueFlags *shared = NULL;
static LWLock *lock;

static Size
size(void)
{
	return sizeof(DueFlags);
}

static int
locks(void)
{
	return 1;
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	shared = memory;
	lock = &my_locks[0].lock;
	if (found)
		return;
	memset(shared, 0, sizeof(DueFlags));
	shared->seed = secret_seed();
}

/* The hash that a flag is found by, which is never 0. */
static uint64
hash_due(const BucketId *id)
{
	return Max(hash_names(shared->seed, id), 1);
}

/* Make a flag due.  Returns false if too many are due already. */
bool
flags_set_due(const BucketId *id, int64 rejected)
{
	uint64		hash = hash_due(id);
	int			place = NOWHERE;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
	{
		if (shared->hashes[i] == hash && shared->flags[i].database == id->database &&
			same_names(id, shared->flags[i].limiter, shared->flags[i].key))
		{
			place = i;
			break;
		}
		if (place == NOWHERE && shared->hashes[i] == 0)
			place = i;
	}
	if (place != NOWHERE)
	{
		DueFlag    *flag = &shared->flags[place];

		shared->hashes[place] = hash;
		flag->database = id->database;
		copy_names(id, flag->limiter, flag->key);
		flag->rejected = rejected;
	}
	LWLockRelease(lock);
	return place != NOWHERE;
}

/* The database's next due flag, from place *at on.  Returns false at the end. */
bool
flags_get_due(int *at, Oid database, DueFlag *flag)
{
	bool		found = false;

	if (!shared)
		return false;
	LWLockAcquire(lock, LW_SHARED);
	for (; *at < MAX_DUE_FLAGS && !found; (*at)++)
	{
		found = shared->hashes[*at] != 0 && shared->flags[*at].database == database;
		if (found)
			*flag = shared->flags[*at];
	}
	LWLockRelease(lock);
	return found;
}

/* The key's flag is no longer due. */
void
flags_not_due(const BucketId *id)
{
	uint64		hash = hash_due(id);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
		if (shared->hashes[i] == hash && shared->flags[i].database == id->database &&
			same_names(id, shared->flags[i].limiter, shared->flags[i].key))
			shared->hashes[i] = 0;
	LWLockRelease(lock);
}

/* The flag has been written. */
void
flags_done(const DueFlag *flag)
{
	BucketId	id = {0};

	id.database = flag->database;
	id.limiter = flag->limiter;
	id.limiter_len = strlen(flag->limiter);
	id.key = flag->key;
	id.key_len = strlen(flag->key);
	flags_not_due(&id);
}

/*
 * Add the databases in which flags are due to an array of n databases that has room
 * for max.  Returns their number then.
 */
int
flags_databases(Oid *databases, int n, int max)
{
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
		if (shared->hashes[i] != 0)
			n = oids_add(databases, n, max, shared->flags[i].database);
	LWLockRelease(lock);
	return n;
}

static void
forget(Oid database, bool dropped)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
		if (shared->flags[i].database == database)
			shared->hashes[i] = 0;
	LWLockRelease(lock);
}

/*
 * Saving for the next start (core/saved_file.c)
 */

typedef struct SavedDueFlag
{
	int64		rejected;
	Oid			database;
	SavedNames	names;
} SavedDueFlag;

static void
save(Saving *saving)
{
	for (int at = 0; at < MAX_DUE_FLAGS && saved_go_on(saving); at++)
	{
		SavedDueFlag record = {0};
		DueFlag		flag;
		bool		due;

		LWLockAcquire(lock, LW_SHARED);
		due = shared->hashes[at] != 0;
		flag = shared->flags[at];
		LWLockRelease(lock);
		if (!due)
			continue;
		record.database = flag.database;
		record.rejected = flag.rejected;
		saved_put(saving, 0, &record,
				  offsetof(SavedDueFlag, names) +
				  put_names(&record.names, flag.limiter, flag.key));
	}
}

static bool
load(int kind, const char *bytes, Size size, Loading *loading)
{
	SavedDueFlag record;
	BucketId	id = {0};

	if (size < offsetof(SavedDueFlag, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (!OidIsValid(record.database) || record.rejected < 0 ||
		!get_names(&record.names, size - offsetof(SavedDueFlag, names), &id))
		return false;
	id.database = record.database;
	if (loading->take)
		(void) flags_set_due(&id, record.rejected);
	return true;
}

const Part	due_flags_part = {
	.name = "ratelimit due flags",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = 1,
	.save = save,
	.load = load
};
