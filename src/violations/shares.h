/*
 * violations/shares.h
 *		Fair shares of a room that every role may fill.  See violations/shares.c.
 */
#ifndef RATELIMIT_SHARES_H
#define RATELIMIT_SHARES_H

#include "port/atomics.h"

#define SHARE_CELLS		1024
#define NO_CELL			(-1)

/* The places of a room, in shared memory. */
typedef struct Shares
{
	uint64		seed;
	uint32		max;			/* places that there are */
	pg_atomic_uint32 used;		/* places in use, at most max */
	pg_atomic_uint32 active;	/* cells that have a place */
	pg_atomic_uint32 cells[SHARE_CELLS];	/* places that each cell has */
} Shares;

extern void shares_init(Shares *shares, uint64 seed, uint32 max);
extern int	shares_my_cell(const Shares *shares, Oid database);
extern bool shares_take(Shares *shares, int cell);
extern void shares_give(Shares *shares, int cell);
extern void shares_pass(Shares *shares, int from, int to);
extern bool shares_is_below(Shares *shares, int cell);
extern bool shares_is_above(Shares *shares, int cell, int newcomer);

#endif							/* RATELIMIT_SHARES_H */
