/*
 * memory/reservations.h
 *		Reservations in shared memory: see memory/reservations.c.
 */
#ifndef RATELIMIT_MEMORY_RESERVATIONS_H
#define RATELIMIT_MEMORY_RESERVATIONS_H

#include "core/names.h"
#include "core/parts.h"

#define MAX_RESERVED	8		/* buckets that one reservation may hold tokens of */

/*
 * The parameters that a bucket had when its tokens were reserved.  A refill below 0 says
 * in which period they were, as in core/bucket.h.
 */
typedef struct ReservedRule
{
	double		capacity;
	double		refill;
} ReservedRule;

/*
 * Tokens that have been taken from one bucket, or from the buckets of a policy's
 * tiers, and of which a later call says how many were used.
 */
typedef struct Reservation
{
	int64		number;			/* 0: there is none here */
	int64		expires_at;		/* by the monotonic clock, in nanoseconds */
	double		tokens;			/* of each bucket */
	Oid			database;
	Oid			role;			/* that reserved them */
	uint8		n;				/* buckets */
	uint8		n_settled;		/* the first so many are settled already */
	uint8		busy;			/* 1: a session is settling it */
	uint8		key_len;
	uint8		limiter_lens[MAX_RESERVED];
	ReservedRule rules[MAX_RESERVED];
	/* key, then limiters */
	char		names[MAX_KEY_LEN + MAX_RESERVED * MAX_BUCKET_LIMITER_LEN];
} Reservation;

/* Reservations in memory have even numbers, those in the table odd ones. */
#define NUMBER_IN_TABLE		INT64CONST(1)

extern const Part reservations_part;

extern int64 reservation_number(void);
extern bool reserved_rule_valid(const ReservedRule *rule, const char *limiter, int len);
extern Size reservation_size(const Reservation *reservation);
extern void reservation_bucket(const Reservation *reservation, int i, BucketId *id);
extern bool reservations_put(Reservation *reservation);
extern bool reservations_begin(int64 number, Oid database, Reservation *reservation);
extern void reservations_end(const Reservation *reservation, bool settled);
extern int	reservations_places(void);
extern bool reservations_view(int place, Oid database, Reservation *reservation);

#endif							/* RATELIMIT_MEMORY_RESERVATIONS_H */
