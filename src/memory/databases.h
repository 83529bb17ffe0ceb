/*
 * memory/databases.h
 *		The databases that use the extension: see memory/databases.c.
 */
#ifndef RATELIMIT_DATABASES_H
#define RATELIMIT_DATABASES_H

#include "core/parts.h"
#include "datatype/timestamp.h"
#include "memory/partition_set.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/lwlock.h"

#define MAX_DATABASES	512		/* that have an entry */

/* The longest pause after failures, unless flush_interval is longer. */
#define MAX_BACKOFF_S		300

/* How writing violations went. */
typedef struct FlushStats
{
	TimestampTz since;			/* counted from then on */
	int64		flushed;		/* violations */
	int64		failures;		/* flushes */
	TimestampTz last_flush;		/* 0: none yet */
	TimestampTz last_error_at;	/* 0: none yet */
	char		last_error[256];
	int			streak;			/* failures since the last success */
	TimestampTz retry_at;		/* not before, if streak > 0 */
	bool		others_fail;	/* other tasks of the worker did the last time */
} FlushStats;

/* What a look at the whole table goes by. */
typedef struct SpillLook
{
	uint64		rows[MAX_PARTITIONS];	/* announced when it began */
	PartitionSet with_rows;
} SpillLook;

typedef struct SharedDatabase
{
	Oid			database;		/* registry's lock; InvalidOid: free */

	/* memory/spill.c */
	pg_atomic_uint32 known;		/* the table has been gone through */
	bool		memory_newer;	/* set before anybody is there to read it:
								 * nothing happened since memory was saved */
	pg_atomic_uint64 marks[MAX_PARTITIONS / 64];	/* partition's lock */
	pg_atomic_uint64 rows[MAX_PARTITIONS];	/* announced, in units of 2^32, and
											 * of those in flight */
	/* table/clean.c, in the database's worker: */
	Oid			clean_file;		/* of the table */
	BlockNumber clean_page;		/* where to go on */
	SpillLook	look;			/* that it goes on with */
	pg_atomic_uint32 pass_wanted;	/* to get to know what is in the table */

	FlushStats	flushes;		/* registry's lock */

	/* workers/launcher.c; registry's lock */
	int			unanswered;		/* workers started since one connected */
	int64		started_at;		/* the last one; monotonic clock */
} SharedDatabase;

extern const Part databases_part;

extern SharedDatabase *my_shared_database(void);
extern void databases_visit(void (*visit) (SharedDatabase *entry, void *arg),
							void *arg);
extern void databases_wake_launcher(void);
extern void databases_launcher_is_here(void);
extern bool databases_worker_wanted(void);
extern void databases_begin_round(void);
extern bool databases_try_worker(Oid database);
extern void databases_no_worker(Oid database);
extern void databases_worker_connected(void);
extern void databases_lock_flushes(void);
extern void databases_unlock_flushes(void);

#endif							/* RATELIMIT_DATABASES_H */
