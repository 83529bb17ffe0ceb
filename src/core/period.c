/*
 * core/period.c
 *		Texts that say a period, as 'month', 'day Europe/Berlin' or '15 minutes'.
 *
 * A text is a length, and then possibly a time zone, or an anchor:
 *
 *		LENGTH
 *		LENGTH ZONE
 *		LENGTH from DATE [TIME] [OFFSET | ZONE]
 *
 * A length is one of the words second, minute, hour, day, week, month and year, or an
 * interval as PostgreSQL reads it.  Without a zone it is UTC, and not the session's
 * TimeZone: all sessions have to mean the same period.  Without an anchor it is 1 January
 * 1970, 0:00 in that zone; if the length is whole weeks, the Monday after, 5 January.
 *
 * What a length becomes (core/calendar.h):
 *
 *		months				PERIOD_MONTHS
 *		days in a zone		PERIOD_DAYS
 *		less in a zone		PERIOD_CLOCK
 *		anything else		PERIOD_ELAPSED; in a zone with a constant offset, a day is
 *							24 hours
 *
 * The name of a period is a text that says the same, and that all texts which say the
 * same share: its unit is the largest one possible, the zone is spelled as its file, and
 * the anchor is the first one after 1970, or absent if it is the default.
 *
 * Each session remembers the periods that it has used lately.  Their number is fixed,
 * as texts may come from anybody.  PostgreSQL keeps 23 kB for each name of a zone that it
 * has loaded, for as long as the session lasts.  That is the reason why only names of
 * files are accepted here, of which there are 600, and no POSIX specifications, of which
 * there are billions.
 */
#include "postgres.h"

#include <ctype.h>

#include "common/int.h"
#include "core/names.h"
#include "core/period.h"
#include "parser/scansup.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#define REMEMBERED_PERIODS	64	/* the hash below has 6 bits */

/* A period and the text that said it. */
typedef struct RememberedPeriod
{
	int			text_len;		/* 0: unused */
	char		text[MAX_PERIOD_LEN];
	Period		period;
} RememberedPeriod;

/* A text that is being read. */
typedef struct Reading
{
	const char *text;			/* as the caller gave it */
	int			text_len;
	char		words[MAX_PERIOD_LEN + 1];	/* with one space between words; cut up */

	int64		months;			/* the length */
	int64		days;
	int64		us;

	bool		zoned;			/* a time zone is given, in any way */
	pg_tz	   *zone;			/* NULL: a constant offset */
	int64		offset;			/* microseconds */

	bool		anchored;
	Timestamp	anchor;			/* local time */
} Reading;

/* The units in names, in descending order; each divides all before it. */
static const struct
{
	const char *name;
	int64		us;
	bool		is_word;		/* says a period by itself */
}			units[] =
{
	{"week", 7 * USECS_PER_DAY, true},
	{"day", USECS_PER_DAY, true},
	{"hour", USECS_PER_HOUR, true},
	{"minute", USECS_PER_MINUTE, true},
	{"second", USECS_PER_SEC, true},
	{"millisecond", 1000, false},
	{"microsecond", 1, false}
};

/* Local times from which periods are counted, unless a text says another. */
#define DAYS_1970			(UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE)
#define DEFAULT_ANCHOR		(DAYS_1970 * USECS_PER_DAY)
#define DEFAULT_MONDAY		((DAYS_1970 + 4) * USECS_PER_DAY)
#define DEFAULT_MONTH		(-30 * MONTHS_PER_YEAR)

static RememberedPeriod remembered[REMEMBERED_PERIODS];

/* Raise an error about a text, or about a part of it. */
pg_noreturn static void
fail(const Reading *reading, const char *what, const char *part, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 part ?
			 errmsg("period \"%.*s\" %s: \"%s\"",
					reading->text_len, reading->text, what, part) :
			 errmsg("period \"%.*s\" %s", reading->text_len, reading->text, what),
			 hint ? errhint("%s", hint) : 0));
}

/* Copy the text's words, with one space between two. */
static void
copy_words(Reading *reading)
{
	char	   *to = reading->words;

	for (int i = 0; i < reading->text_len; i++)
	{
		char		c = reading->text[i];

		if (!scanner_isspace(c))
			*to++ = c;
		else if (to > reading->words && to[-1] != ' ')
			*to++ = ' ';
	}
	if (to > reading->words && to[-1] == ' ')
		to--;
	*to = '\0';
}

/* Cut the words into what is before and what is after "from"; NULL: there is no "from". */
static char *
cut_at_from(char *words)
{
	for (char *c = words; (c = strchr(c, ' ')) != NULL; c++)
		if (pg_strncasecmp(c, " from", 5) == 0 && (c[5] == ' ' || c[5] == '\0'))
		{
			*c = '\0';
			return c + (c[5] == ' ' ? 6 : 5);
		}
	return NULL;
}

/*
 * Is this the name of a file of time zones?  A POSIX specification has a number; the
 * names of files that have one are all of one of these forms.  "posix/" and "right/" are
 * the same zones once more.
 */
static bool
may_name_a_zone(const char *name)
{
	static const char *const numbered[] = {"EST5EDT", "CST6CDT", "MST7MDT", "PST8PDT"};
	const char *number;
	int			west = 0;
	int			east = 0;
	int			most;

	if (!isalpha((unsigned char) name[0]) || strlen(name) > MAX_ZONE_LEN ||
		name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
					"0123456789/_+-")] != '\0' ||
		pg_strncasecmp(name, "posix/", 6) == 0 || pg_strncasecmp(name, "right/", 6) == 0)
		return false;
	if (strpbrk(name, "0123456789") == NULL)
		return true;

	for (int i = 0; i < lengthof(numbered); i++)
		if (pg_strcasecmp(name, numbered[i]) == 0)
			return true;
	if (pg_strncasecmp(name, "Etc/", 4) == 0)
	{
		name += 4;
		west = 12;
		east = 14;
	}
	if (pg_strncasecmp(name, "GMT", 3) != 0)
		return false;
	number = name + 3;
	most = *number == '+' ? west : *number == '-' ? east : 0;
	if (*number == '+' || *number == '-')
		number++;
	if (strspn(number, "0123456789") != strlen(number) ||
		strlen(number) > (*number == '1' ? 2 : 1))
		return false;
	return atoi(number) <= most;
}

/* Read the name of a time zone. */
static void
read_zone(Reading *reading, const char *name)
{
	pg_tz	   *zone = may_name_a_zone(name) ? pg_tzset(name) : NULL;
	long		offset;

	if (!zone || !pg_tz_acceptable(zone))
		fail(reading, "has an unknown time zone", name,
			 "The names of time zones are in the view pg_timezone_names.");
	reading->zoned = true;
	if (pg_get_timezone_offset(zone, &offset))
		reading->offset = offset * USECS_PER_SEC;
	else
		reading->zone = zone;
}

/* Read a number of so many digits; false if it is not one. */
static bool
read_digits(char **at, int digits, int *number)
{
	*number = 0;
	for (int i = 0; i < digits; i++, (*at)++)
	{
		if (!isdigit((unsigned char) **at))
			return false;
		*number = *number * 10 + (**at - '0');
	}
	return true;
}

/* Read one certain character; false if another is there. */
static bool
read_char(char **at, char c)
{
	if (**at != c)
		return false;
	(*at)++;
	return true;
}

/* Read HH:MM, HH:MM:SS or HH:MM:SS.FFFFFF. */
static bool
read_time(char **at, struct pg_tm *tm, fsec_t *fsec)
{
	if (!read_digits(at, 2, &tm->tm_hour) || !read_char(at, ':') ||
		!read_digits(at, 2, &tm->tm_min))
		return false;
	if (read_char(at, ':'))
	{
		if (!read_digits(at, 2, &tm->tm_sec))
			return false;
		if (read_char(at, '.'))
		{
			int			unit = 100000;

			if (!isdigit((unsigned char) **at))
				return false;
			for (; unit > 0 && isdigit((unsigned char) **at); unit /= 10, (*at)++)
				*fsec += (**at - '0') * unit;
		}
	}
	return tm->tm_hour < HOURS_PER_DAY && tm->tm_min < MINS_PER_HOUR &&
		tm->tm_sec < SECS_PER_MINUTE;
}

/* Read an offset from UTC, as +05:30. */
static bool
read_offset(Reading *reading, char *offset)
{
	int			west;

	if (strcmp(offset, "Z") != 0)
	{
		if (!isdigit((unsigned char) offset[1]) ||
			offset[1 + strspn(offset + 1, "0123456789:")] != '\0' ||
			DecodeTimezone(offset, &west) != 0)
			return false;
		reading->offset = -west * USECS_PER_SEC;
	}
	reading->zoned = true;
	return true;
}

/* Read DATE [TIME] [OFFSET | ZONE]. */
static void
read_anchor(Reading *reading, char *text)
{
	struct pg_tm tm = {0};
	fsec_t		fsec = 0;
	char	   *at = text;
	char	   *zone = NULL;
	bool		valid;

	valid = read_digits(&at, 4, &tm.tm_year) && read_char(&at, '-') &&
		read_digits(&at, 2, &tm.tm_mon) && read_char(&at, '-') &&
		read_digits(&at, 2, &tm.tm_mday) &&
		tm.tm_year > 0 && ValidateDate(DTK_DATE_M, false, false, false, &tm) == 0;
	if (valid && (*at == ' ' || *at == 'T') && isdigit((unsigned char) at[1]))
	{
		at++;
		valid = read_time(&at, &tm, &fsec);
	}
	if (valid && *at == ' ' && isalpha((unsigned char) at[1]))
		zone = at + 1;
	else if (valid && *at == ' ')
		valid = read_offset(reading, at + 1);
	else if (valid && *at != '\0')
		valid = read_offset(reading, at);
	if (!valid || tm2timestamp(&tm, fsec, NULL, &reading->anchor) != 0)
		fail(reading, "has an anchor that is not a time", text,
			 "An anchor is a date, with a time and a zone if needed: 2026-01-31, 2026-01-31 08:30+00, 2026-01-31 08:30 Europe/Berlin.");
	if (zone)
		read_zone(reading, zone);
	reading->anchored = true;
}

/* Has a length's last word no unit? */
static bool
ends_in_number(const char *length)
{
	const char *word = strrchr(length, ' ');

	word = word ? word + 1 : length;
	return word[strspn(word, "+-.0123456789")] == '\0';
}

/* Is this word one of those that are a length by themselves? */
static bool
read_unit(Reading *reading, const char *word)
{
	reading->months = reading->days = reading->us = 0;
	if (pg_strcasecmp(word, "month") == 0)
		reading->months = 1;
	else if (pg_strcasecmp(word, "year") == 0)
		reading->months = MONTHS_PER_YEAR;
	else
	{
		int			i = 0;

		while (i < lengthof(units) &&
			   !(units[i].is_word && pg_strcasecmp(word, units[i].name) == 0))
			i++;
		if (i == lengthof(units))
			return false;
		reading->days = units[i].us / USECS_PER_DAY;
		reading->us = units[i].us % USECS_PER_DAY;
	}
	return true;
}

/*
 * Read a length; false if it is not one.  What this does for an interval is what
 * interval_in() does, which raises other errors.
 */
static bool
read_length(Reading *reading, const char *length)
{
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	char		workbuf[2 * MAX_PERIOD_LEN + MAXDATEFIELDS + 1];
	struct pg_itm_in itm = {0};
	Interval	interval;
	int			dtype = DTK_DELTA;
	int			nf;
	int			error;

	if (read_unit(reading, length))
		return true;
	if (ends_in_number(length))
		return false;

	error = ParseDateTime(length, workbuf, sizeof(workbuf), field, ftype,
						  MAXDATEFIELDS, &nf);
	if (error == 0)
		error = DecodeInterval(field, ftype, nf, INTERVAL_FULL_RANGE, &dtype, &itm);
	if (error == DTERR_BAD_FORMAT)
	{
		memset(&itm, 0, sizeof(itm));
		strcpy(workbuf, length);
		error = DecodeISO8601Interval(workbuf, &dtype, &itm);
	}
	if (error == DTERR_BAD_FORMAT || dtype != DTK_DELTA)
		return false;
	if (error != 0 || itmin2interval(&itm, &interval) != 0)
		fail(reading, "is out of range", NULL, NULL);
	reading->months = interval.month;
	reading->days = interval.day;
	reading->us = interval.time;
	return true;
}

/* Raise an error about a length that could not be read. */
pg_noreturn static void
fail_length_of(const Reading *reading, char *length)
{
	static const char hint[] =
		"A period is second, minute, hour, day, week, month or year, or an interval such as 15 minutes.";

	bool		lacks_number = strpbrk(length, "0123456789") == NULL;
	bool		lacks_unit = ends_in_number(length);

	/* the first word that is not a unit, nor a number or a number with a unit */
	for (char *word = strtok(length, " "); word; word = strtok(NULL, " "))
	{
		Reading		probed = *reading;	/* its length is not used */
		char		probe[MAX_PERIOD_LEN + 3];

		word += strspn(word, "+-.0123456789");
		snprintf(probe, sizeof(probe), "1 %s", word);
		if (*word != '\0' && !read_length(&probed, probe))
			fail(reading, "has an unknown unit", word, hint);
	}
	if (lacks_number)
		fail(reading, "has a unit without a number", NULL, hint);
	if (lacks_unit)
		fail(reading, "has a number without a unit", NULL, hint);
	fail(reading, "is not an interval", NULL, hint);
}

/* Read a length, and a time zone if there is one. */
static void
read_length_and_zone(Reading *reading, char *words)
{
	char	   *last;

	if (read_length(reading, words))
		return;
	last = strrchr(words, ' ');
	if (last && !isdigit((unsigned char) last[1]))
	{
		*last = '\0';
		if (read_length(reading, words))
		{
			if (reading->anchored)
				fail(reading, "has an unknown unit", last + 1,
					 "A time zone comes last: 1 day from 2026-01-31 Europe/Berlin.");
			read_zone(reading, last + 1);
			return;
		}
		*last = ' ';
	}
	fail_length_of(reading, words);
}

/* a mod b, from 0 to b - 1; b > 0. */
static int64
modulo(int128 a, int64 b)
{
	int64		rest = (int64) (a % b);

	return rest < 0 ? rest + b : rest;
}

/* Make a period of what has been read. */
static void
make_period(const Reading *reading, Period *period)
{
	int64		us;
	Timestamp	anchor;

	if (reading->months != 0 && (reading->days != 0 || reading->us != 0))
		fail(reading, "mixes months with days or time", NULL, NULL);
	if (reading->zone && reading->days != 0 && reading->us != 0)
		fail(reading, "mixes days and time in a time zone", NULL,
			 "In a time zone, not every day has 24 hours.");
	if (pg_mul_s64_overflow(reading->days, USECS_PER_DAY, &us) ||
		pg_add_s64_overflow(us, reading->us, &us))
		fail(reading, "is out of range", NULL, NULL);
	if (reading->months < 0 || us < 0 || (reading->months == 0 && us == 0))
		fail(reading, "is not above 0", NULL, NULL);

	period->zone = reading->zone;
	period->offset = reading->offset;
	if (reading->months > 0)
	{
		period->kind = PERIOD_MONTHS;
		period->length = reading->months;
		period->phase = DEFAULT_MONTH;
		period->day = 1;
		period->time = 0;
		if (reading->anchored)
		{
			int			year;
			int			mon;
			int64		time = modulo(reading->anchor, USECS_PER_DAY);
			int64		day = (reading->anchor - time) / USECS_PER_DAY;

			j2date((int) day + POSTGRES_EPOCH_JDATE, &year, &mon, &period->day);
			period->phase = (year - 2000) * MONTHS_PER_YEAR + mon - 1;
			period->time = time;
		}
		period->phase = modulo(period->phase, period->length);
		return;
	}

	period->length = us;
	anchor = reading->anchored ? reading->anchor :
		us % (7 * USECS_PER_DAY) == 0 ? DEFAULT_MONDAY : DEFAULT_ANCHOR;
	if (!reading->zone)
	{
		period->kind = PERIOD_ELAPSED;
		period->phase = modulo((int128) anchor - reading->offset, us);
	}
	else if (reading->days != 0)
	{
		period->kind = PERIOD_DAYS;
		period->phase = modulo(anchor, us);
	}
	else if (reading->anchored)
	{
		period->kind = PERIOD_ELAPSED;
		period->phase = modulo(calendar_first_moment(anchor, reading->zone, 0), us);
		period->zone = NULL;
	}
	else
	{
		period->kind = PERIOD_CLOCK;
		period->phase = 0;
		if (USECS_PER_HOUR % us != 0)
			fail(reading, "cannot be counted in a time zone", NULL,
				 "In a time zone, a period is whole months or days, or an hour or an even part of one. Others need an anchor: 6 hours from 2026-01-31 08:30 Europe/Berlin.");
	}
	if (period->kind == PERIOD_ELAPSED)
		period->offset = 0;
}

/* Write how long a period is. */
static int
write_length(const Period *period, char *name, int size)
{
	int64		count = period->length;
	const char *unit = "month";
	bool		is_word = true;

	if (period->kind != PERIOD_MONTHS)
	{
		int			i = 0;

		while (count % units[i].us != 0)
			i++;
		count /= units[i].us;
		unit = units[i].name;
		is_word = units[i].is_word;
	}
	else if (count % MONTHS_PER_YEAR == 0)
	{
		count /= MONTHS_PER_YEAR;
		unit = "year";
	}
	if (count == 1 && is_word)
		return snprintf(name, size, "%s", unit);
	return snprintf(name, size, INT64_FORMAT " %s%s", count, unit, count == 1 ? "" : "s");
}

/*
 * The local time to name as the anchor: the first one after 1970 if its year has four
 * digits, else the last one before.
 */
static Timestamp
named_anchor(const Period *period)
{
	int128		anchor;

	if (period->kind == PERIOD_MONTHS)
	{
		int64		first = DEFAULT_MONTH +
			modulo(period->phase - DEFAULT_MONTH, period->length);
		int64		month = first;
		int64		step = period->length;
		int			year;
		int			mon;
		int			n_days;

		/* find a month that has the day; the anchor's own is one */
		while (!calendar_month(month, &year, &mon, &n_days) || year > 9999 ||
			   n_days < period->day)
		{
			if (step > 0 && month / MONTHS_PER_YEAR > 9999 - 2000)
			{
				step = -step;
				month = first;
			}
			month += step;
		}
		return (date2j(year, mon, period->day) - POSTGRES_EPOCH_JDATE) *
			USECS_PER_DAY + period->time;
	}

	anchor = modulo((int128) period->phase - DEFAULT_ANCHOR, period->length);
	anchor += DEFAULT_ANCHOR;
	if (anchor >= (date2j(10000, 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)
		anchor -= period->length;
	return (Timestamp) anchor;
}

/*
 * Write from when a period counts.  Returns -1 if its name cannot say that, because the
 * year in which it begins has not four digits.
 */
static int
write_anchor(const Period *period, char *name, int size)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			len;

	if (timestamp2tm(named_anchor(period), NULL, &tm, &fsec, NULL, NULL) != 0 ||
		tm.tm_year < 1 || tm.tm_year > 9999)
		return -1;
	len = snprintf(name, size, " from %04d-%02d-%02d", tm.tm_year, tm.tm_mon, tm.tm_mday);
	if (tm.tm_hour != 0 || tm.tm_min != 0 || tm.tm_sec != 0 || fsec != 0)
		len += snprintf(name + len, size - len, " %02d:%02d", tm.tm_hour, tm.tm_min);
	if (tm.tm_sec != 0 || fsec != 0)
		len += snprintf(name + len, size - len, ":%02d", tm.tm_sec);
	if (fsec != 0)
	{
		len += snprintf(name + len, size - len, ".%06d", fsec);
		while (name[len - 1] == '0')
			len--;
	}
	return len;
}

/* Is this the period that its length alone would say? */
static bool
has_default_anchor(const Period *period)
{
	if (period->kind == PERIOD_CLOCK)
		return true;
	if (period->kind == PERIOD_MONTHS)
		return period->day == 1 && period->time == 0 && period->offset == 0 &&
			modulo(period->phase - DEFAULT_MONTH, period->length) == 0;
	return modulo((int128) period->phase -
				  (period->length % (7 * USECS_PER_DAY) == 0 ? DEFAULT_MONDAY : DEFAULT_ANCHOR),
				  period->length) == 0;
}

/* Name the period.  Returns false if it has no name. */
static bool
write_name(Period *period)
{
	char	   *name = period->name;
	int			size = sizeof(period->name);
	int			len;

	len = write_length(period, name, size);
	if (!has_default_anchor(period))
	{
		int			anchor_len = write_anchor(period, name + len, size - len);

		if (anchor_len < 0)
			return false;
		len += anchor_len;
	}
	if (period->zone)
		len += snprintf(name + len, size - len, " %s", pg_get_timezone_name(period->zone));
	else if (period->offset != 0)
	{
		int			seconds = (int) (labs(period->offset) / USECS_PER_SEC);

		len += snprintf(name + len, size - len, "%c%02d:%02d",
						period->offset < 0 ? '-' : '+', seconds / SECS_PER_HOUR,
						seconds / SECS_PER_MINUTE % MINS_PER_HOUR);
		if (seconds % SECS_PER_MINUTE != 0)
			len += snprintf(name + len, size - len, ":%02d", seconds % SECS_PER_MINUTE);
	}
	Assert(len < size);
	period->name_len = len;
	return true;
}

/* Read a text into a period. */
static void
read_period(const char *text, int len, Period *period)
{
	Reading		reading = {.text = text, .text_len = len};
	char	   *anchor;

	copy_words(&reading);
	check_length("period", text, strlen(reading.words) == 0 ? 0 : len, MAX_PERIOD_LEN);
	anchor = cut_at_from(reading.words);
	if (anchor)
		read_anchor(&reading, anchor);
	read_length_and_zone(&reading, reading.words);

	memset(period, 0, sizeof(*period));
	make_period(&reading, period);
	if (!write_name(period))
		fail(&reading, "is out of range", NULL, NULL);
}

/*
 * The period that a text says, or an error about the text.  The caller has to copy it if
 * it still needs it after the next call of this function, which may overwrite it.
 */
const Period *
period_of(const char *text, int len)
{
	RememberedPeriod *entry;
	Period		period;

	check_length("period", text, len, MAX_PERIOD_LEN);
	entry = &remembered[hash_bytes_of_name(hash_secrets[2], text, len) >> 58];
	if (unlikely(entry->text_len != len || memcmp(entry->text, text, len) != 0))
	{
		read_period(text, len, &period);
		entry->period = period;
		memcpy(entry->text, text, len);
		entry->text_len = len;
	}
	return &entry->period;
}
