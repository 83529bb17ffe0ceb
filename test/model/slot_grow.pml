/*
 * test/model/slot_grow.pml
 *		A partition grows and its buckets move while calls search it and others make
 *		a bucket in it (memory/grow.c, memory/search.c, memory/place.c).
 *
 * A group has one slot here, so a home group is full with one bucket.  The partition
 * uses two groups and begins to use a third.  Bucket A lives in slot 0, beyond its
 * home, which is group 1, where bucket B lives.  Bucket C, which is in nobody's place
 * yet, has group 0 as its home, so whoever makes it lets the partition grow.  Then A
 * and B have group 2 as their home.
 *
 * A search for A never ends in vain, since A is there all the time.  Each bucket ends
 * up in one slot, and owes what was taken from it.
 *
 * Not here: continuations of long names; a bucket that finds no room when it moves
 * and gives way.  The read barrier between a layout and the tags is not left out by
 * any mutant: the tags' address comes from the layout, which orders the two loads on
 * every processor here, and so the barrier binds only the compiler.
 *
 * holds: A=1 C=1
 * holds: A=1 C=1 TSO
 * holds: A=1 C=2 SC
 * long: A=2 C=1 SC
 * long: A=2 C=2 SC
 * long: A=2 C=1
 * refuted: A=1 C=1 NO_MOVING: the layout does not say that buckets are moving
 * refuted: A=1 C=1 SC NO_LAYOUT_AGAIN: a search does not look at the layout again
 * refuted: A=1 C=1 NO_BARRIER_TAGS: layout_holds() without its read barrier
 * refuted: A=1 C=1 NO_BARRIER_MOVING: no write barrier between "moving" and the reach
 * refuted: A=1 C=1 NO_BARRIER_MOVED: no write barrier before the new layout
 * refuted: A=1 C=1 SC NO_LEFT: the layout does not say that buckets were left behind
 * refuted: A=1 C=1 SC NO_REACH: leave_behind() does not extend the reach
 * refuted: A=1 C=1 SC NO_LOCK: a bucket moves without its word's lock
 * refuted: A=0 C=2 SC NO_SECOND_SEARCH: memory_place() does not search again with the lock held
 */
#define LAYOUT	0				/* shift, and: */
#define MOVING	16
#define LEFT	32
#define REACH1	1				/* of group 1 */
#define REACH2	2				/* of group 2 */
#define REACH0	3				/* of group 0 */
#define TAG(s)	(4 + (s))		/* 0: never used, 1: used, else the key */
#define W(s)	(7 + (s))		/* word: value * 2 + lock bit */
#define ID(s)	(10 + (s))		/* the key, or 0 */
#define BASE(s)	(13 + (s))		/* base + value is what the bucket owes, modulo 256 */
#define LOCS	16
#define CPUS	(A + C)
#define DEPTH	12
#include "buffers.pml"

#define KEY_A	2
#define KEY_B	3
#define KEY_C	4
#define SHIFTS	2				/* 2: one group, 1: two, 0: three */

/* probe_slot(): the i-th slot on the way of a key in a layout, and the way's length */
#define LENGTH(shift)	(3 - (shift))
#define SLOT(shift, key, i) \
	((shift) == 2 -> 0 : \
	 ((key) == KEY_C -> (i) : ((shift) == 1 -> 1 - (i) : ((i) + 2) % 3)))
#define HOME(shift, key)	SLOT(shift, key, 0)
#define REACH(home)			((home) == 0 -> REACH0 : (home))

byte owes[5];					/* what each key's bucket is to owe */
byte made;						/* buckets of C */
bit partition_lock;

/*
 * Search a way: search_way(), search_group(), search_further() in memory/search.h.
 * "slot" becomes the slot, or 9.  SEARCH_ONCE ends at a word that is locked;
 * SEARCH_WAITING waits for it.
 */
inline search_way(me, key, shift, once, slot, w)
{
	slot = 9;
	i = 0;
	reach = 0;
	do
	:: i >= LENGTH(shift) -> break
	:: i < LENGTH(shift) ->
		if
		:: i == 1 -> load(me, REACH(HOME(shift, key)), reach)
		:: else
		fi;
		if
		:: i > reach -> break
		:: else
		fi;
		load(me, TAG(SLOT(shift, key, i)), tag);
		if
		:: tag == 0 -> break	/* next_tag(): the slot was never used */
		:: tag == key ->
			/* read_word(), wait_for_word() */
			do
			:: load(me, W(SLOT(shift, key, i)), w);
				if
				:: w % 2 == 1 && !(once) -> mem[W(SLOT(shift, key, i))] % 2 == 0 || !VISIBLE_LAST(me)
				:: else -> break
				fi
			od;
			/* slot_is() */
			load(me, ID(SLOT(shift, key, i)), id);
			if
			:: id == key || w % 2 == 1 -> slot = SLOT(shift, key, i); break
			:: else
			fi
		:: else
		fi;
		i++
	od;
	i = 0;
	tag = 0;
	id = 0;
	reach = 0
}

/* search_left(): where earlier layouts have it */
inline search_left(me, key, shift, once, slot, w)
{
	s = shift + 1;
	do
	:: s <= SHIFTS && slot == 9 -> search_way(me, key, s, once, slot, w); s++
	:: else -> break
	od;
	s = 0
}

/* find() and find_elsewhere() */
inline find(me, key, slot, w)
{
	load(me, LAYOUT, layout);
#ifdef NO_BARRIER_TAGS
	load(me, LAYOUT, again);	/* nothing keeps it from being read at once */
#endif
	search_way(me, key, layout % 16, false, slot, w);
	do
	:: slot != 9 -> break
	:: else ->
#ifndef NO_LEFT
		if
		:: layout / LEFT == 1 -> search_left(me, key, layout % 16, false, slot, w)
		:: else
		fi;
#endif
		if
		:: slot != 9 -> break
		:: else
		fi;
		/* layout_holds() */
#if defined(NO_LAYOUT_AGAIN)
		again = layout;
#elif !defined(NO_BARRIER_TAGS)
		load(me, LAYOUT, again);
#endif
		if
		:: again == layout && (layout / MOVING) % 2 == 0 -> break
		:: else
		fi;
		/* wait_for_layout() */
		(mem[LAYOUT] / MOVING) % 2 == 0;
		load(me, LAYOUT, layout);
#ifdef NO_BARRIER_TAGS
		load(me, LAYOUT, again);
#endif
		search_way(me, key, layout % 16, false, slot, w)
	od;
	layout = 0;
	again = 0
}

/* find_once(), with the partition's lock held; found: 0 absent, 1 here, 2 busy */
inline find_once(me, key, slot, w, found)
{
	load(me, LAYOUT, layout);
	search_way(me, key, layout % 16, true, slot, w);
	if
	:: slot == 9 && layout / LEFT == 1 -> search_left(me, key, layout % 16, true, slot, w)
	:: else
	fi;
	found = (slot == 9 -> 0 : 1 + w % 2);
	layout = 0
}

/* consume_here(): 0 the bucket is not here, 1 a token is taken, 2 look again */
inline consume_here(me, key, result)
{
	find(me, key, slot, w);
	if
	:: slot == 9 -> result = 0
	:: else ->
		atomic {
			swap(me, W(slot), w, w + 2, ok);
			if
			:: ok -> result = 1; owes[key]++
			:: else -> result = 2
			fi
		}
	fi;
	slot = 0;
	w = 0;
	ok = 0
}

/* claim_slot(): lock and empty a free slot.  Nobody else here locks words. */
inline claim_slot(me, n, ok)
{
	load(me, TAG(n), tag);
	load(me, W(n), w2);
	if
	:: tag < 2 && w2 % 2 == 0 ->
		swap(me, W(n), w2, w2 + 1, ok);
		if
		:: ok ->
			write_barrier(me);
			store(me, ID(n), 0);	/* empty_slot() */
			store(me, TAG(n), 1)
		:: else
		fi
	:: else -> ok = 0
	fi;
	tag = 0
}

/* fill_slots() and unlock_with_rule(): let the bucket owe so much */
inline fill_slot(me, n, key, amount)
{
	store(me, ID(n), key);
	store(me, TAG(n), key);
	store(me, BASE(n), (amount + 256 - (w2 / 2 + 1)) % 256);
	write_barrier(me);
	store(me, W(n), w2 + 2);
	w2 = 0
}

/* extend_reach() */
inline extend_reach(me, home, i)
{
	load(me, REACH(home), reach);
	if
	:: reach < i -> store(me, REACH(home), i)
	:: else
	fi;
	reach = 0
}

/* claim_slots(): through so many groups; n becomes the slot, or 9 */
inline claim_slots(me, key, shift, groups, n)
{
	j = 0;
	n = 9;
	do
	:: j < groups && n == 9 ->
		claim_slot(me, SLOT(shift, key, j), ok);
		if
		:: ok -> n = SLOT(shift, key, j); extend_reach(me, HOME(shift, key), j)
		:: else
		fi;
		ok = 0;
		j++
	:: else -> break
	od;
	j = 0
}

/* leave_behind(): shift is the new layout's */
inline leave_behind(me, n, key, shift)
{
	s = shift;
	j = 0;
	do
	:: s > SHIFTS -> assert(false)
	:: else ->
		load(me, TAG(SLOT(s, key, j)), tag);
		if
		:: SLOT(s, key, j) == n ->
#ifndef NO_REACH
			extend_reach(me, HOME(s, key), j);
#endif
			if
			:: s > shift -> left = 1
			:: else
			fi;
			break
		:: SLOT(s, key, j) != n && (tag == 0 || j + 1 == LENGTH(s)) -> s++; j = 0
		:: else -> j++
		fi
	od;
	s = 0;
	j = 0;
	tag = 0
}

/* move_bucket(): a try to lock the word may fail, so the bucket may be left behind */
inline move_bucket(me, n, shift)
{
	load(me, TAG(n), key);
	if
	:: key < 2
	:: else ->
		load(me, W(n), w);
		if
#ifdef NO_LOCK
		:: ok = 1
#else
		:: swap(me, W(n), w, w + 1, ok)
		:: ok = 0				/* it is locked or changes all the time */
#endif
		fi;
		if
		:: !ok -> leave_behind(me, n, key, shift)
		:: ok ->
			ok = 0;
			write_barrier(me);
			load(me, BASE(n), amount);
			amount = (amount + w / 2) % 256;
			claim_slots(me, key, shift, LENGTH(shift), to);
			assert(to != 9);
			fill_slot(me, to, key, amount);
			store(me, ID(n), 0);	/* empty_slot() */
			store(me, TAG(n), 1);
			write_barrier(me);
			store(me, W(n), ((w / 2) + 1) * 2);	/* unlock_changed() */
			to = 0;
			amount = 0;
			w = 0
		fi
	fi;
	key = 0
}

/* grow_partition() */
inline grow_partition(me)
{
	left = 0;
#ifndef NO_MOVING
	store(me, LAYOUT, MOVING);	/* shift 0 */
#ifndef NO_BARRIER_MOVING
	write_barrier(me);
#endif
#endif
	store(me, REACH1, 0);
	store(me, REACH0, 0);
	move_bucket(me, 1, 0);
	move_bucket(me, 0, 0);
#ifndef NO_BARRIER_MOVED
	write_barrier(me);
#endif
	store(me, LAYOUT, (left -> LEFT : 0));
	left = 0
}

/* A call on A, which is there all the time. */
proctype call_a(byte me)
{
	byte layout, again, slot, w, i, s, tag, id, reach, result;
	bit ok;

	do
	:: consume_here(me, KEY_A, result);
		assert(result != 0);
		if
		:: result == 1 -> break
		:: else
		fi
	od
}

/* A call on C, which is nowhere at first. */
proctype call_c(byte me)
{
	byte layout, again, slot, w, w2, i, j, s, tag, id, reach, result, found;
	byte key, amount, to;
	bit ok, left;

	do
	:: consume_here(me, KEY_C, result);
		if
		:: result == 1 -> break
		:: result == 2
		:: result == 0 ->
			/* memory_place(), place_or_set() */
			acquire(partition_lock);
#ifdef NO_SECOND_SEARCH
			found = 0;
#else
			find_once(me, KEY_C, slot, w, found);
#endif
			slot = 0;
			w = 0;
			if
			:: found > 0 -> release(me, partition_lock)
			:: found == 0 ->
				/* place_locked(), claim_or_grow() */
				load(me, LAYOUT, layout);
				to = 9;
				if
				:: layout % 16 == 1 ->
					claim_slots(me, KEY_C, 1, 1, to);
					if
					:: to == 9 -> grow_partition(me)
					:: else
					fi
				:: else
				fi;
				layout = 0;
				if
				:: to == 9 ->
					claim_slots(me, KEY_C, 0, 3, to);
					assert(to != 9)
				:: else
				fi;
				owes[KEY_C]++;
				made++;
				fill_slot(me, to, KEY_C, 1);
				to = 0;
				result = 1;
				release(me, partition_lock);
				break
			fi;
			found = 0
		fi
	od
}

inline look(n)
{
	if
	:: mem[ID(n)] == 0
	:: else ->
		assert(!found[mem[ID(n)]]);
		found[mem[ID(n)]] = 1;
		assert(mem[W(n)] % 2 == 0);
		assert((mem[BASE(n)] + mem[W(n)] / 2) % 256 == owes[mem[ID(n)]])
	fi
}

init
{
	byte i;
	bit found[5];

	atomic {
		mem[LAYOUT] = 1;
		mem[REACH1] = 1;
		mem[TAG(0)] = KEY_A;
		mem[ID(0)] = KEY_A;
		mem[W(0)] = 6;
		mem[TAG(1)] = KEY_B;
		mem[ID(1)] = KEY_B;
		mem[W(1)] = 8;
		owes[KEY_A] = 3;
		owes[KEY_B] = 4;
		do
		:: i < A -> run call_a(i); RUN_MEMORY(i); i++
		:: i >= A && i < CPUS -> run call_c(i); RUN_MEMORY(i); i++
		:: else -> break
		od
	};
	/* when all calls have ended and all stores are visible */
#ifdef SC
	_nr_pr == 1;
#else
	_nr_pr == 1 + CPUS;
	i = 0;
	do
	:: i < CPUS -> VISIBLE_LAST(i); i++
	:: else -> break
	od;
#endif
	d_step {
		look(0);
		look(1);
		look(2);
		assert(found[KEY_A] && found[KEY_B] && (C == 0 || found[KEY_C]))
	}
}
