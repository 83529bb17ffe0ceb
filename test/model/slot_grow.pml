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
 * every processor here, and so the barrier binds only the compiler.  Loads between
 * two barriers are done in the order of the code, because what they read does not
 * change unless the layout does.
 *
 * holds: A=1 C=1
 * holds: A=1 C=1 TSO
 * holds: A=0 C=2 SC
 * long: A=2 C=1 SC
 * long: A=1 C=2 SC
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
#define REACH(g) (1 + (g))		/* of a group */
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

byte owes[5];					/* what each key's bucket is to owe */
byte made;						/* buckets of C */
bit partition_lock;
byte ended;						/* calls */

/*
 * Search a way: search_way(), search_group(), search_further() in memory/search.h.
 * "slot" becomes the slot, or 9.  SEARCH_ONCE ends at a word that is locked;
 * SEARCH_WAITING waits for it.
 */
inline search_way(sw_me, sw_key, sw_shift, sw_once, sw_slot, sw_w)
{
	sw_slot = 9;
	i = 0;
	reach = 0;
	do
	:: i >= LENGTH(sw_shift) -> break
	:: i < LENGTH(sw_shift) ->
		if
		:: i == 1 -> here = HOME(sw_shift, sw_key); load(sw_me, REACH(here), reach)
		:: else
		fi;
		if
		:: i > reach -> break
		:: else
		fi;
		here = SLOT(sw_shift, sw_key, i);
		load(sw_me, TAG(here), tag);
		if
		:: tag == 0 -> break	/* next_tag(): the slot was never used */
		:: tag == sw_key ->
			/* read_word(), wait_for_word() */
			do
			:: load(sw_me, W(here), sw_w);
				if
				:: sw_w % 2 == 1 && !(sw_once) ->
					mem[W(here)] % 2 == 0 || !VISIBLE_LAST(sw_me)
				:: else -> break
				fi
			od;
			/* slot_is() */
			load(sw_me, ID(here), id);
			if
			:: id == sw_key || sw_w % 2 == 1 -> sw_slot = here; break
			:: else
			fi
		:: else
		fi;
		i++
	od;
	i = 0;
	tag = 0;
	id = 0;
	reach = 0;
	here = 0
}

/* search_left(): where earlier layouts have it */
inline search_left(sl_me, sl_key, sl_shift, sl_once, sl_slot, sl_w)
{
	s = sl_shift + 1;
	do
	:: s <= SHIFTS && sl_slot == 9 -> search_way(sl_me, sl_key, s, sl_once, sl_slot, sl_w); s++
	:: else -> break
	od;
	s = 0
}

/* find() and find_elsewhere() */
inline find(fi_me, fi_key, fi_slot, fi_w)
{
	load(fi_me, LAYOUT, layout);
#ifdef NO_BARRIER_TAGS
	load(fi_me, LAYOUT, again);	/* nothing keeps it from being read at once */
#endif
	search_way(fi_me, fi_key, layout % 16, false, fi_slot, fi_w);
	do
	:: fi_slot != 9 -> break
	:: else ->
#ifndef NO_LEFT
		if
		:: layout / LEFT == 1 -> search_left(fi_me, fi_key, layout % 16, false, fi_slot, fi_w)
		:: else
		fi;
#endif
		if
		:: fi_slot != 9 -> break
		:: else
		fi;
		/* layout_holds() */
#if defined(NO_LAYOUT_AGAIN)
		again = layout;
#elif !defined(NO_BARRIER_TAGS)
		load(fi_me, LAYOUT, again);
#endif
		if
		:: again == layout && (layout / MOVING) % 2 == 0 -> break
		:: else
		fi;
		/* wait_for_layout() */
		(mem[LAYOUT] / MOVING) % 2 == 0;
		load(fi_me, LAYOUT, layout);
#ifdef NO_BARRIER_TAGS
		load(fi_me, LAYOUT, again);
#endif
		search_way(fi_me, fi_key, layout % 16, false, fi_slot, fi_w)
	od;
	layout = 0;
	again = 0
}

/* find_once(), with the partition's lock held; found: 0 absent, 1 here, 2 busy */
inline find_once(fo_me, fo_key, fo_slot, fo_w, fo_found)
{
	load(fo_me, LAYOUT, layout);
	search_way(fo_me, fo_key, layout % 16, true, fo_slot, fo_w);
	if
	:: fo_slot == 9 && layout / LEFT == 1 -> search_left(fo_me, fo_key, layout % 16, true, fo_slot, fo_w)
	:: else
	fi;
	fo_found = (fo_slot == 9 -> 0 : 1 + fo_w % 2);
	layout = 0
}

/* consume_here(): 0 the bucket is not here, 1 a token is taken, 2 look again */
inline consume_here(ch_me, ch_key, ch_result)
{
	find(ch_me, ch_key, slot, w);
	if
	:: slot == 9 -> ch_result = 0
	:: else ->
		atomic {
			swap(ch_me, W(slot), w, w + 2, ok);
			if
			:: ok -> ch_result = 1; owes[ch_key]++
			:: else -> ch_result = 2
			fi
		}
	fi;
	slot = 0;
	w = 0;
	ok = 0
}

/* claim_slot(): lock and empty a free slot.  Nobody else here locks words. */
inline claim_slot(cs_me, cs_n, cs_ok)
{
	load(cs_me, TAG(cs_n), tag);
	load(cs_me, W(cs_n), w2);
	if
	:: tag < 2 && w2 % 2 == 0 ->
		swap(cs_me, W(cs_n), w2, w2 + 1, cs_ok);
		if
		:: cs_ok ->
			write_barrier(cs_me);
			store(cs_me, ID(cs_n), 0);	/* empty_slot() */
			store(cs_me, TAG(cs_n), 1)
		:: else
		fi
	:: else -> cs_ok = 0
	fi;
	tag = 0
}

/* fill_slots() and unlock_with_rule(): let the bucket owe so much */
inline fill_slot(fs_me, fs_n, fs_key, fs_amount)
{
	store(fs_me, ID(fs_n), fs_key);
	store(fs_me, TAG(fs_n), fs_key);
	store(fs_me, BASE(fs_n), (fs_amount + 256 - (w2 / 2 + 1)) % 256);
	write_barrier(fs_me);
	store(fs_me, W(fs_n), w2 + 2);
	w2 = 0
}

/* extend_reach() */
inline extend_reach(er_me, er_home, er_i)
{
	load(er_me, REACH(er_home), reach);
	if
	:: reach < er_i -> store(er_me, REACH(er_home), er_i)
	:: else
	fi;
	reach = 0
}

/* claim_slots(): through so many groups; n becomes the slot, or 9 */
inline claim_slots(cl_me, cl_key, cl_shift, cl_groups, cl_n)
{
	j = 0;
	cl_n = 9;
	place = 0;
	do
	:: j < cl_groups && cl_n == 9 ->
		place = SLOT(cl_shift, cl_key, j);
		claim_slot(cl_me, place, ok);
		if
		:: ok -> cl_n = place; here = HOME(cl_shift, cl_key); extend_reach(cl_me, here, j); here = 0
		:: else
		fi;
		ok = 0;
		j++
	:: else -> break
	od;
	j = 0
}

/* leave_behind(): shift is the new layout's */
inline leave_behind(lb_me, lb_n, lb_key, lb_shift)
{
	s = lb_shift;
	j = 0;
	do
	:: s > SHIFTS -> assert(false)
	:: else ->
		place = SLOT(s, lb_key, j);
		load(lb_me, TAG(place), tag);
		if
		:: place == lb_n ->
#ifndef NO_REACH
			here = HOME(s, lb_key);
			extend_reach(lb_me, here, j);
			here = 0;
#endif
			if
			:: s > lb_shift -> left = 1
			:: else
			fi;
			break
		:: place != lb_n && (tag == 0 || j + 1 == LENGTH(s)) -> s++; j = 0
		:: else -> j++
		fi
	od;
	s = 0;
	j = 0;
	place = 0;
	tag = 0
}

/* move_bucket(): a try to lock the word may fail, so the bucket may be left behind */
inline move_bucket(mb_me, mb_n, mb_shift)
{
	load(mb_me, TAG(mb_n), key);
	if
	:: key < 2
	:: else ->
		load(mb_me, W(mb_n), w);
		if
#ifdef NO_LOCK
		:: ok = 1
#else
		:: swap(mb_me, W(mb_n), w, w + 1, ok)
		:: ok = 0				/* it is locked or changes all the time */
#endif
		fi;
		if
		:: !ok -> leave_behind(mb_me, mb_n, key, mb_shift)
		:: ok ->
			ok = 0;
			write_barrier(mb_me);
			load(mb_me, BASE(mb_n), amount);
			amount = (amount + w / 2) % 256;
			claim_slots(mb_me, key, mb_shift, 3, to);
			assert(to != 9);
			fill_slot(mb_me, to, key, amount);
			store(mb_me, ID(mb_n), 0);	/* empty_slot() */
			store(mb_me, TAG(mb_n), 1);
			write_barrier(mb_me);
			store(mb_me, W(mb_n), ((w / 2) + 1) * 2);	/* unlock_changed() */
			to = 9;
			amount = 0;
			w = 0
		fi
	fi;
	key = 0
}

/* grow_partition() */
inline grow_partition(gp_me)
{
	left = 0;
#ifndef NO_MOVING
	store(gp_me, LAYOUT, MOVING);	/* shift 0 */
#ifndef NO_BARRIER_MOVING
	write_barrier(gp_me);
#endif
#endif
	store(gp_me, REACH(1), 0);
	store(gp_me, REACH(0), 0);
	move_bucket(gp_me, 1, 0);
	move_bucket(gp_me, 0, 0);
#ifndef NO_BARRIER_MOVED
	write_barrier(gp_me);
#endif
	store(gp_me, LAYOUT, left * LEFT);
	left = 0
}

/* A call on A, which is there all the time. */
proctype call_a(byte me)
{
	byte layout, again, slot, w, here, i, s, tag, id, reach, result;
	bit ok;

	do
	:: consume_here(me, KEY_A, result);
		assert(result != 0);
		if
		:: result == 1 -> break
		:: else
		fi
	od;
	ended++
}

/* A call on C, which is nowhere at first. */
proctype call_c(byte me)
{
	byte layout, again, slot, w, w2, here, i, j, s, tag, id, reach, result, found;
	byte key, amount, to, place;
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
	od;
	ended++
}

inline look(lo_n)
{
	if
	:: mem[ID(lo_n)] == 0
	:: else ->
		assert(!found[mem[ID(lo_n)]]);
		found[mem[ID(lo_n)]] = 1;
		assert(mem[W(lo_n)] % 2 == 0);
		assert((mem[BASE(lo_n)] + mem[W(lo_n)] / 2) % 256 == owes[mem[ID(lo_n)]])
	fi
}

init
{
	byte i;
	bit found[5];

	atomic {
		mem[LAYOUT] = 1;
		mem[REACH(1)] = 1;
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
	ended == CPUS;
#ifndef SC
	i = 0;
	do
	:: i < CPUS -> VISIBLE_LAST(i); i++
	:: else -> break
	od;
#endif
	skip;
	d_step {
		look(0);
		look(1);
		look(2);
		assert(found[KEY_A] && found[KEY_B] && (C == 0 || found[KEY_C]))
	}
}
