/*
 * memory/holdings.h
 *		What a backend holds: see memory/holdings.c.
 */
#ifndef RATELIMIT_MEMORY_HOLDINGS_H
#define RATELIMIT_MEMORY_HOLDINGS_H

extern void holdings_prepare(void);
extern uint32 ready_ticket(void);
extern void ready_ticket_used(void);
extern void keep_ticket(uint32 cell);
extern void holdings_add(uint32 cell);
extern void holdings_remove(uint32 cell);

#endif							/* RATELIMIT_MEMORY_HOLDINGS_H */
