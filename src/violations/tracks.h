/*
 * violations/tracks.h
 *		Which keys are to be flagged.  See violations/tracks.c.
 */
#ifndef RATELIMIT_VIOLATIONS_TRACKS_H
#define RATELIMIT_VIOLATIONS_TRACKS_H

#include "core/names.h"
#include "core/parts.h"

extern const Part tracks_part;

extern int64 tracks_slice(void);
extern bool tracks_set_window(void);
extern void flags_count(const BucketId *id, int64 n, int64 at);
extern void flags_start_anew(const BucketId *id);

#endif							/* RATELIMIT_VIOLATIONS_TRACKS_H */
