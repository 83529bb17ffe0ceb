/*
 * table/place_locks.h
 *		The heavyweight locks that slots are without shared memory: see
 *		table/place_locks.c.
 */
#ifndef RATELIMIT_PLACE_LOCKS_H
#define RATELIMIT_PLACE_LOCKS_H

#include "core/names.h"
#include "storage/lock.h"

#define MAX_PLACES		1000	/* of a key */

/* Two more locks of each key, beside those of its places. */
#define PLACE_MUTEX		65534
#define PLACE_QUEUE		65535

extern void place_tag(LOCKTAG *tag, const BucketId *id);
extern LockAcquireResult place_lock(LOCKTAG *tag, uint16 place, LOCKMODE mode, bool wait);
extern bool place_lock_new(LOCKTAG *tag, uint16 place);
extern void place_unlock(LOCKTAG *tag, uint16 place, LOCKMODE mode, int level);
extern void place_unlock_here(LOCKTAG *tag, uint16 place, LOCKMODE mode);

#endif							/* RATELIMIT_PLACE_LOCKS_H */
