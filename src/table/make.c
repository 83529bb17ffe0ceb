/*
 * table/make.c
 *		Making a bucket's row, if the bucket still belongs in the table by then.
 *
 * Why a bucket is never in two places, and what a row's maker does for that, is in
 * memory/spill.c: its rules 2, 3 and 6 are carried out here.  table/insert.c puts the
 * row into the table.
 *
 * A row is made while its maker holds the key's lock, a heavyweight lock, so no two
 * sessions make rows of one bucket.  The lock is released as soon as the row is made,
 * not at the end of the transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "core/clock.h"
#include "core/compat.h"
#include "memory/consume.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "table/insert.h"
#include "table/make.h"
#include "utils/timestamp.h"

/* Advisory locks have 1 or 2 in that field, violations/flush.c has 3; keys have 4. */
#define KEY_LOCK_CLASS		4

/*
 * Lock the bucket's key.  Any role can look at the locks that are held, so the lock's
 * tag must not contain anything of the secret hash.  Keys whose tags collide wait for
 * each other's rows to be made, for a moment.
 */
void
make_lock_key(const BucketId *id, LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId,
						 hash_bytes((const unsigned char *) id->key, id->key_len),
						 hash_bytes((const unsigned char *) id->limiter, id->limiter_len),
						 KEY_LOCK_CLASS);
	(void) LockAcquire(tag, ExclusiveLock, false, false);
}

void
make_unlock_key(const LOCKTAG *tag)
{
	(void) LockRelease(tag, ExclusiveLock, false);
}

/* The row is not made, because of an error. */
static void
making_failed(int code, Datum partition)
{
	spill_end_row(DatumGetInt32(partition));
}

/*
 * Make a row of a bucket that owes so much.  The caller has not found a row, and
 * holds the key's lock.
 */
MakeResult
make_row(Rows *rows, const BucketId *id, const BucketRule *rule, Owed owed, RowRef *ref)
{
	int			partition;
	Row			row;
	Decision	unused;
	volatile bool elsewhere = false;

	if (rows_get(rows, id, true, ref))
		return FOUND;
	if (period_is_stale(rule->refill))
		return ELSEWHERE;
	row.capacity = rule->capacity;
	row.refill = rule->refill;
	row.owed = owed;
	row.updated_at = GetCurrentTimestamp();
	if (!memory_attached())
	{
		rows_insert(rows, id, &row);
		return MADE;
	}

	if (IsInParallelMode())
		return memory_peek(id, rule, &unused) ? ELSEWHERE : IN_MEMORY;
	partition = memory_partition(id->hash);
	if (!spill_begin_row(partition))
		return ELSEWHERE;
	PG_ENSURE_ERROR_CLEANUP(making_failed, Int32GetDatum(partition));
	{
		/*
		 * Look in memory only now.  Before the row was announced, the mark may have
		 * been cleared, the bucket made in memory, and the mark set again.  From here
		 * on nobody clears the mark.
		 */
		elsewhere = memory_peek(id, rule, &unused);
		injection_point("ratelimit-row-announced");
		if (!elsewhere)
			rows_insert(rows, id, &row);
	}
	PG_END_ENSURE_ERROR_CLEANUP(making_failed, Int32GetDatum(partition));
	spill_end_row(partition);
	return elsewhere ? ELSEWHERE : MADE;
}
