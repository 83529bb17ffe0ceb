/*
 * memory/search.h
 *		Searching for a bucket's slot: see memory/search.c.
 */
#ifndef RATELIMIT_MEMORY_SEARCH_H
#define RATELIMIT_MEMORY_SEARCH_H

#include "memory/slots.h"

/* What a search does when the word of a slot that may be the bucket's is locked. */
typedef enum SearchMode
{
	SEARCH_WAITING,				/* it waits for the word; may be cancelled */
	SEARCH_ONCE					/* it ends there */
} SearchMode;

typedef enum FindResult
{
	FIND_ABSENT,
	FIND_HERE,
	FIND_BUSY					/* that cannot be told without waiting */
} FindResult;

extern Slot *search_further(const BucketId *id, Probe way, SearchMode mode, uint64 *word);
extern Slot *find_elsewhere(const BucketId *id, uint32 layout, uint64 *word);
extern FindResult find_once(const BucketId *id, Slot **slot, uint64 *word);

/*
 * Look for the bucket in the group of the i-th slot on its way.  Return true if that
 * ends the search: the bucket was found, or it would have been, or, with SEARCH_ONCE,
 * the word of a slot that may have it is locked.
 */
static pg_attribute_always_inline bool
search_group(const BucketId *id, const Probe *way, uint32 i, SearchMode mode,
			 Slot **slot, uint64 *word)
{
	uint32		group = probe_group(way, i);
	uint32		looked = 0;
	uint32		n;
	TagResult	result;

	while (likely((result = next_tag(store.tags, group, way->way, way->tag, &looked,
									 &n)) == TAG_SAME))
	{
		if (mode == SEARCH_WAITING)
			*word = read_word(&store.slots[n]);
		else
		{
			*word = pg_atomic_read_u64(&store.slots[n].word);
			pg_read_barrier();
		}
		if (likely(slot_is(&store.slots[n], id)) ||
			(mode == SEARCH_ONCE && (*word & WORD_LOCKED)))
		{
			*slot = &store.slots[n];
			return true;
		}
	}
	return result == TAG_NEVER_USED;
}

/*
 * Look for the bucket all the way.  Return its slot, or, with SEARCH_ONCE, one that
 * may have it and is locked; or NULL.
 */
static pg_attribute_always_inline Slot *
search_way(const BucketId *id, const Probe *way, SearchMode mode, uint64 *word)
{
	Slot	   *slot = NULL;

	if (!search_group(id, way, 0, mode, &slot, word) && unlikely(*reach_of(way) > 0))
		slot = search_further(id, *way, mode, word);
	return slot;
}

/*
 * Find the bucket's slot and its word; NULL if the bucket is not here.  As the caller
 * does not hold the partition's lock, NULL may be out of date by now, and a slot is
 * certain only if its word is unchanged afterwards.
 *
 * This may wait, and so be cancelled: the caller must hold no lock.
 */
static pg_attribute_always_inline Slot *
find(const BucketId *id, uint64 *word)
{
	Probe		way = probe_of(id->hash);
	Slot	   *slot;

	/* the tags are read after the layout */
	pg_read_barrier();
	slot = search_way(id, &way, SEARCH_WAITING, word);
	if (unlikely(slot == NULL))
		slot = find_elsewhere(id, way.layout, word);
	return slot;
}

#endif							/* RATELIMIT_MEMORY_SEARCH_H */
