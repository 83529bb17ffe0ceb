/*
 * memory/saved.h
 *		Saving and loading the buckets in shared memory: see memory/saved.c.
 */
#ifndef RATELIMIT_MEMORY_SAVED_H
#define RATELIMIT_MEMORY_SAVED_H

#include "core/saved_file.h"

#define MEMORY_KINDS	2		/* how many kinds of records */

extern void memory_save(Saving *saving);
extern bool memory_load(int kind, const char *record, Size size, Loading *loading);

#endif							/* RATELIMIT_MEMORY_SAVED_H */
