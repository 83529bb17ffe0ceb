/*
 * table/ticket_rows.h
 *		Intervals for which slots are held without shared memory: see
 *		table/ticket_rows.c.
 */
#ifndef RATELIMIT_TICKET_ROWS_H
#define RATELIMIT_TICKET_ROWS_H

#include "memory/slot_call.h"
#include "table/place_locks.h"

extern void ticket_rows_find_places(const BucketId *id, bool *taken);
extern void ticket_row_write(const AcquireCall *call, int64 ticket, Oid role,
							 const uint16 *places, int n);
extern bool ticket_row_find(int64 ticket, bool (*acts_for) (Oid role), LOCKTAG *tag,
							uint16 *places, int *n);
extern bool ticket_row_delete(int64 ticket);
extern bool ticket_row_renew(int64 ticket, int64 length);
extern void ticket_rows_show(const SlotsView *blank,
							 void (*show) (const SlotsView *view, void *arg), void *arg);

#endif							/* RATELIMIT_TICKET_ROWS_H */
