/*
 * decide/stores.c
 *		Both stores, memory and the table, where a bucket is in one of them: in which, and
 *		what is done wherever that is.
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
 * The table may have rows from before the server started that nobody has gone through
 * yet, and memory what was loaded: the bucket is to be in one of them.
 */
void
settle_place(const BucketId *id)
{
	if (memory_attached() && !RecoveryInProgress() && !spill_known() &&
		!table_find_empty())
		table_merge(id);
}

/* Is there a table that may hold the bucket? */
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

/* Where buckets are made for which there is no room. */
PlaceMode
place_mode(void)
{
	return overflow_setting == OVERFLOW_EVICT ? PLACE_OR_EVICT : PLACE_OR_SPILL;
}

/* Without shared memory: can rows be made here? */
bool
rows_can_be_made(void)
{
	return !RecoveryInProgress() && !IsInParallelMode();
}

/* Let the bucket owe so much, wherever it is, whatever it owed. */
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
 * Put tokens back, wherever the bucket is; how many it had room for.  If not asked to
 * wait, nothing is waited for for long, and they may be lost.
 */
void
give_tokens(const BucketId *id, double tokens, bool wait, double *given)
{
	bool		in_table = !RecoveryInProgress() &&
		(!memory_attached() || spill_is_set(memory_partition(id->hash)));

	*given = 0;
	/* from the table it may move to memory, but not the other way */
	if (in_table && table_give(id, tokens, given, wait))
		return;
	if (!memory_attached())
		return;
	if (wait)
		(void) memory_give(id, tokens, given);
	else
		memory_give_back(id, tokens);
}

/* Make the bucket full, wherever it is.  Was it not? */
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

/* Make all buckets of a limiter full, or those of all limiters: how many were not. */
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
