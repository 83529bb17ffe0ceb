/*
 * test/model/free_cells.pml
 *		The stacks of free cells of tickets and semaphores (memory/tickets.c: pop(),
 *		push()), whose word has the first cell and how often it has changed.
 *
 * No cell is given to two processes, and none is lost.  The count is as small as
 * COUNTS says, so the model also tells what happens when it comes around.
 *
 * holds: PROCESSES=2 ROUNDS=2 COUNTS=16
 * long: PROCESSES=3 ROUNDS=2 COUNTS=32
 * refuted: PROCESSES=2 ROUNDS=2 COUNTS=1: without a count, a word that was read long ago matches
 * refuted: PROCESSES=2 ROUNDS=3 COUNTS=4: the count comes around while a process is between its load and its swap
 */
#define CELLS	3
#define NO_CELL	7

byte first;						/* the stack's word */
byte changes;
byte next[CELLS];
bit mine[CELLS];				/* a process has popped it */

inline pop(cell)
{
	do
	::	d_step { cell = first; count = changes };
		if
		:: cell == NO_CELL -> break
		:: else
		fi;
		link = next[cell];
		d_step {
			if
			:: first == cell && changes == count ->
				first = link;
				changes = (changes + 1) % COUNTS;
				assert(!mine[cell]);
				mine[cell] = 1;
				ok = 1
			:: else -> ok = 0
			fi;
			link = 0;
			count = 0
		};
		if
		:: ok -> break
		:: else
		fi
	od
}

inline push(cell)
{
	do
	::	d_step { link = first; count = changes };
		next[cell] = link;
		d_step {
			if
			:: first == link && changes == count ->
				first = cell;
				changes = (changes + 1) % COUNTS;
				mine[cell] = 0;
				ok = 1
			:: else -> ok = 0
			fi;
			link = 0;
			count = 0
		};
		if
		:: ok -> break
		:: else
		fi
	od
}

/* A backend takes two cells, and pushes them in either order. */
proctype backend()
{
	byte n, a, b, link, count;
	bit ok;

	do
	:: n < ROUNDS ->
		pop(a);
		pop(b);
		if
		:: true -> skip
		:: true -> link = a; a = b; b = link
		fi;
		if
		:: a != NO_CELL -> push(a)
		:: else
		fi;
		if
		:: b != NO_CELL -> push(b)
		:: else
		fi;
		a = 0;
		b = 0;
		n++
	:: else -> break
	od
}

init
{
	byte i;
	byte cell;

	atomic {
		/* startup() in memory/tickets_part.c */
		next[0] = 1;
		next[1] = 2;
		next[2] = NO_CELL;
		do
		:: i < PROCESSES -> run backend(); i++
		:: else -> break
		od
	};
	_nr_pr == 1;
	d_step {
		i = 0;
		cell = first;
		do
		:: i < CELLS -> assert(cell != NO_CELL); cell = next[cell]; i++
		:: else -> break
		od;
		assert(cell == NO_CELL)
	}
}
