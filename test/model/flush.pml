/*
 * test/model/flush.pml
 *		Violations are written once (violations/flush.c, violations/count.c,
 *		violations/pending.c, core/saved_file.c).
 *
 * Denied calls add to one entry.  Sessions flush it in transactions, with a savepoint
 * or without, and commit or roll back.  A server stops cleanly, and saves what is
 * pending, or crashes, and starts anew, up to LIVES times.
 *
 * LIMIT stands for MAX_COUNT, above which an entry counts nothing more.
 *
 * Without a crash, what was counted is either pending or written, and nothing is
 * written that was not counted.  With crashes, nothing is written twice.
 *
 * What the partition's lock protects is one step here; entry_reuse.pml shows why a
 * call may add without it.
 *
 * Not here: violations without shared memory; the sinks "log" and "none"; what
 * episodes and flags are told.
 *
 * holds: CALLS=2 FLUSHES=1 LIVES=1
 * holds: CALLS=1 FLUSHES=2 LIVES=1
 * holds: CALLS=1 FLUSHES=1 LIVES=3 CRASHES
 * long: CALLS=2 FLUSHES=2 LIVES=1
 * long: CALLS=2 FLUSHES=2 LIVES=2
 * long: CALLS=1 FLUSHES=2 LIVES=3 CRASHES
 * holds: CALLS=3 FLUSHES=1 LIVES=1 LIMIT=1
 * refuted: CALLS=3 FLUSHES=1 LIVES=1 LIMIT=1 ALL_OR_NONE: violations_take() takes all of a count, which may be above the limit after a rollback, or nothing
 * refuted: CALLS=1 FLUSHES=1 LIVES=1 NO_TAKEN: violations_take() does not note what it has taken
 * refuted: CALLS=1 FLUSHES=1 LIVES=1 SETTLE_FIRST: what is taken is dropped before the commit
 * refuted: CALLS=1 FLUSHES=1 LIVES=1 NO_SETTLE: a rollback does not put back what was taken
 * refuted: CALLS=2 FLUSHES=2 LIVES=1 NO_FLUSH_LOCK: two flushes of a database at the same time
 * refuted: CALLS=2 FLUSHES=1 LIVES=1 NO_LEVEL: a subtransaction flushes although an outer one has
 * refuted: CALLS=2 FLUSHES=1 LIVES=1 CLOSE_ANY: close_entry() gives up an entry that has got violations since
 * refuted: CALLS=1 FLUSHES=1 LIVES=1 NO_CLOSED: add_to_entry() adds to an entry that is given up
 * refuted: CALLS=1 FLUSHES=1 LIVES=3 CRASHES MARK_LATE: the file is marked as used after its violations are taken
 * refuted: CALLS=1 FLUSHES=1 LIVES=2 CRASHES SAVE_RUNNING: a file that is saved while the server runs has pending violations
 */
#ifndef LIMIT
#define LIMIT 100
#endif

/* What violations_take() takes, so that it fits into the count if it goes back. */
#ifdef ALL_OR_NONE
#define PART	(count + taken > LIMIT -> 0 : count)
#else
#define PART	(count < LIMIT - taken -> count : LIMIT - taken)
#endif

byte counted;					/* violations, by all calls */
byte written;					/* rows of committed transactions */
bit crashed_once;

/* shared memory */
byte count;						/* the entry's word */
byte taken;						/* beside it */
bit closed;						/* the entry is given up */
bit flush_lock;					/* advisory; a transaction holds it until it ends */

/* the file of saved state, on disk */
byte file;						/* violations that it has */
bit file_used;

bit crash;						/* all processes die */
byte calls_left;

/* A denied call: violations_add(), add_to_entry(), make_entry(), write_entry(). */
proctype call()
{
	byte word;
	bit is_closed;

	{
		do
		::	d_step { word = count; is_closed = closed };
#ifdef NO_CLOSED
			is_closed = 0;
#endif
			if
			:: is_closed ->
				/* make_and_count(), with the partition's lock held */
				d_step {
					if
					:: closed -> closed = 0; count = 1; taken = 0
					:: !closed && count + 1 <= LIMIT -> count++
					:: else -> counted--	/* lost */
					fi;
					counted++;
					calls_left--;
					word = 0;
					is_closed = 0
				};
				break
			:: else ->
				d_step {		/* the swap */
					if
#ifdef NO_CLOSED
					:: count == word ->
#else
					:: count == word && !closed ->
#endif
						if
						:: count + 1 > LIMIT	/* it counts as lost */
						:: else -> count++; counted++
						fi;
						calls_left--;
						word = 0;
						is_closed = 1
					:: else -> word = 0
					fi
				};
				if
				:: is_closed -> break
				:: else
				fi
			fi
		od
	} unless { crash }
}

/* close_entry() */
inline close_entry()
{
	if
#ifdef CLOSE_ANY
	:: true -> closed = 1; count = 0
#else
	:: count == 0 -> closed = 1
	:: else
#endif
	fi
}

/* settle() and violations_settle() */
inline settle(is_written)
{
	d_step {
		if
		:: flushed ->
			if
			:: is_written -> taken = 0; close_entry()
			:: else ->
#ifndef NO_SETTLE
				count = count + taken;
#endif
				taken = 0
			fi;
			flushed = 0;
			took = 0
		:: else
		fi
	}
}

/* flush_violations() and violations_take(), at nest level "now" */
inline flush(now)
{
	if
#ifndef NO_LEVEL
	:: flushed && now > level		/* the outer transaction settles */
#endif
	:: else ->
#ifndef NO_FLUSH_LOCK
		if
		:: has_lock
		:: else -> acquire_flush_lock()
		fi;
#endif
		d_step {
			if
			:: !flushed -> flushed = 1; level = now
			:: else
			fi;
			if
			:: closed || PART == 0
			:: else ->
				part = PART;
				rows[now] = rows[now] + part;	/* write_views() */
#ifndef NO_TAKEN
				taken = taken + part;
#endif
				count = count - part;
				took = 1
			fi
		}
	fi
}

inline acquire_flush_lock()
{
	atomic { !flush_lock -> flush_lock = 1; has_lock = 1 }
}

/* A session that calls rl_flush(), or the worker. */
proctype session()
{
	byte level;					/* flush.level */
	byte rows[3];				/* written at each nest level, not committed */
	byte part;
	bit flushed, took, has_lock, inner;

	{
		/* BEGIN, and perhaps a flush */
		if
		:: flush(1)
		:: true
		fi;
		/* SAVEPOINT, perhaps a flush, and its end */
		if
		:: inner = 1
		:: inner = 0
		fi;
		if
		:: inner ->
			if
			:: flush(2)
			:: true
			fi;
			if
			:: d_step {			/* COMMIT_SUB in flush_at_subxact_event() */
					if
					:: flushed && 2 <= level -> level = 1
					:: else
					fi;
					rows[1] = rows[1] + rows[2];
					rows[2] = 0
				}
			:: rows[2] = 0;		/* ABORT_SUB */
				if
				:: flushed && 2 <= level -> settle(0)
				:: else
				fi
			fi
		:: else
		fi;
		/* and perhaps another flush */
		if
		:: flush(1)
		:: true
		fi;
		/* COMMIT or ROLLBACK; the callbacks come before the lock is released */
		if
		::
#ifdef SETTLE_FIRST
			settle(1);
			if
			:: d_step { written = written + rows[1]; rows[1] = 0 }
			:: rows[1] = 0		/* the commit fails */
			fi
#else
			d_step { written = written + rows[1]; rows[1] = 0 };
			settle(1)			/* flush_at_xact_event() */
#endif
		:: rows[1] = 0;
			settle(0)
		fi;
		d_step {
			if
			:: has_lock -> flush_lock = 0; has_lock = 0
			:: else
			fi
		}
	} unless { crash }
}

init
{
	byte life, i, loaded;

	calls_left = CALLS;
	closed = 1;
	do
	:: life < LIVES ->
		/* the start of the server: load_violation() in violations/part.c */
		loaded = 0;
		if
		:: file > 0 && !file_used ->
#ifdef MARK_LATE
			loaded = file;
#else
			file_used = 1;		/* on disk */
			loaded = file;
#endif
		:: else
		fi;
		d_step {
			if
			:: loaded > 0 -> count = loaded; closed = 0	/* violations_add_saved() */
			:: else
			fi
		};
		atomic {
			i = 0;
			do
			:: i < FLUSHES -> run session(); i++
			:: else -> break
			od;
			i = 0;
			do
			:: i < calls_left -> run call(); i++
			:: else -> break
			od
		};
#ifdef SAVE_RUNNING
		if
		:: file = count; file_used = 0	/* the saver */
		:: true
		fi;
#endif
		if
		:: _nr_pr == 1 ->
#ifdef MARK_LATE
			file_used = 1;
#endif
			/* a clean stop: save() in violations/part.c */
			d_step { file = count + taken; file_used = 0 }
#ifdef CRASHES
		:: crash = 1;
			_nr_pr == 1;
			d_step { crash = 0; crashed_once = 1 }
#endif
		fi;
		if
		:: life + 1 < LIVES ->
			/* memory is gone */
			d_step { count = 0; taken = 0; closed = 1; flush_lock = 0; loaded = 0 }
		:: else
		fi;
		assert(written <= counted);
		life++
	:: else -> break
	od;
	assert(written <= counted);
	assert(crashed_once || written + count + taken == counted);
	/* the next flush can take it */
	assert(count == 0 || !closed && PART > 0)
}
