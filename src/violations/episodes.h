/*
 * violations/episodes.h
 *		Recent runs of violations.  See violations/episodes.c.
 */
#ifndef RATELIMIT_VIOLATIONS_EPISODES_H
#define RATELIMIT_VIOLATIONS_EPISODES_H

#include "core/names.h"
#include "core/parts.h"
#include "datatype/timestamp.h"

typedef struct Episode
{
	Oid			database;		/* InvalidOid if the place is free */
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	TimestampTz first_at;
	TimestampTz last_at;
	int64		rejected;
} Episode;

extern const Part episodes_part;

extern bool episodes_add(const BucketId *id, int64 n, TimestampTz first_at,
						 TimestampTz last_at, bool make);
extern Episode *episodes_copy(int *n);

#endif							/* RATELIMIT_VIOLATIONS_EPISODES_H */
