/*
 * table/owed.h
 *		What the bucket of a row owes: see table/owed.c.
 */
#ifndef RATELIMIT_TABLE_OWED_H
#define RATELIMIT_TABLE_OWED_H

#include "core/bucket.h"
#include "table/rows.h"

extern bool row_make_sense(Row *row, TimestampTz now, const BucketRule *rule);
extern Owed row_owed(const Row *row, TimestampTz now, const BucketRule *rule);
extern Owed row_owed_by_itself(Row *row, double tokens, BucketRule *own);

#endif							/* RATELIMIT_TABLE_OWED_H */
