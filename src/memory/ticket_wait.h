/*
 * memory/ticket_wait.h
 *		Waiting for slots in shared memory: see memory/ticket_wait.c.
 */
#ifndef RATELIMIT_MEMORY_TICKET_WAIT_H
#define RATELIMIT_MEMORY_TICKET_WAIT_H

#include "memory/semaphores.h"

extern bool wait_for_ticket(const AcquireCall *call, const Holder *holder, uint32 n,
							uint32 cell, int64 now, int64 *number);

#endif							/* RATELIMIT_MEMORY_TICKET_WAIT_H */
