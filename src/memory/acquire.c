/*
 * memory/acquire.c
 *		Acquiring slots in shared memory, releasing and renewing them.
 *
 * memory/semaphores.h explains how slots are kept.
 *
 * A call gets its slots if those that are held, and its own, are not more than the
 * number that it names, and if nobody waits: whoever comes later does not overtake,
 * so that one who waits for many slots gets them in spite of others who need only
 * one.  Slots whose time is over are freed before a call is decided.
 */
#include "postgres.h"

#include "core/clock.h"
#include "memory/acquire.h"
#include "memory/holdings.h"
#include "memory/ticket_wait.h"
#include "memory/tickets.h"
#include "miscadmin.h"

/* Acquire slots, waiting if the call says so.  *number is the ticket's. */
AcquireResult
semaphore_acquire(const AcquireCall *call, int64 *number)
{
	uint32		partition = semaphore_partition(call->id->hash);
	Holder		holder = {call->weight, MyProcPid, call->hold, call->length};
	Semaphore  *semaphore;
	uint32		cell;
	uint32		n;
	int64		now;

	if (call->weight > call->slots)
		return ACQUIRE_FULL;
	holdings_prepare();
	cell = ready_ticket();
	if (unlikely(cell == NO_CELL))
	{
		semaphores_expire();
		cell = ready_ticket();
		if (cell == NO_CELL)
			return ACQUIRE_NO_ROOM;
	}

	now = monotonic_ns();
	semaphores_lock_up_to_date(partition, now);
	n = find_or_make_semaphore(call->id);
	if (n == NO_CELL)
	{
		semaphores_unlock(partition);
		return ACQUIRE_NO_ROOM;
	}
	semaphore = &semaphores.semaphores[n];
	semaphore->slots = call->slots;
	if (likely(semaphore->waiters == 0 &&
			   semaphore->held + call->weight <= call->slots))
	{
		hold_slots(cell, n, &holder, now);
		*number = semaphores.tickets[cell].number;
		ready_ticket_used();
		semaphores_unlock(partition);
	}
	else if (call->timeout == 0)
	{
		semaphores_unlock(partition);
		return ACQUIRE_FULL;
	}
	else
	{
		/* this releases the lock */
		if (!wait_for_ticket(call, &holder, n, cell, now, number))
			return ACQUIRE_FULL;
	}
	/* an interval may be over by now, and the cell used by others */
	if (call->hold != HOLD_INTERVAL)
		holdings_add(cell);
	return ACQUIRED;
}

/*
 * Lock the partition of the ticket with this number.  Return its cell, or NO_CELL,
 * with nothing locked, if there is no such ticket.
 *
 * The partition is read without a lock.  If the ticket is held, it is the right one;
 * if the cell is used by another ticket meanwhile, its number is another, too.
 */
static uint32
lock_ticket(int64 number, uint32 *partition)
{
	uint32		cell = ticket_cell(number);
	volatile Ticket *ticket = &semaphores.tickets[cell];

	if (number <= 0 || cell >= semaphores.header->tickets || ticket->number != number)
		return NO_CELL;
	*partition = ticket_partition(cell);
	semaphores_lock(*partition);
	if (ticket_is_in(cell, *partition) && ticket->number == number)
		return cell;
	semaphores_unlock(*partition);
	return NO_CELL;
}

/*
 * May this backend, for this role, do something to the ticket?  *owner is the role
 * that the ticket belongs to, if that is not the answer.
 */
static TicketResult
check_ticket(const Ticket *ticket, Oid role, int64 now, Oid *owner)
{
	if (semaphores.semaphores[ticket->semaphore].database != MyDatabaseId)
		return TICKET_UNKNOWN;
	if (ticket->hold != HOLD_INTERVAL)
		return ticket->pid == MyProcPid ? TICKET_DONE : TICKET_UNKNOWN;
	*owner = ticket->role;
	if (ticket->role != role)
		return TICKET_FOREIGN;
	return ticket->until > now ? TICKET_DONE : TICKET_UNKNOWN;
}

/*
 * Release the ticket, if it belongs to the role, or to this backend.
 */
TicketResult
semaphore_release(int64 number, Oid role, Oid *owner)
{
	int64		now = 0;
	uint32		partition;
	uint32		cell;
	Ticket	   *ticket;
	TicketResult result;
	bool		mine;

	/* this backend, which may have acquired nothing, may keep the ticket's cell */
	holdings_prepare();
	cell = lock_ticket(number, &partition);
	if (cell == NO_CELL)
		return TICKET_UNKNOWN;
	ticket = &semaphores.tickets[cell];
	mine = ticket->hold != HOLD_INTERVAL;
	if (!mine || semaphores.semaphores[ticket->semaphore].waiters > 0)
		now = monotonic_ns();
	result = check_ticket(ticket, role, now, owner);
	if (result == TICKET_DONE)
		free_slots(cell, now);
	semaphores_unlock(partition);
	if (result == TICKET_DONE)
	{
		if (mine)
			holdings_remove(cell);
		keep_ticket(cell);
	}
	return result;
}

/* Let the ticket be held for so many nanoseconds from now, likewise. */
TicketResult
semaphore_renew(int64 number, int64 length, Oid role, Oid *owner)
{
	int64		now = monotonic_ns();
	uint32		partition;
	uint32		cell = lock_ticket(number, &partition);
	Ticket	   *ticket;
	TicketResult result;

	if (cell == NO_CELL)
		return TICKET_UNKNOWN;
	ticket = &semaphores.tickets[cell];
	result = check_ticket(ticket, role, now, owner);
	if (result == TICKET_DONE && ticket->hold != HOLD_INTERVAL)
		result = TICKET_NO_INTERVAL;
	if (result == TICKET_DONE)
		hold_until(cell, now + length);
	semaphores_unlock(partition);
	return result;
}
