/*
 * table/places.h
 *		Slots without shared memory: see table/places.c.
 */
#ifndef RATELIMIT_PLACES_H
#define RATELIMIT_PLACES_H

#include "memory/slot_call.h"

extern AcquireResult places_acquire(const AcquireCall *call, int64 *ticket);
extern bool places_release(int64 ticket, bool (*acts_for) (Oid role));
extern TicketResult places_renew(int64 ticket, int64 length, bool (*acts_for) (Oid role));
extern void places_views(void (*show) (const SlotsView *view, void *arg), void *arg);

#endif							/* RATELIMIT_PLACES_H */
