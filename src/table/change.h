/*
 * table/change.h
 *		Deciding a call on a bucket's row: see table/change.c.
 */
#ifndef RATELIMIT_TABLE_CHANGE_H
#define RATELIMIT_TABLE_CHANGE_H

#include "core/call.h"
#include "table/rows.h"

extern bool row_change(Rows *rows, RowRef *ref, TimestampTz now,
					   const BucketRule *rule, const Owed *set, bool apply,
					   Decision *decision);
extern void row_warn_repaired(const BucketId *id);

#endif							/* RATELIMIT_TABLE_CHANGE_H */
