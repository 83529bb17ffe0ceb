/*
 * test/model/ticket_lock.pml
 *		Finding the lock that protects a ticket, which passes from one partition to
 *		another (memory/tickets.c: ticket_is_in(), hold_slots(); memory/acquire.c:
 *		lock_ticket(); memory/tickets_part.c: forget()).
 *
 * Whoever has locked the partition that the ticket names, and still sees a number and
 * the same partition, holds the lock that protects the ticket.  So nobody frees it
 * twice, and it does not change under the holder of the lock.
 *
 * holds: HOLDERS=2
 * holds: HOLDERS=2 TSO
 * long: HOLDERS=3
 * refuted: HOLDERS=2 NO_BARRIER_NUMBER: hold_slots() without its write barrier
 * refuted: HOLDERS=2 NO_BARRIER_PARTITION: ticket_is_in() without its read barrier
 * refuted: HOLDERS=2 NO_LOOK_AGAIN: nobody looks at the partition once it is locked
 */
#define NUMBER		0
#define PARTITION	1
#define LOCS		2
#define CPUS		2
#include "buffers.pml"

bit locks[2];
byte holds;						/* the number that the cell's ticket has */
bit lies_in;					/* the partition that it belongs to */
byte frees;

/* The cell's ticket is held in one partition, freed, and held in the other. */
proctype backend(byte me)
{
	byte n, number;
	bit partition;

	do
	:: n < HOLDERS ->
		partition = (n + 1) % 2;
		acquire(locks[partition]);
		/* hold_slots() */
		store(me, PARTITION, partition);
#ifndef NO_BARRIER_NUMBER
		write_barrier(me);
#endif
		store(me, NUMBER, n + 1);
		d_step { holds = n + 1; lies_in = partition };
		release(me, locks[partition]);
		/* semaphore_release(), unless forget() has been there */
		acquire(locks[partition]);
		load(me, NUMBER, number);
		if
		:: number == n + 1 ->
			assert(holds == number);
			store(me, NUMBER, 0);	/* free_slots() */
			holds = 0
		:: else
		fi;
		release(me, locks[partition]);
		n++
	:: else -> break
	od
}

/* forget(), and likewise lock_ticket() and show_ticket() */
proctype other(byte me)
{
	byte number;
	byte partition, again;
	bit have;

	/* without a lock; in any order */
	if
	:: load(me, NUMBER, number); load(me, PARTITION, partition)
	:: load(me, PARTITION, partition); load(me, NUMBER, number)
	fi;
	if
	:: number == 0
	:: else ->
		acquire(locks[partition]);
		/* ticket_is_in() */
#ifdef NO_LOOK_AGAIN
		again = partition;
#elif defined(NO_BARRIER_PARTITION)
		load(me, PARTITION, again);
		load(me, NUMBER, number);
#else
		load(me, NUMBER, number);
		load(me, PARTITION, again);
#endif
		if
		:: number != 0 && again == partition ->
			/* nobody changes the ticket while this holds the lock */
			assert(lies_in == partition);
			assert(holds == number);
			store(me, NUMBER, 0);	/* free_slots() */
			holds = 0
		:: else
		fi;
		release(me, locks[partition])
	fi
}

init
{
	atomic {
		run backend(0);
		run other(1);
		RUN_MEMORY(0);
		RUN_MEMORY(1)
	}
}
