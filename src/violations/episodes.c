/*
 * violations/episodes.c
 *		Episodes, which are recent runs of violations, in shared memory.
 *
 * An episode is a run of violations of one (limiter, key).  This file is not told of
 * each violation: violations/fold.c tells it by how much a (limiter, key) has grown.
 * Flags are counted apart (violations/tracks.c).
 *
 * There are at most max_episodes episodes.  When there are more, the one whose last
 * violation is longest ago goes.  An episode is shown for episode_retention after its
 * last violation, or for flag_window if that is longer.  Episodes are found by a
 * hash, and the one to go by a heap, so that adding to an episode hardly takes longer
 * the more of them there are.
 *
 * One lock protects all of it.  It may be taken while holding the lock of a partition
 * of entries (violations/entries.h), and no other lock is taken while holding it.  It
 * is held longest for one pass over max_episodes episodes, to copy them or to forget
 * a database, at some tens of nanoseconds each.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "violations/episodes.h"
#include "violations/names.h"
#include "violations/saved_names.h"

#define NOWHERE			(-1)

/* How an episode is found.  A place is an index into episodes[]. */
typedef struct EpisodeLink
{
	uint64		hash;
	int			next;			/* place, in its chain or among the free ones */
	int			in_heap;		/* index of its place in the heap */
} EpisodeLink;

typedef struct Episodes
{
	uint64		seed;
	/* the lock protects the fields below, and the arrays */
	int			n_episodes;		/* all of them are in the heap */
	int			free_episode;	/* place, or NOWHERE */
} Episodes;

static Episodes *shared = NULL;
static Episode *episodes;		/* max_episodes places */
static EpisodeLink *links;		/* one per episode */
static int *heap;				/* places; the smallest last_at is on top */
static int *chains;				/* first place of each hash chain, or NOWHERE */
static LWLock *episodes_lock;

static uint32
n_chains(void)
{
	uint32		n = 16;

	while (n < max_episodes_setting)
		n *= 2;
	return n;
}

static Size
size(void)
{
	Size		total = MAXALIGN(sizeof(Episodes));

	total = add_size(total, mul_size(max_episodes_setting,
									 sizeof(Episode) + sizeof(EpisodeLink) + sizeof(int)));
	return add_size(total, mul_size(n_chains(), sizeof(int)));
}

static int
locks(void)
{
	return 1;
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;

	episodes_lock = &my_locks[0].lock;
	shared = (Episodes *) p;
	p += MAXALIGN(sizeof(Episodes));
	episodes = (Episode *) p;
	p += max_episodes_setting * sizeof(Episode);
	links = (EpisodeLink *) p;
	p += max_episodes_setting * sizeof(EpisodeLink);
	heap = (int *) p;
	p += max_episodes_setting * sizeof(int);
	chains = (int *) p;
	if (found)
		return;

	memset(memory, 0, size());
	shared->seed = secret_seed();
	for (uint32 i = 0; i < n_chains(); i++)
		chains[i] = NOWHERE;
	shared->free_episode = NOWHERE;
	for (int i = max_episodes_setting - 1; i >= 0; i--)
	{
		links[i].next = shared->free_episode;
		shared->free_episode = i;
	}
}

/*
 * The functions from here to add_to_episode() are called with the lock held.
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

/* Put the place into the heap, at this index or where it belongs above or below. */
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

/*
 * Make an episode.  Returns NOWHERE if there are max_episodes already, and this one
 * is older than all of them.
 */
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
		/* that episode is over, and a new one begins */
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
 * Add n violations of a key, which came between these times, to its episode.  If the
 * key has no episode and "make" is false, this does nothing and returns false.
 */
bool
episodes_add(const BucketId *id, int64 n, TimestampTz first_at, TimestampTz last_at,
			 bool make)
{
	uint64		hash = hash_names(shared->seed, id);
	bool		added;

	LWLockAcquire(episodes_lock, LW_EXCLUSIVE);
	added = add_to_episode(id, hash, n, first_at, last_at, make);
	LWLockRelease(episodes_lock);
	return added;
}

/*
 * A copy of all places for episodes, in the current memory context.  Those that are
 * free or over have no database.
 */
Episode *
episodes_copy(int *n)
{
	TimestampTz now = GetCurrentTimestamp();
	Episode    *copy = palloc(max_episodes_setting * sizeof(Episode));

	*n = max_episodes_setting;
	LWLockAcquire(episodes_lock, LW_SHARED);
	memcpy(copy, episodes, *n * sizeof(Episode));
	LWLockRelease(episodes_lock);
	for (int i = 0; i < *n; i++)
		if (copy[i].last_at + retention_us() < now)
			copy[i].database = InvalidOid;
	return copy;
}

static void
forget(Oid database, bool dropped)
{
	LWLockAcquire(episodes_lock, LW_EXCLUSIVE);
	for (int i = 0; i < max_episodes_setting; i++)
		if (episodes[i].database == database)
			remove_episode(i);
	LWLockRelease(episodes_lock);
}

/*
 * Saving for the next start (core/saved_file.c)
 */

typedef struct SavedEpisode
{
	TimestampTz first_at;
	TimestampTz last_at;
	int64		rejected;
	Oid			database;
	SavedNames	names;
} SavedEpisode;

static void
save(Saving *saving)
{
	for (int i = 0; i < max_episodes_setting && saved_go_on(saving); i++)
	{
		SavedEpisode record = {0};
		Episode		episode;

		LWLockAcquire(episodes_lock, LW_SHARED);
		episode = episodes[i];
		LWLockRelease(episodes_lock);
		if (!OidIsValid(episode.database))
			continue;
		record.database = episode.database;
		record.first_at = episode.first_at;
		record.last_at = episode.last_at;
		record.rejected = episode.rejected;
		saved_put(saving, 0, &record,
				  offsetof(SavedEpisode, names) +
				  put_names(&record.names, episode.limiter, episode.key));
	}
}

static bool
load(int kind, const char *bytes, Size size, Loading *loading)
{
	SavedEpisode record;
	BucketId	id = {0};
	uint64		hash;
	int			place;

	if (size < offsetof(SavedEpisode, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (!OidIsValid(record.database) || record.rejected < 0 ||
		!IS_VALID_TIMESTAMP(record.first_at) || !IS_VALID_TIMESTAMP(record.last_at) ||
		!get_names(&record.names, size - offsetof(SavedEpisode, names), &id))
		return false;
	if (!loading->take)
		return true;

	id.database = record.database;
	/* there may be room for fewer now, and the file may have this one twice */
	hash = hash_names(shared->seed, &id);
	if (find_episode(&id, hash) != NOWHERE)
		return true;
	place = make_episode(&id, hash, record.first_at, record.last_at);
	if (place != NOWHERE)
		episodes[place].rejected = record.rejected;
	return true;
}

const Part	episodes_part = {
	.name = "ratelimit episodes",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = 1,
	.save = save,
	.load = load
};
