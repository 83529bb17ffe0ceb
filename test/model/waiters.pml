/*
 * test/model/waiters.pml
 *		Slots that a limited number hold at a time, and those who wait for them
 *		(memory/acquire.c, memory/tickets.c, memory/ticket_wait.c).
 *
 * Each backend acquires one or two of two slots, for a transaction or for an
 * interval, with a timeout or without.  Some may be cancelled while they wait.
 * Intervals end by the clock, and no process would free their slots but those who
 * come or wait.
 *
 * Never are more slots held than there are.  Those who wait are served in order.
 * Each backend's call ends: no wakeup is lost.  "live" checks that with weak
 * fairness, that is, if each process that can go on does so at some time.
 *
 * What the partition's lock protects is one step here.  The latch is that of the
 * server: whoever sets it makes a present or the next WaitLatch() return.
 *
 * Not here: shares of roles, the spare semaphore of retire_semaphore().
 *
 * K0, K1, ... say of which kind each backend is: 1 if it wants two slots, plus 2 if it
 * holds them for an interval, plus 4 if it has a timeout or 8 if it may be cancelled.
 * Without K0 all kinds are tried.
 *
 * holds: BACKENDS=2
 * holds: BACKENDS=2 live
 * holds: BACKENDS=3 K0=3 K1=9 K2=1
 * holds: BACKENDS=3 K0=1 K1=11 K2=1
 * holds: BACKENDS=3 K0=2 K1=9 K2=5
 * long: BACKENDS=4 K0=0 K1=9 K2=1 K3=0
 * long: BACKENDS=3
 * long: BACKENDS=3 K0=3 K1=9 K2=1 live
 * long: BACKENDS=4 K0=2 K1=9 K2=5 K3=1
 * long: BACKENDS=4 K0=1 K1=11 K2=0 K3=3
 * refuted: BACKENDS=2 K0=1 K1=1 NO_WAKE: grant_waiters() does not wake whom it gives slots
 * refuted: BACKENDS=3 K0=3 K1=9 K2=1 NO_WAKE_FIRST: nobody wakes the one that becomes the first
 * refuted: BACKENDS=3 K0=0 K1=9 K2=0 NO_GRANT_ON_LEAVE: dequeue_waiter() does not give slots to those behind
 * refuted: BACKENDS=2 K0=1 K1=9 NO_GIVE_BACK: stop_waiting() keeps what was given meanwhile
 * refuted: BACKENDS=3 K0=1 K1=11 K2=1 NO_CELL_CHECK: stop_waiting() does not look whether the cell is used by others
 * refuted: BACKENDS=2 K0=1 K1=1 RESET_LATE: sleep_until_granted() resets the latch after it has looked
 * refuted: BACKENDS=2 K0=3 K1=1 NO_SOONEST: the first waiter does not wake up when an interval ends
 * refuted: BACKENDS=3 K0=0 K1=1 K2=0 OVERTAKE: a call gets slots although others wait
 * refuted: BACKENDS=3 K0=1 K1=9 K2=1 NO_CHECK: a waiter gets slots although there are not enough
 */
#define SLOTS	2
#define NOBODY	15
#define NEVER	15
#define LAST	2				/* the clock's last time; each interval is over then */
#define CELLS	(BACKENDS + 1)

/* WaiterState */
#define NOT_WAITING	0
#define WAITING		1
#define GRANTED		2

byte clock;
byte held;						/* of the semaphore */
byte waiters;
byte queue[BACKENDS];			/* the first waiter is queue[0] */
byte state[BACKENDS];
byte weight[BACKENDS];
bit interval[BACKENDS];
byte cell_of[BACKENDS];			/* the waiter's cell */
byte granted_number[BACKENDS];	/* and the number of its ticket */
bit latch[BACKENDS];
byte number[CELLS];				/* of each cell's ticket; 0: it is not held */
byte holds[CELLS];				/* slots */
byte until[CELLS];
bit used[CELLS];				/* popped from the stack */
byte generation[CELLS];
byte ended;
hidden byte c, q, r;

/* Nobody waits for slots that are free; asserted where the lock is released. */
#define NOBODY_WAITS_IN_VAIN	(waiters == 0 || held + weight[queue[0]] > SLOTS)

/* pop_ticket(), ready_ticket(): there is one for each backend, so there is one left */
inline pop_ticket(cell)
{
	cell = 0;
	do
	:: used[cell] -> cell++
	:: else -> break
	od;
	used[cell] = 1
}

/* hold_slots() */
inline hold_slots(cell, n, is_interval)
{
	held = held + n;
	assert(held <= SLOTS);
	assert(number[cell] == 0 && used[cell]);
	generation[cell]++;
	number[cell] = generation[cell];
	holds[cell] = n;
	until[cell] = (is_interval -> (clock < LAST -> clock + 1 : LAST) : NEVER)
}

inline wake(waiter)
{
	latch[waiter] = 1
}

/* wake_first_waiter() */
inline wake_first_waiter()
{
#ifndef NO_WAKE_FIRST
	if
	:: waiters > 0 -> wake(queue[0])
	:: else
	fi
#else
	skip
#endif
}

/* dequeue(): take a waiter out of the queue */
inline dequeue(waiter)
{
	q = 0;
	do
	:: queue[q] != waiter -> q++
	:: else -> break
	od;
	do
	:: q + 1 < waiters -> queue[q] = queue[q + 1]; q++
	:: else -> break
	od;
	waiters--;
	queue[waiters] = NOBODY;
	q = 0
}

/* grant_waiters() */
inline grant_waiters()
{
	do
	:: waiters > 0 ->
		r = queue[0];
#ifndef NO_CHECK
		if
		:: held + weight[r] > SLOTS -> break
		:: else
		fi;
#endif
		dequeue(r);
		hold_slots(cell_of[r], weight[r], interval[r]);
		granted_number[r] = number[cell_of[r]];
		state[r] = GRANTED;
#ifndef NO_WAKE
		wake(r)
#endif
	:: else -> break
	od;
	r = 0;
	wake_first_waiter()
}

/* free_slots() */
inline free_slots(cell)
{
	assert(number[cell] != 0 && held >= holds[cell]);
	number[cell] = 0;
	held = held - holds[cell];
	holds[cell] = 0;
	until[cell] = 0;
	if
	:: waiters > 0 -> grant_waiters()
	:: else
	fi
}

/* expire_some(): free slots whose time is over */
inline expire_some()
{
	c = 0;
	do
	:: c < CELLS ->
		if
		:: number[c] != 0 && until[c] <= clock -> free_slots(c); used[c] = 0
		:: else
		fi;
		c++
	:: else -> break
	od;
	c = 0
}

/* stop_waiting(): the wait is cancelled, or its time is over */
inline stop_waiting(me)
{
	d_step {
		if
		:: state[me] == GRANTED ->
#ifdef NO_GIVE_BACK
			skip
#else
			if
#ifdef NO_CELL_CHECK
			:: true -> free_slots(cell_of[me]); used[cell_of[me]] = 0
#else
			:: number[cell_of[me]] == granted_number[me] ->
				free_slots(cell_of[me]);
				used[cell_of[me]] = 0	/* keep_ticket() */
#endif
			:: else					/* others may use the cell by now */
			fi
#endif
		:: else ->
			/* dequeue_waiter() */
			dequeue(me);
#ifdef NO_GRANT_ON_LEAVE
			wake_first_waiter();
#else
			grant_waiters();
#endif
			used[cell_of[me]] = 0
		fi;
		state[me] = NOT_WAITING;
		assert(NOBODY_WAITS_IN_VAIN)
	}
}

/* "impatient": it may be cancelled while it waits */
proctype backend(byte me; byte deadline; bit impatient)
{
	byte cell, next, mine;
	bit has, granted;

	/* semaphore_acquire() */
	d_step {
		pop_ticket(cell);
		expire_some();			/* semaphores_lock_up_to_date() */
		if
#ifdef OVERTAKE
		:: held + weight[me] <= SLOTS ->
#else
		:: waiters == 0 && held + weight[me] <= SLOTS ->
#endif
			assert(waiters == 0);	/* nobody is overtaken */
			hold_slots(cell, weight[me], interval[me]);
			mine = number[cell];
			has = 1
		:: else ->
			/* wait_for_ticket(), enqueue_waiter() */
			state[me] = WAITING;
			cell_of[me] = cell;
			queue[waiters] = me;
			waiters++
		fi;
		assert(NOBODY_WAITS_IN_VAIN)
	};
	/* sleep_until_granted() */
	do
	:: has -> break
	:: else ->
		d_step {
			expire_some();
			granted = (state[me] == GRANTED);
			next = deadline;
			if
			:: !granted && queue[0] == me ->
				c = 0;
				do
				:: c < CELLS ->
					if
#ifndef NO_SOONEST
					:: number[c] != 0 && until[c] < next -> next = until[c]
#endif
					:: else
					fi;
					c++
				:: else -> break
				od;
				c = 0
			:: else
			fi;
			if
			:: granted -> state[me] = NOT_WAITING; mine = granted_number[me]; has = 1
			:: else
			fi
		};
		if
		:: granted -> break
		:: !granted && clock >= deadline -> stop_waiting(me); break
		:: else
		fi;
#ifdef RESET_LATE
		latch[me] = 0;
#endif
		/* WaitLatch(), ResetLatch() */
		if
		:: latch[me] || (next != NEVER && clock >= next) -> latch[me] = 0
		:: impatient -> stop_waiting(me); break	/* cancelled */
		fi
	od;
	/* what a transaction or session holds is released: semaphore_release() */
	if
	:: has && !interval[me] ->
		d_step {
			assert(number[cell] == mine);
			free_slots(cell);
			used[cell] = 0;
			assert(NOBODY_WAITS_IN_VAIN)
		}
	:: else
	fi;
	atomic { ended++; cell = 0; deadline = 0; next = 0; mine = 0; has = 0; granted = 0; impatient = 0 }
}

proctype time()
{
	do
	:: clock < LAST -> clock++
	:: else -> break
	od
}

#ifndef K2
#define K2 0
#endif
#ifndef K3
#define K3 0
#endif

init
{
	byte i, kind;

	atomic {
		do
		:: i < BACKENDS -> queue[i] = NOBODY; i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < BACKENDS ->
#ifdef K0
			kind = (i == 0 -> K0 : (i == 1 -> K1 : (i == 2 -> K2 : K3)));
#else
			/* the backends are alike, so their kinds need not be tried in all orders */
			do
			:: break
			:: kind < 11 -> kind++
			od;
#endif
			weight[i] = 1 + kind % 2;
			interval[i] = (kind / 2) % 2;
			run backend(i, (kind / 4 == 1 -> 1 : NEVER), kind / 4 == 2);
			i++
		:: else -> break
		od;
		kind = 0;
		run time()
	};
	_nr_pr == 1;
	d_step {
		/* everything is free again, once what intervals hold is over */
		expire_some();
		assert(waiters == 0 && held == 0);
		c = 0;
		do
		:: c < CELLS -> assert(!used[c]); c++
		:: else -> break
		od;
		c = 0
	}
}

#ifdef live
ltl every_call_ends { <> (ended == BACKENDS) }
#endif
