/*
 * core/call.h
 *		A call on a bucket, and its result.
 */
#ifndef RATELIMIT_CALL_H
#define RATELIMIT_CALL_H

#include "core/bucket.h"
#include "core/names.h"

/* The result of a call. */
typedef struct Decision
{
	bool		allowed;
	bool		known;			/* false: ratelimit.on_error decided, not a bucket */
	Owed		owed;			/* what the bucket owes after the call */
	Owed		blocked;		/* ns that a block still lasts; 0: not blocked */
	int64		now;			/* time of the call, monotonic; 0: not known */
	bool		in_table;		/* the bucket is in the table, not in memory */
	bool		nowhere;		/* there is no bucket; set when only looking */
	bool		shadowed;		/* allowed only because of shadow; set when counted */
	double		ends;			/* of a period's bucket, if it was in a later period
								 * than the rule: as its refill; else 0 */
} Decision;

/* Set the fields that not every decision sets. */
static inline void
begin_decision(Decision *decision)
{
	decision->known = true;
	decision->in_table = false;
	decision->blocked = 0;
	decision->now = 0;
}

#define MAX_CALLS	64			/* the most that are decided together */

/* One of several calls that are decided together. */
typedef struct BucketCall
{
	BucketId	id;
	BucketRule	rule;
	Owed		absent;			/* what the bucket owes if there is none: more than 0
								 * if it begins with fewer tokens than its capacity */
	Decision	decision;
} BucketCall;

/* The result of an attempt to decide several calls together. */
typedef enum AllResult
{
	ALL_DECIDED,
	ALL_BUSY,					/* try again */
	ALL_MISSING,				/* try again with more partitions locked */
	ALL_ELSEWHERE,				/* some buckets belong in the table */
	ALL_NO_ROOM					/* memory has no room, and nothing more to evict */
} AllResult;

/* A living bucket, as rate_limit_status shows it. */
typedef struct BucketView
{
	char		limiter[MAX_BUCKET_LIMITER_LEN];	/* with the prefix of a block, or
													 * with the period */
	char		key[MAX_KEY_LEN];
	int			limiter_len;
	int			key_len;
	double		capacity;
	double		refill;
	Owed		owed;
} BucketView;

/* Which buckets are looked at. */
typedef struct BucketFilter
{
	const char *key;			/* NULL: those of all keys */
	int			key_len;
	bool		blocks;			/* only those that stand for blocks */
} BucketFilter;

#endif							/* RATELIMIT_CALL_H */
