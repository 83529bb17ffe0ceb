/*
 * table/owed.c
 *		What the bucket of a row owes by now.
 *
 * The table goes by the wall clock, in the microseconds of a timestamptz, because it
 * is the only clock that means the same after a restart.  It may be set back.  For a
 * bucket, time then stands still until the clock has passed updated_at again, unless
 * updated_at is so far ahead that the row cannot be right.
 *
 * Rows are never trusted: whatever a row says, sense is made of it.  These functions
 * only compute; reading and writing rows is in table/rows.c.
 */
#include "postgres.h"

#include <math.h>

#include "core/clock.h"
#include "table/owed.h"
#include "utils/timestamp.h"

/* A row that claims to be later than now by more than this must be wrong. */
#define MAX_AHEAD			(10 * USECS_PER_SEC)

/*
 * Can the row have these parameters, if the calls on its bucket have such a rule?
 * The rule may be NULL.
 */
static bool
row_parameters_valid(const Row *row, const BucketRule *rule)
{
	if (!isfinite(row->refill) || !(row->capacity > 0))
		return false;
	if (rule && bucket_in_period(rule->refill) != bucket_in_period(row->refill))
		return false;
	return bucket_in_period(row->refill) ? row->refill >= -PERIOD_END_MAX :
		isfinite(row->capacity);
}

/*
 * Make sense of a row.  Parameters that make no sense are replaced by the rule's; if
 * there is no rule, the bucket becomes full.  Returns whether the row made sense
 * before.
 */
bool
row_make_sense(Row *row, TimestampTz now, const BucketRule *rule)
{
	bool		sane = true;

	if (!row_parameters_valid(row, rule))
	{
		row->capacity = rule ? rule->capacity : 1;
		if (isnan(row->capacity))
			row->capacity = INFINITY;	/* the rule counts down */
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
		/* rounding may leave a millionth and a microsecond more */
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

/* What the row's bucket owes at the time "now" under this rule. */
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

/*
 * What it owes now under the row's own parameters.  *own becomes their rule, for a
 * call of so many tokens.
 */
Owed
row_owed_by_itself(Row *row, double tokens, BucketRule *own)
{
	TimestampTz now = GetCurrentTimestamp();

	(void) row_make_sense(row, now, NULL);
	bucket_rule(own, row->capacity, row->refill, tokens);
	if (bucket_in_period(row->refill) && period_is_over(row->refill, PERIOD_GRACE))
		return 0;
	return row_owed(row, now, own);
}
