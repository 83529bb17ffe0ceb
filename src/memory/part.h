/*
 * memory/part.h
 *		Buckets in shared memory, as a part (core/parts.h): see memory/part.c.
 */
#ifndef RATELIMIT_MEMORY_PART_H
#define RATELIMIT_MEMORY_PART_H

#include "core/parts.h"

extern const Part memory_part;

#endif							/* RATELIMIT_MEMORY_PART_H */
