/*
 * test/model/entry_reuse.pml
 *		An entry for violations passes to other names while calls add to it
 *		(violations/count.c, "Reuse of an entry"; violations/pending.c).
 *
 * The names of an entry are two numbers here, and all names have the same tag, so that
 * only the names tell entries apart.  A violation counts for the names of its call,
 * and none is lost.  The steps c1 to c4 and m1 to m5 are those of count.c.
 *
 * The write barrier in displace_entry() is not needed: a call only adds by a swap, and
 * that swap and the one that closes the entry cannot both succeed on one value.  So
 * the model holds without it.
 *
 * holds: CALLS=1 REUSES=2
 * holds: CALLS=1 REUSES=2 TSO
 * long: CALLS=1 REUSES=2 NO_BARRIER_CLOSE
 * long: CALLS=2 REUSES=1
 * long: CALLS=2 REUSES=2
 * long: CALLS=1 REUSES=3
 * refuted: CALLS=1 REUSES=1 NO_BARRIER_NAMES: write_entry() without the write barrier m2
 * refuted: CALLS=1 REUSES=1 NO_BARRIER_TAG: write_entry() without the write barrier m4
 * refuted: CALLS=1 REUSES=1 NO_BARRIER_READ: add_to_entry() without its read barrier
 * refuted: CALLS=1 REUSES=1 NO_GENERATION: the generation stays as it was
 * refuted: CALLS=1 REUSES=1 NO_CLOSED: a call adds to an entry that is closed
 */
#define TAG		0				/* 0: never used, 1: given up, 2: the names' */
#define W		1				/* word: generation * 16 + count */
#define NAME1	2
#define NAME2	3
#define LOCS	4
#define CPUS	(CALLS + 1)
#define CLOSED	15
#include "buffers.pml"

byte names_of[16];				/* of each generation */
byte added[16];					/* by calls to each generation */

/* add_if_there() and add_to_entry() for the names (me, me) or those of the first one */
proctype call(byte me)
{
	byte tag, w, name1, name2, old;
	byte mine = 1;
	bit have_tag, have_w, have_1, have_2, ok;

	/* c1, c2 in any order; c3 after c2 */
	do
	:: !have_tag -> load(me, TAG, tag); have_tag = 1
	:: !have_w -> load(me, W, w); have_w = 1
#ifdef NO_BARRIER_READ
	:: !have_1 -> load(me, NAME1, name1); have_1 = 1
	:: !have_2 -> load(me, NAME2, name2); have_2 = 1
#else
	:: have_w && !have_1 -> load(me, NAME1, name1); have_1 = 1
	:: have_w && !have_2 -> load(me, NAME2, name2); have_2 = 1
#endif
	:: have_tag && have_w && have_1 && have_2 -> break
	od;
	if
	:: tag == 2 && name1 == mine && name2 == mine ->	/* next_tag(), entry_is() */
		/* c4: as long as the generation is the same, and not closed */
		do
#ifdef NO_CLOSED
		:: true ->
#else
		:: w % 16 == CLOSED -> break
		:: else ->
#endif
			atomic {
				swap(me, W, w, w + 1, ok);
				if
				:: ok -> assert(names_of[w / 16] == mine); added[w / 16]++; break
				:: else
				fi;
				old = w / 16;
				load(me, W, w)
			};
			if
			:: w / 16 != old -> break
			:: else
			fi
		od
	:: else						/* count_new_names(): elsewhere, or under the lock */
	fi
}

/*
 * Those who make and close the entry hold the partition's lock: write_entry(),
 * close_entry(), displace_entry().
 */
proctype maker(byte me)
{
	byte n, w, generation;
	bit ok;

	do
	:: n <= REUSES ->
		/* write_entry(): the first names are those of the calls, the next are not */
		store(me, NAME1, (n % 2 == 0 -> 1 : 7));	/* m1 */
		store(me, NAME2, (n % 2 == 0 -> 1 : 7));
		load(me, W, w);
		generation = w / 16;
#ifndef NO_GENERATION
		generation++;
#endif
		names_of[generation] = (n % 2 == 0 -> 1 : 7);
		added[generation] = 0;
#ifndef NO_BARRIER_NAMES
		write_barrier(me);		/* m2 */
#endif
		store(me, W, generation * 16 + 1);	/* m3 */
#ifndef NO_BARRIER_TAG
		write_barrier(me);		/* m4 */
#endif
		store(me, TAG, 2);		/* m5 */
		VISIBLE_LAST(me);		/* LWLockRelease() */
		/* close it: what is in it is counted elsewhere, or written */
		do
		:: load(me, W, w);
			generation = w / 16;
#ifndef NO_GENERATION
			generation++;
#endif
			atomic {
				swap(me, W, w, generation * 16 + CLOSED, ok);
				if
				:: ok -> assert(w % 16 == 1 + added[w / 16])	/* none is lost */
				:: else
				fi
			};
			if
			:: ok -> break
			:: else
			fi
		od;
		if
		::						/* displace_entry(): the same holder goes on */
#ifndef NO_BARRIER_CLOSE
			write_barrier(me);
#endif
			store(me, TAG, 1)
		::						/* close_entry(): the lock is released */
			store(me, TAG, 1);
			VISIBLE_LAST(me)
		fi;
		ok = 0;
		n++
	:: else -> break
	od
}

init
{
	byte i;

	atomic {
		do
		:: i < CALLS -> run call(i); i++
		:: else -> break
		od;
		run maker(CALLS);
		i = 0;
		do
		:: i < CPUS -> RUN_MEMORY(i); i++
		:: else -> break
		od
	}
}
