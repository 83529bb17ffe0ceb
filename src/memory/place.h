/*
 * memory/place.h
 *		Making buckets in shared memory: see memory/place.c.
 */
#ifndef RATELIMIT_MEMORY_PLACE_H
#define RATELIMIT_MEMORY_PLACE_H

#include "core/call.h"

/* What happens to a bucket that is to be made. */
typedef enum PlaceMode
{
	PLACE_OR_SPILL,				/* it goes to the table if there is no room, or
								 * if the partition has spilled */
	PLACE_OR_EVICT,				/* if there is no room, another gives way; if the
								 * partition has spilled, it goes to the table */
	PLACE_HERE,					/* if there is no room, another gives way, as
								 * there is no table to go to */
	PLACE_IF_ROOM,				/* if there is no room, it is not made */
	PLACE_NOTHING				/* it is not made: only those that are here are
								 * decided on */
} PlaceMode;

/* What became of an attempt to move a bucket here from the table. */
typedef enum MoveResult
{
	MOVED,						/* it is here, and its row can go */
	MOVE_NO_ROOM,				/* it is not here, and was not made */
	MOVE_BUSY					/* this cannot be told without waiting */
} MoveResult;

extern bool memory_place(const BucketId *id, const BucketRule *rule, Owed owed,
						 PlaceMode mode, Decision *decision);
extern bool memory_set(const BucketId *id, const BucketRule *rule, Owed owed,
					   PlaceMode mode);
extern MoveResult memory_move_in(const BucketId *id, const BucketRule *rule, Owed owed,
								 bool raise, bool make);
extern uint32 groups_for(PlaceMode mode);

#endif							/* RATELIMIT_MEMORY_PLACE_H */
