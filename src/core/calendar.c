/*
 * core/calendar.c
 *		When the period around a moment begins and ends.
 *
 * Periods of days and months follow a calendar in local time.  There, one begins at
 * each k-th step from an anchor, and a month that has not as many days as the anchor's
 * day has that step on its last day.  A step's moment is the first one at which the
 * zone's clock shows its local time or a later one.  So if the clock is put forward
 * over that local time, it is the moment of the change; and if the clock shows it
 * twice, it is the first of the two.  These moments never go back from one step to the
 * next, so every moment is in exactly one period.  Between two steps there may be no
 * moment at all (30 December 2011 in Samoa); then there is no such period.
 *
 * An hour or a part of one by a zone's clock (PERIOD_CLOCK) begins when the clock shows
 * a full hour, or part of an hour.  An hour that the clock shows twice is two periods.
 * When the clock is changed by something other than whole hours or parts, a period ends
 * and one begins, both shorter than others (Lord Howe Island, half an hour).
 *
 * Calendar and time zones are PostgreSQL's.  Steps beyond the range of TimestampTz are
 * DT_NOBEGIN and DT_NOEND.  Nothing here raises an error for any finite moment.
 */
#include "postgres.h"

#include "core/calendar.h"
#include "core/compat.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#define DAY_SECONDS		INT64CONST(86400)

/* Seconds from 1970, from which pg_time_t counts, to 2000. */
#define EPOCHS_APART	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * DAY_SECONDS)

/* A time during which a zone's offset from UTC is the same. */
typedef struct Stretch
{
	int128		end;			/* microseconds since 2000; not part of it */
	int64		offset;			/* microseconds */
	int64		next_offset;	/* that of the next one */
} Stretch;

/* After all times. */
#define END_OF_TIME		((int128) 1 << 100)

/* a / b, rounded down; b > 0. */
static inline int128
divide_down(int128 a, int128 b)
{
	int128		quotient = a / b;

	return quotient * b > a ? quotient - 1 : quotient;
}

/* The moment, if TimestampTz has it. */
static TimestampTz
bounded(int128 us)
{
	if (us < MIN_TIMESTAMP)
		return DT_NOBEGIN;
	if (us >= END_TIMESTAMP)
		return DT_NOEND;
	return (TimestampTz) us;
}

/* The rest, from a moment on, of the stretch that the moment is in. */
static void
find_stretch(pg_tz *zone, int128 us, Stretch *stretch)
{
	pg_time_t	now = (pg_time_t) divide_down(us, USECS_PER_SEC) + EPOCHS_APART;
	pg_time_t	boundary;
	long		before = 0;
	long		after;
	int			is_dst[2];
	int			found;

	found = pg_next_dst_boundary(&now, &before, &is_dst[0], &boundary, &after,
								 &is_dst[1], zone);
	Assert(found >= 0);
	stretch->offset = stretch->next_offset = before * USECS_PER_SEC;
	stretch->end = END_OF_TIME;
	if (found == 1)
	{
		stretch->end = (int128) (boundary - EPOCHS_APART) * USECS_PER_SEC;
		stretch->next_offset = after * USECS_PER_SEC;
	}
}

/*
 * The first moment at which a clock shows this local time or a later one.  The clock is
 * a zone's, or without a zone, one that is offset from UTC by so many microseconds.
 */
TimestampTz
calendar_first_moment(int128 local, pg_tz *zone, int64 offset)
{
	int128		us = local;

	if (local < MIN_TIMESTAMP - USECS_PER_DAY)
		return DT_NOBEGIN;
	if (local > END_TIMESTAMP + USECS_PER_DAY)
		return DT_NOEND;
	if (!zone)
		return bounded(us - offset);

	/* no clock is a day off, so a day before it does not yet show this time */
	us -= USECS_PER_DAY;
	for (;;)
	{
		Stretch		stretch;
		int128		moment;

		find_stretch(zone, us, &stretch);
		moment = Max(us, local - stretch.offset);
		if (moment < stretch.end)
			return bounded(moment);
		us = stretch.end;
	}
}

/*
 * Which month is this, counted from January 2000, and how many days does it have?
 * False if Timestamp does not have it.
 */
bool
calendar_month(int64 month, int *year, int *mon, int *n_days)
{
	int64		years = (int64) divide_down(month, MONTHS_PER_YEAR);

	if (years < -10000 || years > 300000)
		return false;
	*year = 2000 + (int) years;
	*mon = (int) (month - years * MONTHS_PER_YEAR) + 1;
	*n_days = day_tab[isleap(*year)][*mon - 1];
	return IS_VALID_JULIAN(*year, *mon, 1);
}

/* The local time of a step of a period of months. */
static int128
month_step(const Period *period, int64 step)
{
	int128		month = (int128) step * period->length + period->phase;
	int			year;
	int			mon;
	int			n_days;
	int			day;

	if (month > PG_INT32_MAX || month < PG_INT32_MIN ||
		!calendar_month((int64) month, &year, &mon, &n_days))
		return month < 0 ? -END_OF_TIME : END_OF_TIME;
	day = date2j(year, mon, Min(period->day, n_days)) - POSTGRES_EPOCH_JDATE;
	return (int128) day * USECS_PER_DAY + period->time;
}

/* The local time of a step of a period of days. */
static int128
day_step(const Period *period, int64 step)
{
	return (int128) step * period->length + period->phase;
}

/* Find the period of days or months around a moment. */
static void
find_by_calendar(Period *period, TimestampTz now)
{
	int128		(*local_of) (const Period *, int64) = day_step;
	int128		local;
	int64		step;
	TimestampTz next;

	if (period->zone)
	{
		Stretch		stretch;

		find_stretch(period->zone, now, &stretch);
		local = (int128) now + stretch.offset;
	}
	else
		local = (int128) now + period->offset;

	/* the last step that is not after the local time */
	if (period->kind == PERIOD_DAYS)
		step = (int64) divide_down(local - period->phase, period->length);
	else
	{
		int			year;
		int			mon;
		int			day;

		j2date((int) divide_down(local, USECS_PER_DAY) + POSTGRES_EPOCH_JDATE,
			   &year, &mon, &day);
		step = (int64) divide_down((year - 2000) * MONTHS_PER_YEAR + mon - 1 -
								   period->phase, period->length);
		local_of = month_step;
		if (local_of(period, step) > local)
			step--;
	}

	/*
	 * As the clock shows the step's local time or a later one, the step is in the past.
	 * Later steps are as well, if the clock has been put back since.
	 */
	period->begin = calendar_first_moment(local_of(period, step), period->zone,
										  period->offset);
	for (;;)
	{
		next = calendar_first_moment(local_of(period, step + 1), period->zone,
									 period->offset);
		if (next > now)
			break;
		period->begin = next;
		step++;
	}
	period->end = next;
}

/* Is a clock that is offset differently at another place of the period? */
static inline bool
is_shifted(const Period *period, const Stretch *stretch)
{
	return (stretch->next_offset - stretch->offset) % period->length != 0;
}

/* Find the period around a moment, by the zone's clock. */
static void
find_by_clock(Period *period, TimestampTz now)
{
	Stretch		stretch;
	int128		begin;
	int128		end;
	int128		local;

	find_stretch(period->zone, now, &stretch);
	local = (int128) now + stretch.offset;
	begin = divide_down(local, period->length) * period->length - stretch.offset;
	end = begin + period->length;

	/* cut off what is after a change of the clock to come, and before one in the past */
	for (int128 at = now; at < end; at = stretch.end)
	{
		find_stretch(period->zone, at, &stretch);
		if (stretch.end < end && is_shifted(period, &stretch))
			end = stretch.end;
	}
	for (int128 at = begin; at < now; at = stretch.end)
	{
		find_stretch(period->zone, at, &stretch);
		if (stretch.end <= now && is_shifted(period, &stretch))
			begin = stretch.end;
	}
	period->begin = bounded(begin);
	period->end = bounded(end);
}

/* Find the period around a moment, and remember it. */
void
calendar_find(Period *period, TimestampTz now)
{
	Assert(IS_VALID_TIMESTAMP(now));
	if (period->kind == PERIOD_ELAPSED)
	{
		int128		begin;

		begin = divide_down((int128) now - period->phase, period->length) *
			period->length + period->phase;
		period->begin = bounded(begin);
		period->end = bounded(begin + period->length);
	}
	else if (period->kind == PERIOD_CLOCK)
		find_by_clock(period, now);
	else
		find_by_calendar(period, now);
}
