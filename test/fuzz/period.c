/*
 * period.c
 *		Texts that say a period (src/core/period.c, src/core/calendar.c).
 *
 * The input is a moment and a text.  If the text says a period, its name says the same
 * period and is its own name, and around the moment and its neighbours periods follow one
 * another without a gap.
 */
#include "fuzz.h"

#include "core/period.h"
#include "datatype/timestamp.h"

static void
try_period(Bytes *input)
{
	int64		moment;
	int			len;
	char	   *text;
	Period		period;
	Period		named;
	int64		begin;
	int64		end;
	int64		other_begin;
	int64		other_end;

	take_bytes(input, &moment, sizeof(moment));
	text = take_text(input, 200, &len);
	period = *period_of(text, len);
	if (period.name_len <= 0 || period.name_len > MAX_PERIOD_LEN)
		finding("\"%s\" has a name of %d bytes", text, period.name_len);
	period.name[period.name_len] = '\0';
	named = *period_of(period.name, period.name_len);
	named.name[named.name_len] = '\0';
	if (strcmp(named.name, period.name) != 0)
		finding("\"%s\" is named \"%s\", but that is named \"%s\"", text, period.name, named.name);

	moment = MIN_TIMESTAMP +
		(int64) ((uint64) moment % ((uint64) END_TIMESTAMP - (uint64) MIN_TIMESTAMP));
	period_around(&period, moment, &begin, &end);
	if (moment < begin || moment >= end)
		finding("\"%s\": " INT64_FORMAT " is not in " INT64_FORMAT " to " INT64_FORMAT,
				text, moment, begin, end);
	period_around(&named, moment, &other_begin, &other_end);
	if (begin != other_begin || end != other_end)
		finding("\"%s\" and its name \"%s\" differ at " INT64_FORMAT, text, period.name, moment);
	if (end != DT_NOEND)
	{
		period_around(&period, end, &other_begin, &other_end);
		if (other_begin != end)
			finding("\"%s\": " INT64_FORMAT " follows " INT64_FORMAT, text, other_begin, end);
	}
	if (begin != DT_NOBEGIN && begin > MIN_TIMESTAMP)
	{
		period_around(&period, begin - 1, &other_begin, &other_end);
		if (other_end != begin)
			finding("\"%s\": " INT64_FORMAT " precedes " INT64_FORMAT, text, other_end, begin);
	}
	if (period.kind == PERIOD_ELAPSED && begin != DT_NOBEGIN && end != DT_NOEND &&
		(int128) end - begin != period.length)
		finding("\"%s\" lasts " INT64_FORMAT " at " INT64_FORMAT, text, end - begin, moment);
}

const Fuzzer fuzz_period = {"period", try_period, "22023 54000"};
