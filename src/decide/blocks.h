/*
 * decide/blocks.h
 *		Keys that are blocked for a time: see decide/blocks.c.
 */
#ifndef RATELIMIT_BLOCK_H
#define RATELIMIT_BLOCK_H

#include "port/atomics.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

#define BLOCK_CELLS 4096

/*
 * Which keys may be blocked: each has a cell, by its hash, that is not 0 while
 * any of the cell's keys may be.
 */
typedef struct BlockFilter
{
	pg_atomic_uint32 until[BLOCK_CELLS];	/* when the last block of its keys
											 * ends, in 2^30 ns, rounded up */
} BlockFilter;

extern BlockFilter *block_filter;	/* NULL: not preloaded */
extern pg_atomic_uint32 *block_cells_used;	/* that are not 0, or more */
extern bool blocks_known;		/* those in the table have been noticed */

static inline pg_atomic_uint32 *
block_cell(uint64 hash)
{
	return &block_filter->until[hash / (PG_UINT64_MAX / BLOCK_CELLS + 1)];
}

/* May the key be blocked?  If not, it is not. */
static inline bool
block_possible(const BucketId *id)
{
	if (unlikely(!blocks_known))
		return true;
	if (likely(pg_atomic_read_u32(block_cells_used) == 0))
		return false;
	return pg_atomic_read_u32(block_cell(id->hash)) != 0;
}

extern Size block_filter_size(void);
extern void block_filter_startup(void *memory, pg_atomic_uint32 *cells_used, bool found);
extern Owed block_left(const BucketId *id);
extern void block_noticed(const BucketId *block, Owed left);

#pragma GCC visibility pop

#endif							/* RATELIMIT_BLOCK_H */
