/*
 * violations/fold.c
 *		Folding: telling episodes and flags how much entries have grown.
 *
 * Episodes and flags are not told of each violation, but from time to time of an
 * entry's growth since the last time.  When that is, and why, is described in
 * violations/entries.h ("Folding").  What they make of it is in violations/episodes.c
 * and violations/tracks.c.
 */
#include "postgres.h"

#include "core/clock.h"
#include "miscadmin.h"
#include "utils/timestamp.h"
#include "violations/entries.h"
#include "violations/episodes.h"
#include "violations/fold.h"
#include "violations/tracks.h"

/*
 * How many entries are folded at a time, which takes about a tenth of a millisecond.
 */
#define FOLD_BATCH	(4 * GROUP_ENTRIES)

/* The launcher spends at most one part in this many of its time on folding. */
#define FOLD_TIME_RATIO 10

/*
 * By how many microseconds the wall clock is ahead of the monotonic one.
 *
 * Work on several entries uses the same difference for all of them.  If each entry
 * had one of its own, a process that is interrupted between reading the two clocks
 * would change the order of entries, and with it which episode gives way to another.
 */
int64
wall_clock_ahead(void)
{
	return GetCurrentTimestamp() - monotonic_ns() / 1000;
}

/*
 * Tell flags how much this entry has grown, up to a count of count_now.  The caller
 * holds its partition's lock.
 */
void
track_entry(uint32 at, int64 count_now)
{
	Aside	   *aside = &asides[at];
	BucketId	id;

	if (count_now <= aside->tracked)
		return;
	entry_id(at, &id);
	if (!is_other(id.key, id.key_len))
		flags_count(&id, count_now - aside->tracked,
					(int64) pg_atomic_read_u64(&entries[at].last_at));
	aside->tracked = count_now;
}

/*
 * Tell flags and episodes how much this entry has grown, up to a count of count_now.
 * If "make" is false, episodes are told only if the key has one.  "ahead" is
 * wall_clock_ahead().  The caller holds the entry's partition's lock.
 */
void
fold_entry(uint32 at, int64 count_now, int64 ahead, bool make)
{
	Aside	   *aside = &asides[at];
	int64		last_at = (int64) pg_atomic_read_u64(&entries[at].last_at);
	BucketId	id;

	track_entry(at, count_now);
	if (count_now <= aside->folded)
		return;
	entry_id(at, &id);
	if (!is_other(id.key, id.key_len))
	{
		int64		since = last_at;

		if (aside->since != 0)
			since = Min(aside->since, last_at);
		if (!episodes_add(&id, count_now - aside->folded, wall_time(since, ahead),
						  wall_time(last_at, ahead), make))
			return;
	}
	aside->folded = count_now;
	aside->since = 0;
}

/* Fold a batch of a partition's entries, from the n-th on. */
static void
fold_batch(int partition, uint32 n, int64 ahead, bool make)
{
	uint32		first = partition * violations->groups * GROUP_ENTRIES;
	uint32		end = first + Min(n + FOLD_BATCH, violations->groups * GROUP_ENTRIES);
	uint32		at = first + n;

	/* usually most places are empty */
	while (at < end && ((volatile uint32 *) violation_tags)[at] < TAG_FIRST)
		at++;
	if (at == end)
		return;
	LWLockAcquire(&violation_locks[partition].lock, LW_EXCLUSIVE);
	for (; at < end; at++)
		if (violation_tags[at] >= TAG_FIRST)
			fold_entry(at, count_of(pg_atomic_read_u64(&entries[at].word)), ahead, make);
	LWLockRelease(&violation_locks[partition].lock);
}

/*
 * Fold all entries.  Those that have an episode come first, because a new episode
 * might otherwise take the place of one that goes on as well.  While saving, folding
 * ends early if saving does; otherwise this serves interrupts.
 */
static void
fold(Saving *saving)
{
	int64		began = monotonic_ns();
	int64		ahead = wall_clock_ahead();
	int64		pause;

	/*
	 * Change the partition after each batch, so that a process that was waiting for
	 * the lock gets it before this one takes it again.
	 */
	for (int make = 0; make <= 1; make++)
		for (uint32 n = 0; n < violations->groups * GROUP_ENTRIES; n += FOLD_BATCH)
			for (int partition = 0; partition < N_PARTITIONS; partition++)
			{
				if (!saving)
					CHECK_FOR_INTERRUPTS();
				else if (!saved_go_on(saving))
					return;
				fold_batch(partition, n, ahead, make);
			}
	pause = Max(tracks_slice(), FOLD_TIME_RATIO * (monotonic_ns() - began));
	pg_atomic_write_u64(&violations->fold_at, (uint64) (began + pause));
}

void
violations_fold(void)
{
	if (violations)
		fold(NULL);
}

void
violations_fold_to_save(Saving *saving)
{
	fold(saving);
}

/* Milliseconds until the launcher has to fold. */
long
violations_fold_wait(void)
{
	int64		left = (int64) pg_atomic_read_u64(&violations->fold_at) - monotonic_ns();

	return (long) Min((Max(left, 0) + 999999) / 1000000, INT_MAX);
}

/*
 * The launcher has read the settings.  If flag_window has changed, flags are counted
 * anew.
 */
void
violations_set_window(void)
{
	/* the violations until now belong to the old window */
	violations_fold();
	if (!tracks_set_window())
		return;
	pg_atomic_write_u64(&violations->slice_ends, 0);
	pg_atomic_write_u64(&violations->fold_at, 0);
}
