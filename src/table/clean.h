/*
 * table/clean.h
 *		Going through rate_limit_buckets: see table/clean.c.
 */
#ifndef RATELIMIT_TABLE_CLEAN_H
#define RATELIMIT_TABLE_CLEAN_H

extern bool table_find_empty(void);
extern void table_clean(void);
extern void table_clean_now_and_then(void);

#endif							/* RATELIMIT_TABLE_CLEAN_H */
