/*
 * memory/block_filter.c
 *		Which keys may be blocked.
 *
 * Blocks are rare (decide/blocks.c), and a decision must not pay for looking for one.
 * For nearly every key the filter tells that it has none.  It has a cell for every
 * 4096th part of the hashes.  A cell is set before a block of one of its keys is
 * made, whichever store that lives in, and is cleared when somebody finds that all
 * blocks of its keys have ended.  The blocks themselves are buckets, and are not kept
 * here.
 */
#include "postgres.h"

#include "core/clock.h"
#include "memory/block_filter.h"
#include "memory/slots.h"

#define CELL_UNIT			((Owed) 1 << 30)	/* ns */

BlockFilter *block_filter = NULL;
pg_atomic_uint32 *block_cells_used = NULL;
bool		blocks_known = false;

/* Note that a key with this hash is going to be blocked for so many ns. */
void
block_filter_raise(uint64 hash, Owed left)
{
	Owed		wanted = (monotonic_ns() + left) / CELL_UNIT + 1;
	uint32		until = (uint32) Min(wanted, (Owed) PG_UINT32_MAX);
	pg_atomic_uint32 *cell = block_cell(hash);
	uint32		old = pg_atomic_read_u32(cell);

	/*
	 * The cell is counted before it is set, so that the count is never too low:
	 * swapping is a store-release at least.
	 */
	pg_atomic_fetch_add_u32(block_cells_used, 1);
	while (old < until && !pg_atomic_compare_exchange_u32(cell, &old, until))
		;
	if (old != 0)
		pg_atomic_fetch_sub_u32(block_cells_used, 1);
}

/* Clear the key's cell if all blocks of the cell's keys have ended. */
void
block_filter_lower(uint64 hash)
{
	pg_atomic_uint32 *cell = block_cell(hash);
	uint32		old = pg_atomic_read_u32(cell);

	if (old != 0 && old <= monotonic_ns() / CELL_UNIT &&
		pg_atomic_compare_exchange_u32(cell, &old, 0))
		pg_atomic_fetch_sub_u32(block_cells_used, 1);
}

/* Note a block that has been found in the table or in the saved state. */
void
block_noticed(const BucketId *block, Owed left)
{
	BucketId	id;

	if (!block_filter)
		return;
	make_bucket_id(&id, block->database, block->limiter + 1, block->limiter_len - 1,
				   block->key, block->key_len);
	block_filter_raise(id.hash, left);
}

static Size
size(void)
{
	return sizeof(BlockFilter);
}

/*
 * Attach the filter, and make it if it was not found.  The number of used cells,
 * which every call reads, is in the header of memory_part, where a call reads anyway,
 * so that part must come before this one.
 */
static void
startup(void *memory, LWLockPadded *locks, bool found)
{
	block_filter = memory;
	block_cells_used = &store.header->block_cells;
	for (int i = 0; i < BLOCK_CELLS && !found; i++)
		pg_atomic_init_u32(&block_filter->until[i], 0);
}

const Part	block_filter_part = {
	.name = "ratelimit blocks",
	.size = size,
	.startup = startup
};
