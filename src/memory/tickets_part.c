/*
 * memory/tickets_part.c
 *		The memory of slots, as a part (core/parts.h): its size and start, how it is
 *		saved, and what the view rate_limit_slots shows of it.
 *
 * memory/semaphores.h explains how slots are kept.
 *
 * Only slots that are held for an interval outlive the server, and only a clean
 * stop: transactions and sessions end with it, and after a crash all slots are
 * free.  A ticket keeps its number, if ratelimit.max_tickets has not become so small
 * that there is no such cell any more.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "memory/tickets.h"
#include "memory/tickets_part.h"
#include "miscadmin.h"
#include "storage/shmem.h"

/*
 * Size and start
 */

/* A role that is alone gets max_tickets; each backend may have one more ready. */
static uint32
n_tickets(void)
{
	return Min((int64) max_tickets_setting + max_tickets_setting / 4 + MaxBackends,
			   MAX_TICKET_CELLS);
}

/* There is one for each ticket, and the spare one of each partition. */
static uint32
n_semaphores(void)
{
	return n_tickets() + SEMAPHORE_PARTITIONS;
}

static uint32
n_chains(void)
{
	uint32		n = SEMAPHORE_PARTITIONS;

	while (n < n_semaphores())
		n *= 2;
	return n;
}

static Size
size(void)
{
	Size		n = CACHELINEALIGN(sizeof(SemaphoreHeader));

	n = add_size(n, SEMAPHORE_PARTITIONS * sizeof(SemaphorePartition));
	n = add_size(n, CACHELINEALIGN(n_chains() * sizeof(uint32)));
	n = add_size(n, CACHELINEALIGN(mul_size(n_semaphores(), sizeof(Semaphore))));
	n = add_size(n, CACHELINEALIGN(mul_size(n_tickets(), sizeof(Ticket))));
	return add_size(n, mul_size(MaxBackends, sizeof(SemaphoreWaiter)));
}

static int
locks(void)
{
	return SEMAPHORE_PARTITIONS;
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;
	SemaphoreHeader *header = memory;

	if (!found)
	{
		header->tickets = n_tickets();
		header->semaphores = n_semaphores();
		header->chains = n_chains();
		header->waiters = MaxBackends;
		header->seed = secret_seed();
		/* each cell's link leads to the next one, and the first one is on top */
		pg_atomic_init_u64(&header->free_tickets, 0);
		pg_atomic_init_u64(&header->free_semaphores, 0);
		pg_atomic_init_u32(&header->used, 0);
		for (int i = 0; i < TICKET_SHARES; i++)
			pg_atomic_init_u32(&header->shares[i], 0);
	}
	semaphores.header = header;
	semaphores.locks = my_locks;
	p += CACHELINEALIGN(sizeof(SemaphoreHeader));
	semaphores.partitions = (SemaphorePartition *) p;
	p += SEMAPHORE_PARTITIONS * sizeof(SemaphorePartition);
	semaphores.chains = (uint32 *) p;
	p += CACHELINEALIGN(header->chains * sizeof(uint32));
	semaphores.semaphores = (Semaphore *) p;
	p += CACHELINEALIGN(header->semaphores * sizeof(Semaphore));
	semaphores.tickets = (Ticket *) p;
	p += CACHELINEALIGN(header->tickets * sizeof(Ticket));
	semaphores.waiters = (SemaphoreWaiter *) p;
	if (found)
		return;

	for (int i = 0; i < SEMAPHORE_PARTITIONS; i++)
		semaphores.partitions[i].s.heap = semaphores.partitions[i].s.spare = NO_CELL;
	memset(semaphores.chains, 0xFF, header->chains * sizeof(uint32));
	for (uint32 i = 0; i < header->semaphores; i++)
		semaphores.semaphores[i].next_free =
			i + 1 < header->semaphores ? i + 1 : NO_CELL;
	memset(semaphores.tickets, 0, header->tickets * sizeof(Ticket));
	for (uint32 i = 0; i < header->tickets; i++)
		semaphores.tickets[i].next_free = i + 1 < header->tickets ? i + 1 : NO_CELL;
	memset(semaphores.waiters, 0, header->waiters * sizeof(SemaphoreWaiter));
}

/*
 * The database has lost the extension.  What transactions and sessions hold there is
 * freed when they end; free what is held for an interval.
 */
static void
forget(Oid database, bool dropped)
{
	for (uint32 cell = 0; cell < semaphores.header->tickets; cell++)
	{
		const Ticket *ticket = &semaphores.tickets[cell];
		uint32		partition = ticket_partition(cell);
		bool		freed = false;

		if (((const volatile Ticket *) ticket)->number == 0)
			continue;
		semaphores_lock(partition);
		if (ticket_is_in(cell, partition) && ticket->hold == HOLD_INTERVAL &&
			semaphores.semaphores[ticket->semaphore].database == database)
		{
			free_slots(cell, monotonic_ns());
			freed = true;
		}
		semaphores_unlock(partition);
		if (freed)
			push_ticket(cell);
	}
}

/*
 * Saving
 */

typedef struct SavedTicket
{
	int64		number;
	int64		age;			/* nanoseconds for which it has been held */
	int64		left;			/* nanoseconds for which it may still be held */
	Oid			database;
	Oid			role;
	int32		weight;
	int32		pid;
	int32		slots;
	uint8		limiter_len;
	uint8		key_len;
	char		names[MAX_LIMITER_LEN + MAX_KEY_LEN];
} SavedTicket;

StaticAssertDecl(sizeof(SavedTicket) <= MAX_SAVED_SIZE, "a record is too large");

/* Save what is held for an interval.  No other process is left at a clean stop. */
static void
save(Saving *saving)
{
	for (uint32 cell = 0; saving->at_stop && cell < semaphores.header->tickets; cell++)
	{
		const Ticket *ticket = &semaphores.tickets[cell];
		const Semaphore *semaphore = &semaphores.semaphores[ticket->semaphore];
		SavedTicket record = {0};

		if (ticket->number == 0 || ticket->hold != HOLD_INTERVAL ||
			ticket->until <= saving->mono)
			continue;
		record.number = ticket->number;
		record.age = saving->mono - ticket->since;
		record.left = ticket->until - saving->mono;
		record.database = semaphore->database;
		record.role = ticket->role;
		record.weight = ticket->weight;
		record.pid = ticket->pid;
		record.slots = semaphore->slots;
		record.limiter_len = semaphore->limiter_len;
		record.key_len = semaphore->key_len;
		memcpy(record.names, semaphore->names, record.limiter_len + record.key_len);
		saved_put(saving, 0, &record,
				  offsetof(SavedTicket, names) + record.limiter_len + record.key_len);
	}
}

/*
 * Take this cell from the stack of free ones, or any, if it is not there.  While the
 * server starts, the stack is still in order of cells; they are loaded in that
 * order, too, so the search goes on where the last one ended.
 */
static uint32
claim_cell(uint32 wanted, Oid role, Oid database)
{
	static uint32 before = NO_CELL;
	Ticket	   *tickets = semaphores.tickets;
	uint32		first = (uint32) pg_atomic_read_u64(&semaphores.header->free_tickets);
	uint32		cell;

	if (before == NO_CELL || before >= wanted)
		before = first;
	while (before < wanted && tickets[before].next_free < wanted)
		before = tickets[before].next_free;
	if (before == NO_CELL || wanted == first || tickets[before].next_free != wanted)
	{
		/* it is the first one, or is none that can be had */
		before = NO_CELL;
		return pop_ticket(role, database, false);
	}

	/* let it be the first one */
	cell = tickets[before].next_free;
	tickets[before].next_free = tickets[cell].next_free;
	tickets[cell].next_free = first;
	pg_atomic_write_u64(&semaphores.header->free_tickets, cell);
	return pop_ticket(role, database, false);
}

static bool
load(int kind, const char *bytes, Size size, Loading *loading)
{
	SavedTicket record;
	BucketId	id;
	Holder		holder = {.hold = HOLD_INTERVAL};
	uint32		cell;
	uint32		n;
	Owed		left;

	if (size < offsetof(SavedTicket, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (size != offsetof(SavedTicket, names) + record.limiter_len + record.key_len ||
		!OidIsValid(record.database) || record.number <= 0 ||
		record.weight <= 0 || record.left <= 0 || record.left > MAX_HOLD ||
		record.age < 0 ||
		!saved_name_valid(record.names, record.limiter_len, MAX_LIMITER_LEN) ||
		!saved_name_valid(record.names + record.limiter_len, record.key_len, MAX_KEY_LEN))
		return false;
	left = record.left - loading->elapsed;
	/* after a crash, all slots are free */
	if (!loading->take || !loading->clean || left <= 0)
		return true;

	make_bucket_id(&id, record.database, record.names, record.limiter_len,
				   record.names + record.limiter_len, record.key_len);
	cell = claim_cell(ticket_cell(record.number), record.role, record.database);
	if (cell == NO_CELL)
		return true;
	semaphores_lock(semaphore_partition(id.hash));
	n = find_or_make_semaphore(&id);
	holder.weight = record.weight;
	holder.pid = record.pid;
	holder.length = (int64) left;
	semaphores.semaphores[n].slots = record.slots;
	hold_slots(cell, n, &holder, loading->now);
	semaphores.tickets[cell].since = saved_mono(loading, record.age);
	if (cell == ticket_cell(record.number))
		semaphores.tickets[cell].number = record.number;
	semaphores_unlock(semaphore_partition(id.hash));
	return true;
}

const Part	semaphores_part = {
	.name = "ratelimit slots",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = 1,
	.save = save,
	.load = load
};

/*
 * Showing
 */

/* How many there may be to be shown, tickets and waiters. */
uint32
semaphores_views(void)
{
	return semaphores.header->tickets + semaphores.header->waiters;
}

static void
show_semaphore(const Semaphore *semaphore, SlotsView *view)
{
	view->limiter_len = semaphore->limiter_len;
	view->key_len = semaphore->key_len;
	memcpy(view->limiter, semaphore->names, semaphore->limiter_len);
	memcpy(view->key, semaphore->names + semaphore->limiter_len, semaphore->key_len);
	view->slots = semaphore->slots;
	view->held = semaphore->held;
	view->waiters = semaphore->waiters;
}

static bool
show_ticket(uint32 cell, Oid database, SlotsView *view)
{
	const Ticket *ticket = &semaphores.tickets[cell];
	uint32		partition = ticket_partition(cell);
	bool		shown;

	if (((const volatile Ticket *) ticket)->number == 0)
		return false;
	LWLockAcquire(&semaphores.locks[partition].lock, LW_SHARED);
	shown = ticket_is_in(cell, partition) &&
		semaphores.semaphores[ticket->semaphore].database == database;
	if (shown)
	{
		show_semaphore(&semaphores.semaphores[ticket->semaphore], view);
		view->waits = false;
		view->ticket = ticket->number;
		view->weight = ticket->weight;
		view->hold = ticket->hold;
		view->pid = ticket->pid;
		view->role = ticket->role;
		view->since = ticket->since;
		view->until = ticket->until;
	}
	LWLockRelease(&semaphores.locks[partition].lock);
	return shown;
}

static bool
show_waiter(uint32 n, Oid database, SlotsView *view)
{
	volatile SemaphoreWaiter *waiter = &semaphores.waiters[n];
	const Semaphore *semaphore;
	uint32		partition;
	bool		shown;

	if (waiter->state != WAITING)
		return false;
	semaphore = &semaphores.semaphores[waiter->semaphore % semaphores.header->semaphores];
	partition = semaphore_partition(((const volatile Semaphore *) semaphore)->hash);
	LWLockAcquire(&semaphores.locks[partition].lock, LW_SHARED);
	shown = waiter->state == WAITING && &semaphores.semaphores[waiter->semaphore] == semaphore &&
		semaphore_partition(semaphore->hash) == partition &&
		semaphore->database == database;
	if (shown)
	{
		show_semaphore(semaphore, view);
		view->waits = true;
		view->ticket = 0;
		view->weight = waiter->holder.weight;
		view->hold = waiter->holder.hold;
		view->pid = waiter->holder.pid;
		view->role = semaphores.tickets[waiter->ticket].role;
		view->since = waiter->since;
		view->until = 0;
	}
	LWLockRelease(&semaphores.locks[partition].lock);
	return shown;
}

/* Copy what is there for the database, if there is anything. */
bool
semaphores_view(uint32 at, Oid database, SlotsView *view)
{
	uint32		tickets = semaphores.header->tickets;

	return at < tickets ? show_ticket(at, database, view) :
		show_waiter(at - tickets, database, view);
}
