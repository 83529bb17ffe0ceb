/*
 * shared.h
 *		Shared memory: homes, workers, servers that lease from this one.
 *
 * Leases are in leases.h.
 */
#ifndef REGION_SHARED_H
#define REGION_SHARED_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#define MAX_HOMES	64
#define MAX_WORKERS 16
#define MAX_SERVERS 256
#define SERVER_NAME_LENGTH 128
#define LIMITER_LENGTH 63
#define KEY_LENGTH	255
#define MESSAGE_SIZE 256

typedef enum HomeState
{
	HOME_NEW,					/* the first connection is being made */
	HOME_THERE,
	HOME_AWAY					/* calls do not wait for it */
} HomeState;

/*
 * A server that is the home of keys, as seen from one database.
 *
 * "database", "server" and "name" are written under shared->lock, before n_homes grows, or
 * when the home of a database that has been dropped gives way to another.  The others are written by the worker of the database, except for the counters
 * of decisions, to which leases that are given up add theirs.
 */
typedef struct Home
{
	Oid			database;
	Oid			server;			/* the foreign server */
	NameData	name;
	pg_atomic_uint32 state;		/* HomeState */
	pg_atomic_uint64 epoch;		/* of the tokens that it gave last; 0: none yet */
	pg_atomic_uint64 round_trip;	/* microseconds, of late */
	/* under shared->lock */
	TimestampTz since;
	char		error[MESSAGE_SIZE];
	/* portions */
	pg_atomic_uint64 asked;
	pg_atomic_uint64 failed;
	/* tokens: see add_tokens() */
	pg_atomic_uint64 taken;
	pg_atomic_uint64 returned;
	pg_atomic_uint64 lost;
	/* decisions on leases that are given up; the others are in the leases */
	pg_atomic_uint64 here;
	pg_atomic_uint64 waited;
	pg_atomic_uint64 denied;
	pg_atomic_uint64 undecided;
} Home;

/* The worker of a database.  All of it is under shared->lock. */
typedef struct Worker
{
	Oid			database;		/* 0: free */
	int			pid;			/* 0: it does not run */
	Latch	   *latch;
	int64		starting;		/* until then it may be on its way; microseconds */
	int32		queue;			/* the first lease that wants it; -1: none */
} Worker;

/* A server that leases from this one.  All of it is under shared->lock. */
typedef struct LeasingServer
{
	Oid			database;
	char		name[SERVER_NAME_LENGTH];
	TimestampTz seen;
	double		taken;			/* tokens */
	double		returned;
} LeasingServer;

typedef struct Shared
{
	LWLock	   *lock;
	/*
	 * Tokens that this server gives as a home are void once shared memory is made
	 * anew, as its buckets may have forgotten them.
	 */
	uint64		epoch;
	uint64		seed;			/* of the hashes of names */
	pg_atomic_uint32 n_homes;
	Home		homes[MAX_HOMES];
	Worker		workers[MAX_WORKERS];
	int			n_servers;
	LeasingServer servers[MAX_SERVERS];
} Shared;

extern Shared *shared;

/* Tokens are added up as the bits of a double: there may be more than an integer holds. */
static inline double
sum_of_tokens(pg_atomic_uint64 *sum)
{
	uint64		bits = pg_atomic_read_u64(sum);
	double		tokens;

	memcpy(&tokens, &bits, sizeof(tokens));
	return tokens;
}

static inline void
add_tokens(pg_atomic_uint64 *sum, double tokens)
{
	uint64		before = pg_atomic_read_u64(sum);
	uint64		after;
	double		total;

	do
	{
		memcpy(&total, &before, sizeof(total));
		total += tokens;
		memcpy(&after, &total, sizeof(after));
	} while (!pg_atomic_compare_exchange_u64(sum, &before, after));
}

extern void shared_request(void);
extern void shared_startup(void);
extern void shared_check(void);
extern int64 now_us(void);
extern int	home_index(Oid server, const char *name);
extern bool worker_wake(void);
extern int	server_seen(const char *name, double taken, double returned);

#endif							/* REGION_SHARED_H */
