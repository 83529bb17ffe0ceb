/*
 * core/transaction.c
 *		Registering functions that are called at the ends of transactions, and caches
 *		that a rollback makes invalid.
 */
#include "postgres.h"

#include "access/transam.h"
#include "core/transaction.h"

/*
 * Have these functions called at the ends of transactions and subtransactions from
 * now on, unless *called says that they already are.  Each call takes time in every
 * transaction, so a part asks for this only when it first has something to do there.
 */
void
call_at_ends(bool *called, XactCallback at_xact_end, SubXactCallback at_subxact_end)
{
	if (*called)
		return;
	RegisterXactCallback(at_xact_end, NULL);
	if (at_subxact_end)
		RegisterSubXactCallback(at_subxact_end, NULL);
	*called = true;
}

/* The caches that this transaction has filled: their flags. */
static bool *filled[4];
static int	n_filled = 0;

static void
drop_filled(void)
{
	for (int i = 0; i < n_filled; i++)
		*filled[i] = false;
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		drop_filled();
}

static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		drop_filled();
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT ||
		event == XACT_EVENT_PREPARE)
		n_filled = 0;
}

/*
 * A cache of what a table holds is about to be filled: see to it that *valid becomes
 * false when this transaction, or a part of it, is rolled back.
 *
 * An invalidation is repeated when a change is rolled back, except for a change by
 * the very statement that fails.  If a trigger has made a call during that statement,
 * the cache may hold what the statement had changed.
 */
void
invalid_after_rollback(bool *valid)
{
	static bool called = false;

	/* a transaction without an ID has changed nothing */
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	for (int i = 0; i < n_filled; i++)
		if (filled[i] == valid)
			return;
	call_at_ends(&called, at_xact_end, at_subxact_end);
	Assert(n_filled < lengthof(filled));
	filled[n_filled++] = valid;
}
