/*
 * memory/administration.h
 *		What administrators and the ends of transactions do to buckets in shared
 *		memory: see memory/administration.c.
 */
#ifndef RATELIMIT_MEMORY_ADMINISTRATION_H
#define RATELIMIT_MEMORY_ADMINISTRATION_H

#include "core/call.h"

extern bool memory_reset(const BucketId *id);
extern int64 memory_reset_all(Oid database, const char *limiter, int limiter_len);
extern bool memory_give(const BucketId *id, double tokens, double *given);
extern bool memory_settle(const BucketId *id, double reserved, double used,
						  double *left);
extern void memory_give_back(const BucketId *id, double tokens);
extern void memory_forget_database(Oid database);
extern int	memory_databases(Oid *databases, int n, int max);

#endif							/* RATELIMIT_MEMORY_ADMINISTRATION_H */
