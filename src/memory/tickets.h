/*
 * memory/tickets.h
 *		Holding and freeing slots under a partition's lock: see memory/tickets.c.
 */
#ifndef RATELIMIT_MEMORY_TICKETS_H
#define RATELIMIT_MEMORY_TICKETS_H

#include "memory/semaphores.h"

extern bool semaphores_attached(void);
extern void semaphores_lock(uint32 partition);
extern void semaphores_unlock(uint32 partition);
extern void semaphores_lock_up_to_date(uint32 partition, int64 now);
extern void semaphores_expire(void);
extern uint32 pop_ticket(Oid role, Oid database, bool fair);
extern void push_ticket(uint32 cell);
extern uint32 find_or_make_semaphore(const BucketId *id);
extern bool ticket_is_in(uint32 cell, uint32 partition);
extern void hold_slots(uint32 cell, uint32 n, const Holder *holder, int64 now);
extern void free_slots(uint32 cell, int64 now);
extern void hold_until(uint32 cell, int64 until);
extern bool expire_some(uint32 partition, int64 now);
extern void enqueue_waiter(uint32 n, uint32 me);
extern void dequeue_waiter(uint32 me, int64 now);

static inline uint32
semaphore_partition(uint64 hash)
{
	return hash % SEMAPHORE_PARTITIONS;
}

static inline uint32
ticket_cell(int64 number)
{
	return number & (MAX_TICKET_CELLS - 1);
}

/* The ticket's partition, read without a lock. */
static inline uint32
ticket_partition(uint32 cell)
{
	return ((const volatile Ticket *) semaphores.tickets)[cell].partition %
		SEMAPHORE_PARTITIONS;
}

#endif							/* RATELIMIT_MEMORY_TICKETS_H */
