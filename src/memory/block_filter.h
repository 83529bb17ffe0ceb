/*
 * memory/block_filter.h
 *		Which keys may be blocked: see memory/block_filter.c.
 */
#ifndef RATELIMIT_MEMORY_BLOCK_FILTER_H
#define RATELIMIT_MEMORY_BLOCK_FILTER_H

#include "core/call.h"
#include "core/compat.h"
#include "core/parts.h"
#include "port/atomics.h"

#define BLOCK_CELLS 4096

/*
 * Each key has a cell, by its hash, which is not 0 while one of its keys may be
 * blocked.
 */
typedef struct BlockFilter
{
	pg_atomic_uint32 until[BLOCK_CELLS];	/* when the last block of the cell's keys
											 * ends, in 2^30 ns, rounded up */
} BlockFilter;

extern const Part block_filter_part;

/* NULL if there is no shared memory. */
extern hidden_data BlockFilter *block_filter;

/* How many cells are not 0; it may be too high for a moment, but never too low. */
extern hidden_data pg_atomic_uint32 *block_cells_used;

/* Does the filter know of all blocks in the table? */
extern hidden_data bool blocks_known;

extern void block_filter_raise(uint64 hash, Owed left);
extern void block_filter_lower(uint64 hash);
extern void block_noticed(const BucketId *block, Owed left);

static inline pg_atomic_uint32 *
block_cell(uint64 hash)
{
	return &block_filter->until[hash / (PG_UINT64_MAX / BLOCK_CELLS + 1)];
}

/* May the key be blocked?  "No" is certain. */
static inline bool
block_possible(const BucketId *id)
{
	if (unlikely(!blocks_known))
		return true;
	if (likely(pg_atomic_read_u32(block_cells_used) == 0))
		return false;
	return pg_atomic_read_u32(block_cell(id->hash)) != 0;
}

#endif							/* RATELIMIT_MEMORY_BLOCK_FILTER_H */
