/*
 * test/model/leases.pml
 *		Leases between servers (region/leases.c, region/link.c, region/home.c).
 *
 * A home has the buckets of two keys.  SERVERS servers have room for one lease each, of either
 * key.  Calls use tokens of leases; the worker of a server asks the home for portions, and
 * gives leases back.  Links break at any moment, servers crash and forget their leases, and the
 * home crashes: its buckets are then as they were saved, and it has another epoch.  TICKS
 * times, a bucket gains a token.
 *
 * Nothing is used twice: what calls on a key have used is at most CAPACITY, what the bucket has
 * gained, and what it has forgotten in crashes of the home.  Since the home started, it has
 * given, without what has come back of that, at most CAPACITY and what the bucket has gained
 * since: so tokens from before do not come on top.  A portion counts for the key that it was
 * asked for.
 *
 * What the lock of a lease's chain protects is one step here, and so is what a function of
 * ratelimit does with a bucket.
 *
 * Not here: terms; how large portions are; calls that wait; several questions under way.
 *
 * holds: SERVERS=1 CALLERS=2 TICKS=1
 * holds: SERVERS=2 CALLERS=1 TICKS=0 ASKS=1 USES=2
 * holds: SERVERS=1 CALLERS=1 TICKS=0 CRASHES HOME_CRASHES
 * long: SERVERS=2 CALLERS=1 TICKS=1 CRASHES
 * long: SERVERS=1 CALLERS=2 TICKS=1 ASKS=3 RETURNS=2 CRASHES
 * long: SERVERS=2 CALLERS=1 TICKS=0 CRASHES HOME_CRASHES
 * refuted: SERVERS=1 CALLERS=1 TICKS=0 KEEP_RETURNED: tokens are taken from the lease after they were sent back, not before
 * refuted: SERVERS=1 CALLERS=1 TICKS=0 RETURN_AGAIN: what was sent back without an answer is sent again
 * refuted: SERVERS=1 CALLERS=1 TICKS=0 CRASHES ABSENT_FULL: a lease that is not there counts as full, as a bucket does
 * refuted: SERVERS=1 CALLERS=1 TICKS=0 CRASHES SAVED: leases are saved, and are back after a crash
 * refuted: SERVERS=1 CALLERS=1 TICKS=0 ASKS=3 HOME_CRASHES ANY_EPOCH: the home takes back tokens from before it started
 * refuted: SERVERS=1 CALLERS=2 TICKS=0 NO_LOCK: lease_take() looks at a lease without its lock
 * refuted: SERVERS=2 CALLERS=1 TICKS=0 GIVE_FIRST: the home answers, and takes the tokens afterwards
 * refuted: SERVERS=1 CALLERS=1 TICKS=0 NOT_HELD: a lease is given up while it is asking
 * refuted: SERVERS=1 CALLERS=1 TICKS=0 LATE_ANSWER: an answer counts that comes after its connection has failed
 */
#define CAPACITY 2
#ifndef ASKS
#define ASKS	2				/* of each worker */
#endif
#ifndef RETURNS
#define RETURNS 1
#endif
#ifndef USES
#define USES	3				/* of each caller */
#endif
#define BREAKS	1				/* of links */

mtype = { take, put_back };

typedef Server
{
	/* shared memory: the lease */
	byte tokens;
	bit key;
	bit epoch;
	bit asking;
	bit known;					/* the home's epoch */
	/* on disk, if leases were saved */
	byte saved;
	bit saved_key;
	byte connection;			/* another one each time the link breaks */
	bit asked_key;				/* the question that is under way */
};
Server server[SERVERS];

/* what, key, tokens, epoch, connection */
chan question[SERVERS] = [2] of { mtype, bit, byte, bit, byte };
/* key, tokens, epoch, connection */
chan answer[SERVERS] = [2] of { bit, byte, bit, byte };

/* the home */
byte level[2];					/* of the buckets */
byte saved_level[2];
bit epoch;
byte given[2];					/* since it started, without what has come back of that */
byte gained[2];					/* since it started */

/* what the properties are about */
byte used[2];
byte all_gained[2];
byte forgotten[2];

byte crashes = 1;
byte home_crashes = 1;
byte ticks = TICKS;

/* rl_consume_leased(): lease_take() */
proctype caller(byte s)
{
	byte left = USES;
	byte tokens;
	bit k;

end:	do
	:: left > 0 && server[s].tokens > 0 && server[s].epoch == server[s].known ->
#ifdef NO_LOCK
		atomic { left--; tokens = server[s].tokens; k = server[s].key };
		d_step {
			server[s].tokens = tokens - 1;
			used[k]++;
			assert(used[k] <= CAPACITY + all_gained[k] + forgotten[k])
		}
#else
		d_step {
			left--;
			if
			:: server[s].tokens > 0 && server[s].epoch == server[s].known ->
				server[s].tokens--;
				k = server[s].key;
				used[k]++;
				assert(used[k] <= CAPACITY + all_gained[k] + forgotten[k])
			:: else
			fi;
			tokens = 0;
			k = 0
		}
#endif
	:: left == 0 -> break
	od
}

/* What a crash of a server, or of its worker's connection, leaves. */
inline break_link(s)
{
	server[s].connection++;
	do
	:: question[s]?[_, _, _, _, _] -> question[s]?_, _, _, _, _
	:: empty(question[s]) -> break
	od;
#ifndef LATE_ANSWER
	do
	:: answer[s]?[_, _, _, _] -> answer[s]?_, _, _, _
	:: empty(answer[s]) -> break
	od;
#endif
	server[s].asking = 0
}

/* The worker: leases_pop(), lease_credit(), leases_sweep(), link_close() */
proctype worker(byte s)
{
	byte asks = ASKS;
	byte returns = RETURNS;
	byte breaks = BREAKS;
	byte n;
	bit k;
	bit e;
	byte c;

end:	do
	:: atomic {					/* lease_ask() */
			asks > 0 && !server[s].asking && len(question[s]) < 2 ->
			asks--;
			server[s].asking = 1;
			server[s].asked_key = server[s].key;
			if
			:: question[s]!take, server[s].key, 1, 0, server[s].connection
			:: question[s]!take, server[s].key, 2, 0, server[s].connection
			fi
		}
	:: d_step {					/* lease_credit() */
			len(answer[s]) > 0 ->
			answer[s]?k, n, e, c;
			if
			:: server[s].asking ->
				assert(k == server[s].key);
				server[s].known = e;
				if
				:: server[s].epoch != e -> server[s].tokens = 0
				:: else
				fi;
				server[s].tokens = server[s].tokens + n;
				server[s].epoch = e;
				server[s].asking = 0
			:: else
			fi;
			k = 0; n = 0; e = 0; c = 0
		}
	:: returns > 0 && server[s].tokens > 0 && len(question[s]) < 2 ->
		/* leases_sweep(), then link_return() */
#ifdef KEEP_RETURNED
		d_step {
			n = server[s].tokens; k = server[s].key; e = server[s].epoch; returns--
		};
		question[s]!put_back, k, n, e, server[s].connection;
		d_step {
			server[s].tokens = (server[s].tokens > n -> server[s].tokens - n : 0);
			n = 0; k = 0; e = 0
		}
#else
		d_step {
			n = server[s].tokens; k = server[s].key; e = server[s].epoch; returns--;
			server[s].tokens = 0
		};
		if
		:: n > 0 -> question[s]!put_back, k, n, e, server[s].connection
		:: else
		fi;
#ifdef RETURN_AGAIN
		if
		:: n > 0 && breaks > 0 && len(question[s]) == 0 ->
			/* it has arrived, but the answer has not */
			d_step { breaks--; break_link(s) };
			question[s]!put_back, k, n, e, server[s].connection
		:: else
		fi;
#endif
		d_step { n = 0; k = 0; e = 0 }
#endif
	:: d_step {					/* the lease gives way to one of the other key */
			server[s].tokens == 0 &&
#ifndef NOT_HELD
			!server[s].asking &&
#endif
			(asks > 0 || server[s].asking) ->
			server[s].key = 1 - server[s].key
		}
	:: d_step { breaks > 0 -> breaks--; break_link(s) }
#ifdef CRASHES
#ifdef SAVED
	:: d_step { server[s].saved != server[s].tokens -> server[s].saved = server[s].tokens; server[s].saved_key = server[s].key }
#endif
	:: d_step {
			crashes > 0 ->
			crashes--;
			break_link(s);
			server[s].tokens = 0;
#ifdef ABSENT_FULL
			server[s].tokens = 2;
#endif
#ifdef SAVED
			server[s].tokens = server[s].saved;
			server[s].key = server[s].saved_key;
#endif
		}
#endif
	:: asks == 0 && !server[s].asking -> break
	od
}

/* rl_lease_take(), rl_lease_return() */
proctype home(byte s)
{
	mtype what;
	byte n;
	bit k;
	bit e;
	byte c;

end:	do
	:: question[s]?what, k, n, e, c;
		if
		:: what == take ->
#ifdef GIVE_FIRST
			d_step { n = (level[k] < n -> level[k] : n); e = epoch };
			if
			:: atomic { c == server[s].connection && len(answer[s]) < 2 -> answer[s]!k, n, e, c }
			:: else
			fi;
			d_step {
				level[k] = (level[k] < n -> 0 : level[k] - n);
				given[k] = given[k] + n
			}
#else
			d_step {
				n = (level[k] < n -> level[k] : n);
				level[k] = level[k] - n;
				given[k] = given[k] + n;
				e = epoch;
				assert(given[k] <= CAPACITY + gained[k])
			};
			/* the answer is lost if the connection has failed meanwhile */
			if
#ifdef LATE_ANSWER
			:: len(answer[s]) < 2 -> answer[s]!k, n, e, c
#else
			:: atomic { c == server[s].connection && len(answer[s]) < 2 -> answer[s]!k, n, e, c }
#endif
			:: else
			fi
#endif
		:: what == put_back ->
			d_step {
				if
#ifndef ANY_EPOCH
				:: e != epoch
				:: e == epoch ->
#else
				:: true ->
#endif
					if
					:: n > CAPACITY - level[k] -> n = CAPACITY - level[k]
					:: else
					fi;
					level[k] = level[k] + n;
					if
					:: e == epoch -> given[k] = (given[k] < n -> 0 : given[k] - n)
					:: else
					fi
				fi
			}
		fi;
		d_step { what = 0; n = 0; k = 0; e = 0; c = 0 }
	od
}

/* Time, and crashes of the home, which break the links */
proctype world()
{
	byte i;

end:	do
	:: d_step {
			ticks > 0 && level[0] < CAPACITY ->
			ticks--;
			level[0]++;
			gained[0]++;
			all_gained[0]++
		}
#ifdef HOME_CRASHES
	:: d_step {					/* it saves its buckets */
			home_crashes > 0 && (saved_level[0] != level[0] || saved_level[1] != level[1]) ->
			saved_level[0] = level[0];
			saved_level[1] = level[1]
		}
	:: d_step {
			home_crashes > 0 ->
			home_crashes--;
			i = 0;
			do
			:: i < 2 ->
				if
				:: saved_level[i] > level[i] -> forgotten[i] = forgotten[i] + saved_level[i] - level[i]
				:: else
				fi;
				level[i] = saved_level[i];
				given[i] = 0;
				gained[i] = 0;
				i++
			:: else -> break
			od;
			epoch = 1 - epoch;
			i = 0;
			do
			:: i < SERVERS -> break_link(i); i++
			:: else -> break
			od;
			i = 0
		}
#endif
	od
}

init
{
	byte i;
	byte j;

	d_step {
		level[0] = CAPACITY;
		level[1] = CAPACITY;
		saved_level[0] = CAPACITY;
		saved_level[1] = CAPACITY
	};
	atomic {
		run world();
		i = 0;
		do
		:: i < SERVERS ->
			run home(i);
			run worker(i);
			j = 0;
			do
			:: j < CALLERS -> run caller(i); j++
			:: else -> break
			od;
			i++
		:: else -> break
		od
	}
}
