/*
 * test/model/slot_word.pml
 *		The word of one slot: decisions by swap, the lock bit, and the slot's passing
 *		to another key (memory/slots.h, "The word" and "Barriers").
 *
 * A swap or a second look that finds the word unchanged proves that everything that
 * was read in between belongs together.  "belongs" has, for each value of the word,
 * what its writer wrote with it.
 *
 * holds: CALLS=1 CHANGES=2
 * holds: CALLS=1 CHANGES=2 TSO
 * long: CALLS=2 CHANGES=2
 * long: CALLS=1 CHANGES=3
 * refuted: CALLS=1 CHANGES=1 NO_BARRIER_LOCK: lock_word() without its write barrier
 * refuted: CALLS=1 CHANGES=1 NO_BARRIER_UNLOCK: unlock_changed() without its write barrier
 * refuted: CALLS=1 CHANGES=1 NO_BARRIER_READ: read_word() without its read barrier
 * refuted: CALLS=1 CHANGES=1 NO_BARRIER_AGAIN: unchanged() without its read barrier
 * refuted: CALLS=1 CHANGES=1 NO_SECOND_LOOK: a denial that does not read the word again
 * refuted: CALLS=1 CHANGES=1 NO_SECOND_LOOK TSO: the same, where stores keep their order
 * refuted: CALLS=1 CHANGES=1 SAME_WORD: a lock that is released with the value it had
 */
#define W		0				/* word: value * 2 + lock bit */
#define ID		1				/* database and names, as one number */
#define RULE	2				/* capacity and refill, as one number */
#define BASE	3
#define LOCS	4
#define CPUS	(CALLS + 1)
#include "buffers.pml"

typedef Content { byte id; byte rule; byte base; };
Content belongs[24];			/* by the word's value */

/* What was read with this word belongs to it. */
inline check(w, id, rule, base)
{
	assert(belongs[(w) / 2].id == id && belongs[(w) / 2].rule == rule &&
		   belongs[(w) / 2].base == base)
}

/* A call: find() in memory/search.h, swap_word() in memory/short_way.h. */
proctype call(byte me)
{
	byte w, again, id, rule, base;
	bit ok, have_w, have_id, have_rule, have_base, have_again, denied;

	if
	:: denied = 1				/* or cost 0, memory_peek(), read_state() */
	:: denied = 0
	fi;
	/*
	 * read_word(), slot_is(), the parameters, and, for a denial, unchanged(): each
	 * load may be done as soon as the barriers allow it
	 */
	do
	:: !have_w -> load(me, W, w); have_w = 1
#ifdef NO_BARRIER_READ
	:: !have_id -> load(me, ID, id); have_id = 1
	:: !have_rule -> load(me, RULE, rule); have_rule = 1
	:: !have_base -> load(me, BASE, base); have_base = 1
#else
	:: have_w && !have_id -> load(me, ID, id); have_id = 1
	:: have_w && !have_rule -> load(me, RULE, rule); have_rule = 1
	:: have_w && !have_base -> load(me, BASE, base); have_base = 1
#endif
#ifdef NO_BARRIER_AGAIN
	:: have_w && !have_again -> load(me, W, again); have_again = 1
#else
	:: have_id && have_rule && have_base && !have_again ->
		load(me, W, again); have_again = 1
#endif
	:: have_w && have_id && have_rule && have_base && have_again -> break
	od;
	if
	:: w % 2 == 1				/* wait_for_word(): it would begin anew */
	:: w % 2 == 0 && denied ->
#ifdef NO_SECOND_LOOK
		check(w, id, rule, base)
#else
		if
		:: again == w -> check(w, id, rule, base)
		:: else
		fi
#endif
	:: w % 2 == 0 && !denied ->
		/* swap_word(): the value grows by what the call takes */
		atomic {
			swap(me, W, w, w + 2, ok);
			if
			:: ok ->
				check(w, id, rule, base);
				belongs[w / 2 + 1].id = id;
				belongs[w / 2 + 1].rule = rule;
				belongs[w / 2 + 1].base = base
			:: else
			fi
		}
	fi
}

/*
 * Whoever locks the word: consume_locked(), memory_set(), memory_reset() give the
 * bucket other parameters or another base; claim_slot() and fill_slots(), with the
 * partition's lock held, pass the slot to another key.
 */
proctype change(byte me)
{
	byte w, n, value;
	bit ok;

	do
	:: n < CHANGES ->
		load(me, W, w);
		assert(w % 2 == 0);		/* nobody else locks it here */
		/* lock_word() */
		swap(me, W, w, w + 1, ok);
		if
		:: ok ->
#ifndef NO_BARRIER_LOCK
			write_barrier(me);
#endif
#ifdef SAME_WORD
			value = w / 2;
#else
			value = w / 2 + 1;	/* unlock_changed() */
#endif
			belongs[value].id = belongs[w / 2].id;
			belongs[value].rule = belongs[w / 2].rule;
			if
			:: store(me, RULE, 10 + n); belongs[value].rule = 10 + n
			:: store(me, ID, 20 + n); belongs[value].id = 20 + n
			fi;
			store(me, BASE, 30 + n);
			belongs[value].base = 30 + n;
#ifndef NO_BARRIER_UNLOCK
			write_barrier(me);
#endif
			store(me, W, value * 2)
		:: else
		fi;
		n++
	:: else -> break
	od
}

init
{
	byte i;

	atomic {
		do
		:: i < CALLS -> run call(i); RUN_MEMORY(i); i++
		:: else -> break
		od;
		run change(CALLS);
		RUN_MEMORY(CALLS)
	}
}
