/*
 * violations/part.h
 *		Violations as a part: see violations/part.c.
 */
#ifndef RATELIMIT_VIOLATIONS_PART_H
#define RATELIMIT_VIOLATIONS_PART_H

#include "core/parts.h"

extern const Part violations_part;

#endif							/* RATELIMIT_VIOLATIONS_PART_H */
