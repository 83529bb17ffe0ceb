/*
 * core/calendar.h
 *		Periods of time, and when the one around a moment begins and ends: see
 *		core/calendar.c.
 */
#ifndef RATELIMIT_CALENDAR_H
#define RATELIMIT_CALENDAR_H

#include "pgtime.h"
#include "datatype/timestamp.h"

#define MAX_PERIOD_LEN		127 /* bytes of a text that says a period */

/* The longest name: a number, a unit, " from ", a time, and a time zone. */
#define MAX_ZONE_LEN		60	/* no name of one is longer than 32 */
#define MAX_PERIOD_NAME_LEN	(19 + 13 + 6 + 26 + 1 + MAX_ZONE_LEN)

/* How periods follow one another.  All of them do so without end, both ways. */
typedef enum PeriodKind
{
	PERIOD_ELAPSED,				/* each lasts equally long */
	PERIOD_CLOCK,				/* hours and parts of an hour, by a zone's clock */
	PERIOD_DAYS,				/* days of a zone's calendar */
	PERIOD_MONTHS				/* months of a calendar */
} PeriodKind;

/*
 * A period, as core/period.c reads it from a text.  It may be copied.  Moments are
 * those of TimestampTz; local times are those of Timestamp.
 */
typedef struct Period
{
	/* the one that was asked for last: begin <= moment < end */
	TimestampTz begin;
	TimestampTz end;

	PeriodKind	kind;
	int			day;			/* if of months: the day of the month, 1 to 31 */
	int64		time;			/* if of months: microseconds since midnight */
	int64		length;			/* months, or microseconds; > 0 */
	int64		phase;			/* 0 <= phase < length; one begins at this moment, or
								 * this local time, or in this month since 2000 */
	pg_tz	   *zone;			/* NULL: local time is offset from UTC by: */
	int64		offset;			/* microseconds */

	int			name_len;
	char		name[MAX_PERIOD_NAME_LEN + 1];	/* see core/period.c */
} Period;

extern TimestampTz calendar_first_moment(int128 local, pg_tz *zone, int64 offset);
extern bool calendar_month(int64 month, int *year, int *mon, int *n_days);
extern void calendar_find(Period *period, TimestampTz now) pg_attribute_cold;

/*
 * Find the period around a moment, which must be finite: it begins at *begin, if not
 * DT_NOBEGIN, and ends before *end, if not DT_NOEND.  These two stand for moments that
 * TimestampTz does not have.
 *
 * The latest answer is in the struct, although callers see it as constant.
 */
static inline void
period_around(const Period *period, int64 now, int64 *begin, int64 *end)
{
	if (unlikely(now < period->begin || now >= period->end))
		calendar_find((Period *) period, now);
	*begin = period->begin;
	*end = period->end;
}

#endif							/* RATELIMIT_CALENDAR_H */
