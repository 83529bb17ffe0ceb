/*
 * violations/tracks.c
 *		Which keys are to be flagged: counts of recent violations, in shared memory.
 *
 * For limiters in flag_limiters, a track counts the violations of a key in slices of
 * a 17th of flag_window.  When the last 16 slices reach flag_threshold, the key's
 * flag is due (violations/due_flags.c), and the worker writes it
 * (violations/flags.c).  What flags_count() is told at once has happened within about
 * a slice (violations/count.c).  So no key is flagged for violations that are further
 * apart than the window, and a key that has enough of them within 15/17 of the window
 * is flagged, unless others have very many violations (see below).  A track remembers
 * that its flag was due until its violations fall below the threshold, or until
 * clearing the flag starts it anew.
 *
 * There are as many tracks as there may be pending entries, in sets of TRACK_WAYS.
 * The set of a key follows from a hash with a secret seed.  A key that finds no free
 * track in its set takes violations away from each of the others there: as many as it
 * has itself, or as the least of them has, whichever is less.  The same number of its
 * own is not counted either.  If it has violations left after that, one of the others
 * has none, and the key gets that one's track.  (This is the Misra-Gries summary of
 * frequent items, for each set.)  So no key is ever counted for violations that it
 * does not have.  And for each violation of a key that is not counted, TRACK_WAYS
 * violations of other keys in its set are not counted either, although they were
 * counted before, or would have been.  To hide h violations of a key, somebody needs
 * h * TRACK_WAYS violations of other keys in its set within the window.  Nobody can
 * know which keys are in that set, so the other sets get as many: about h times
 * max_violations in all, however they are chosen and timed.  (A cache
 * would be easier to deceive: a look at the key's place, or a short burst, would
 * evict the key.)
 *
 * Each set is protected by one of N_TRACK_LOCKS locks, which are taken in their order
 * where one process takes all of them.  A track's lock may be taken while holding the
 * lock of a partition of entries, and the lock of the due flags may be taken while
 * holding a track's.  The episodes' lock is never held together with a track's.
 * Under a track's lock a process does no more than a few passes over a set, and one
 * over the due flags.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "storage/shmem.h"
#include "violations/due_flags.h"
#include "violations/names.h"
#include "violations/tracks.h"

#define SLICES			16
#define TRACK_WAYS		16
#define N_TRACK_LOCKS	16

typedef struct Track
{
	uint64		names[2];		/* two hashes of limiter and key */
	int64		last_slice;		/* the newest slice that is counted */
	uint32		counts[SLICES]; /* slice n is at slice_place(n) */
	Oid			database;		/* InvalidOid if the track is free */
	uint32		window;			/* the track is free if Tracks has another one */
	bool		due;			/* its flag is or was due for these violations */
} Track;

typedef struct Tracks
{
	uint64		seeds[2];		/* saved with the tracks */
	pg_atomic_uint64 slice_ns;	/* changes only under all locks of tracks */
	uint32		window;			/* number of the window; changes with slice_ns */
} Tracks;

static Tracks *shared = NULL;
static Track *tracks;			/* n_sets() sets of TRACK_WAYS */
static LWLockPadded *track_locks;

#define TRACK_LOCK(set)		(&track_locks[(set) % N_TRACK_LOCKS].lock)

static uint32
n_sets(void)
{
	return Max(max_violations_setting / TRACK_WAYS, 1);
}

static Size
size(void)
{
	return add_size(MAXALIGN(sizeof(Tracks)),
					mul_size(n_sets() * TRACK_WAYS, sizeof(Track)));
}

static int
locks(void)
{
	return N_TRACK_LOCKS;
}

static int64
wanted_slice_ns(void)
{
	return flag_window_setting * INT64CONST(1000000000) / (SLICES + 1);
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	shared = memory;
	tracks = (Track *) ((char *) memory + MAXALIGN(sizeof(Tracks)));
	track_locks = my_locks;
	if (found)
		return;
	memset(memory, 0, size());
	shared->seeds[0] = secret_seed();
	shared->seeds[1] = secret_seed();
	pg_atomic_init_u64(&shared->slice_ns, wanted_slice_ns());
	shared->window = 1;
}

/* The length of a slice, in nanoseconds. */
int64
tracks_slice(void)
{
	return (int64) pg_atomic_read_u64(&shared->slice_ns);
}

/*
 * The functions from here to add_to_track() are called with the lock of the track's
 * set held.
 */

/*
 * The slice of a time.  The time may be before the clock's zero if it was saved
 * before the machine booted.
 */
static int64
slice_of(int64 at)
{
	int64		slice = at / tracks_slice();

	return at % tracks_slice() < 0 ? slice - 1 : slice;
}

/* The place in counts[] of a slice. */
static int
slice_place(int64 slice)
{
	return (int) (((slice % SLICES) + SLICES) % SLICES);
}

/* Is the limiter one of flag_limiters, or does that list have "*", for all limiters? */
static bool
limiter_flags(const char *limiter, int len)
{
	const char *p = flag_limiters_setting ? flag_limiters_setting : "";

	while (*p)
	{
		const char *end = p + strcspn(p, ",");
		Size		n;

		while (*p == ' ')
			p++;
		n = end - p;
		while (n > 0 && p[n - 1] == ' ')
			n--;
		if (n == 1 && *p == '*')
			return true;
		if (n == len && memcmp(p, limiter, n) == 0)
			return true;
		p = *end ? end + 1 : end;
	}
	return false;
}

static Track *
track_set(const uint64 *names)
{
	return &tracks[names[0] % n_sets() * TRACK_WAYS];
}

static LWLock *
track_lock(const uint64 *names)
{
	return TRACK_LOCK(names[0] % n_sets());
}

static bool
track_used(const Track *track)
{
	return OidIsValid(track->database) && track->window == shared->window;
}

/* How many violations a track counts within the window that ends with this slice. */
static int64
track_sum(const Track *track, int64 slice)
{
	int64		sum = 0;

	if (!track_used(track))
		return 0;
	for (int64 i = Max(slice, track->last_slice) - SLICES + 1; i <= track->last_slice; i++)
		sum += track->counts[slice_place(i)];
	return sum;
}

/* Take n violations from a track that has so many in the window, the oldest first. */
static void
track_take(Track *track, int64 slice, int64 n)
{
	for (int64 i = Max(slice, track->last_slice) - SLICES + 1; n > 0; i++)
	{
		uint32	   *count = &track->counts[slice_place(i)];
		uint32		taken = Min(*count, n);

		*count -= taken;
		n -= taken;
	}
}

static Track *
find_track(Oid database, const uint64 *names)
{
	Track	   *set = track_set(names);

	for (int i = 0; i < TRACK_WAYS; i++)
		if (track_used(&set[i]) && set[i].database == database &&
			set[i].names[0] == names[0] && set[i].names[1] == names[1])
			return &set[i];
	return NULL;
}

/*
 * Make a track for a key that has none and gets *n violations.  Those that are not
 * counted are subtracted from *n.  Returns NULL if none is left.
 */
static Track *
make_track(Oid database, const uint64 *names, int64 slice, int64 *n)
{
	Track	   *set = track_set(names);
	int64		now = Max(slice, slice_of(monotonic_ns()));
	Track	   *least = set;
	int64		least_sum = PG_INT64_MAX;

	for (int i = 0; i < TRACK_WAYS && least_sum > 0; i++)
	{
		int64		sum = track_sum(&set[i], now);

		if (sum < least_sum)
		{
			least = &set[i];
			least_sum = sum;
		}
	}
	if (least_sum > 0)
	{
		int64		taken = Min(*n, least_sum);

		for (int i = 0; i < TRACK_WAYS; i++)
			track_take(&set[i], now, taken);
		*n -= taken;
		if (*n == 0)
			return NULL;
	}
	memset(least, 0, sizeof(Track));
	least->database = database;
	least->window = shared->window;
	least->names[0] = names[0];
	least->names[1] = names[1];
	least->last_slice = slice;
	return least;
}

static void
add_to_track(const BucketId *id, const uint64 *names, int64 n, int64 at)
{
	int64		slice = slice_of(at);
	int64		sum = n;		/* at least so many, whatever the track says */
	int64		counted = n;
	Track	   *track = find_track(id->database, names);

	if (!track)
		track = make_track(id->database, names, slice, &counted);
	if (!track)
	{
		if (sum >= flag_threshold_setting)
			(void) flags_set_due(id, sum);
		return;
	}

	/* clear the places of slices that are new to the track */
	for (int64 gone = Max(track->last_slice + 1, slice - SLICES + 1); gone <= slice; gone++)
		track->counts[slice_place(gone)] = 0;
	track->last_slice = Max(track->last_slice, slice);

	/* what is told late may be outside of the window itself */
	if (slice > track->last_slice - SLICES)
	{
		uint32	   *count = &track->counts[slice_place(slice)];

		*count = Min(*count + counted, (int64) PG_INT32_MAX);
	}
	sum = Max(sum, track_sum(track, slice));
	if (sum < flag_threshold_setting)
		track->due = false;
	else if (!track->due)
		track->due = flags_set_due(id, sum);
}

/*
 * Count n more violations of a key.  The last of them came at this time of the
 * monotonic clock, and the others about a slice before it at the earliest.
 */
void
flags_count(const BucketId *id, int64 n, int64 at)
{
	uint64		names[2];

	if (!limiter_flags(id->limiter, id->limiter_len))
		return;
	names[0] = hash_names(shared->seeds[0], id);
	names[1] = hash_names(shared->seeds[1], id);
	LWLockAcquire(track_lock(names), LW_EXCLUSIVE);
	add_to_track(id, names, n, at);
	LWLockRelease(track_lock(names));
}

/* The key's flag has been cleared.  Only new violations count towards another one. */
void
flags_start_anew(const BucketId *id)
{
	uint64		names[2];
	Track	   *track;

	names[0] = hash_names(shared->seeds[0], id);
	names[1] = hash_names(shared->seeds[1], id);
	LWLockAcquire(track_lock(names), LW_EXCLUSIVE);
	track = find_track(id->database, names);
	if (track)
		track->database = InvalidOid;
	LWLockRelease(track_lock(names));
	flags_not_due(id);
}

/*
 * Start all tracks anew if flag_window has changed.  Returns whether it has.  Only
 * the launcher does this, because other processes read a changed setting at different
 * times, some of them late.
 */
bool
tracks_set_window(void)
{
	if (tracks_slice() == wanted_slice_ns())
		return false;
	for (int i = 0; i < N_TRACK_LOCKS; i++)
		LWLockAcquire(TRACK_LOCK(i), LW_EXCLUSIVE);
	pg_atomic_write_u64(&shared->slice_ns, wanted_slice_ns());
	shared->window++;
	for (int i = 0; i < N_TRACK_LOCKS; i++)
		LWLockRelease(TRACK_LOCK(i));
	return true;
}

static void
forget(Oid database, bool dropped)
{
	for (uint32 set = 0; set < n_sets(); set++)
	{
		Track	   *track = &tracks[set * TRACK_WAYS];

		LWLockAcquire(TRACK_LOCK(set), LW_EXCLUSIVE);
		for (int i = 0; i < TRACK_WAYS; i++)
			if (track[i].database == database)
				track[i].database = InvalidOid;
		LWLockRelease(TRACK_LOCK(set));
	}
}

/*
 * Saving for the next start (core/saved_file.c)
 *
 * A track's slices begin at multiples of their length on the monotonic clock, which
 * starts anew when the machine boots.  So a track's last slice is saved by its age,
 * and is loaded into the slice that its beginning falls into.  The track's violations
 * then seem up to a slice older than they are, but never younger, so no key is
 * flagged for violations that are further apart than the window.
 *
 * Tracks know keys only by their hashes, so the seeds are saved as well.
 */

/* Kinds of records. */
#define SAVED_TRACK_SEEDS	0	/* one record: seeds[] */
#define SAVED_TRACK			1
#define N_SAVED_KINDS		2

typedef struct SavedTrack
{
	uint64		names[2];
	int64		slice_ns;
	int64		age;			/* since the last slice began, nanoseconds */
	uint32		counts[SLICES];
	Oid			database;
	uint32		due;
} SavedTrack;

static void
save(Saving *saving)
{
	saved_put(saving, SAVED_TRACK_SEEDS, shared->seeds, sizeof(shared->seeds));
	for (uint32 i = 0; i < n_sets() * TRACK_WAYS && saved_go_on(saving); i++)
	{
		SavedTrack	record = {0};
		Track		track;

		LWLockAcquire(TRACK_LOCK(i / TRACK_WAYS), LW_SHARED);
		track = tracks[i];
		if (!track_used(&track))
			track.database = InvalidOid;
		record.slice_ns = tracks_slice();
		LWLockRelease(TRACK_LOCK(i / TRACK_WAYS));
		if (!OidIsValid(track.database))
			continue;
		record.database = track.database;
		memcpy(record.names, track.names, sizeof(record.names));
		record.age = Max(saving->mono - track.last_slice * record.slice_ns, 0);
		/* the oldest slice comes first */
		for (int j = 0; j < SLICES; j++)
			record.counts[j] = track.counts[slice_place(track.last_slice + 1 + j)];
		record.due = track.due;
		saved_put(saving, SAVED_TRACK, &record, sizeof(record));
	}
}

static bool
load_seeds(const char *bytes, Size size, Loading *loading)
{
	if (size != sizeof(shared->seeds))
		return false;
	if (loading->take)
		memcpy(shared->seeds, bytes, size);
	return true;
}

static bool
load_track(const char *bytes, Size size, Loading *loading)
{
	SavedTrack	record;
	Track	   *track;
	int64		slice;
	int64		sum = 0;

	if (size != sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	for (int i = 0; i < SLICES; i++)
	{
		if (record.counts[i] > PG_INT32_MAX)
			return false;
		sum += record.counts[i];
	}
	if (!OidIsValid(record.database) || record.slice_ns <= 0 || record.age < 0)
		return false;
	/* with another flag_window, tracks start anew */
	if (!loading->take || record.slice_ns != tracks_slice())
		return true;

	slice = slice_of(saved_mono(loading, record.age));
	track = find_track(record.database, record.names);
	if (!track)
		track = make_track(record.database, record.names, slice, &sum);
	if (!track)
		return true;
	track->last_slice = slice;
	track->due = record.due != 0;
	for (int i = 0; i < SLICES; i++)
		track->counts[slice_place(slice + 1 + i)] = record.counts[i];
	return true;
}

static bool
load(int kind, const char *record, Size size, Loading *loading)
{
	return kind == SAVED_TRACK_SEEDS ? load_seeds(record, size, loading) :
		load_track(record, size, loading);
}

const Part	tracks_part = {
	.name = "ratelimit tracks",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = N_SAVED_KINDS,
	.save = save,
	.load = load
};
