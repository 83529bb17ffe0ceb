/*
 * table/place_locks.c
 *		The heavyweight locks that slots are without shared memory: see table/places.c.
 *
 * The locks' tag has 64 bits of SHA-256 of the names, because nobody can find a key
 * that shares them with a given other one; a hash with a secret would have to be in
 * shared memory.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "table/place_locks.h"
#include "utils/resowner.h"

/* The tag of the key's locks. */
void
place_tag(LOCKTAG *tag, const BucketId *id)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH] = {0};
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
	uint8		len = id->limiter_len;

	if (!ctx || pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, &len, 1) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) id->limiter, id->limiter_len) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) id->key, id->key_len) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
	{
		pg_cryptohash_free(ctx);
		elog(ERROR, "could not compute a hash");
	}
	pg_cryptohash_free(ctx);
	memset(tag, 0, sizeof(*tag));
	tag->locktag_field1 = id->database;
	memcpy(&tag->locktag_field2, digest, sizeof(uint32));
	memcpy(&tag->locktag_field3, digest + sizeof(uint32), sizeof(uint32));
	tag->locktag_type = LOCKTAG_USERLOCK;
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/*
 * Lock a place, the mutex or the queue, for the current subtransaction.  It is not
 * the portal that gets the lock, as usual, because locks of a portal cannot be
 * released when the portal is gone.
 */
LockAcquireResult
place_lock(LOCKTAG *tag, uint16 place, LOCKMODE mode, bool wait)
{
	ResourceOwner owner = CurrentResourceOwner;
	LockAcquireResult result;

	tag->locktag_field4 = place;
	/* an error leaves it so; whatever undoes the error sets it again */
	CurrentResourceOwner = CurTransactionResourceOwner;
	result = LockAcquire(tag, mode, false, !wait);
	CurrentResourceOwner = owner;
	return result;
}

/* Release a lock that the transaction at this nest level holds. */
void
place_unlock(LOCKTAG *tag, uint16 place, LOCKMODE mode, int level)
{
	ResourceOwner owner = CurrentResourceOwner;

	tag->locktag_field4 = place;
	CurrentResourceOwner = CurTransactionResourceOwner;
	for (int i = GetCurrentTransactionNestLevel(); i > level; i--)
		CurrentResourceOwner = ResourceOwnerGetParent(CurrentResourceOwner);
	(void) LockRelease(tag, mode, false);
	CurrentResourceOwner = owner;
}

void
place_unlock_here(LOCKTAG *tag, uint16 place, LOCKMODE mode)
{
	place_unlock(tag, place, mode, GetCurrentTransactionNestLevel());
}

/* Lock the place if nobody has it, this backend included. */
bool
place_lock_new(LOCKTAG *tag, uint16 place)
{
	switch (place_lock(tag, place, ExclusiveLock, false))
	{
		case LOCKACQUIRE_NOT_AVAIL:
			return false;
		case LOCKACQUIRE_OK:
			return true;
		default:
			place_unlock_here(tag, place, ExclusiveLock);
			return false;
	}
}
