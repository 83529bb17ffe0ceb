/*
 * table/open.h
 *		Opening rate_limit_buckets: see table/open.c.
 */
#ifndef RATELIMIT_TABLE_OPEN_H
#define RATELIMIT_TABLE_OPEN_H

#include "storage/lockdefs.h"
#include "utils/relcache.h"

/* The table and its primary key's index, open and locked. */
typedef struct Rows
{
	Relation	rel;
	Relation	index;
	LOCKMODE	mode;
} Rows;

extern void rows_init(void);
extern void rows_open(Rows *rows, LOCKMODE mode);
extern bool rows_open_if_free(Rows *rows, LOCKMODE mode);
extern void rows_close(Rows *rows);

#endif							/* RATELIMIT_TABLE_OPEN_H */
