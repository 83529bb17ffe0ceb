/*
 * table/change.c
 *		Deciding a call on a bucket's row, whose page is locked, and writing the
 *		result.
 *
 * One call (table/store.c) and several together (table/together.c) are both decided
 * here.  Finding, locking and making rows is theirs.
 *
 * A row is never trusted: whatever it says, the call is decided and the row repaired.
 * The caller reports that with row_warn_repaired(), which names the key, once it has
 * unlocked the page.
 */
#include "postgres.h"

#include "table/change.h"
#include "table/owed.h"

/*
 * Decide a call at the time "now" on a row, whose page is locked exclusively; or, if
 * "set" is not null, let the bucket owe what it says.  The row is written only if
 * "apply" is true.  Returns whether the row made sense.
 */
bool
row_change(Rows *rows, RowRef *ref, TimestampTz now, const BucketRule *rule,
		   const Owed *set, bool apply, Decision *decision)
{
	Row			row;
	BucketRule	joined;			/* the rule, in the bucket's period */
	bool		sane;

	rows_read(ref, &row);
	sane = row_make_sense(&row, now, rule);
	decision->in_table = true;
	decision->owed = set ? *set : row_owed(&row, now, rule);
	decision->ends = 0;
	if (bucket_in_period(rule->refill))
	{
		joined = *rule;
		bucket_join_period(&joined, row.capacity, row.refill);
		decision->ends = joined.refill != rule->refill ? joined.refill : 0;
		rule = &joined;
	}
	if (!apply)
	{
		Owed		owed = decision->owed;

		decision->allowed = bucket_take(rule, &owed);
		return sane;
	}
	decision->allowed = bucket_take_or_give(rule, &decision->owed);
	/* a denied call leaves the row as it is, unless its parameters are new */
	if (sane && !set && row.capacity == rule->capacity && row.refill == rule->refill &&
		(!decision->allowed || rule->take == 0))
		return true;
	row.capacity = rule->capacity;
	row.refill = rule->refill;
	row.owed = decision->owed;
	row.updated_at = Max(now, row.updated_at);
	rows_write(rows, ref, &row);
	return sane;
}

/* Tell the operator which row made no sense. */
void
row_warn_repaired(const BucketId *id)
{
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("repaired the bucket of key \"%.*s\", limiter \"%.*s\"",
					id->key_len, id->key, id->limiter_len, id->limiter),
			 errdetail("Its row in rate_limit_buckets made no sense.")));
}
