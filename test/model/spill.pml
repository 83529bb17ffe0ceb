/*
 * test/model/spill.pml
 *		The rules by which a bucket is in memory or in the table, and never in both
 *		(memory/spill.c), for one partition of one database that is "known".
 *
 * Two keys share a partition that has room for one bucket.  Calls take one token
 * each, the worker goes through the table, and now and then a bucket becomes full
 * again, which equals an absent one.  What the two stores say a key owes is always
 * what has been taken from it.
 *
 * The mark and the announcements are in memory that becomes visible late.  All else
 * changes under locks, or by a swap of the bucket's word (slot_word.pml).
 *
 * Not here: the first pass after a start, when memory may have been loaded
 * (table_merge()); overflow = evict; calls on several buckets.
 *
 * make_row() announces the row, looks at the mark, and then looks for the bucket in
 * memory.  LOOK_FIRST looks in memory first, as it once did.  Then the worker may clear
 * the mark, another call may make the bucket in memory, and the mark may be set again
 * before the announcement.
 *
 * long: A=2 B=1 PASSES=1 FULL=0 SC
 * holds: A=1 B=1 PASSES=1 FULL=1 SC
 * holds: A=2 B=0 PASSES=1 FULL=1
 * holds: A=2 B=0 PASSES=1 FULL=1 PARALLEL SC
 * long: A=2 B=1 PASSES=1 FULL=1 SC
 * long: A=2 B=1 PASSES=1 FULL=0
 * long: A=3 B=1 PASSES=1 FULL=1 SC
 * long: A=2 B=1 PASSES=2 FULL=1 SC
 * refuted: A=2 B=0 PASSES=1 FULL=0 NO_BARRIER_MAKER: spill_begin_row() without its barrier
 * refuted: A=2 B=0 PASSES=1 FULL=0 NO_BARRIER_WORKER: spill_clear() without its barrier
 * refuted: A=2 B=0 PASSES=1 FULL=0 SC NO_ANNOUNCEMENT: the row is not announced
 * refuted: A=2 B=0 PASSES=1 FULL=0 SC NO_LOOK_AGAIN: spill_clear() does not look at the announcements after clearing
 * refuted: A=2 B=0 PASSES=0 FULL=0 SC NO_KEY_LOCK: two sessions make rows of one bucket
 * refuted: A=2 B=1 PASSES=1 FULL=0 SC LOOK_FIRST: make_row() looks in memory before it announces the row
 * refuted: A=2 B=0 PASSES=1 FULL=0 SC NO_LOOK: make_row() does not look in memory
 * refuted: A=2 B=0 PASSES=1 FULL=0 SC NO_MARK: memory_place() does not look at the mark
 * refuted: A=1 B=0 PASSES=1 FULL=0 SC ROW_FIRST NO_ROW_AGAIN: rows_get() does not look at the row again once it has the page
 * refuted: A=2 B=0 PASSES=1 FULL=0 SC ROW_FIRST DELETE_FIRST: visit_row() deletes the row and unlocks the page before the bucket is in memory
 */
#define MARK	0
#define ROWS	1				/* 16 * announced + in flight */
#define LOCS	2
#define CPUS	(A + B + 1)
#define WORKER	(A + B)
#define DEPTH	8
#include "buffers.pml"

#define ROOM	1
bit in_memory[2];				/* the key has a slot */
byte memory_owes[2];
bit in_table[2];				/* the key has a row */
byte row_owes[2];
byte taken[2];					/* since the bucket was full */
byte rows_made[2];
bit moving[2];					/* under the page's lock, visit_row() has both */
bit partition_lock;
bit key_lock[2];
bit page_lock[2];

inline check(k)
{
	assert(moving[k] || !(in_memory[k] && memory_owes[k] > 0 && in_table[k] && row_owes[k] > 0));
	assert(moving[k] || memory_owes[k] + row_owes[k] == taken[k])
}

/* An atomic addition, or an atomic operation on bits. */
inline add(me, l, change)
{
	atomic { CAN_SWAP(me, l) -> d_step { swap_store(me, l, mem[l] + change) } }
}

inline set(me, l, new)
{
	atomic { CAN_SWAP(me, l) -> d_step { swap_store(me, l, new) } }
}

/* consume_here(): a swap of the bucket's word, wherever its slot is. */
inline memory_consume(k, done)
{
	d_step {
		if
		:: in_memory[k] -> memory_owes[k]++; taken[k]++; check(k); done = 1
		:: else
		fi
	}
}

/* claim_or_grow(): is there a free slot?  A bucket that is full frees its own. */
inline claim(k, ok)
{
	d_step {
		if
		:: !in_memory[1 - k] -> ok = 1
		:: in_memory[1 - k] && memory_owes[1 - k] == 0 -> in_memory[1 - k] = 0; ok = 1
		:: else -> ok = (ROOM > 1)
		fi
	}
}

/* place_or_set() in memory/place.c; "here" is PLACE_HERE */
inline memory_place(me, k, done, here)
{
	acquire(partition_lock);
	if
	:: in_memory[k] ->			/* find_once() */
		release(me, partition_lock);
		memory_consume(k, done)
	:: else ->
		load(me, MARK, mark);
#ifdef NO_MARK
		mark = 0;
#endif
		if
		:: mark && !(here)		/* spill_is_set() */
		:: else ->
			claim(k, ok);
			if
			:: ok ->
				d_step {		/* place_locked(), fill_slots() */
					in_memory[k] = 1;
					memory_owes[k] = 1;
					taken[k]++;
					check(k);
					done = 1;
					ok = 0
				}
			:: else -> set(me, MARK, 1)	/* spill_mark() */
			fi
		fi;
		release(me, partition_lock)
	fi
}

/* rows_get(): find the row, lock its page, and look at the row again. */
inline row_take(k, done)
{
	do
	:: !in_table[k] -> break
	:: in_table[k] ->
		acquire(page_lock[k]);
		d_step {
			if
#ifdef NO_ROW_AGAIN
			:: true ->
#else
			:: in_table[k] ->
#endif
				row_owes[k]++;	/* row_change(), rows_write() */
				taken[k]++;
				if
				:: in_table[k]
				:: else -> row_owes[k]-- /* nobody will see it */
				fi;
				check(k);
				done = 1
			:: else
			fi;
			page_lock[k] = 0
		};
		if
		:: done -> break
		:: else
		fi
	od
}

/* spill_end_row() */
inline end_row(me)
{
#ifndef NO_ANNOUNCEMENT
	add(me, ROWS, -1)
#else
	skip
#endif
}

/* make_row() in table/make.c, with the key's lock held; the row is not there */
inline make_row(me, k, done)
{
#ifdef LOOK_FIRST
	here = in_memory[k];
	if
	:: here -> goto elsewhere
	:: else
	fi;
#endif
#ifndef NO_ANNOUNCEMENT
	add(me, ROWS, 17);			/* spill_begin_row() */
#ifndef NO_BARRIER_MAKER
	full_barrier(me);
#endif
#endif
	load(me, MARK, mark);		/* spill_is_set() */
	if
	:: !mark -> end_row(me)
	:: else ->
#if defined(LOOK_FIRST) || defined(NO_LOOK)
		here = 0;
#else
		here = in_memory[k];	/* memory_peek() */
#endif
		if
		:: here
		:: else ->
			acquire(page_lock[k]);
			d_step {			/* rows_insert() */
				assert(!in_table[k]);
				in_table[k] = 1;
				row_owes[k] = 1;
				taken[k]++;
				check(k);
				done = 1;
				page_lock[k] = 0
			}
		fi;
		end_row(me)
	fi
}

/* A call: take_tokens() and try_to_take_tokens() in decide/one.c. */
proctype call(byte me; byte k)
{
	byte mark;
	bit done, ok, here, try_memory;

	memory_consume(k, done);
	if
	:: !done -> load(me, MARK, mark); try_memory = !mark
	:: else
	fi;
	do
	:: done -> break
	:: else ->
		if
		:: try_memory -> memory_place(me, k, done, false)
		:: else
		fi;
		if
		:: done -> break
		:: else
		fi;
		/* consume_or_set() in table/store.c */
		row_take(k, done);
		if
		:: done -> break
		:: else
		fi;
		/* consume_without_row() */
#ifndef NO_KEY_LOCK
		acquire(key_lock[k]);	/* make_lock_key() */
#endif
		row_take(k, done);
		if
		:: done
		:: else ->
#ifdef PARALLEL
			/* a parallel query cannot make rows: rule 6 */
			if
			:: me == 0 ->
				here = in_memory[k];
				if
				:: here
				:: else -> memory_place(me, k, done, true)
				fi
			:: else -> make_row(me, k, done)
			fi
#else
			make_row(me, k, done)
#endif
		fi;
elsewhere:
#ifndef NO_KEY_LOCK
		release(me, key_lock[k]);
#endif
		here = 0;
		try_memory = 1
	od
}

/* The worker: table_clean(), visit_row(), memory_move_in(). */
proctype worker(byte me)
{
	byte pass, k, look, rows, owes;
	bit with_rows, ok, mark, free;

	do
	:: pass < PASSES ->
		load(me, ROWS, look);	/* spill_look() */
		full_barrier(me);
		with_rows = 0;
		k = 0;
		do
		:: k < 2 ->
			acquire(page_lock[k]);
			if
			:: in_table[k] && row_owes[k] == 0 -> in_table[k] = 0
			:: in_table[k] && row_owes[k] > 0 ->
				/* memory_try_lock_partition() */
				atomic {
					free = !partition_lock;
					partition_lock = 1
				};
				if
				:: !free -> with_rows = 1	/* MOVE_BUSY */
				:: free ->
					if
					:: in_memory[k] -> ok = 1	/* memory's is right */
					:: else ->
						claim(k, ok);
						if
						:: ok ->
#ifdef DELETE_FIRST
							owes = row_owes[k];
							moving[k] = 1;
							d_step { in_table[k] = 0; row_owes[k] = 0; page_lock[k] = 0 };
							partition_lock = 0;
							acquire(partition_lock);
							d_step {
								in_memory[k] = 1;
								memory_owes[k] = owes;
								moving[k] = 0;
								check(k)
							}
#else
							d_step {
								moving[k] = 1;
								in_memory[k] = 1;
								memory_owes[k] = row_owes[k]
							}
#endif
						:: else
						fi
					fi;
					release(me, partition_lock);
					if
					:: ok ->
#ifndef DELETE_FIRST
						/* a call may have taken from memory already */
						d_step {	/* delete_row() */
							in_table[k] = 0;
							row_owes[k] = 0;
							moving[k] = 0;
							check(k)
						}
#else
						skip
#endif
					:: else -> with_rows = 1	/* MOVE_NO_ROOM */
					fi;
					ok = 0
				fi
			:: else
			fi;
			page_lock[k] = 0;
			k++
		:: else -> break
		od;
		/* spill_clear() */
		load(me, MARK, mark);
		load(me, ROWS, rows);
		if
		:: mark && !with_rows && look % 16 == 0 && rows == look ->
			acquire(partition_lock);
			set(me, MARK, 0);
#ifndef NO_BARRIER_WORKER
			full_barrier(me);
#endif
			load(me, ROWS, rows);
			if
#ifndef NO_LOOK_AGAIN
			:: rows != look -> set(me, MARK, 1)
#endif
			:: else
			fi;
			release(me, partition_lock)
		:: else
		fi;
		pass++
	:: else -> break
	od
}

/* Time: a bucket becomes full again, in whichever store it is. */
proctype refill()
{
	byte n;

	do
	:: n < FULL ->
		if
		:: d_step { !moving[0] -> taken[0] = 0; memory_owes[0] = 0; row_owes[0] = 0 }
		:: d_step { !moving[1] -> taken[1] = 0; memory_owes[1] = 0; row_owes[1] = 0 }
		fi;
		n++
	:: else -> break
	od
}

init
{
	byte i;

	atomic {
		mem[MARK] = 1;			/* as at the start of the server, or after filling up */
#ifdef ROW_FIRST
		in_table[0] = 1;
		row_owes[0] = 1;
		taken[0] = 1;
#endif
		do
		:: i < A -> run call(i, 0); i++
		:: i >= A && i < A + B -> run call(i, 1); i++
		:: else -> break
		od;
		run worker(WORKER);
		i = 0;
		do
		:: i < CPUS -> RUN_MEMORY(i); i++
		:: else -> break
		od;
		run refill()
	}
}
