/*
 * core/saved_file.h
 *		The file of state saved for the next start: see core/saved_file.c and
 *		core/saved_load.c.
 */
#ifndef RATELIMIT_SAVED_FILE_H
#define RATELIMIT_SAVED_FILE_H

#include "core/bucket.h"
#include "core/parts.h"
#include "port/pg_crc32c.h"

/* A file being written. */
typedef struct Saving
{
	int			fd;
	int			error;			/* errno of the first error; 0: no error yet */
	bool		stopped;		/* breathe() has said to stop */
	bool		at_stop;		/* at a clean stop: no other process is left */
	bool		(*breathe) (void);	/* called now and then; false: stop saving */
	pg_crc32c	crc;
	Size		used;			/* bytes in the buffer */
	int64		length;			/* of all records written, in bytes */
	int			first_kind;		/* in the file, of the part that saves just now */
	uint64		records[MAX_SAVED_KINDS];	/* how many, by kind */
	int64		mono;			/* the monotonic clock when saving began */
	int64		buckets;		/* how many were saved, for the log */
} Saving;

/* A file being read, once to check it and once to take its records. */
typedef struct Loading
{
	bool		take;			/* false: only check the records */
	int64		now;			/* the monotonic clock */
	Owed		elapsed;		/* nanoseconds since the saving, >= 0 */
	bool		clean;			/* the server has done nothing since the saving */
	bool		rows_stay;		/* and unlogged tables are as they were then */
	bool		same_places;	/* buckets stay in the partitions they were in */
	int64		buckets;		/* how many were loaded, for the log */
	int64		given_way;		/* of these, how many gave way for lack of room */
} Loading;

/* called by the parts */
extern void saved_put(Saving *saving, int kind, const void *record, Size size);
extern bool saved_go_on(Saving *saving);
extern bool saved_name_valid(const char *name, int len, int max);
extern int64 saved_mono(const Loading *loading, int64 age);

/* called when the server starts, runs and stops */
extern void saved_load(void);
extern int64 saved_loaded_mono(void);
extern void saved_set_loaded_mono(int64 mono);
extern bool saved_save(bool (*breathe) (void));
extern void saved_at_stop(void);
extern void saved_at_exit(int code, Datum arg);

#endif							/* RATELIMIT_SAVED_FILE_H */
