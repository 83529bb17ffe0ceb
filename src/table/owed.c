/*
 * table/owed.c
 *		What the bucket of a row owes.
 *
 * The clock is the wall clock, cut to the microsecond of a timestamptz: it is
 * the only one that means the same after a restart.  It may be set back; for a
 * bucket time then stands still until the clock is past updated_at again, unless
 * that is so far ahead that the row cannot be trusted.
 *
 * Rows are trusted with nothing: whatever stands in one, sense is made of it.
 */
#include "postgres.h"

#include <math.h>

#include "table/owed.h"
#include "utils/timestamp.h"

/* A row that claims to be from later than this has to be wrong. */
#define MAX_AHEAD			(10 * USECS_PER_SEC)

/*
 * Make sense of a row.  What it cannot tell is taken from the rule, or, lacking one,
 * leaves a full bucket.  Did it make sense as it was?
 */
bool
row_make_sense(Row *row, TimestampTz now, const BucketRule *rule)
{
	bool		sane = true;

	if (!isfinite(row->capacity) || row->capacity <= 0 ||
		!isfinite(row->refill) || row->refill < 0)
	{
		row->capacity = rule ? rule->capacity : 1;
		row->refill = rule ? rule->refill : 0;
		row->owed = 0;
		sane = false;
	}
	else
	{
		BucketRule	own;

		bucket_rule(&own, row->capacity, row->refill, 0);
		if (row->owed < 0)
		{
			row->owed = 0;
			sane = false;
		}
		/* a microsecond in a million, for rounding */
		else if (row->owed > own.window + (own.window >> 20) + 1000 + BUCKET_DEBT_MAX)
		{
			row->owed = own.window;
			sane = false;
		}
	}
	if (TIMESTAMP_NOT_FINITE(row->updated_at) || row->updated_at > now + MAX_AHEAD)
	{
		row->updated_at = now;
		sane = false;
	}
	return sane;
}

/* What the row's bucket owes now under a rule. */
Owed
row_owed(const Row *row, TimestampTz now, const BucketRule *rule)
{
	Owed		elapsed = Max((Owed) now - row->updated_at, 0) * 1000;
	Owed		owed;

	owed = bucket_refilled(bucket_timed(row->capacity, row->refill),
						   row->owed, elapsed);
	if (row->capacity != rule->capacity || row->refill != rule->refill)
		owed = bucket_carry(row->capacity, row->refill, owed, rule);
	return owed;
}

/* Likewise under the row's own rule, which takes so many tokens. */
Owed
row_owed_by_itself(Row *row, double tokens, BucketRule *own)
{
	TimestampTz now = GetCurrentTimestamp();

	(void) row_make_sense(row, now, NULL);
	bucket_rule(own, row->capacity, row->refill, tokens);
	return row_owed(row, now, own);
}
