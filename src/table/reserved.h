/*
 * table/reserved.h
 *		Reservations in rate_limit_reserved: see table/reserved.c.
 */
#ifndef RATELIMIT_TABLE_RESERVED_H
#define RATELIMIT_TABLE_RESERVED_H

#include "datatype/timestamp.h"
#include "memory/reservations.h"

typedef void (*ShowReserved) (const Reservation *reservation, TimestampTz expires_at,
							  void *arg);

extern bool reserved_can_write(void);
extern void reserved_insert(const Reservation *reservation, TimestampTz expires_at);
extern bool reserved_find(int64 number, Reservation *reservation);
extern void reserved_show(ShowReserved show, void *arg);

#endif							/* RATELIMIT_TABLE_RESERVED_H */
