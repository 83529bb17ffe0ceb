/*
 * violations/entries.c
 *		The names and rooms of entries, and how an entry is given up.
 *
 * This file has what several files of this folder do with entries.  The layout of
 * entries, the ways to find one, and the order of locks are in violations/entries.h.
 */
#include "postgres.h"

#include "violations/entries.h"

Violations *violations = NULL;
LWLockPadded *violation_locks;
uint32	   *violation_tags;
Entry	   *entries;
Aside	   *asides;

/* Is this the name that violations without a place of their own count for? */
bool
is_other(const char *key, int key_len)
{
	return key_len == strlen(OTHER_KEY) && memcmp(key, OTHER_KEY, key_len) == 0;
}

/* The room that an entry of these names belongs to. */
static Room
room_for(const char *gateway, int gateway_len, const char *limiter, int limiter_len,
		 const char *key, int key_len)
{
	if (!is_other(key, key_len))
		return ROOM_KEYS;
	return is_other(gateway, gateway_len) && is_other(limiter, limiter_len) ?
		ROOM_LAST : ROOM_OTHERS;
}

Room
room_of_names(const Names *names)
{
	return room_for(names->gateway->name, names->gateway->len,
					names->id->limiter, names->id->limiter_len,
					names->id->key, names->id->key_len);
}

/* The room of an entry in use.  The caller holds its partition's lock. */
Room
room_of_entry(uint32 at)
{
	BucketId	id;

	entry_id(at, &id);
	return room_for(asides[at].name, entries[at].gateway_len,
					id.limiter, id.limiter_len, id.key, id.key_len);
}

/*
 * The names of an entry in use, as pointers into it and without a hash.  The caller
 * holds its partition's lock.
 */
void
entry_id(uint32 at, BucketId *id)
{
	const Entry *entry = &entries[at];

	id->database = entry->database;
	id->limiter_len = entry->bucket.limiter_len;
	id->key_len = entry->bucket.key_len;
	id->limiter = asides[at].name + entry->gateway_len;
	id->key = id->limiter + id->limiter_len;
	id->name = entry->bucket;
	id->hash = 0;
}

/* Give up the entry if its count is zero.  The caller holds its partition's lock. */
void
close_entry(uint32 at)
{
	Entry	   *entry = &entries[at];
	uint64		word = pg_atomic_read_u64(&entry->word);
	Room		room = room_of_entry(at);

	if (count_of(word) != 0 ||
		!pg_atomic_compare_exchange_u64(&entry->word, &word,
										((word & ~COUNT_MASK) + ONE_GENERATION) | CLOSED))
		return;
	((volatile uint32 *) violation_tags)[at] = TAG_GIVEN_UP;
	if (room < N_ROOMS)
		shares_give(&violations->rooms[room], asides[at].cell);
}
