/*
 * test/model/buffers.pml
 *		Shared memory whose stores become visible late and out of order.
 *
 * A model that includes this says before how many locations (LOCS) and processes
 * (CPUS) there are.  Each process has a buffer of stores that it has made and that
 * others do not see yet.
 *
 * TSO: as on x86, stores become visible in their order.  A swap is a full barrier.
 *
 * Otherwise: as on ARM64 without LSE, and as PostgreSQL's comments assume.  Stores to
 * different locations become visible in any order, except across a write barrier.  A
 * swap is a loop of ldaxr and stlxr: what comes before it is visible before it is,
 * but stores that follow may become visible before, and loads that follow may be done
 * before.  Until the swap's own store is visible no other swap of that location
 * succeeds.
 *
 * SC: no buffers.  For models that are too large otherwise.
 *
 * A process does its loads in the order in which the model does them.  Where the code
 * has no barrier between loads, the model chooses their order.  A load is not delayed
 * past a later store of the same process, because every barrier before a release is a
 * full fence on ARM64 (memory/slots.h, "Barriers").
 */
#ifndef DEPTH
#define DEPTH 6
#endif
#define FENCE 255

byte mem[LOCS];
#ifndef SC
bit swapping[LOCS];				/* a swap's store is in some buffer */
byte own[CPUS * LOCS];			/* stores of each process to each location in its buffer */
typedef Buffer
{
	byte n;
	byte loc[DEPTH];
	byte val[DEPTH];
};
Buffer buffer[CPUS];
hidden byte at;
hidden byte first;

#define N(me)		buffer[me].n
#define LOC(me, i)	buffer[me].loc[i]
#define VAL(me, i)	buffer[me].val[i]

inline append(me, l, v)
{
	assert(N(me) < DEPTH);
	LOC(me, N(me)) = l;
	VAL(me, N(me)) = v;
	N(me)++
}

/* A plain store. */
inline store(me, l, v)
{
	d_step { N(me) + 2 < DEPTH -> append(me, l, v); own[(me) * LOCS + (l)]++ }
}

/* A load sees the process's own stores first. */
inline load(me, l, x)
{
	d_step {
		x = mem[l];
		at = 0;
		do
		:: at < N(me) ->
			if
			:: LOC(me, at) == l -> x = VAL(me, at)
			:: else
			fi;
			at++
		:: else -> break
		od;
		at = 0
	}
}

/* pg_write_barrier */
inline write_barrier(me)
{
#ifndef TSO
	d_step {
		N(me) + 1 < DEPTH;
		if
		:: N(me) > 0 && LOC(me, N(me) - 1) != FENCE -> append(me, FENCE, 0)
		:: else
		fi
	}
#else
	skip
#endif
}

/* pg_memory_barrier */
inline full_barrier(me)
{
	N(me) == 0
}

#ifdef TSO
#define CAN_SWAP(me, l) (N(me) == 0)
#else
#define CAN_SWAP(me, l) (!swapping[l] && own[(me) * LOCS + (l)] == 0 && N(me) + 2 < DEPTH)
#endif

/*
 * The store of a swap or of an atomic addition; CAN_SWAP() holds.  The value that it
 * replaces is that in memory.
 */
inline swap_store(me, l, v)
{
#ifdef TSO
	mem[l] = v
#else
	if
	:: N(me) > 0 && LOC(me, N(me) - 1) != FENCE -> append(me, FENCE, 0)
	:: else
	fi;
	append(me, l, v);
	own[(me) * LOCS + (l)]++;
	swapping[l] = 1
#endif
}

/*
 * Compare and swap; "now" becomes what was there.  A process does not swap a location
 * that it has just stored to, before that store is visible.
 */
inline swap(me, l, old, new, ok)
{
	atomic {
		CAN_SWAP(me, l) ->
		d_step {
			if
			:: mem[l] == (old) -> ok = 1; swap_store(me, l, new)
			:: else -> ok = 0
			fi
		}
	}
}

/* Let a store of the process become visible.  One of these runs for each process. */
proctype visible(byte me)
{
	byte i;
end:
	do
	:: atomic {
		N(me) > 0 -> i = 0;
#ifndef TSO
		do
		:: i + 1 < N(me) && LOC(me, i) != FENCE && LOC(me, i + 1) != FENCE -> i++
		:: break
		od;
#endif
		d_step {
			/* of two stores to one location the older one comes first */
			at = 0;
			first = i;
			do
			:: at < first ->
				if
				:: LOC(me, at) == LOC(me, first) -> first = at
				:: else -> at++
				fi
			:: else -> break
			od;
			mem[LOC(me, first)] = VAL(me, first);
			own[me * LOCS + LOC(me, first)]--;
			swapping[LOC(me, first)] = 0;
			/* close the gap, and drop a fence that has nothing before it */
			do
			:: first + 1 < N(me) ->
				LOC(me, first) = LOC(me, first + 1);
				VAL(me, first) = VAL(me, first + 1);
				first++
			:: else -> break
			od;
			N(me)--;
			LOC(me, N(me)) = 0;
			VAL(me, N(me)) = 0;
			if
			:: N(me) > 0 && LOC(me, 0) == FENCE ->
				first = 0;
				do
				:: first + 1 < N(me) ->
					LOC(me, first) = LOC(me, first + 1);
					VAL(me, first) = VAL(me, first + 1);
					first++
				:: else -> break
				od;
				N(me)--;
				LOC(me, N(me)) = 0;
				VAL(me, N(me)) = 0
			:: else
			fi;
			at = 0;
			first = 0;
			i = 0
		}
	}
	od
}

#define VISIBLE_LAST(me)	(N(me) == 0)
#define RUN_MEMORY(me)		run visible(me)

#else							/* SC */

#define store(me, l, v)		mem[l] = v
#define load(me, l, x)		x = mem[l]
#define write_barrier(me)	skip
#define full_barrier(me)	skip
#define CAN_SWAP(me, l)		true
#define swap_store(me, l, v) mem[l] = v
#define VISIBLE_LAST(me)	true
#define RUN_MEMORY(me)		skip

inline swap(me, l, old, new, ok)
{
	d_step {
		if
		:: mem[l] == (old) -> ok = 1; mem[l] = new
		:: else -> ok = 0
		fi
	}
}
#endif

/* An LWLock.  Its release comes after what was stored before. */
#define acquire(lock)		atomic { !lock -> lock = 1 }
#define release(me, lock)	atomic { VISIBLE_LAST(me) -> lock = 0 }
