/*
 * violations/episodes.c
 *		Recent runs of violations, and who is to be flagged, in shared memory.
 *
 * violations/count.c tells of violations here, not one by one: a (limiter, key), and by
 * how much it grew.
 *
 * Episodes: at most max_episodes (limiter, key) series; past that the one whose
 * last violation is longest ago goes.  One is visible for episode_retention after
 * its last violation, or for flag_window if that is longer.  They are found by a
 * hash, and the one to go by a heap, so that telling of a violation takes no longer
 * the more there are.  All of it is guarded by the episodes' lock.
 *
 * Flags: for limiters in flag_limiters, the violations of each key are counted in
 * slices of a 17th of flag_window.  When those of the last 16 slices reach
 * flag_threshold, the flag is due: the worker writes it (violations/flags.c).  What is told of
 * at once has happened within a slice, or nearly (violations/count.c).  So nobody is
 * flagged for violations that are further apart than the window; and whoever has as
 * many within 15/17 of it is, unless others' violations are very many (below).
 * A track remembers that its flag was due until its violations fall below the
 * threshold, or it is started anew, by clearing the flag.
 *
 * There are as many tracks as violations may be pending, in sets of TRACK_WAYS; the
 * set of a key follows from a hash with a secret seed.  A key that finds no track
 * free in its set takes as many violations from each of the others there as it has
 * itself, or as the least of them has, and so many of its own are not counted
 * either; if one of them has none left then, it gets that one's track.  (This is
 * the Misra-Gries summary of frequent items, per set.)  So no key is ever counted
 * for violations that it does not have.  And for each violation of a key that is not
 * counted, TRACK_WAYS others in its set are not counted either, which were counted
 * before, or would have been.  Who wants to hide h violations of a key needs
 * h * TRACK_WAYS violations of other keys in its set within the window.  As nobody
 * can know which keys are in it, the other sets get as many: h * max_violations, more
 * or less, however they are chosen and timed.  To evict a key from a cache, a look at
 * its place or a short burst would do.
 *
 * A track is guarded by one of N_TRACK_LOCKS locks, the flags that are due by the
 * due flags' lock.
 *
 * Order of locks: a partition's of violations/count.c, the episodes', a track's, the due
 * flags'.  Nothing is done under any of them that takes longer than one of up to
 * max_episodes steps of a few nanoseconds.
 */
#include "ratelimit.h"

#include "common/hashfn.h"
#include "violations/episodes.h"
#include "core/saved_file.h"
#include "utils/timestamp.h"
#include "violations/count.h"

#define SLICES			16
#define TRACK_WAYS		16
#define N_TRACK_LOCKS	16
#define NOWHERE			(-1)

typedef struct Track
{
	uint64		names[2];		/* two hashes of limiter and key */
	int64		last_slice;		/* the newest one counted */
	uint32		counts[SLICES]; /* of slice n at slice_place(n) */
	Oid			database;		/* InvalidOid: free */
	uint32		window;			/* as in Episodes: another one: free */
	bool		due;			/* its flag is, or was, for these violations */
} Track;

/* How an episode is found; places are indexes of episodes. */
typedef struct EpisodeLink
{
	uint64		hash;
	int			next;			/* in its chain, or of the free ones */
	int			in_heap;		/* where its place stands there */
} EpisodeLink;

typedef struct Episodes
{
	uint64		episode_seed;
	uint64		track_seeds[2]; /* saved with the tracks */
	pg_atomic_uint64 slice_ns;	/* of the tracks; all locks of tracks */
	uint32		window;			/* likewise; changes with it */

	/* the episodes' lock */
	int			n_episodes;		/* all of them in the heap */
	int			free_episode;	/* place; NOWHERE: none */

	/* the due flags' lock */
	uint64		due_hashes[MAX_DUE_FLAGS];	/* of names; 0: free */
	DueFlag		due[MAX_DUE_FLAGS];
} Episodes;

static Episodes *shared = NULL;
static Episode *episodes;		/* max_episodes */
static EpisodeLink *links;		/* as many */
static int *heap;				/* places, the one longest ago first; as many */
static int *chains;				/* the first place of each hash chain */
static Track *tracks;			/* n_sets() times TRACK_WAYS */
static LWLockPadded *locks;

#define EPISODES_LOCK		(&locks[0].lock)
#define DUE_LOCK			(&locks[1].lock)
#define TRACK_LOCK(set)		(&locks[2 + (set) % N_TRACK_LOCKS].lock)

/*
 * Size and start
 */

static uint32
n_chains(void)
{
	uint32		n = 16;

	while (n < max_episodes_setting)
		n *= 2;
	return n;
}

static uint32
n_sets(void)
{
	return Max(max_violations_setting / TRACK_WAYS, 1);
}

Size
episodes_size(void)
{
	Size		size = MAXALIGN(sizeof(Episodes));

	size = add_size(size, mul_size(n_sets() * TRACK_WAYS, sizeof(Track)));
	size = add_size(size, mul_size(max_episodes_setting,
								   sizeof(Episode) + sizeof(EpisodeLink) + sizeof(int)));
	return add_size(size, mul_size(n_chains(), sizeof(int)));
}

int
episodes_locks(void)
{
	return 2 + N_TRACK_LOCKS;
}

/* From violations/count.c, which has them beside its own; before episodes_startup(). */
void
episodes_use_locks(LWLockPadded *my_locks)
{
	locks = my_locks;
}

static int64
wanted_slice_ns(void)
{
	return flag_window_setting * INT64CONST(1000000000) / (SLICES + 1);
}

/* Holding AddinShmemInitLock. */
void
episodes_startup(void *memory, bool found)
{
	char	   *p = memory;

	shared = (Episodes *) p;
	p += MAXALIGN(sizeof(Episodes));
	tracks = (Track *) p;
	p += n_sets() * TRACK_WAYS * sizeof(Track);
	episodes = (Episode *) p;
	p += max_episodes_setting * sizeof(Episode);
	links = (EpisodeLink *) p;
	p += max_episodes_setting * sizeof(EpisodeLink);
	heap = (int *) p;
	p += max_episodes_setting * sizeof(int);
	chains = (int *) p;
	if (found)
		return;

	memset(memory, 0, episodes_size());
	shared->episode_seed = secret_seed();
	shared->track_seeds[0] = secret_seed();
	shared->track_seeds[1] = secret_seed();
	pg_atomic_init_u64(&shared->slice_ns, wanted_slice_ns());
	shared->window = 1;
	for (uint32 i = 0; i < n_chains(); i++)
		chains[i] = NOWHERE;
	shared->free_episode = NOWHERE;
	for (int i = max_episodes_setting - 1; i >= 0; i--)
	{
		links[i].next = shared->free_episode;
		shared->free_episode = i;
	}
}

/* A hash of limiter and key. */
static uint64
hash_of(uint64 seed, const BucketId *id)
{
	uint64		hash;

	hash = hash_bytes_extended((const unsigned char *) id->limiter, id->limiter_len,
							   seed ^ id->database);
	return hash_bytes_extended((const unsigned char *) id->key, id->key_len,
							   hash ^ seed);
}

/* Are they these texts? */
static bool
same_names(const BucketId *id, const char *limiter, const char *key)
{
	return strncmp(limiter, id->limiter, id->limiter_len) == 0 &&
		limiter[id->limiter_len] == '\0' &&
		strncmp(key, id->key, id->key_len) == 0 && key[id->key_len] == '\0';
}

static void
copy_names(const BucketId *id, char *limiter, char *key)
{
	memcpy(limiter, id->limiter, id->limiter_len);
	limiter[id->limiter_len] = '\0';
	memcpy(key, id->key, id->key_len);
	key[id->key_len] = '\0';
}

/*
 * Episodes.  From here to episodes_add(): with the episodes' lock held.
 */

/* How long an episode stays after its last violation. */
static int64
retention_us(void)
{
	return Max(episode_retention_setting, flag_window_setting) * USECS_PER_SEC;
}

static void
put_in_heap(int at, int place)
{
	heap[at] = place;
	links[place].in_heap = at;
}

/* Put the place where it belongs, at this point of the heap or further up or down. */
static void
sift(int at, int place)
{
	TimestampTz last_at = episodes[place].last_at;

	for (; at > 0 && episodes[heap[(at - 1) / 2]].last_at > last_at; at = (at - 1) / 2)
		put_in_heap(at, heap[(at - 1) / 2]);
	for (;;)
	{
		int			child = 2 * at + 1;

		if (child + 1 < shared->n_episodes &&
			episodes[heap[child + 1]].last_at < episodes[heap[child]].last_at)
			child++;
		if (child >= shared->n_episodes || episodes[heap[child]].last_at >= last_at)
			break;
		put_in_heap(at, heap[child]);
		at = child;
	}
	put_in_heap(at, place);
}

static int *
chain_of(uint64 hash)
{
	return &chains[hash & (n_chains() - 1)];
}

static int
find_episode(const BucketId *id, uint64 hash)
{
	for (int place = *chain_of(hash); place != NOWHERE; place = links[place].next)
		if (links[place].hash == hash && episodes[place].database == id->database &&
			same_names(id, episodes[place].limiter, episodes[place].key))
			return place;
	return NOWHERE;
}

static void
remove_episode(int place)
{
	int		   *next = chain_of(links[place].hash);
	int			at = links[place].in_heap;
	int			last = heap[--shared->n_episodes];

	while (*next != place)
		next = &links[*next].next;
	*next = links[place].next;
	if (last != place)
		sift(at, last);
	episodes[place].database = InvalidOid;
	links[place].next = shared->free_episode;
	shared->free_episode = place;
}

/* Make an episode; NOWHERE if it is older than all that fill the window already. */
static int
make_episode(const BucketId *id, uint64 hash, TimestampTz first_at, TimestampTz last_at)
{
	int			place;
	Episode    *episode;

	if (shared->free_episode == NOWHERE)
	{
		if (last_at < episodes[heap[0]].last_at)
			return NOWHERE;
		remove_episode(heap[0]);
	}
	place = shared->free_episode;
	shared->free_episode = links[place].next;
	episode = &episodes[place];
	episode->database = id->database;
	copy_names(id, episode->limiter, episode->key);
	episode->first_at = first_at;
	episode->last_at = last_at;
	episode->rejected = 0;
	links[place].hash = hash;
	links[place].next = *chain_of(hash);
	*chain_of(hash) = place;
	sift(shared->n_episodes++, place);
	return place;
}

static bool
add_to_episode(const BucketId *id, uint64 hash, int64 n, TimestampTz first_at,
			   TimestampTz last_at, bool make)
{
	int			place = find_episode(id, hash);

	if (place == NOWHERE && !make)
		return false;
	if (place == NOWHERE)
	{
		place = make_episode(id, hash, first_at, last_at);
		if (place == NOWHERE)
			return true;
	}
	else if (episodes[place].last_at + retention_us() < last_at)
	{
		/* that one was over: a new one begins */
		episodes[place].rejected = 0;
		episodes[place].first_at = Max(first_at, episodes[place].last_at);
	}
	episodes[place].rejected += n;
	if (last_at > episodes[place].last_at)
	{
		episodes[place].last_at = last_at;
		sift(links[place].in_heap, place);
	}
	return true;
}

/*
 * A key got n more violations, between these times.  False, and nothing done, if it
 * has no episode and is not to get one yet.
 */
bool
episodes_add(const BucketId *id, int64 n, TimestampTz first_at, TimestampTz last_at,
			 bool make)
{
	uint64		hash = hash_of(shared->episode_seed, id);
	bool		added;

	LWLockAcquire(EPISODES_LOCK, LW_EXCLUSIVE);
	added = add_to_episode(id, hash, n, first_at, last_at, make);
	LWLockRelease(EPISODES_LOCK);
	return added;
}

/* A copy of all places for episodes, those free or over with no database. */
Episode *
episodes_copy(int *n)
{
	TimestampTz now = GetCurrentTimestamp();
	Episode    *copy = palloc(max_episodes_setting * sizeof(Episode));

	*n = max_episodes_setting;
	LWLockAcquire(EPISODES_LOCK, LW_SHARED);
	memcpy(copy, episodes, *n * sizeof(Episode));
	LWLockRelease(EPISODES_LOCK);
	for (int i = 0; i < *n; i++)
		if (copy[i].last_at + retention_us() < now)
			copy[i].database = InvalidOid;
	return copy;
}

/*
 * Tracks.  From here to flags_count(): with the lock of the track's set held.
 */

/* The length of a slice; nanoseconds. */
int64
episodes_slice(void)
{
	return (int64) pg_atomic_read_u64(&shared->slice_ns);
}

/* The slice of a time, which may be before the clock's zero: saved by another boot. */
static int64
slice_of(int64 at)
{
	int64		slice = at / episodes_slice();

	return at % episodes_slice() < 0 ? slice - 1 : slice;
}

/* Where a slice is counted. */
static int
slice_place(int64 slice)
{
	return (int) (((slice % SLICES) + SLICES) % SLICES);
}

/* Is the limiter one of flag_limiters, or are those all, "*"? */
static bool
limiter_flags(const char *limiter, int len)
{
	const char *p = flag_limiters_setting ? flag_limiters_setting : "";

	while (*p)
	{
		const char *end = p + strcspn(p, ",");
		const char *last = end;

		while (*p == ' ')
			p++;
		while (last > p && last[-1] == ' ')
			last--;
		if (last - p == 1 && *p == '*')
			return true;
		if (last - p == len && memcmp(p, limiter, len) == 0)
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

/* The violations that a track counts within the window that ends with a slice. */
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

/* Take n violations from a track that has as many in the window, the oldest first. */
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
 * A track for a key that has none and gets n violations; what they are not counted
 * for is subtracted.  NULL if nothing is left of them.
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

/* Let a flag be due; false if too many are already. */
static bool
set_due(const BucketId *id, uint64 hash, int64 rejected)
{
	int			place = NOWHERE;

	hash = Max(hash, 1);
	LWLockAcquire(DUE_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
	{
		if (shared->due_hashes[i] == hash && shared->due[i].database == id->database &&
			same_names(id, shared->due[i].limiter, shared->due[i].key))
		{
			place = i;
			break;
		}
		if (place == NOWHERE && shared->due_hashes[i] == 0)
			place = i;
	}
	if (place != NOWHERE)
	{
		DueFlag    *flag = &shared->due[place];

		shared->due_hashes[place] = hash;
		flag->database = id->database;
		copy_names(id, flag->limiter, flag->key);
		flag->rejected = rejected;
	}
	LWLockRelease(DUE_LOCK);
	return place != NOWHERE;
}

static void
add_to_track(const BucketId *id, const uint64 *names, int64 n, int64 at)
{
	int64		slice = slice_of(at);
	int64		sum = n;		/* that many, whatever the track says */
	int64		counted = n;
	Track	   *track = find_track(id->database, names);

	if (!track)
		track = make_track(id->database, names, slice, &counted);
	if (!track)
	{
		if (sum >= flag_threshold_setting)
			(void) set_due(id, names[0], sum);
		return;
	}

	/* forget the slices that the window has left behind */
	for (int64 gone = Max(track->last_slice + 1, slice - SLICES + 1); gone <= slice; gone++)
		track->counts[slice_place(gone)] = 0;
	track->last_slice = Max(track->last_slice, slice);

	/* told of late, it may be outside of the window itself */
	if (slice > track->last_slice - SLICES)
	{
		uint32	   *count = &track->counts[slice_place(slice)];

		*count = Min(*count + counted, (int64) PG_INT32_MAX);
	}
	sum = Max(sum, track_sum(track, slice));
	if (sum < flag_threshold_setting)
		track->due = false;
	else if (!track->due)
		track->due = set_due(id, names[0], sum);
}

/*
 * A key got n more violations, the last of them then, by the monotonic clock, and the
 * others no more than a slice before.
 */
void
flags_count(const BucketId *id, int64 n, int64 at)
{
	uint64		names[2];

	if (!limiter_flags(id->limiter, id->limiter_len))
		return;
	names[0] = hash_of(shared->track_seeds[0], id);
	names[1] = hash_of(shared->track_seeds[1], id);
	LWLockAcquire(track_lock(names), LW_EXCLUSIVE);
	add_to_track(id, names, n, at);
	LWLockRelease(track_lock(names));
}

/* The flag has been cleared: only new violations count towards another one. */
void
flags_start_anew(const BucketId *id)
{
	uint64		names[2];
	Track	   *track;
	DueFlag		flag = {0};

	names[0] = hash_of(shared->track_seeds[0], id);
	names[1] = hash_of(shared->track_seeds[1], id);
	LWLockAcquire(track_lock(names), LW_EXCLUSIVE);
	track = find_track(id->database, names);
	if (track)
		track->database = InvalidOid;
	LWLockRelease(track_lock(names));

	flag.database = id->database;
	copy_names(id, flag.limiter, flag.key);
	flags_done(&flag);
}

/*
 * Begin all tracks anew if flag_window has changed; has it?  Only the launcher does
 * this: other processes take up a setting when they please, some of them late.
 */
bool
episodes_set_window(void)
{
	if (episodes_slice() == wanted_slice_ns())
		return false;
	for (int i = 0; i < N_TRACK_LOCKS; i++)
		LWLockAcquire(TRACK_LOCK(i), LW_EXCLUSIVE);
	pg_atomic_write_u64(&shared->slice_ns, wanted_slice_ns());
	shared->window++;
	for (int i = 0; i < N_TRACK_LOCKS; i++)
		LWLockRelease(TRACK_LOCK(i));
	return true;
}

/*
 * Flags that are due
 */

/* This database's next flag that is due, from *at on; false if there is none. */
bool
flags_get_due(int *at, Oid database, DueFlag *flag)
{
	bool		found = false;

	if (!shared)
		return false;
	LWLockAcquire(DUE_LOCK, LW_SHARED);
	for (; *at < MAX_DUE_FLAGS && !found; (*at)++)
	{
		found = shared->due_hashes[*at] != 0 && shared->due[*at].database == database;
		if (found)
			*flag = shared->due[*at];
	}
	LWLockRelease(DUE_LOCK);
	return found;
}

/* The flag is written, or not due any more. */
void
flags_done(const DueFlag *flag)
{
	BucketId	id = {0};
	uint64		hash;

	id.database = flag->database;
	id.limiter = flag->limiter;
	id.limiter_len = strlen(flag->limiter);
	id.key = flag->key;
	id.key_len = strlen(flag->key);
	hash = Max(hash_of(shared->track_seeds[0], &id), 1);
	LWLockAcquire(DUE_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
		if (shared->due_hashes[i] == hash && shared->due[i].database == id.database &&
			same_names(&id, shared->due[i].limiter, shared->due[i].key))
			shared->due_hashes[i] = 0;
	LWLockRelease(DUE_LOCK);
}

/* Add to n databases those in which flags are due. */
int
flags_databases(Oid *databases, int n, int max)
{
	LWLockAcquire(DUE_LOCK, LW_SHARED);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
	{
		Oid			database = shared->due[i].database;
		int			j;

		if (shared->due_hashes[i] == 0)
			continue;
		for (j = 0; j < n && databases[j] != database; j++)
			;
		if (j == n && n < max)
			databases[n++] = database;
	}
	LWLockRelease(DUE_LOCK);
	return n;
}

/* The database, or its extension, is gone. */
void
episodes_forget_database(Oid database)
{
	LWLockAcquire(EPISODES_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < max_episodes_setting; i++)
		if (episodes[i].database == database)
			remove_episode(i);
	LWLockRelease(EPISODES_LOCK);

	for (uint32 set = 0; set < n_sets(); set++)
	{
		Track	   *track = &tracks[set * TRACK_WAYS];

		LWLockAcquire(TRACK_LOCK(set), LW_EXCLUSIVE);
		for (int i = 0; i < TRACK_WAYS; i++)
			if (track[i].database == database)
				track[i].database = InvalidOid;
		LWLockRelease(TRACK_LOCK(set));
	}

	LWLockAcquire(DUE_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
		if (shared->due[i].database == database)
			shared->due_hashes[i] = 0;
	LWLockRelease(DUE_LOCK);
}

/*
 * Saved for the next start (core/saved_file.c).
 *
 * A track's slices begin at multiples of their length on the monotonic clock, and
 * that begins anew with the machine.  So its last slice is saved by its age, and
 * goes to the slice in which it would have begun: its violations seem up to a
 * slice older then, never younger, and flag nobody for more than the window.
 *
 * Tracks know keys by their hashes only, so the seeds are saved as well.
 */
typedef struct SavedEpisode
{
	TimestampTz first_at;
	TimestampTz last_at;
	int64		rejected;
	Oid			database;		/* of a flag that is due: times are 0 */
	uint8		limiter_len;
	uint8		key_len;
	char		names[MAX_LIMITER_LEN + MAX_KEY_LEN];
} SavedEpisode;

typedef struct SavedTrack
{
	uint64		names[2];
	int64		slice_ns;
	int64		age;			/* of the last slice's beginning */
	uint32		counts[SLICES];
	Oid			database;
	uint32		due;
} SavedTrack;

static void
put_episode(Saving *saving, SavedKind kind, SavedEpisode *record,
			const char *limiter, const char *key)
{
	record->limiter_len = strlen(limiter);
	record->key_len = strlen(key);
	memcpy(record->names, limiter, record->limiter_len);
	memcpy(record->names + record->limiter_len, key, record->key_len);
	snapshot_put(saving, kind, record,
				 offsetof(SavedEpisode, names) + record->limiter_len + record->key_len);
}

static void
save_episodes(Saving *saving)
{
	for (int i = 0; i < max_episodes_setting && snapshot_go_on(saving); i++)
	{
		SavedEpisode record = {0};
		Episode		episode;

		LWLockAcquire(EPISODES_LOCK, LW_SHARED);
		episode = episodes[i];
		LWLockRelease(EPISODES_LOCK);
		if (!OidIsValid(episode.database))
			continue;
		record.database = episode.database;
		record.first_at = episode.first_at;
		record.last_at = episode.last_at;
		record.rejected = episode.rejected;
		put_episode(saving, SAVED_EPISODE, &record, episode.limiter, episode.key);
	}
}

static void
save_tracks(Saving *saving)
{
	snapshot_put(saving, SAVED_TRACK_SEEDS, shared->track_seeds,
				 sizeof(shared->track_seeds));
	for (uint32 i = 0; i < n_sets() * TRACK_WAYS && snapshot_go_on(saving); i++)
	{
		SavedTrack	record = {0};
		Track		track;

		LWLockAcquire(TRACK_LOCK(i / TRACK_WAYS), LW_SHARED);
		track = tracks[i];
		if (!track_used(&track))
			track.database = InvalidOid;
		record.slice_ns = episodes_slice();
		LWLockRelease(TRACK_LOCK(i / TRACK_WAYS));
		if (!OidIsValid(track.database))
			continue;
		record.database = track.database;
		memcpy(record.names, track.names, sizeof(record.names));
		record.age = Max(saving->mono - track.last_slice * record.slice_ns, 0);
		/* oldest first */
		for (int j = 0; j < SLICES; j++)
			record.counts[j] = track.counts[slice_place(track.last_slice + 1 + j)];
		record.due = track.due;
		snapshot_put(saving, SAVED_TRACK, &record, sizeof(record));
	}
}

void
episodes_save(Saving *saving)
{
	DueFlag		flag;
	int			at = 0;

	save_episodes(saving);
	save_tracks(saving);
	while (at < MAX_DUE_FLAGS && snapshot_go_on(saving))
	{
		SavedEpisode record = {0};
		bool		due;

		LWLockAcquire(DUE_LOCK, LW_SHARED);
		due = shared->due_hashes[at] != 0;
		flag = shared->due[at++];
		LWLockRelease(DUE_LOCK);
		if (!due)
			continue;
		record.database = flag.database;
		record.rejected = flag.rejected;
		put_episode(saving, SAVED_DUE_FLAG, &record, flag.limiter, flag.key);
	}
}

static bool
load_episode(SavedKind kind, const char *bytes, Size size, Loading *loading)
{
	SavedEpisode record;
	BucketId	id = {0};
	uint64		hash;
	int			place;

	if (size < offsetof(SavedEpisode, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (size - offsetof(SavedEpisode, names) != record.limiter_len + record.key_len ||
		!OidIsValid(record.database) || record.rejected < 0 ||
		!IS_VALID_TIMESTAMP(record.first_at) || !IS_VALID_TIMESTAMP(record.last_at) ||
		!snapshot_name_valid(record.names, record.limiter_len, MAX_LIMITER_LEN) ||
		!snapshot_name_valid(record.names + record.limiter_len, record.key_len, MAX_KEY_LEN))
		return false;
	if (!loading->take)
		return true;

	id.database = record.database;
	id.limiter = record.names;
	id.limiter_len = record.limiter_len;
	id.key = record.names + record.limiter_len;
	id.key_len = record.key_len;
	if (kind == SAVED_DUE_FLAG)
	{
		(void) set_due(&id, hash_of(shared->track_seeds[0], &id), record.rejected);
		return true;
	}
	/* there may be room for fewer now, and the file may have it twice */
	hash = hash_of(shared->episode_seed, &id);
	if (find_episode(&id, hash) != NOWHERE)
		return true;
	place = make_episode(&id, hash, record.first_at, record.last_at);
	if (place != NOWHERE)
		episodes[place].rejected = record.rejected;
	return true;
}

static bool
load_seeds(const char *bytes, Size size, Loading *loading)
{
	if (size != sizeof(shared->track_seeds))
		return false;
	if (loading->take)
		memcpy(shared->track_seeds, bytes, size);
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
	/* another flag_window starts anew */
	if (!loading->take || record.slice_ns != episodes_slice())
		return true;

	slice = slice_of(snapshot_mono(loading, record.age));
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

bool
episodes_load(SavedKind kind, const char *record, Size size, Loading *loading)
{
	switch (kind)
	{
		case SAVED_TRACK_SEEDS:
			return load_seeds(record, size, loading);
		case SAVED_TRACK:
			return load_track(record, size, loading);
		default:
			return load_episode(kind, record, size, loading);
	}
}
