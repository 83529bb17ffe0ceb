/*
 * decide/blocks.h
 *		Blocking keys for a time: see decide/blocks.c.
 */
#ifndef RATELIMIT_DECIDE_BLOCKS_H
#define RATELIMIT_DECIDE_BLOCKS_H

#include "core/call.h"

extern bool blocks_possible(void);
extern Owed block_left(const BucketId *id);
extern void block_key(const BucketId *id, Owed left);
extern bool unblock_key(const BucketId *id);

#endif							/* RATELIMIT_DECIDE_BLOCKS_H */
