/*
 * core/call.h
 *		A call on a bucket, and what becomes of it.
 */
#ifndef RATELIMIT_CALL_H
#define RATELIMIT_CALL_H

#include "core/bucket.h"
#include "core/names.h"

/* What became of a call. */
typedef struct Decision
{
	bool		allowed;
	bool		known;			/* false: ratelimit.on_error decided, not a bucket */
	Owed		owed;			/* by the bucket after the call */
	Owed		blocked;		/* for so many ns is the key blocked; 0: it is not */
	int64		now;			/* when, on the monotonic clock; 0: not known */
	bool		in_table;		/* the bucket is there */
	bool		shadowed;		/* would have been denied; once it is counted */
} Decision;

/* What is so before it is known otherwise. */
static inline void
begin_decision(Decision *decision)
{
	decision->known = true;
	decision->in_table = false;
	decision->blocked = 0;
	decision->now = 0;
}

#define MAX_CALLS	64			/* that are decided together */

/* A call on its way to a decision, one of several. */
typedef struct BucketCall
{
	BucketId	id;
	BucketRule	rule;
	Owed		absent;			/* what the bucket owes if it is not in memory */
	Decision	decision;
} BucketCall;

/* What became of an attempt to decide several calls together. */
typedef enum AllResult
{
	ALL_DECIDED,
	ALL_BUSY,					/* start anew */
	ALL_MISSING,				/* start anew with more partitions locked */
	ALL_ELSEWHERE,				/* some belong into the table */
	ALL_NO_ROOM					/* and nothing more to evict */
} AllResult;

/* A living bucket, as rate_limit_status shows it. */
typedef struct BucketView
{
	char		limiter[MAX_LIMITER_LEN + 1];	/* a block's with its prefix */
	char		key[MAX_KEY_LEN];
	int			limiter_len;
	int			key_len;
	double		capacity;
	double		refill;
	Owed		owed;
} BucketView;

#endif							/* RATELIMIT_CALL_H */
