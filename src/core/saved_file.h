/*
 * core/saved_file.h
 *		The file of state saved for the next start: see core/saved_file.c.
 */
#ifndef RATELIMIT_SAVED_FILE_H
#define RATELIMIT_SAVED_FILE_H

#include "core/bucket.h"
#include "port/pg_crc32c.h"

#define MAX_SAVED_SIZE	2048	/* bytes of a record */
#define MAX_SAVED_KINDS 16		/* of records, those of all parts */

/* A file being written. */
typedef struct Saving
{
	int			fd;
	int			error;			/* errno of what went wrong; 0: nothing yet */
	bool		stopped;		/* told to stop */
	bool		at_stop;		/* the server is shut down: nobody else is here */
	bool		(*breathe) (void);	/* called now and then; false: stop */
	pg_crc32c	crc;
	Size		used;			/* of the buffer */
	int64		length;			/* of all records */
	int			first_kind;		/* in the file, of the part that is saved */
	uint64		records[MAX_SAVED_KINDS];
	int64		mono;			/* the monotonic clock when it began */
	int64		buckets;		/* that were saved, for the log */
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
	int64		buckets;		/* that were loaded, for the log */
	int64		given_way;		/* of them, those that found no room */
} Loading;

/* for the parts */
extern void saved_put(Saving *saving, int kind, const void *record, Size size);
extern bool saved_go_on(Saving *saving);
extern bool saved_name_valid(const char *name, int len, int max);
extern int64 saved_mono(const Loading *loading, int64 age);

/* when */
extern void saved_load(void);
extern int64 saved_loaded_mono(void);
extern bool saved_save(bool (*breathe) (void));
extern void saved_at_exit(int code, Datum arg);

#endif							/* RATELIMIT_SAVED_FILE_H */
