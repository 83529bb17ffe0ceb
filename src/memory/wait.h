/*
 * memory/wait.h
 *		Waiting for what another process holds for a moment: see memory/wait.c.
 */
#ifndef RATELIMIT_MEMORY_WAIT_H
#define RATELIMIT_MEMORY_WAIT_H

#define SPINS				200 /* that a waiter makes before its first nap */

extern void give_way(int round);
extern bool give_way_for(int round, int64 *patience);

#endif							/* RATELIMIT_MEMORY_WAIT_H */
