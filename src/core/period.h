/*
 * core/period.h
 *		Texts that say a period: see core/period.c.
 */
#ifndef RATELIMIT_PERIOD_H
#define RATELIMIT_PERIOD_H

#include "core/calendar.h"

extern const Period *period_of(const char *text, int len);

/* The name; equal periods have equal names.  It is a text that says the period. */
static inline const char *
period_name(const Period *period, int *len)
{
	*len = period->name_len;
	return period->name;
}

#endif							/* RATELIMIT_PERIOD_H */
