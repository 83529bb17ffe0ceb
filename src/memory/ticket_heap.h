/*
 * memory/ticket_heap.h
 *		The heap of a partition's tickets that expire: see memory/ticket_heap.c.
 */
#ifndef RATELIMIT_MEMORY_TICKET_HEAP_H
#define RATELIMIT_MEMORY_TICKET_HEAP_H

#include "memory/semaphores.h"

extern void heap_add(Ticket *tickets, uint32 *heap, uint32 cell);
extern void heap_remove(Ticket *tickets, uint32 *heap, uint32 cell);

#endif							/* RATELIMIT_MEMORY_TICKET_HEAP_H */
