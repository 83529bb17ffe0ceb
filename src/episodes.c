/*
 * episodes.c
 *		Recent runs of violations, and who is to be flagged, in shared memory.
 *
 * Both learn of violations in folds (violations.c): a (limiter, key) and by how
 * much it grew.  Everything here is guarded by the fold lock, which the caller
 * holds.
 *
 * Episodes: at most max_episodes (limiter, key) series; past that the one whose
 * last violation is longest ago goes.  One is visible for episode_retention after
 * its last violation, or for flag_window if that is longer.
 *
 * Flags: for limiters in flag_limiters, the violations of each key are counted in
 * slices of a 17th of flag_window.  When those of the last 16 slices reach
 * flag_threshold, the flag is due: the worker writes it (flags.c).  Folds are at
 * most a slice apart while there are violations, so what is counted in a slice is
 * at most a slice older.  So nobody is flagged for violations that are further
 * apart than the window; and whoever has as many within 15/17 of it is, for sure.
 * A track remembers that its flag was due until its violations fall below the
 * threshold, or it is started anew, by clearing the flag.
 *
 * There are as many tracks as violations may be pending; when a key finds none
 * free near its place, it takes the one that was used least recently.
 */
#include "ratelimit.h"

#include "common/hashfn.h"
#include "episodes.h"
#include "snapshot.h"
#include "utils/timestamp.h"
#include "violations.h"

#define SLICES			16
#define TRACK_PROBES	16

typedef struct Track
{
	Oid			database;		/* InvalidOid: free */
	uint64		names[2];		/* two hashes of limiter and key */
	int64		last_slice;		/* the newest one counted */
	uint32		counts[SLICES]; /* of slice n at slice_place(n) */
	bool		due;			/* its flag is, or was, for these violations */
} Track;

typedef struct Episodes
{
	int64		slice_ns;		/* of the tracks; the launcher sets it */
	DueFlag		due[MAX_DUE_FLAGS];
} Episodes;

static Episodes *shared = NULL;
static Episode *episodes;		/* max_episodes */
static Track *tracks;			/* max_violations */

Size
episodes_size(void)
{
	Size		size = MAXALIGN(sizeof(Episodes));

	size = add_size(size, mul_size(max_episodes_setting, sizeof(Episode)));
	return add_size(size, mul_size(max_violations_setting, sizeof(Track)));
}

/* Violations older than this should have been folded; nanoseconds. */
int64
episodes_fold_interval(void)
{
	return shared->slice_ns;
}

/*
 * Begin tracks anew if flag_window has changed.  Only the launcher does this:
 * other processes take up a setting when they please, some of them late.
 */
void
episodes_set_window(void)
{
	int64		slice_ns = flag_window_setting * INT64CONST(1000000000) / (SLICES + 1);

	if (shared->slice_ns == slice_ns)
		return;
	memset(tracks, 0, max_violations_setting * sizeof(Track));
	shared->slice_ns = slice_ns;
}

/* Holding AddinShmemInitLock. */
void
episodes_startup(void *memory, bool found)
{
	char	   *p = memory;

	shared = (Episodes *) p;
	p += MAXALIGN(sizeof(Episodes));
	episodes = (Episode *) p;
	p += max_episodes_setting * sizeof(Episode);
	tracks = (Track *) p;
	if (!found)
	{
		memset(memory, 0, episodes_size());
		episodes_set_window();
	}
}

/* The slice of a time, which may be before the clock's zero: saved by another boot. */
static int64
slice_of(int64 at)
{
	int64		slice = at / shared->slice_ns;

	return at % shared->slice_ns < 0 ? slice - 1 : slice;
}

/* Where a slice is counted. */
static int
slice_place(int64 slice)
{
	return (int) (((slice % SLICES) + SLICES) % SLICES);
}

/* Is the limiter one of flag_limiters? */
static bool
limiter_flags(const char *limiter)
{
	const char *p = flag_limiters_setting ? flag_limiters_setting : "";
	size_t		len = strlen(limiter);

	while (*p)
	{
		const char *end = p + strcspn(p, ",");
		const char *last = end;

		while (*p == ' ')
			p++;
		while (last > p && last[-1] == ' ')
			last--;
		if (last - p == len && memcmp(p, limiter, len) == 0)
			return true;
		p = *end ? end + 1 : end;
	}
	return false;
}

/* How long an episode stays after its last violation. */
static int64
retention_us(void)
{
	return Max(episode_retention_setting, flag_window_setting) * USECS_PER_SEC;
}

/* False, and nothing done, if there is none and none is to be made. */
static bool
add_episode(Oid database, const char *limiter, const char *key, int64 n,
			TimestampTz at, bool make)
{
	Episode    *episode = NULL;
	Episode    *oldest = NULL;

	for (int i = 0; i < max_episodes_setting && !episode; i++)
	{
		Episode    *candidate = &episodes[i];

		if (candidate->database == database &&
			strcmp(candidate->key, key) == 0 &&
			strcmp(candidate->limiter, limiter) == 0)
			episode = candidate;
		else if (!oldest || !OidIsValid(candidate->database) ||
				 (OidIsValid(oldest->database) && candidate->last_at < oldest->last_at))
			oldest = candidate;
	}

	if (!episode && !make)
		return false;
	if (!episode)
	{
		/* older than all that fill the window already */
		if (!oldest || (OidIsValid(oldest->database) && at < oldest->last_at))
			return true;
		episode = oldest;
		episode->database = database;
		strlcpy(episode->limiter, limiter, sizeof(episode->limiter));
		strlcpy(episode->key, key, sizeof(episode->key));
		episode->rejected = 0;
		episode->first_at = at;
		episode->last_at = at;
	}
	else if (episode->last_at + retention_us() < at)
	{
		/* that one was over: a new one begins */
		episode->rejected = 0;
		episode->first_at = at;
	}
	episode->rejected += n;
	episode->last_at = Max(episode->last_at, at);
	return true;
}

/* The track of names; made if need be. */
static Track *
find_track_of(Oid database, const uint64 *names)
{
	Track	   *victim = NULL;

	for (int i = 0; i < TRACK_PROBES; i++)
	{
		Track	   *track = &tracks[(names[0] + i) % max_violations_setting];

		if (track->database == database && track->names[0] == names[0] &&
			track->names[1] == names[1])
			return track;
		if (!victim || !OidIsValid(track->database) ||
			(OidIsValid(victim->database) && track->last_slice < victim->last_slice))
			victim = track;
	}
	memset(victim, 0, sizeof(Track));
	victim->database = database;
	victim->names[0] = names[0];
	victim->names[1] = names[1];
	return victim;
}

/* The track of a key; made if need be. */
static Track *
find_track(Oid database, const char *limiter, const char *key)
{
	uint64		names[2];

	for (int i = 0; i < 2; i++)
	{
		names[i] = hash_bytes_extended((const unsigned char *) limiter,
									   strlen(limiter), (uint64) database << 2 | i);
		names[i] = hash_bytes_extended((const unsigned char *) key,
									   strlen(key), names[i]);
	}
	return find_track_of(database, names);
}

/* Let a flag be due; false if too many are already. */
static bool
set_due(Oid database, const char *limiter, const char *key, int64 rejected)
{
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
	{
		DueFlag    *flag = &shared->due[i];

		if (OidIsValid(flag->database))
			continue;
		flag->database = database;
		strlcpy(flag->limiter, limiter, sizeof(flag->limiter));
		strlcpy(flag->key, key, sizeof(flag->key));
		flag->rejected = rejected;
		return true;
	}
	return false;
}

static void
add_track(Oid database, const char *limiter, const char *key, int64 n, int64 at)
{
	Track	   *track;
	int64		slice = slice_of(at);
	int64		sum = 0;

	track = find_track(database, limiter, key);

	/* forget the slices that the window has left behind */
	slice = Max(slice, track->last_slice);
	for (int64 gone = Max(track->last_slice + 1, slice - SLICES + 1); gone <= slice; gone++)
		track->counts[slice_place(gone)] = 0;
	track->last_slice = slice;

	track->counts[slice_place(slice)] = Min(track->counts[slice_place(slice)] + n,
											(int64) PG_INT32_MAX);
	for (int i = 0; i < SLICES; i++)
		sum += track->counts[i];
	if (sum < flag_threshold_setting)
		track->due = false;
	else if (!track->due)
		track->due = set_due(database, limiter, key, sum);
}

/*
 * A key got n more violations, the last of them then.  False, and nothing done, if
 * it has no episode and is not to get one yet: in a fold, first those go on that
 * there are, or a new one might take the place of one that goes on as well.
 */
bool
episodes_add(Oid database, const char *limiter, const char *key, int64 n,
			 TimestampTz at, int64 at_mono, bool make)
{
	if (!add_episode(database, limiter, key, n, at, make))
		return false;
	if (limiter_flags(limiter))
		add_track(database, limiter, key, n, at_mono);
	return true;
}

/* The n-th place for an episode; false past the last. */
bool
episodes_get(int n, Episode *episode)
{
	if (!shared || n >= max_episodes_setting)
		return false;
	*episode = episodes[n];
	if (episode->last_at + retention_us() < GetCurrentTimestamp())
		episode->database = InvalidOid;
	return true;
}

/* The n-th flag that is due in a database; false if there are not that many. */
bool
flags_get_due(int n, Oid database, DueFlag *flag)
{
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
	{
		if (shared->due[i].database == database && n-- == 0)
		{
			*flag = shared->due[i];
			return true;
		}
	}
	return false;
}

/* The flag is written, or not due any more. */
void
flags_done(const DueFlag *flag)
{
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
	{
		DueFlag    *due = &shared->due[i];

		if (due->database == flag->database &&
			strcmp(due->key, flag->key) == 0 &&
			strcmp(due->limiter, flag->limiter) == 0)
			due->database = InvalidOid;
	}
}

/* Add to n databases those in which flags are due. */
int
flags_databases(Oid *databases, int n, int max)
{
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
	{
		Oid			database = shared->due[i].database;
		int			j;

		if (!OidIsValid(database))
			continue;
		for (j = 0; j < n && databases[j] != database; j++)
			;
		if (j == n && n < max)
			databases[n++] = database;
	}
	return n;
}

/* The flag has been cleared: only new violations count towards another one. */
void
flags_start_anew(Oid database, const char *limiter, const char *key)
{
	Track	   *track = find_track(database, limiter, key);
	DueFlag		flag = {0};

	track->database = InvalidOid;
	flag.database = database;
	strlcpy(flag.limiter, limiter, sizeof(flag.limiter));
	strlcpy(flag.key, key, sizeof(flag.key));
	flags_done(&flag);
}

/* The database, or its extension, is gone. */
void
episodes_forget_database(Oid database)
{
	for (int i = 0; i < max_episodes_setting; i++)
		if (episodes[i].database == database)
			episodes[i].database = InvalidOid;
	for (int i = 0; i < max_violations_setting; i++)
		if (tracks[i].database == database)
			tracks[i].database = InvalidOid;
	for (int i = 0; i < MAX_DUE_FLAGS; i++)
		if (shared->due[i].database == database)
			shared->due[i].database = InvalidOid;
}

/*
 * Saved for the next start (snapshot.c).
 *
 * A track's slices begin at multiples of their length on the monotonic clock, and
 * that begins anew with the machine.  So its last slice is saved by its age, and
 * goes to the slice in which it would have begun: its violations seem up to a
 * slice older then, never younger, and flag nobody for more than the window.
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

/* Not holding the fold lock, unlike all else here: it is taken for each of them. */
void
episodes_save(Saving *saving)
{
	for (int i = 0; i < max_episodes_setting && snapshot_go_on(saving); i++)
	{
		SavedEpisode record = {0};
		Episode		episode;

		violations_lock();
		episode = episodes[i];
		violations_unlock();
		if (!OidIsValid(episode.database))
			continue;
		record.database = episode.database;
		record.first_at = episode.first_at;
		record.last_at = episode.last_at;
		record.rejected = episode.rejected;
		put_episode(saving, SAVED_EPISODE, &record, episode.limiter, episode.key);
	}
	for (int i = 0; i < max_violations_setting && snapshot_go_on(saving); i++)
	{
		SavedTrack	record = {0};
		Track		track;

		violations_lock();
		track = tracks[i];
		record.slice_ns = shared->slice_ns;
		violations_unlock();
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
	for (int i = 0; i < MAX_DUE_FLAGS && snapshot_go_on(saving); i++)
	{
		SavedEpisode record = {0};
		DueFlag		flag;

		violations_lock();
		flag = shared->due[i];
		violations_unlock();
		if (!OidIsValid(flag.database))
			continue;
		record.database = flag.database;
		record.rejected = flag.rejected;
		put_episode(saving, SAVED_DUE_FLAG, &record, flag.limiter, flag.key);
	}
}

/* A place for an episode that was saved, or NULL: there may be room for fewer now. */
static Episode *
find_place(TimestampTz last_at)
{
	static int	next = 0;
	Episode    *oldest = &episodes[0];

	/* memory is empty at first, so the places behind the last one taken are free */
	if (!OidIsValid(episodes[0].database))
		next = 0;
	if (next < max_episodes_setting)
		return &episodes[next++];
	for (int i = 1; i < max_episodes_setting; i++)
		if (episodes[i].last_at < oldest->last_at)
			oldest = &episodes[i];
	return oldest->last_at < last_at ? oldest : NULL;
}

static bool
load_episode(SavedKind kind, const char *bytes, Size size, Loading *loading)
{
	SavedEpisode record;
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	Episode    *place;

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

	memcpy(limiter, record.names, record.limiter_len);
	limiter[record.limiter_len] = '\0';
	memcpy(key, record.names + record.limiter_len, record.key_len);
	key[record.key_len] = '\0';
	if (kind == SAVED_DUE_FLAG)
	{
		(void) set_due(record.database, limiter, key, record.rejected);
		return true;
	}
	place = find_place(record.last_at);
	if (!place)
		return true;
	place->database = record.database;
	place->first_at = record.first_at;
	place->last_at = record.last_at;
	place->rejected = record.rejected;
	strlcpy(place->limiter, limiter, sizeof(place->limiter));
	strlcpy(place->key, key, sizeof(place->key));
	return true;
}

static bool
load_track(const char *bytes, Size size, Loading *loading)
{
	SavedTrack	record;
	Track	   *track;

	if (size != sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	for (int i = 0; i < SLICES; i++)
		if (record.counts[i] > PG_INT32_MAX)
			return false;
	if (!OidIsValid(record.database) || record.slice_ns <= 0 || record.age < 0)
		return false;
	/* another flag_window starts anew */
	if (!loading->take || record.slice_ns != shared->slice_ns)
		return true;

	track = find_track_of(record.database, record.names);
	track->last_slice = slice_of(snapshot_mono(loading, record.age));
	track->due = record.due != 0;
	for (int i = 0; i < SLICES; i++)
		track->counts[slice_place(track->last_slice + 1 + i)] = record.counts[i];
	return true;
}

bool
episodes_load(SavedKind kind, const char *record, Size size, Loading *loading)
{
	return kind == SAVED_TRACK ? load_track(record, size, loading) :
		load_episode(kind, record, size, loading);
}
