/*
 * violations/flags.h
 *		Writing and clearing flags.  See violations/flags.c.
 */
#ifndef RATELIMIT_VIOLATIONS_FLAGS_H
#define RATELIMIT_VIOLATIONS_FLAGS_H

#include "core/names.h"

extern void flags_write_due(void);
extern bool flags_insert(Datum limiter, Datum key, int64 rejected, Datum reason);
extern bool flags_clear(const BucketId *id, Datum limiter, Datum key, Datum by);

#endif							/* RATELIMIT_VIOLATIONS_FLAGS_H */
