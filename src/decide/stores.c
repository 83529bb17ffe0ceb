/*
 * decide/stores.c
 *		What is done to a bucket in whichever of the two stores it is.
 *
 * A bucket is in shared memory or in the table, never in both: memory/spill.c has the
 * rules.  The functions here ask which store it is in, and set it, give it tokens and
 * reset it there.  Decisions are made in decide/one.c and decide/several.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "core/settings.h"
#include "decide/stores.h"
#include "memory/administration.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "table/clean.h"
#include "table/store.h"

/*
 * See to it that the bucket is in one store only.  After the start of the server, and
 * until the worker has gone through the table, a bucket may be both in memory, loaded
 * from the saved state, and in a row from before the start.
 */
void
settle_place(const BucketId *id)
{
	if (memory_attached() && !RecoveryInProgress() && !spill_known() &&
		!table_find_empty())
		table_merge(id);
}

/* May the bucket have a row? */
bool
table_may_hold(const BucketId *id)
{
	if (RecoveryInProgress())
		return false;
	if (!memory_attached())
		return true;
	settle_place(id);
	return spill_is_set(memory_partition(id->hash));
}

/* What happens to a bucket for which memory has no room. */
PlaceMode
place_mode(void)
{
	return overflow_setting == OVERFLOW_EVICT ? PLACE_OR_EVICT : PLACE_OR_SPILL;
}

/* Without shared memory: can this process make rows? */
bool
rows_can_be_made(void)
{
	return !RecoveryInProgress() && !IsInParallelMode();
}

/* Set what the bucket owes, and its rule, and make it if it is nowhere. */
void
set_bucket(const BucketId *id, const BucketRule *rule, Owed owed)
{
	if (!memory_attached())
	{
		(void) table_set(id, rule, owed);
		return;
	}
	if (RecoveryInProgress())
	{
		(void) memory_set(id, rule, owed, PLACE_HERE);
		return;
	}
	settle_place(id);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (memory_set(id, rule, owed, place_mode()) || table_set(id, rule, owed))
			return;
	}
}

/*
 * Give tokens back to the bucket.  *given is how many it had room for.  Without
 * "wait" no lock is waited for for long, the tokens may be lost, and *given may say 0
 * although they were given.
 */
void
give_tokens(const BucketId *id, double tokens, bool wait, double *given)
{
	bool		in_table = !RecoveryInProgress() &&
		(!memory_attached() || spill_is_set(memory_partition(id->hash)));

	*given = 0;
	/* the table first, as a bucket may move from the table to memory, but not back */
	if (in_table && table_give(id, tokens, given, wait))
		return;
	if (!memory_attached())
		return;
	if (wait)
		(void) memory_give(id, tokens, given);
	else
		memory_give_back(id, tokens);
}

/* Make the bucket full.  Returns whether it was not. */
bool
reset_bucket(const BucketId *id)
{
	bool		living = false;

	if (table_may_hold(id))
		living = table_reset(id);
	if (memory_attached())
		living |= memory_reset(id);
	return living;
}

/*
 * Make all buckets of a limiter full, or of all limiters.  Returns how many were not.
 */
int64
reset_all_buckets(const char *limiter, int len)
{
	int64		reset = 0;

	if (!memory_attached() || (!RecoveryInProgress() && spill_any()))
		reset = table_reset_all(limiter, len);
	if (memory_attached())
		reset += memory_reset_all(MyDatabaseId, limiter, len);
	return reset;
}
