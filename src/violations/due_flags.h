/*
 * violations/due_flags.h
 *		Flags that are due.  See violations/due_flags.c.
 */
#ifndef RATELIMIT_VIOLATIONS_DUE_FLAGS_H
#define RATELIMIT_VIOLATIONS_DUE_FLAGS_H

#include "core/names.h"
#include "core/parts.h"

/* A key that has reached the threshold and has no row in rate_limit_flags yet. */
typedef struct DueFlag
{
	Oid			database;
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	int64		rejected;		/* violations within the window */
} DueFlag;

extern const Part due_flags_part;

extern bool flags_set_due(const BucketId *id, int64 rejected);
extern bool flags_get_due(int *at, Oid database, DueFlag *flag);
extern void flags_done(const DueFlag *flag);
extern void flags_not_due(const BucketId *id);
extern int	flags_databases(Oid *databases, int n, int max);

#endif							/* RATELIMIT_VIOLATIONS_DUE_FLAGS_H */
