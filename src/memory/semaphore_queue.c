/*
 * memory/semaphore_queue.c
 *		Waiting for slots in shared memory: first come, first served.
 *
 * A waiter queues with a ticket's cell ready, and sleeps on its latch.  Whoever frees
 * slots gives them to the first waiter, as long as there are enough for it, and wakes
 * it.  The waiter then holds its ticket, whether or not it is awake.  So a wakeup cannot
 * get lost: a waiter that leaves, because it is cancelled or terminated or its time is
 * over, finds under the lock that it has been given a ticket, and frees it again; or
 * that it is in the queue, and leaves that.  Then the one behind it may have enough
 * slots.
 *
 * No process frees slots when their time is over.  So the first waiter of each
 * semaphore sleeps no longer than until the first ticket of the partition expires.
 * Whoever becomes the first one is woken to do the same.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/compat.h"
#include "memory/semaphores.h"
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

static void
wake(uint32 waiter)
{
	SetLatch(&GetPGProcByNumber(waiter)->procLatch);
}

/* Wake the first waiter, to see when it has to look next; the lock is held. */
void
wake_first_waiter(uint32 n)
{
	if (semaphores.semaphores[n].waiters > 0)
		wake(semaphores.semaphores[n].first);
}

static void
enqueue(Semaphore *semaphore, uint32 me)
{
	SemaphoreWaiter *waiter = &semaphores.waiters[me];

	waiter->state = WAITING;
	waiter->next = NO_CELL;
	waiter->previous = semaphore->last;
	if (semaphore->last == NO_CELL)
		semaphore->first = me;
	else
		semaphores.waiters[semaphore->last].next = me;
	semaphore->last = me;
	semaphore->waiters++;
}

static void
dequeue(Semaphore *semaphore, const SemaphoreWaiter *waiter)
{
	if (waiter->previous == NO_CELL)
		semaphore->first = waiter->next;
	else
		semaphores.waiters[waiter->previous].next = waiter->next;
	if (waiter->next == NO_CELL)
		semaphore->last = waiter->previous;
	else
		semaphores.waiters[waiter->next].previous = waiter->previous;
	semaphore->waiters--;
}

/*
 * Slots have become free, or the first waiter has left: give waiters what there is, in
 * order.  The lock is held.
 */
void
grant_waiters(uint32 n, int64 now)
{
	Semaphore  *semaphore = &semaphores.semaphores[n];

	while (semaphore->waiters > 0)
	{
		uint32		first = semaphore->first;
		SemaphoreWaiter *waiter = &semaphores.waiters[first];

		if (semaphore->held + waiter->holder.weight > waiter->slots)
			break;
		dequeue(semaphore, waiter);
		hold_slots(waiter->ticket, n, &waiter->holder, now);
		waiter->number = semaphores.tickets[waiter->ticket].number;
		waiter->state = GRANTED;
		wake(first);
	}
	wake_first_waiter(n);
}

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
	{
		Semaphore  *semaphore = &semaphores.semaphores[mine->semaphore];

		dequeue(semaphore, mine);
		grant_waiters(mine->semaphore, now);
		retire_semaphore(mine->semaphore);
	}
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
		int64		now = monotonic_ns();
		int64		next = deadline;
		uint32		soonest;
		bool		granted;
		bool		more;

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
 * whether the ticket has got them; if not, the timeout is over.  The caller holds the
 * lock, which is released.  *number is the ticket's.  If it is held for an interval,
 * that may be over already, so the caller must not look into the cell.
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
	wait.mine->semaphore = n;
	wait.mine->ticket = cell;
	wait.mine->slots = call->slots;
	wait.mine->holder = *holder;
	wait.mine->since = now;
	enqueue(semaphore, me);
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
