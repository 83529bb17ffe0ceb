/*
 * memory/search.c
 *		Searching for a bucket's slot, as far as this is not inline in
 *		memory/search.h: beyond the home group, while a partition grows, and without
 *		waiting.
 *
 * A search changes nothing.  memory/slots.h explains where a bucket may be and where
 * a search ends, and memory/grow.c how searches go together with growing.
 */
#include "postgres.h"

#include "memory/partitions.h"
#include "memory/search.h"

/* Go on with a search after the home group, as far as its reach. */
Slot *
search_further(const BucketId *id, Probe way, SearchMode mode, uint64 *word)
{
	Slot	   *slot = NULL;
	uint32		last = *reach_of(&way) * GROUP_SLOTS;

	for (uint32 i = GROUP_SLOTS; i <= last; i += GROUP_SLOTS)
		if (search_group(id, &way, i, mode, &slot, word))
			break;
	return slot;
}

/* Look for a bucket that growing has left behind, where an earlier layout has it. */
static Slot *
search_left(const BucketId *id, uint32 layout, SearchMode mode, uint64 *word)
{
	Slot	   *slot = NULL;

	for (uint32 shift = (layout & LAYOUT_SHIFT) + 1;
		 !slot && store.groups >> shift > 0; shift++)
	{
		Probe		way = probe_in(id->hash, shift);

		slot = search_way(id, &way, mode, word);
	}
	return slot;
}

/* Is this, from which a way was worked out, still the layout, with nothing moving? */
static bool
layout_holds(uint64 hash, uint32 layout)
{
	/* the tags were read before */
	pg_read_barrier();
	return layout == layout_for(hash) && !(layout & LAYOUT_MOVING);
}

/*
 * Go on with a search that has not found the bucket where this layout has it.  The
 * bucket may have been left behind.  If the layout has changed, search again once no
 * buckets are moving.
 */
Slot *
find_elsewhere(const BucketId *id, uint32 layout, uint64 *word)
{
	for (;;)
	{
		Slot	   *slot = NULL;
		Probe		way;

		if (layout & LAYOUT_LEFT)
			slot = search_left(id, layout, SEARCH_WAITING, word);
		if (slot || layout_holds(id->hash, layout))
			return slot;

		layout = wait_for_layout(memory_partition(id->hash), NULL);
		way = probe_in(id->hash, layout);
		pg_read_barrier();
		slot = search_way(id, &way, SEARCH_WAITING, word);
		if (slot)
			return slot;
	}
}

/* Do the same as find(), but without waiting for anything. */
FindResult
find_once(const BucketId *id, Slot **slot, uint64 *word)
{
	Probe		way = probe_of(id->hash);

	/* the tags are read after the layout */
	pg_read_barrier();
	*slot = search_way(id, &way, SEARCH_ONCE, word);
	if (!*slot && (way.layout & LAYOUT_LEFT))
		*slot = search_left(id, way.layout, SEARCH_ONCE, word);
	if (*slot)
		return (*word & WORD_LOCKED) ? FIND_BUSY : FIND_HERE;
	return layout_holds(id->hash, way.layout) ? FIND_ABSENT : FIND_BUSY;
}
