/*
 * memory/holdings.c
 *		What a backend holds: tickets of its transaction and of its session.
 *
 * The tickets of a transaction, and those of the session, are each in a list, the
 * newest first.  The links are in the tickets' cells, but only the backend that
 * holds them uses them.  So nothing has to be allocated, and a ticket leaves its
 * list in one step whatever the order of releases.
 *
 * Slots of a transaction are freed when it ends.  That is after its changes have
 * become visible to others, or have been undone, so whoever gets the slots next sees
 * them.  What a subtransaction has acquired is freed if it is rolled back, and
 * becomes its parent's if it commits.  Slots of the session are freed when the
 * backend exits, whatever the reason, after its last transaction has ended.  Nothing
 * here can fail or allocate memory.  If a backend cannot run its exit code, because
 * it was killed, the server starts all others anew, with all slots free.
 *
 * PREPARE TRANSACTION raises an error if the transaction holds slots: another
 * session may end the transaction, or nobody ever.
 *
 * A backend keeps the cell of one ticket ready, so that a call after a release need
 * not take one from the stack that all share.
 */
#include "postgres.h"

#include "access/xact.h"
#include "core/clock.h"
#include "core/role.h"
#include "core/transaction.h"
#include "memory/holdings.h"
#include "memory/tickets.h"
#include "miscadmin.h"
#include "storage/ipc.h"

/* The newest ticket of the transaction, and of the session. */
static uint32 newest[2] = {NO_CELL, NO_CELL};

StaticAssertDecl(HOLD_TRANSACTION == 0 && HOLD_SESSION == 1, "these are indexes of newest");

/* A cell that is ready, or NO_CELL. */
static uint32 ready = NO_CELL;

/*
 * Return a cell for a ticket of the present role.  It stays ready until it is used,
 * so that it is not lost if the call ends before.  NO_CELL: there is no room.
 */
uint32
ready_ticket(void)
{
	Oid			role = calling_role();

	if (ready != NO_CELL && semaphores.tickets[ready].role != role)
	{
		push_ticket(ready);
		ready = NO_CELL;
	}
	if (ready == NO_CELL)
		ready = pop_ticket(role, MyDatabaseId, true);
	return ready;
}

void
ready_ticket_used(void)
{
	ready = NO_CELL;
}

/* Keep the cell of a ticket that holds nothing any more, or push it. */
void
keep_ticket(uint32 cell)
{
	if (ready == NO_CELL && semaphores.tickets[cell].role == calling_role())
		ready = cell;
	else
		push_ticket(cell);
}

/* Put a ticket that is not an interval's into the list that it belongs to. */
void
holdings_add(uint32 cell)
{
	Ticket	   *ticket = &semaphores.tickets[cell];
	uint32	   *list = &newest[ticket->hold];

	ticket->subxact = GetCurrentSubTransactionId();
	ticket->newer = NO_CELL;
	ticket->older = *list;
	if (*list != NO_CELL)
		semaphores.tickets[*list].newer = cell;
	*list = cell;
}

/* Take a ticket out of its list. */
void
holdings_remove(uint32 cell)
{
	Ticket	   *ticket = &semaphores.tickets[cell];

	if (ticket->newer == NO_CELL)
		newest[ticket->hold] = ticket->older;
	else
		semaphores.tickets[ticket->newer].older = ticket->older;
	if (ticket->older != NO_CELL)
		semaphores.tickets[ticket->older].newer = ticket->newer;
}

/* Free the newest ticket of a list. */
static void
free_newest(HoldKind hold)
{
	uint32		cell = newest[hold];
	uint32		partition = semaphores.tickets[cell].partition;

	holdings_remove(cell);
	semaphores_lock(partition);
	free_slots(cell, monotonic_ns());
	semaphores_unlock(partition);
	keep_ticket(cell);
}

static void
at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (newest[HOLD_TRANSACTION] != NO_CELL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that holds slots"),
						 errhint("Release them first, or acquire them for the session or for an interval.")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			while (newest[HOLD_TRANSACTION] != NO_CELL)
				free_newest(HOLD_TRANSACTION);
			break;
		default:
			break;
	}
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	uint32	   *list = &newest[HOLD_TRANSACTION];

	/* subtransactions inside this one have higher numbers */
	if (event == SUBXACT_EVENT_ABORT_SUB)
		while (*list != NO_CELL && semaphores.tickets[*list].subxact >= mine)
			free_newest(HOLD_TRANSACTION);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (uint32 cell = *list;
			 cell != NO_CELL && semaphores.tickets[cell].subxact >= mine;
			 cell = semaphores.tickets[cell].older)
			semaphores.tickets[cell].subxact = parent;
}

/*
 * before_shmem_exit callback.  It ends the last transaction by itself, which the
 * server would do only after this, so that others can see what has become of it when
 * they get the slots.  Later, this process may have detached the memory
 * (core/late.c).
 */
static void
free_at_exit(int code, Datum arg)
{
	AbortOutOfAnyTransaction();
	for (int hold = 0; hold < lengthof(newest); hold++)
		while (newest[hold] != NO_CELL)
			free_newest(hold);
	if (ready != NO_CELL)
		push_ticket(ready);
	ready = NO_CELL;
}

/* Have what this backend is about to hold freed when it has to be. */
void
holdings_prepare(void)
{
	static bool called = false;

	if (likely(called))
		return;
	before_shmem_exit(free_at_exit, (Datum) 0);
	call_at_ends(&called, at_xact_end, at_subxact_end);
}
