/*
 * table/insert.h
 *		Making a row of rate_limit_buckets: see table/insert.c.
 */
#ifndef RATELIMIT_TABLE_INSERT_H
#define RATELIMIT_TABLE_INSERT_H

#include "table/open.h"
#include "table/tuple.h"

extern void rows_insert(Rows *rows, const BucketId *id, const Row *row);

#endif							/* RATELIMIT_TABLE_INSERT_H */
