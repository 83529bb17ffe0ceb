/*
 * violations/flags.c
 *		Writing and clearing flags in rate_limit_flags.
 *
 * A flag is a row of rate_limit_flags that is not cleared.  A unique index ensures
 * that there is at most one for a key of a limiter.  A flag denies nothing.  Flags
 * are written when they are due (violations/due_flags.c), or by hand.  Which are due
 * is decided in violations/tracks.c.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/settings.h"
#include "core/transaction.h"
#include "memory/partitions.h"
#include "miscadmin.h"
#include "table/sql.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "violations/due_flags.h"
#include "violations/flags.h"
#include "violations/fold.h"
#include "violations/tracks.h"

static SqlStatement insert_flag = {
	"INSERT INTO %1$s.rate_limit_flags (limiter, key, rejected, reason)"
	" VALUES ($1, $2, $3, $4) ON CONFLICT (limiter, key) WHERE cleared_at IS NULL DO NOTHING",
	4, {TEXTOID, TEXTOID, INT8OID, TEXTOID}
};
static SqlStatement clear_flag = {
	"UPDATE %1$s.rate_limit_flags f SET cleared_at = pg_catalog.now(), cleared_by = $3"
	" WHERE f.limiter OPERATOR(pg_catalog.=) $1 AND f.key OPERATOR(pg_catalog.=) $2"
	" AND f.cleared_at IS NULL",
	3, {TEXTOID, TEXTOID, TEXTOID}
};

/* The due flags that this transaction has written, in TopTransactionContext. */
static List *written = NIL;

/* Once these flags are committed, they are no longer due. */
static void
flags_at_xact_end(XactEvent event, void *arg)
{
	ListCell   *cell;

	if (written == NIL || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	if (event == XACT_EVENT_COMMIT)
		foreach(cell, written)
			flags_done(lfirst(cell));
	written = NIL;
}

/* Insert a flag unless there is one.  Returns whether it was inserted. */
bool
flags_insert(Datum limiter, Datum key, int64 rejected, Datum reason)
{
	SqlCaller	caller = sql_begin();
	int			nest = sql_restrict_names(caller.user);
	Datum		values[4] = {limiter, key, Int64GetDatum(rejected), reason};
	bool		inserted;

	sql_lock(SQL_FLAGS, RowExclusiveLock);
	sql_execute(&insert_flag, values, NULL, false);
	inserted = SPI_processed > 0;
	AtEOXact_GUC(true, nest);
	sql_end(caller);
	return inserted;
}

/*
 * Write the flags that are due in this database.  They stay due until the transaction
 * commits.  A second attempt to write a flag finds the row and does nothing.
 */
void
flags_write_due(void)
{
	DueFlag		flag;
	int			at = 0;

	while (flags_get_due(&at, MyDatabaseId, &flag))
	{
		static bool called = false;
		DueFlag    *copy;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(TopTransactionContext);
		copy = palloc(sizeof(DueFlag));
		*copy = flag;
		call_at_ends(&called, flags_at_xact_end, NULL);
		written = lappend(written, copy);
		MemoryContextSwitchTo(old);
		if (flags_insert(CStringGetTextDatum(flag.limiter), CStringGetTextDatum(flag.key),
						 flag.rejected,
						 CStringGetTextDatum(psprintf("%lld violations within %d s",
													  (long long) flag.rejected,
													  flag_window_setting))))
			ereport(LOG,
					(errmsg("ratelimit: flagged key \"%s\" of limiter \"%s\": %lld violations within %d s",
							flag.key, flag.limiter, (long long) flag.rejected,
							flag_window_setting),
					 errhidestmt(true), errhidecontext(true)));
	}
}

/*
 * Clear the key's flag.  Returns whether there was one.  The key's violations until
 * now no longer count towards a flag.
 */
bool
flags_clear(const BucketId *id, Datum limiter, Datum key, Datum by)
{
	Datum		values[3] = {limiter, key, by};
	SqlCaller	caller = sql_begin();
	int			nest = sql_restrict_names(caller.user);
	bool		cleared;

	sql_lock(SQL_FLAGS, RowExclusiveLock);
	sql_execute(&clear_flag, values, NULL, false);
	cleared = SPI_processed > 0;
	AtEOXact_GUC(true, nest);
	sql_end(caller);

	if (memory_attached())
	{
		violations_fold();
		flags_start_anew(id);
	}
	return cleared;
}
