/*
 * memory/ticket_wait.c
 *		Waiting for slots in shared memory: first come, first served.
 *
 * A waiter queues with a ticket's cell ready, and sleeps on its latch.  Whoever
 * frees slots gives them to the first waiter (memory/tickets.c).  The waiter then
 * holds its ticket, whether or not it is awake.  So a wakeup cannot get lost: a
 * waiter that leaves, because it is cancelled or terminated or its time is over,
 * finds under the lock that it has been given a ticket, and frees it again; or that
 * it is in the queue, and leaves that.  Then the one behind it may have enough
 * slots.
 *
 * No process frees slots when their time is over.  So the first waiter of each
 * semaphore sleeps no longer than until the first ticket of the partition expires.
 * Whoever becomes the first one is woken to do the same.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/compat.h"
#include "memory/holdings.h"
#include "memory/ticket_wait.h"
#include "memory/tickets.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

#define NSEC_PER_MSEC	1000000

/* What the cleanup of a wait needs. */
typedef struct Wait
{
	SemaphoreWaiter *mine;
	uint32		partition;
} Wait;

/* Wait no longer.  What the waiter has been given meanwhile, it gives back. */
static void
stop_waiting(int code, Datum arg)
{
	Wait	   *wait = (Wait *) DatumGetPointer(arg);
	SemaphoreWaiter *mine = wait->mine;
	int64		now = monotonic_ns();
	bool		has_cell = true;

	semaphores_lock(wait->partition);
	if (mine->state == GRANTED)
	{
		/* an interval may be over by now, and the cell used by others */
		has_cell = semaphores.tickets[mine->ticket].number == mine->number;
		if (has_cell)
			free_slots(mine->ticket, now);
	}
	else
		dequeue_waiter(my_proc_number(), now);
	mine->state = NOT_WAITING;
	semaphores_unlock(wait->partition);
	if (has_cell)
		keep_ticket(mine->ticket);
}

/*
 * Sleep until the ticket is granted, or the deadline has passed.  Returns whether it
 * was granted.
 */
static bool
sleep_until_granted(const Wait *wait, uint32 me, int64 deadline)
{
	static uint32 event = 0;

	if (event == 0)
		event = new_wait_event("RateLimitSlots");
	for (;;)
	{
		Semaphore  *semaphore = &semaphores.semaphores[wait->mine->semaphore];
		int64		now;
		int64		next = deadline;
		uint32		soonest;
		bool		granted;
		bool		more;

		/* waiting here uses up the latch, so this comes before the look */
		injection_point("ratelimit-slot-awaited");
		now = monotonic_ns();
		semaphores_lock(wait->partition);
		more = expire_some(wait->partition, now);
		granted = wait->mine->state == GRANTED;
		soonest = semaphores.partitions[wait->partition].s.heap;
		if (!granted && semaphore->first == me && soonest != NO_CELL)
			next = Min(next, semaphores.tickets[soonest].until);
		if (granted)
			wait->mine->state = NOT_WAITING;
		semaphores_unlock(wait->partition);

		if (granted || now >= deadline)
			return granted;
		if (!more && next > now)
		{
			int64		ms = (next - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;

			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 (long) Min(ms, INT_MAX), event);
			ResetLatch(MyLatch);
		}
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Wait for the slots of the n-th semaphore, with a ticket's cell ready.  Returns
 * whether the ticket has got them; if not, the timeout is over.  The caller holds
 * the lock, which is released.  *number is the ticket's.  If it is held for an
 * interval, that may be over already, so the caller must not look into the cell.
 */
bool
wait_for_ticket(const AcquireCall *call, const Holder *holder, uint32 n, uint32 cell,
				int64 now, int64 *number)
{
	uint32		me = my_proc_number();
	Semaphore  *semaphore = &semaphores.semaphores[n];
	Wait		wait = {&semaphores.waiters[me], semaphore_partition(semaphore->hash)};
	volatile bool granted = false;

	Assert(me < semaphores.header->waiters);
	wait.mine->ticket = cell;
	wait.mine->slots = call->slots;
	wait.mine->holder = *holder;
	/* read under the lock, so that it tells the order of the queue */
	wait.mine->since = monotonic_ns();
	enqueue_waiter(n, me);
	ready_ticket_used();
	semaphores_unlock(wait.partition);

	PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(&wait));
	{
		granted = sleep_until_granted(&wait, me, now + call->timeout);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(&wait));
	if (granted)
		*number = wait.mine->number;
	else
		stop_waiting(0, PointerGetDatum(&wait));
	return granted;
}
