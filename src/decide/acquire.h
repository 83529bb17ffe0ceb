/*
 * decide/acquire.h
 *		Acquiring, releasing and renewing slots: see decide/acquire.c.
 */
#ifndef RATELIMIT_DECIDE_ACQUIRE_H
#define RATELIMIT_DECIDE_ACQUIRE_H

#include "memory/slot_call.h"

extern bool acquire_slots(AcquireCall *call, int64 *ticket);
extern bool release_ticket(int64 ticket);
extern bool renew_ticket(int64 ticket, int64 length);

#endif							/* RATELIMIT_DECIDE_ACQUIRE_H */
