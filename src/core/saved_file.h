/*
 * core/saved_file.h
 *		State saved for the next start: see core/saved_file.c.
 */
#ifndef RATELIMIT_SNAPSHOT_H
#define RATELIMIT_SNAPSHOT_H

#include "port/pg_crc32c.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

/* The records of a file, in this order. */
typedef enum SavedKind
{
	SAVED_STORE,				/* one: how buckets are placed */
	SAVED_DATABASE,
	SAVED_LIMITER,
	SAVED_BUCKET,
	SAVED_EPISODE,
	SAVED_TRACK_SEEDS,			/* one: how tracks know their keys */
	SAVED_TRACK,
	SAVED_DUE_FLAG,
	SAVED_LOST,					/* at most one: violations_lost() */
	SAVED_VIOLATION,			/* in files of a clean stop only */
	N_SAVED_KINDS
} SavedKind;

#define MAX_SAVED_SIZE	2048	/* bytes of a record */

/* A file being written. */
typedef struct Saving
{
	int			fd;
	int			error;			/* errno of what went wrong; 0: nothing yet */
	bool		stopped;		/* told to stop */
	bool		(*breathe) (void);	/* called now and then; false: stop */
	pg_crc32c	crc;
	Size		used;			/* of the buffer */
	int64		length;			/* of all records */
	uint64		records[N_SAVED_KINDS];
	int64		mono;			/* the monotonic clock when it began */
} Saving;

/* A file being read: once to check it, once more to take it. */
typedef struct Loading
{
	bool		take;
	int64		now;			/* the monotonic clock */
	Owed		elapsed;		/* nanoseconds since it was saved, >= 0 */
	bool		clean;			/* saving it was the last that the server did */
	bool		rows_stay;		/* and unlogged tables are as they were */
	bool		same_places;	/* buckets are in the partitions they were in */
	int64		given_way;		/* buckets that found no room */
} Loading;

/* core/saved_file.c: for what is saved; see the file's head */
extern void snapshot_put(Saving *saving, SavedKind kind, const void *record,
						 Size size);
extern bool snapshot_go_on(Saving *saving);
extern bool snapshot_name_valid(const char *name, int len, int max);
extern int64 snapshot_mono(const Loading *loading, int64 age);

/* each part, beside what it saves; load: false if the record makes no sense */
extern void shmem_save(Saving *saving);
extern void shmem_save_buckets(Saving *saving);
extern bool shmem_load(SavedKind kind, const char *record, Size size, Loading *loading);
extern void databases_save(Saving *saving);
extern bool databases_load(SavedKind kind, const char *record, Size size, Loading *loading);
extern void stats_save(Saving *saving);
extern bool stats_load(SavedKind kind, const char *record, Size size, Loading *loading);
extern void episodes_save(Saving *saving);
extern bool episodes_load(SavedKind kind, const char *record, Size size, Loading *loading);
extern void violations_fold_to_save(Saving *saving);
extern void violations_save(Saving *saving, bool pending);
extern bool violations_load(SavedKind kind, const char *record, Size size, Loading *loading);

/* core/saved_file.c: when */
extern void snapshot_load(void);
extern int64 snapshot_loaded_mono(void);
extern bool snapshot_save(bool (*breathe) (void));
extern void snapshot_at_exit(int code, Datum arg);

/* workers/saver.c */
extern void saver_register(void);

#pragma GCC visibility pop

#endif							/* RATELIMIT_SNAPSHOT_H */
