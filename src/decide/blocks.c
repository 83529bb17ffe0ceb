/*
 * decide/blocks.c
 *		Blocking keys for a time, and finding out whether a key is blocked.
 *
 * A block is kept as a bucket of its own.  That bucket refills by one token a second
 * and owes the seconds that the block still lasts, so it is full, and thereby gone,
 * when the block ends.  It lives where other buckets live, in shared memory or as a
 * row, and is forgotten, saved and restored as they are.  Its limiter is the limiter
 * of the blocked key with a colon in front, which no other bucket's limiter has.
 *
 * Nearly every key has no block, and the filter in memory/block_filter.c says so
 * without a search.  The filter learns of rows that are older than the start of the
 * server when the worker goes through the table; until then every key may be blocked.
 *
 * Calls on blocked keys are denied in decide/one.c and decide/several.c.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "decide/blocks.h"
#include "decide/stores.h"
#include "memory/block_filter.h"
#include "memory/consume.h"
#include "memory/databases.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "table/store.h"

/* 30,000 years; a longer block lasts no longer than this. */
#define BLOCK_MAX_SECONDS	1e12

/* The bucket that stands for the block of another bucket's key. */
typedef struct KeyBlock
{
	BucketId	id;
	char		limiter[MAX_LIMITER_LEN + 1];
} KeyBlock;

static void
make_block_id(KeyBlock *block, const BucketId *id)
{
	/* a block is of the limiter, whatever the period */
	int			len = plain_limiter_len(id->limiter, id->limiter_len);

	block->limiter[0] = BLOCK_PREFIX;
	memcpy(block->limiter + 1, id->limiter, len);
	make_bucket_id(&block->id, id->database, block->limiter, len + 1,
				   id->key, id->key_len);
}

static void
block_rule(BucketRule *rule)
{
	bucket_rule(rule, BLOCK_MAX_SECONDS, 1, 0);
}

/* Note whether the filter knows all blocks by now. */
static void
note_known(void)
{
	/*
	 * A standby has no blocks in its table, and still has none when it is promoted,
	 * because an unlogged table is then empty.
	 */
	blocks_known = RecoveryInProgress() ||
		(my_shared_database() != NULL && spill_known());
}

/* May any key be blocked?  "No" is certain. */
bool
blocks_possible(void)
{
	if (!memory_attached())
		return true;
	note_known();
	return !blocks_known || pg_atomic_read_u32(block_cells_used) != 0;
}

/* For how many nanoseconds is the key still blocked?  0 if it is not. */
Owed
block_left(const BucketId *id)
{
	KeyBlock	block;
	BucketRule	rule;
	Decision	decision;
	Owed		left = 0;

	make_block_id(&block, id);
	block_rule(&rule);

	/*
	 * The worker may move the block from the table to memory after we have looked in
	 * memory and before we look in the table.  So if it is in neither, look again.
	 */
	for (int look = 0; look < 2 && left == 0; look++)
	{
		bool		in_table = table_may_hold(&block.id);

		if (memory_attached() && memory_peek(&block.id, &rule, &decision))
			left = decision.owed;
		else if (in_table && look == 0)
			(void) table_peek(&block.id, &rule, &left);
		else
			break;
	}

	if (memory_attached())
	{
		note_known();
		if (left == 0)
			block_filter_lower(id->hash);
	}
	return left;
}

/*
 * Block the key for so many nanoseconds.
 *
 * The filter is told before the block is set, so that no call overlooks a block that
 * is there, and again afterwards: setting the block may have waited, and the block
 * then ends that much later than the filter was told.
 */
void
block_key(const BucketId *id, Owed left)
{
	KeyBlock	block;
	BucketRule	rule;

	make_block_id(&block, id);
	block_rule(&rule);
	left = Min(left, rule.window);
	if (block_filter)
		block_filter_raise(id->hash, left);
	set_bucket(&block.id, &rule, left);
	if (block_filter)
		block_filter_raise(id->hash, left);
}

/* Unblock the key.  Returns whether it was blocked. */
bool
unblock_key(const BucketId *id)
{
	KeyBlock	block;

	make_block_id(&block, id);
	return reset_bucket(&block.id);
}
