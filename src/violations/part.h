/*
 * violations/part.h
 *		Entries for violations, as a part of the extension.  See violations/part.c.
 */
#ifndef RATELIMIT_VIOLATIONS_PART_H
#define RATELIMIT_VIOLATIONS_PART_H

#include "core/parts.h"

extern const Part violations_part;

#endif							/* RATELIMIT_VIOLATIONS_PART_H */
