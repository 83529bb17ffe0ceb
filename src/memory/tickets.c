/*
 * memory/tickets.c
 *		Holding and freeing slots under a partition's lock, and the cells for that.
 *
 * memory/semaphores.h explains how slots are kept.  When a call may have slots is
 * decided in memory/acquire.c.
 *
 * Whoever frees slots gives them to the first waiter, as long as there are enough
 * for it, and wakes it.  Slots whose time is over are freed in order of time, for
 * the whole partition, by whoever comes; there is no process that would do it.
 *
 * Room for tickets is limited, and every role may use it.  A role gets another
 * ticket only if it has less than four times as many as are left.  So a role that is
 * alone gets four fifths of the room, which is what ratelimit.max_tickets says; n
 * roles that take what they can get have 4 / (4n + 1) each, and there is always some
 * left for the next one.  A ticket is never taken away from its holder.  Roles are
 * told apart by a hash with a secret seed, as in violations/shares.c.
 */
#include "postgres.h"

#include "core/clock.h"
#include "memory/ticket_heap.h"
#include "memory/tickets.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"

/* A role may have so many times the tickets that are left. */
#define SHARE_FACTOR	4

Semaphores	semaphores;

/*
 * Where the next ticket's number comes from; secret, and each process has its own.
 */
static uint64 number_state;
static int	number_pid = 0;		/* of the process that has made it */

bool
semaphores_attached(void)
{
	return semaphores.header != NULL;
}

/*
 * Lock a partition.  What is held under the lock may need a ticket's number, whose
 * secret is obtained here, before.
 */
void
semaphores_lock(uint32 partition)
{
	if (unlikely(number_pid != MyProcPid))
	{
		number_state = secret_seed();
		number_pid = MyProcPid;
	}
	LWLockAcquire(&semaphores.locks[partition].lock, LW_EXCLUSIVE);
}

void
semaphores_unlock(uint32 partition)
{
	LWLockRelease(&semaphores.locks[partition].lock);
}

/*
 * Free cells
 */

/*
 * Pop a cell from the stack.  "link" is a cell's link, and "size" the size of a
 * cell.
 */
static uint32
pop(FreeCells *stack, const uint32 *link, Size size)
{
	uint64		word = pg_atomic_read_u64(stack);

	for (;;)
	{
		uint32		cell = (uint32) word;
		uint64		next;

		if (cell == NO_CELL)
			return NO_CELL;
		/* the link of a cell that is not free any more is read in vain */
		pg_read_barrier();
		next = *(const volatile uint32 *) ((const char *) link + cell * size);
		next |= ((word >> 32) + 1) << 32;
		if (pg_atomic_compare_exchange_u64(stack, &word, next))
			return cell;
	}
}

static void
push(FreeCells *stack, uint32 *link, Size size, uint32 cell)
{
	uint64		word = pg_atomic_read_u64(stack);

	do
		*(volatile uint32 *) ((char *) link + cell * size) = (uint32) word;
	while (!pg_atomic_compare_exchange_u64(stack, &word,
										   ((word >> 32) + 1) << 32 | cell));
}

/* Which share the role has in this database. */
static int
share_of(Oid role, Oid database)
{
	return hash_bytes_uint32_extended(role, semaphores.header->seed ^ database) %
		TICKET_SHARES;
}

/*
 * Take a free cell for the role.  NO_CELL if there is none, or if the role has its
 * share already and "fair" is true.
 */
uint32
pop_ticket(Oid role, Oid database, bool fair)
{
	SemaphoreHeader *header = semaphores.header;
	int			share = share_of(role, database);
	uint32		used = pg_atomic_read_u32(&header->used);
	uint32		left = header->tickets - Min(used, header->tickets);
	uint32		cell;

	if (fair &&
		pg_atomic_read_u32(&header->shares[share]) >= SHARE_FACTOR * (uint64) left)
		return NO_CELL;
	cell = pop(&header->free_tickets, &semaphores.tickets[0].next_free, sizeof(Ticket));
	if (cell == NO_CELL)
		return NO_CELL;
	pg_atomic_fetch_add_u32(&header->used, 1);
	pg_atomic_fetch_add_u32(&header->shares[share], 1);
	semaphores.tickets[cell].share = share;
	semaphores.tickets[cell].role = role;
	return cell;
}

void
push_ticket(uint32 cell)
{
	SemaphoreHeader *header = semaphores.header;

	pg_atomic_fetch_sub_u32(&header->shares[semaphores.tickets[cell].share], 1);
	pg_atomic_fetch_sub_u32(&header->used, 1);
	push(&header->free_tickets, &semaphores.tickets[0].next_free, sizeof(Ticket), cell);
}

/*
 * Semaphores.  The caller holds the partition's lock.
 */

static uint32 *
chain_of(uint64 hash)
{
	/* the chain's number modulo the number of partitions is the partition's */
	return &semaphores.chains[hash & (semaphores.header->chains - 1)];
}

static SemaphorePartition *
partition_of(const Semaphore *semaphore)
{
	return &semaphores.partitions[semaphore_partition(semaphore->hash)];
}

static uint32
find(const BucketId *id)
{
	uint32		n;

	for (n = *chain_of(id->hash); n != NO_CELL; n = semaphores.semaphores[n].next)
	{
		const Semaphore *semaphore = &semaphores.semaphores[n];

		if (semaphore->hash == id->hash && semaphore->database == id->database &&
			semaphore->limiter_len == id->limiter_len &&
			semaphore->key_len == id->key_len &&
			memcmp(semaphore->names, id->limiter, id->limiter_len) == 0 &&
			memcmp(semaphore->names + id->limiter_len, id->key, id->key_len) == 0)
			break;
	}
	return n;
}

/*
 * Find the key's semaphore, or make it.  There is one for each ticket's cell, and
 * the caller has a cell, so there is one left.
 */
uint32
find_or_make_semaphore(const BucketId *id)
{
	uint32		n = find(id);
	uint32	   *chain = chain_of(id->hash);
	Semaphore  *semaphore;

	if (n != NO_CELL)
		return n;
	n = pop(&semaphores.header->free_semaphores, &semaphores.semaphores[0].next_free,
			sizeof(Semaphore));
	Assert(n != NO_CELL);
	if (n == NO_CELL)
		return NO_CELL;
	semaphore = &semaphores.semaphores[n];
	semaphore->hash = id->hash;
	semaphore->held = 0;
	semaphore->database = id->database;
	semaphore->slots = 0;
	semaphore->tickets = semaphore->waiters = 0;
	semaphore->first = semaphore->last = NO_CELL;
	semaphore->limiter_len = id->limiter_len;
	semaphore->key_len = id->key_len;
	memcpy(semaphore->names, id->limiter, id->limiter_len);
	memcpy(semaphore->names + id->limiter_len, id->key, id->key_len);
	semaphore->next = *chain;
	*chain = n;
	return n;
}

/* Take a semaphore out of its chain, and push it. */
static void
drop_semaphore(uint32 n)
{
	uint32	   *link = chain_of(semaphores.semaphores[n].hash);

	while (*link != n)
		link = &semaphores.semaphores[*link].next;
	*link = semaphores.semaphores[n].next;
	push(&semaphores.header->free_semaphores, &semaphores.semaphores[0].next_free,
		 sizeof(Semaphore), n);
}

/*
 * The semaphore may be empty now.  The partition's last one to become empty stays in
 * its chain until another one does, because a key whose slots have just become free
 * is likely to be called again.
 */
static void
retire_semaphore(uint32 n)
{
	Semaphore  *semaphore = &semaphores.semaphores[n];
	SemaphorePartition *partition = partition_of(semaphore);

	if (semaphore->tickets > 0 || semaphore->waiters > 0 || partition->s.spare == n)
		return;
	if (partition->s.spare != NO_CELL)
		drop_semaphore(partition->s.spare);
	partition->s.spare = n;
}

/*
 * Tickets.  The caller holds the partition's lock.
 */

/*
 * Is the ticket held, and protected by the lock of this partition, which the caller
 * holds?  Until that is known, another partition's lock may protect it, under which
 * it is changed; but what has a number then has the other partition, too.
 */
bool
ticket_is_in(uint32 cell, uint32 partition)
{
	const volatile Ticket *ticket = &semaphores.tickets[cell];

	if (ticket->number == 0)
		return false;
	pg_read_barrier();
	return ticket->partition == partition;
}

/* A number that leads to the cell, and that nobody can guess; above 0. */
static int64
new_number(uint32 cell)
{
	uint64		tag;

	number_state += UINT64CONST(0x9E3779B97F4A7C15);
	tag = hash_fold(number_state ^ hash_secrets[0], number_state ^ hash_secrets[1]);
	tag >>= 64 - TICKET_TAG_BITS;
	return (int64) (Max(tag, 1) << TICKET_CELL_BITS | cell);
}

/* Let the cell's ticket hold slots of the semaphore. */
void
hold_slots(uint32 cell, uint32 n, const Holder *holder, int64 now)
{
	Ticket	   *ticket = &semaphores.tickets[cell];
	Semaphore  *semaphore = &semaphores.semaphores[n];
	SemaphorePartition *partition = partition_of(semaphore);

	if (partition->s.spare == n)
		partition->s.spare = NO_CELL;
	semaphore->held += holder->weight;
	semaphore->tickets++;
	ticket->since = now;
	ticket->semaphore = n;
	ticket->weight = holder->weight;
	ticket->pid = holder->pid;
	ticket->hold = holder->hold;
	ticket->partition = semaphore_partition(semaphore->hash);
	/* whoever sees the number sees the partition, too, even without its lock */
	pg_write_barrier();
	ticket->number = new_number(cell);
	if (holder->hold == HOLD_INTERVAL)
	{
		ticket->until = now + holder->length;
		heap_add(semaphores.tickets, &partition->s.heap, cell);
	}
}

/*
 * Waiters.  The caller holds the partition's lock.
 */

static void
wake(uint32 waiter)
{
	SetLatch(&GetPGProcByNumber(waiter)->procLatch);
}

/* Wake the first waiter, to see when it has to look next; the lock is held. */
static void
wake_first_waiter(uint32 n)
{
	if (semaphores.semaphores[n].waiters > 0)
		wake(semaphores.semaphores[n].first);
}

/* This backend waits for slots of the n-th semaphore, behind all others. */
void
enqueue_waiter(uint32 n, uint32 me)
{
	Semaphore  *semaphore = &semaphores.semaphores[n];
	SemaphoreWaiter *waiter = &semaphores.waiters[me];

	waiter->state = WAITING;
	waiter->semaphore = n;
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
 * Slots have become free, or the first waiter has left: give waiters what there is,
 * in order.  The lock is held.
 */
static void
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

/* The backend waits no longer.  Then the one behind it may have enough slots. */
void
dequeue_waiter(uint32 me, int64 now)
{
	SemaphoreWaiter *waiter = &semaphores.waiters[me];

	dequeue(&semaphores.semaphores[waiter->semaphore], waiter);
	grant_waiters(waiter->semaphore, now);
	retire_semaphore(waiter->semaphore);
}

/*
 * Ends.  The caller holds the partition's lock.
 */

/*
 * Let an interval's ticket be held until another time.  The first waiter sleeps
 * until slots become free by time, which may be earlier now.
 */
void
hold_until(uint32 cell, int64 until)
{
	Ticket	   *ticket = &semaphores.tickets[cell];
	uint32	   *heap = &partition_of(&semaphores.semaphores[ticket->semaphore])->s.heap;

	heap_remove(semaphores.tickets, heap, cell);
	ticket->until = until;
	heap_add(semaphores.tickets, heap, cell);
	wake_first_waiter(ticket->semaphore);
}

/*
 * Free the slots of a ticket, and let those who wait have them.  The caller pushes
 * the cell, or uses it again.
 */
void
free_slots(uint32 cell, int64 now)
{
	Ticket	   *ticket = &semaphores.tickets[cell];
	uint32		n = ticket->semaphore;
	Semaphore  *semaphore = &semaphores.semaphores[n];

	Assert(ticket->number != 0 && semaphore->held >= ticket->weight);
	if (ticket->hold == HOLD_INTERVAL)
		heap_remove(semaphores.tickets, &partition_of(semaphore)->s.heap, cell);
	ticket->number = 0;
	semaphore->held -= ticket->weight;
	semaphore->tickets--;
	if (semaphore->waiters > 0)
		grant_waiters(n, now);
	if (semaphore->tickets == 0)
		retire_semaphore(n);
}

/*
 * Free slots of the partition whose time is over, up to EXPIRE_BATCH tickets.
 * Returns whether there may be more.
 */
bool
expire_some(uint32 partition, int64 now)
{
	uint32	   *heap = &semaphores.partitions[partition].s.heap;

	for (int i = 0; i < EXPIRE_BATCH; i++)
	{
		uint32		cell = *heap;

		if (likely(cell == NO_CELL || semaphores.tickets[cell].until > now))
			return false;
		free_slots(cell, now);
		push_ticket(cell);
	}
	return true;
}

/* Lock a partition of which no slots are held whose time is over. */
void
semaphores_lock_up_to_date(uint32 partition, int64 now)
{
	semaphores_lock(partition);
	while (unlikely(expire_some(partition, now)))
	{
		semaphores_unlock(partition);
		CHECK_FOR_INTERRUPTS();
		semaphores_lock(partition);
	}
}

/* Free all slots whose time is over. */
void
semaphores_expire(void)
{
	for (uint32 partition = 0; partition < SEMAPHORE_PARTITIONS; partition++)
	{
		CHECK_FOR_INTERRUPTS();
		if (((volatile SemaphorePartition *) &semaphores.partitions[partition])->s.heap == NO_CELL)
			continue;
		semaphores_lock_up_to_date(partition, monotonic_ns());
		semaphores_unlock(partition);
	}
}
