/*
 * memory/acquire.h
 *		Acquiring and releasing slots in shared memory: see memory/acquire.c.
 */
#ifndef RATELIMIT_MEMORY_ACQUIRE_H
#define RATELIMIT_MEMORY_ACQUIRE_H

#include "memory/slot_call.h"

extern AcquireResult semaphore_acquire(const AcquireCall *call, int64 *number);
extern TicketResult semaphore_release(int64 number, Oid role, Oid *owner);
extern TicketResult semaphore_renew(int64 number, int64 length, Oid role, Oid *owner);

#endif							/* RATELIMIT_MEMORY_ACQUIRE_H */
