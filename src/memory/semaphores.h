/*
 * memory/semaphores.h
 *		How slots are kept in shared memory: semaphores, tickets and waiters.
 *
 * A *semaphore* is what a (database, limiter, key) has while any of its slots are
 * held or waited for.  A *ticket* is one holding: some slots of one semaphore, which
 * are acquired and released together.  A *waiter* is a backend that waits for a
 * ticket.  SQL calls the number of a ticket a ticket, too.  (The slots of
 * memory/slots.h are others: those hold buckets.)
 *
 * Semaphores are found by the hash of their name, in chains, and names are compared
 * in full.  The chains are divided among partitions.  The lock of a partition, which
 * is taken exclusively, protects its chains and semaphores, the tickets and waiters
 * of these, and the heap of those of its tickets that expire.  Under it nothing is
 * waited for, allocated or raised, and nothing takes longer than its steps are
 * counted for: a call frees at most EXPIRE_BATCH expired tickets before it lets
 * others go on.
 *
 * Cells of tickets and semaphores that are not in use are on two stacks, which need
 * no lock: a cell is pushed and popped by compare-and-swap of the stack's word,
 * whose upper half counts the changes, so that a word that was read long ago does
 * not match.  A cell's link may be read although another process has popped the cell,
 * as cells never go away; the swap then fails.
 *
 * A ticket's number contains its cell and TICKET_TAG_BITS bits that nobody can
 * guess.  So the number leads to the cell without a search, and one that is out of
 * date, or invented, does not match what the cell holds.
 *
 * This file has the structures alone.  memory/tickets.c holds and frees slots under
 * the lock, memory/holdings.c frees what a backend holds when its transaction or the
 * backend ends, memory/ticket_wait.c lets a backend wait, and memory/acquire.c does
 * what SQL asks for.  memory/tickets_part.c sets all of it up, saves it and shows
 * it.
 */
#ifndef RATELIMIT_MEMORY_SEMAPHORES_H
#define RATELIMIT_MEMORY_SEMAPHORES_H

#include "core/names.h"
#include "memory/slot_call.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#define SEMAPHORE_PARTITIONS	64
#define TICKET_CELL_BITS		18
#define TICKET_TAG_BITS			(63 - TICKET_CELL_BITS)
#define MAX_TICKET_CELLS		(1 << TICKET_CELL_BITS)
#define NO_CELL					((uint32) -1)
#define TICKET_SHARES			1024
#define EXPIRE_BATCH			64

/* What a caller wants to hold, and until when. */
typedef struct Holder
{
	int32		weight;			/* slots */
	int32		pid;			/* of the backend */
	HoldKind	hold;
	int64		length;			/* nanoseconds, of an interval */
} Holder;

/* One holding. */
typedef struct Ticket
{
	int64		number;			/* 0: it is not held; partition's lock */

	/* these do not change while it is held; partition's lock */
	int64		since;			/* monotonic clock */
	uint32		semaphore;
	int32		weight;			/* slots */
	int32		pid;			/* of the backend that holds it, or took it */
	uint8		hold;			/* a HoldKind */
	uint8		partition;		/* may be read without the lock, to find the lock */

	/* these do not change while the cell is popped */
	uint16		share;			/* of the role */
	Oid			role;			/* that the backend acts for */

	/* of an interval; partition's lock */
	int64		until;			/* monotonic clock */
	uint32		child;			/* in the heap: see memory/ticket_heap.c */
	uint32		sibling;
	uint32		before;

	/* of a transaction or session: only the backend that holds it uses these */
	uint32		newer;
	uint32		older;
	uint32		subxact;

	uint32		next_free;		/* if it is on the stack */
} Ticket;

/* A key that has slots held or waited for; partition's lock. */
typedef struct Semaphore
{
	uint64		hash;
	int64		held;			/* slots */
	Oid			database;
	int32		slots;			/* of the last call, to be shown */
	uint32		next;			/* in its chain */
	uint32		next_free;		/* if it is on the stack */
	uint32		tickets;		/* how many hold slots */
	uint32		waiters;		/* how many wait */
	uint32		first;			/* waiter, or NO_CELL */
	uint32		last;
	uint8		limiter_len;
	uint8		key_len;
	char		names[MAX_LIMITER_LEN + MAX_KEY_LEN];	/* limiter, then key */
} Semaphore;

typedef enum WaiterState
{
	NOT_WAITING,
	WAITING,
	GRANTED						/* its ticket is held, and it may not know yet */
} WaiterState;

/* A backend that waits, by its number among all; partition's lock. */
typedef struct SemaphoreWaiter
{
	WaiterState state;
	uint32		semaphore;
	uint32		next;
	uint32		previous;
	uint32		ticket;			/* the cell for its ticket */
	int64		number;			/* of the ticket, if it is granted */
	int32		slots;			/* that the key has, as the waiter says */
	Holder		holder;
	int64		since;			/* monotonic clock */
} SemaphoreWaiter;

/* A stack of free cells: the first one, and, above it, how often it changed. */
typedef pg_atomic_uint64 FreeCells;

typedef struct SemaphoreHeader
{
	uint32		tickets;		/* cells */
	uint32		semaphores;
	uint32		chains;			/* a power of 2 */
	uint32		waiters;
	uint64		seed;			/* of the shares */
	FreeCells	free_tickets;
	FreeCells	free_semaphores;
	pg_atomic_uint32 used;		/* tickets' cells that are popped */
	pg_atomic_uint32 shares[TICKET_SHARES]; /* of these, how many each role has */
} SemaphoreHeader;

/* What each partition has; its lock. */
typedef union SemaphorePartition
{
	struct
	{
		uint32		heap;		/* the ticket that expires first, or NO_CELL */
		uint32		spare;		/* a semaphore that is empty and stays in its chain */
	}			s;
	char		padding[PG_CACHE_LINE_SIZE];
} SemaphorePartition;

/* Addresses of the shared structures. */
typedef struct Semaphores
{
	SemaphoreHeader *header;	/* NULL: there are none */
	LWLockPadded *locks;
	SemaphorePartition *partitions;
	uint32	   *chains;
	Semaphore  *semaphores;
	Ticket	   *tickets;
	SemaphoreWaiter *waiters;
} Semaphores;

extern hidden_data Semaphores semaphores;

#endif							/* RATELIMIT_MEMORY_SEMAPHORES_H */
