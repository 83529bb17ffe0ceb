/*
 * table/make.h
 *		Making a bucket's row, if the bucket belongs in the table: see table/make.c.
 */
#ifndef RATELIMIT_TABLE_MAKE_H
#define RATELIMIT_TABLE_MAKE_H

#include "storage/lock.h"
#include "table/rows.h"

/* What became of an attempt to make a bucket's row. */
typedef enum MakeResult
{
	MADE,
	FOUND,						/* there is one already, and its page is locked */
	ELSEWHERE,					/* the bucket does not belong in the table any more */
	IN_MEMORY					/* the caller must make it in memory, while it holds
								 * the key's lock: rule 6 of memory/spill.c */
} MakeResult;

extern void make_lock_key(const BucketId *id, LOCKTAG *tag);
extern void make_unlock_key(const LOCKTAG *tag);
extern MakeResult make_row(Rows *rows, const BucketId *id, const BucketRule *rule,
						   Owed owed, RowRef *ref);

#endif							/* RATELIMIT_TABLE_MAKE_H */
