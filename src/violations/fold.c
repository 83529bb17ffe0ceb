/*
 * violations/fold.c
 *		Folding: episodes and flags are told of violations, not one by one, but of what
 *		entries have grown by.
 *
 * When that is, and why: violations/entries.h.
 */
#include "postgres.h"

#include "core/clock.h"
#include "miscadmin.h"
#include "utils/timestamp.h"
#include "violations/entries.h"
#include "violations/episodes.h"
#include "violations/fold.h"
#include "violations/tracks.h"

/* Entries folded at a time: about a tenth of a millisecond. */
#define FOLD_BATCH	(4 * GROUP_ENTRIES)

/* The launcher does not fold for more of its time than this. */
#define FOLD_TIME_RATIO 10

/* The wall clock when the monotonic one said "then". */
TimestampTz
violation_wall_time(int64 then)
{
	return GetCurrentTimestamp() - (monotonic_ns() - then) / 1000;
}

/*
 * Tell flags of what this entry has grown by, up to a count of "now"; holding its
 * partition's lock.
 */
void
track_entry(uint32 at, int64 count_now)
{
	Entry	   *entry = &entries[at];
	BucketId	id;

	if (count_now <= entry->tracked)
		return;
	entry_id(entry, &id);
	if (!is_other(id.key, id.key_len))
		flags_count(&id, count_now - entry->tracked,
					(int64) pg_atomic_read_u64(&entry->last_at));
	entry->tracked = count_now;
}

/*
 * Tell flags and episodes of what this entry has grown by, up to a count of "now";
 * holding its partition's lock.  Episodes not yet, if that made a new episode, and
 * that is not wanted.
 */
void
fold_entry(uint32 at, int64 count_now, bool make)
{
	Entry	   *entry = &entries[at];
	Aside	   *aside = &asides[at];
	int64		last_at = (int64) pg_atomic_read_u64(&entry->last_at);
	BucketId	id;

	track_entry(at, count_now);
	if (count_now <= entry->folded)
		return;
	entry_id(entry, &id);
	if (!is_other(id.key, id.key_len))
	{
		TimestampTz wall = violation_wall_time(last_at);
		TimestampTz since = wall;

		if (aside->since != 0 && aside->since < last_at)
			since -= (last_at - aside->since) / 1000;
		if (!episodes_add(&id, count_now - entry->folded, since, wall, make))
			return;
	}
	entry->folded = count_now;
	aside->since = 0;
}

/* Fold the entries of a partition from the n-th on, a batch of them. */
static void
fold_batch(int partition, uint32 n, bool make)
{
	uint32		first = partition * violations->groups * GROUP_ENTRIES;
	uint32		end = first + Min(n + FOLD_BATCH, violations->groups * GROUP_ENTRIES);
	uint32		at = first + n;

	/* most of the room is empty, mostly */
	while (at < end && ((volatile uint32 *) violation_tags)[at] < TAG_FIRST)
		at++;
	if (at == end)
		return;
	LWLockAcquire(&violation_locks[partition].lock, LW_EXCLUSIVE);
	for (; at < end; at++)
		if (violation_tags[at] >= TAG_FIRST)
			fold_entry(at, count_of(pg_atomic_read_u64(&entries[at].word)), make);
	LWLockRelease(&violation_locks[partition].lock);
}

/*
 * Fold all entries: first those whose episode is there, or a new one might take the
 * place of one that goes on as well.  While saving, until that is to stop; else
 * interrupts are served.
 */
static void
fold(Saving *saving)
{
	int64		began = monotonic_ns();
	int64		pause;

	/*
	 * One partition after the other: whoever was waiting for a lock that has been
	 * released finds it free for long enough.
	 */
	for (int make = 0; make <= 1; make++)
		for (uint32 n = 0; n < violations->groups * GROUP_ENTRIES; n += FOLD_BATCH)
			for (int partition = 0; partition < N_PARTITIONS; partition++)
			{
				if (!saving)
					CHECK_FOR_INTERRUPTS();
				else if (!saved_go_on(saving))
					return;
				fold_batch(partition, n, make);
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

/* Milliseconds until the launcher is to fold. */
long
violations_fold_wait(void)
{
	int64		left = (int64) pg_atomic_read_u64(&violations->fold_at) - monotonic_ns();

	return (long) Min((Max(left, 0) + 999999) / 1000000, INT_MAX);
}

/* The launcher has taken up settings: flags are counted anew if flag_window changed. */
void
violations_set_window(void)
{
	/* what was before belongs to the old window */
	violations_fold();
	if (!tracks_set_window())
		return;
	pg_atomic_write_u64(&violations->slice_ends, 0);
	pg_atomic_write_u64(&violations->fold_at, 0);
}
