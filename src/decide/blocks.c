/*
 * decide/blocks.c
 *		Keys that are blocked for a time: rl_block(), rl_unblock().
 *
 * A block is kept as a bucket of its own, of one token a second, which owes the
 * seconds that the block still lasts: it is full, and so gone, when the block
 * ends.  So it lives where buckets live, in shared memory or as a row, is
 * forgotten, saved and restored as they are.  Its limiter is that of the key with
 * a colon before it, which no other bucket's has.
 *
 * Blocks are rare, and a decision must not pay for looking for one.  In shared
 * memory a filter tells for nearly every key that it has none: a cell for every
 * 4096th part of the hashes, set before the block is, wherever it lives, and
 * cleared when somebody finds that all of its blocks have ended.  Rows from
 * before the server started are noticed when the worker goes through the table;
 * until then every key may be blocked.
 */
#include "ratelimit.h"

#include "access/xlog.h"
#include "decide/blocks.h"
#include "memory/databases.h"
#include "miscadmin.h"
#include "storage/shmem.h"

PG_FUNCTION_INFO_V1(rl_block);
PG_FUNCTION_INFO_V1(rl_unblock);

/* Longer blocks, of 30,000 years, are as good as this. */
#define BLOCK_MAX_SECONDS	1e12

#define CELL_UNIT			((Owed) 1 << 30)	/* ns */

BlockFilter *block_filter = NULL;
pg_atomic_uint32 *block_cells_used hot_data = NULL;
bool		blocks_known hot_data = false;

/* The bucket that is the block of a bucket's key. */
typedef struct KeyBlock
{
	BucketId	id;
	char		limiter[MAX_LIMITER_LEN + 1];
} KeyBlock;

Size
block_filter_size(void)
{
	return sizeof(BlockFilter);
}

/*
 * Holding AddinShmemInitLock.  The number of cells used, which every call reads, is
 * where it reads anyway.
 */
void
block_filter_startup(void *memory, pg_atomic_uint32 *cells_used, bool found)
{
	block_filter = memory;
	block_cells_used = cells_used;
	if (found)
		return;
	pg_atomic_init_u32(cells_used, 0);
	for (int i = 0; i < BLOCK_CELLS; i++)
		pg_atomic_init_u32(&block_filter->until[i], 0);
}

static void
make_block_id(KeyBlock *block, const BucketId *id)
{
	block->limiter[0] = BLOCK_PREFIX;
	memcpy(block->limiter + 1, id->limiter, id->limiter_len);
	make_bucket_id(&block->id, id->database, block->limiter, id->limiter_len + 1,
				   id->key, id->key_len);
}

static void
block_rule(BucketRule *rule)
{
	bucket_rule(rule, BLOCK_MAX_SECONDS, 1, 0);
}

/*
 * The filter
 */

/* A key with this hash is to be blocked for so many ns. */
static void
raise_cell(uint64 hash, Owed left)
{
	Owed		wanted = (monotonic_ns() + left) / CELL_UNIT + 1;
	uint32		until = (uint32) Min(wanted, (Owed) PG_UINT32_MAX);
	pg_atomic_uint32 *cell = block_cell(hash);
	uint32		old = pg_atomic_read_u32(cell);

	/* counted before it is set, so never too low; swapping is a full barrier */
	pg_atomic_fetch_add_u32(block_cells_used, 1);
	while (old < until && !pg_atomic_compare_exchange_u32(cell, &old, until))
		;
	if (old != 0)
		pg_atomic_fetch_sub_u32(block_cells_used, 1);
}

/* Clear the key's cell if all of its blocks have ended. */
static void
lower_cell(uint64 hash)
{
	pg_atomic_uint32 *cell = block_cell(hash);
	uint32		old = pg_atomic_read_u32(cell);

	if (old != 0 && old <= monotonic_ns() / CELL_UNIT &&
		pg_atomic_compare_exchange_u32(cell, &old, 0))
		pg_atomic_fetch_sub_u32(block_cells_used, 1);
}

/* A block has been found in the table, or is restored. */
void
block_noticed(const BucketId *block, Owed left)
{
	BucketId	id;

	if (!block_filter)
		return;
	make_bucket_id(&id, block->database, block->limiter + 1, block->limiter_len - 1,
				   block->key, block->key_len);
	raise_cell(id.hash, left);
}

/*
 * Blocks
 */

/* For how many ns is the key still blocked?  0: it is not. */
Owed
block_left(const BucketId *id)
{
	KeyBlock		block;
	BucketRule	rule;
	Decision	decision;
	Owed		left = 0;

	make_block_id(&block, id);
	block_rule(&rule);

	/* the second look: it was moved from the table meanwhile */
	for (int look = 0; look < 2 && left == 0; look++)
	{
		bool		in_table = table_may_hold(&block.id);

		if (shmem_attached() && shmem_peek(&block.id, &rule, &decision))
			left = decision.owed;
		else if (in_table && look == 0)
			(void) table_peek(&block.id, &rule, &left);
		else
			break;
	}

	if (shmem_attached())
	{
		/* a standby has none in the table, also as a primary */
		blocks_known = RecoveryInProgress() ||
			(my_shared_database() != NULL && spill_known());
		if (left == 0)
			lower_cell(id->hash);
	}
	return left;
}

/* rl_block(key, duration, limiter) returns void */
Datum
rl_block(PG_FUNCTION_ARGS)
{
	BucketId	id;
	KeyBlock		block;
	BucketRule	rule;
	Owed		left;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "duration");
	check_not_null(fcinfo, 2, "limiter");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(2));
	left = get_span("duration", PG_GETARG_INTERVAL_P(1), 1);

	make_block_id(&block, &id);
	block_rule(&rule);
	left = Min(left, rule.window);
	if (block_filter)
		raise_cell(id.hash, left);
	set_bucket(&block.id, &rule, left);
	/* it may have waited, and the block ends as much later */
	if (block_filter)
		raise_cell(id.hash, left);
	PG_RETURN_VOID();
}

/* rl_unblock(key, limiter) returns boolean: was it blocked? */
Datum
rl_unblock(PG_FUNCTION_ARGS)
{
	BucketId	id;
	KeyBlock		block;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "limiter");
	get_bucket_id(&id, PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1));
	make_block_id(&block, &id);
	PG_RETURN_BOOL(reset_bucket(&block.id));
}
