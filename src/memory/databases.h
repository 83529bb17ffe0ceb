/*
 * memory/databases.h
 *		The databases that use the extension: see memory/databases.c.
 */
#ifndef RATELIMIT_MEMORY_DATABASES_H
#define RATELIMIT_MEMORY_DATABASES_H

#include "core/parts.h"
#include "datatype/timestamp.h"
#include "memory/exception_filter.h"
#include "memory/partition_set.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/lwlock.h"

#define MAX_DATABASES	512		/* how many can have an entry */

/* The longest pause after failures, unless flush_interval is longer. */
#define MAX_BACKOFF_S		300

/* How writing the database's violations has gone. */
typedef struct FlushStats
{
	TimestampTz since;			/* the figures count from then on */
	int64		flushed;		/* violations */
	int64		failures;		/* of flushes */
	TimestampTz last_flush;		/* 0 if there was none */
	TimestampTz last_error_at;	/* 0 if there was none */
	char		last_error[256];
	int			streak;			/* of failures since the last success */
	TimestampTz retry_at;		/* if streak > 0, the earliest next flush */
	bool		others_fail;	/* did the worker's other tasks fail last time? */
} FlushStats;

/* What a look at the whole table compares (memory/spill.c). */
typedef struct SpillLook
{
	uint64		rows[MAX_PARTITIONS];	/* the announcements when it began */
	PartitionSet with_rows;		/* partitions of which it has found rows */
} SpillLook;

/* A database's entry. */
typedef struct SharedDatabase
{
	Oid			database;		/* registry's lock; InvalidOid if it is free */

	/* of memory/spill.c */
	pg_atomic_uint32 known;		/* has the table been gone through? */
	bool		memory_newer;	/* nothing happened since memory was saved; set
								 * while the server starts, before any reader */
	pg_atomic_uint64 marks[MAX_PARTITIONS / 64];	/* partition's lock */
	pg_atomic_uint64 rows[MAX_PARTITIONS];	/* how many were announced, in units of
											 * 2^32, plus how many are in flight */
	/* of table/clean.c, in the database's worker */
	Oid			clean_file;		/* the table's file */
	BlockNumber clean_page;		/* where to go on */
	SpillLook	look;			/* the look to go on with */
	pg_atomic_uint32 pass_wanted;	/* must a worker go through the table? */

	ExceptionMark exceptions;	/* of table/exceptions.c; the filter's lock */

	FlushStats	flushes;		/* registry's lock */

	/* of workers/launcher.c; registry's lock */
	int			unanswered;		/* workers started since one connected */
	int64		started_at;		/* when the last one was; monotonic clock */
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

#endif							/* RATELIMIT_MEMORY_DATABASES_H */
