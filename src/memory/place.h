/*
 * memory/place.h
 *		Making buckets in shared memory: see memory/place.c.
 */
#ifndef RATELIMIT_MEMORY_PLACE_H
#define RATELIMIT_MEMORY_PLACE_H

#include "core/call.h"

typedef enum PlaceMode
{
	PLACE_OR_SPILL,				/* when there is no room, or the partition has
								 * spilled: to the table */
	PLACE_OR_EVICT,				/* when there is no room, another gives way */
	PLACE_HERE,					/* the same, spilled or not: no table to go to */
	PLACE_IF_ROOM,				/* when there is no room: nothing */
	PLACE_NOTHING				/* only what is there already is decided on */
} PlaceMode;

/* What became of an attempt to move a bucket here from the table. */
typedef enum MoveResult
{
	MOVED,						/* it is here, and has no business there */
	MOVE_NO_ROOM,
	MOVE_BUSY					/* that cannot be told without waiting */
} MoveResult;

extern bool memory_place(const BucketId *id, const BucketRule *rule, Owed owed,
						PlaceMode mode, Decision *decision);
extern bool memory_set(const BucketId *id, const BucketRule *rule, Owed owed,
					  PlaceMode mode);
extern MoveResult memory_move_in(const BucketId *id, const BucketRule *rule, Owed owed,
								bool raise, bool make);
extern uint32 groups_for(PlaceMode mode);

#endif							/* RATELIMIT_MEMORY_PLACE_H */
