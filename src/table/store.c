/*
 * table/store.c
 *		Buckets in the unlogged table rate_limit_buckets: one bucket at a time.
 *
 * A bucket has one row, which is changed in place and at once, whatever becomes of
 * the caller's transaction (table/rows.c).  The row says what the bucket owed (see
 * core/bucket.h) at updated_at, and under which parameters; a row whose bucket has
 * become full again means the same as no row.  memory/spill.c says which buckets are
 * in the table, and not in shared memory.
 *
 * Several calls at once are in table/together.c, all rows in table/all.c.
 */
#include "postgres.h"

#include "memory/consume.h"
#include "memory/databases.h"
#include "memory/partitions.h"
#include "memory/place.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "table/change.h"
#include "table/clean.h"
#include "table/make.h"
#include "table/owed.h"
#include "table/store.h"
#include "utils/timestamp.h"

/*
 * Decide a call on a bucket that has no row, and so is full; or, if "set" is not
 * null, let the bucket owe what it says.  Makes the row, if the bucket belongs in the
 * table.
 */
static MakeResult
consume_without_row(Rows *rows, const BucketId *id, const BucketRule *rule,
					const Owed *set, Decision *decision, bool *sane)
{
	MakeResult	result;
	RowRef		ref;
	LOCKTAG		tag;
	Decision	unused;

	decision->in_table = true;
	decision->owed = set ? *set : 0;
	decision->allowed = bucket_take_or_give(rule, &decision->owed);
	/* if it stays full and has not moved meanwhile, there is nothing to write */
	if (decision->owed == 0)
		return memory_attached() && memory_peek(id, rule, &unused) ? ELSEWHERE : FOUND;

	make_lock_key(id, &tag);
	result = make_row(rows, id, rule, decision->owed, &ref);
	if (result == FOUND)
	{
		*sane = row_change(rows, &ref, GetCurrentTimestamp(), rule, set, true, decision);
		rows_release(&ref);
	}
	else if (result == IN_MEMORY)
	{
		decision->in_table = false;
		if (set)
			(void) memory_set(id, rule, *set, PLACE_HERE);
		else if (!memory_place(id, rule, 0, PLACE_HERE, decision))
			result = ELSEWHERE;
	}
	make_unlock_key(&tag);
	return result;
}

/*
 * Decide a call, or, if "set" is not null, let the bucket owe what it says.  Returns
 * false if the bucket does not belong in the table any more.
 */
static bool
consume_or_set(const BucketId *id, const BucketRule *rule, const Owed *set,
			   Decision *decision)
{
	Rows		rows;
	RowRef		ref;
	MakeResult	result = FOUND;
	bool		sane = true;

	rows_open(&rows, RowExclusiveLock);
	if (rows_get(&rows, id, true, &ref))
	{
		sane = row_change(&rows, &ref, GetCurrentTimestamp(), rule, set, true, decision);
		rows_release(&ref);
	}
	else
	{
		result = consume_without_row(&rows, id, rule, set, decision, &sane);
	}
	rows_close(&rows);
	if (!sane)
		row_warn_repaired(id);
	if (result == MADE)
		table_clean_now_and_then();
	return result != ELSEWHERE;
}

/*
 * Decide a call.  Returns false if the bucket does not belong in the table any more;
 * the caller must then look for it in shared memory again.  The same if the rule is
 * stale (core/clock.c).  If there is no shared
 * memory, this must not be called in a parallel query, which cannot make rows.
 */
bool
table_consume(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	return consume_or_set(id, rule, NULL, decision);
}

/*
 * Let the bucket owe so much, under a rule that takes nothing.  The result is that of
 * table_consume().
 */
bool
table_set(const BucketId *id, const BucketRule *rule, Owed owed)
{
	Decision	decision;

	return consume_or_set(id, rule, &owed, &decision);
}

/* Find what the bucket owes now under the rule; false if it has no row. */
bool
table_peek(const BucketId *id, const BucketRule *rule, Owed *owed)
{
	Rows		rows;
	RowRef		ref;
	bool		found;

	rows_open(&rows, AccessShareLock);
	found = rows_get(&rows, id, false, &ref);
	if (found)
	{
		TimestampTz now = GetCurrentTimestamp();
		Row			row;

		rows_read(&ref, &row);
		rows_release(&ref);
		(void) row_make_sense(&row, now, rule);
		*owed = row_owed(&row, now, rule);
	}
	rows_close(&rows);
	return found;
}

/* The bucket's row, locked, as it is now by its own parameters. */
typedef struct OwnRow
{
	Rows		rows;
	RowRef		ref;
	Row			row;
	BucketRule	rule;
	Owed		owed;
	bool		over;			/* the row is that of another period than the call */
} OwnRow;

/*
 * Open the bucket's row to give tokens back or to settle them, with the rule that it has
 * itself for a call of so many tokens.  Returns false if it has no row.  Unless "wait" is
 * true, this does not wait for the table's lock or for a statement that is changing the
 * row, but returns false.  If it returns true, the caller must call close_own(), and must
 * not fail before.
 */
static bool
open_own(const BucketId *id, double tokens, bool wait, OwnRow *own)
{
	if (wait)
		rows_open(&own->rows, RowExclusiveLock);
	else if (!rows_open_if_free(&own->rows, RowExclusiveLock))
		return false;
	if (!(wait ? rows_get(&own->rows, id, true, &own->ref) :
		  rows_get_if_free(&own->rows, id, &own->ref)))
	{
		rows_close(&own->rows);
		return false;
	}
	rows_read(&own->ref, &own->row);
	own->owed = row_owed_by_itself(&own->row, tokens, &own->rule);
	own->over = bucket_in_period(own->row.refill) && own->row.refill != id->ends;
	return true;
}

/* Let the bucket of the row that is open owe so much now, and close the row. */
static void
close_own(OwnRow *own, Owed owed)
{
	if (!own->over)
	{
		own->row.owed = owed;
		own->row.updated_at = Max(GetCurrentTimestamp(), own->row.updated_at);
		rows_write(&own->rows, &own->ref, &own->row);
	}
	rows_release(&own->ref);
	rows_close(&own->rows);
}

/*
 * Put tokens back, by the parameters of the bucket's row; *given is how many the
 * bucket had room for.  Returns false if it has no row.  "wait" is that of open_own().
 */
bool
table_give(const BucketId *id, double tokens, double *given, bool wait)
{
	OwnRow		own;
	Owed		left;

	if (!open_own(id, tokens, wait, &own))
		return false;
	left = own.over ? own.owed : bucket_give(&own.rule, own.owed);
	*given = own.over ? 0 :
		left > 0 ? tokens : Min(tokens, bucket_lacks(&own.rule, own.owed));
	close_own(&own, left);
	return true;
}

/*
 * Settle a reservation of so many tokens, of which so many are used, by the
 * parameters of the bucket's row; *left is what the bucket then has.  Returns false if it
 * has no row.
 */
bool
table_settle(const BucketId *id, double reserved, double used, double *left)
{
	OwnRow		own;
	Owed		owed;

	if (!open_own(id, reserved, true, &own))
		return false;
	owed = own.over ? own.owed : bucket_settle(&own.rule, used, own.owed);
	*left = bucket_tokens(&own.rule, owed);
	close_own(&own, owed);
	return true;
}

/* Make the bucket full.  Returns whether it had a row and was not full. */
bool
table_reset(const BucketId *id)
{
	Rows		rows;
	RowRef		ref;
	bool		living = false;

	rows_open(&rows, RowExclusiveLock);
	if (rows_get(&rows, id, true, &ref))
	{
		BucketRule	own;
		Row			row;

		rows_read(&ref, &row);
		living = row_owed_by_itself(&row, 0, &own) > 0;
		/* table/clean.c deletes the row later */
		row.owed = 0;
		rows_write(&rows, &ref, &row);
		rows_release(&ref);
	}
	rows_close(&rows);
	return living;
}

/*
 * Let memory have a bucket that both memory and the table have.  That may happen when
 * memory was loaded at the start of the server.  Memory gets the emptier of the two,
 * and the row becomes full.
 */
void
table_merge(const BucketId *id)
{
	Rows		rows;
	RowRef		ref;
	BucketRule	any;
	Decision	unused;
	bool		busy = true;

	bucket_rule(&any, 1, 0, 0);
	if (!memory_peek(id, &any, &unused))
		return;
	rows_open(&rows, RowExclusiveLock);
	for (int round = 0; busy && rows_get(&rows, id, true, &ref); round++)
	{
		BucketRule	own;
		Row			row;
		Owed		owed;
		MoveResult	result = MOVED;

		rows_read(&ref, &row);
		owed = row_owed_by_itself(&row, 0, &own);
		if (owed > 0)
			result = memory_move_in(id, &own, owed, !spill_memory_newer(), true);
		if (owed > 0 && result == MOVED)
		{
			row.owed = 0;
			rows_write(&rows, &ref, &row);
		}
		rows_release(&ref);
		busy = result == MOVE_BUSY;
		if (busy)
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(Min(round, 1000));
		}
	}
	rows_close(&rows);
}
