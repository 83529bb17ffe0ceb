/*
 * decide/reserve.h
 *		Reservations, in whichever place they are kept: see decide/reserve.c.
 */
#ifndef RATELIMIT_DECIDE_RESERVE_H
#define RATELIMIT_DECIDE_RESERVE_H

#include "core/call.h"
#include "datatype/timestamp.h"
#include "memory/reservations.h"

/* What has become of the tokens of an allowed call. */
typedef enum ReserveResult
{
	RESERVED,
	RESERVE_ALLOWED,			/* not reserved, and ratelimit.on_error allows that */
	RESERVE_DENIED				/* not reserved, and ratelimit.on_error denies that */
} ReserveResult;

typedef void (*ShowReservation) (const Reservation *reservation, TimestampTz expires_at,
								 bool in_table, void *arg);

extern void reserve_prepare(int n);
extern ReserveResult reserve_keep(const BucketCall *calls, int n, double tokens,
								  int64 expires, int64 *number);
extern bool reserve_settle(int64 number, double used, double *left);
extern void reserve_show(ShowReservation show, void *arg);

#endif							/* RATELIMIT_DECIDE_RESERVE_H */
