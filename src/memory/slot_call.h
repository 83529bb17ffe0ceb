/*
 * memory/slot_call.h
 *		A call on slots, its result, and what the view rate_limit_slots shows.
 */
#ifndef RATELIMIT_MEMORY_SLOT_CALL_H
#define RATELIMIT_MEMORY_SLOT_CALL_H

#include "core/names.h"

/* The longest interval and timeout, in nanoseconds: 73 years. */
#define MAX_HOLD	(PG_INT64_MAX / 4)

/* Until when slots are held, unless they are released before. */
typedef enum HoldKind
{
	HOLD_TRANSACTION,			/* the end of the transaction or its savepoint */
	HOLD_SESSION,				/* the end of the backend */
	HOLD_INTERVAL				/* a time */
} HoldKind;

/* The arguments of a call. */
typedef struct AcquireCall
{
	const BucketId *id;
	int32		slots;			/* that the key has, >= 0 */
	int32		weight;			/* how many of them to hold, > 0 */
	HoldKind	hold;
	int64		length;			/* of the interval, nanoseconds, > 0 */
	int64		timeout;		/* nanoseconds, >= 0 */
	bool		shadow;			/* a call that gets none is allowed all the same */
} AcquireCall;

typedef enum AcquireResult
{
	ACQUIRED,
	ACQUIRE_FULL,				/* too many slots are held, or others wait */
	ACQUIRE_NO_ROOM				/* there is no room for a ticket */
} AcquireResult;

typedef enum TicketResult
{
	TICKET_DONE,
	TICKET_UNKNOWN,				/* it holds nothing, or belongs to another backend */
	TICKET_FOREIGN,				/* it belongs to another role */
	TICKET_NO_INTERVAL			/* a transaction or session holds it */
} TicketResult;

/* A ticket or a waiter, as rate_limit_slots shows it. */
typedef struct SlotsView
{
	char		limiter[MAX_LIMITER_LEN];
	char		key[MAX_KEY_LEN];
	int			limiter_len;
	int			key_len;
	bool		waits;
	int64		ticket;			/* 0 if it waits */
	int32		weight;
	HoldKind	hold;
	int32		pid;
	Oid			role;
	int64		since;			/* monotonic clock */
	int64		until;			/* likewise, if it is an interval's */
	/* of its key: */
	int32		slots;			/* of the last call */
	int64		held;			/* slots; -1: not known, nor is how many wait */
	uint32		waiters;
} SlotsView;

#endif							/* RATELIMIT_MEMORY_SLOT_CALL_H */
