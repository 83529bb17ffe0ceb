/*
 * decide/blocks.c
 *		Keys that are blocked for a time.
 *
 * A block is kept as a bucket of its own, of one token a second, which owes the
 * seconds that the block still lasts: it is full, and so gone, when the block
 * ends.  So it lives where buckets live, in shared memory or as a row, is
 * forgotten, saved and restored as they are.  Its limiter is that of the key with
 * a colon before it, which no other bucket's has.
 *
 * Nearly every key has none, and memory/block_filter.c tells so.  Rows from before the
 * server started are noticed when the worker goes through the table; until then every
 * key may be blocked.
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

/* Longer blocks, of 30,000 years, are as good as this. */
#define BLOCK_MAX_SECONDS	1e12

/* The bucket that is the block of a bucket's key. */
typedef struct KeyBlock
{
	BucketId	id;
	char		limiter[MAX_LIMITER_LEN + 1];
} KeyBlock;

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

		if (memory_attached() && memory_peek(&block.id, &rule, &decision))
			left = decision.owed;
		else if (in_table && look == 0)
			(void) table_peek(&block.id, &rule, &left);
		else
			break;
	}

	if (memory_attached())
	{
		/* a standby has none in the table, also as a primary */
		blocks_known = RecoveryInProgress() ||
			(my_shared_database() != NULL && spill_known());
		if (left == 0)
			block_filter_lower(id->hash);
	}
	return left;
}

/* Block the key for so many ns. */
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
	/* it may have waited, and the block ends as much later */
	if (block_filter)
		block_filter_raise(id->hash, left);
}

/* Unblock the key: was it blocked? */
bool
unblock_key(const BucketId *id)
{
	KeyBlock	block;

	make_block_id(&block, id);
	return reset_bucket(&block.id);
}
