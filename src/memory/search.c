/*
 * memory/search.c
 *		Searching for a bucket's slot, when it is not in its home group.
 *
 * How buckets are kept, and how a search ends: memory/slots.h.  How searches go
 * together with growing: memory/grow.c.
 */
#include "postgres.h"

#include "memory/partitions.h"
#include "memory/search.h"

/* A search goes on after the home group, as far as that reaches. */
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

/* A bucket that growing has left behind is where an earlier layout has it. */
static Slot *
search_left(const BucketId *id, uint32 layout, SearchMode mode, uint64 *word)
{
	Slot	   *slot = NULL;

	for (uint32 shift = (layout & LAYOUT_SHIFT) + 1; !slot && store.groups >> shift > 0; shift++)
	{
		Probe		way = probe_in(id->hash, shift);

		if (!search_group(id, &way, 0, mode, &slot, word) && *reach_of(&way) > 0)
			slot = search_further(id, way, mode, word);
	}
	return slot;
}

/* Is the layout that a way was worked out from the one that holds, and nothing moves? */
static bool
layout_holds(uint64 hash, uint32 layout)
{
	/* the tags were read before */
	pg_read_barrier();
	return layout == layout_for(hash) && !(layout & LAYOUT_MOVING);
}

/*
 * The bucket is not where this layout has it.  Was it left behind, or has the layout
 * changed?  Then it is searched for once nothing moves.
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
		if (!search_group(id, &way, 0, SEARCH_WAITING, &slot, word) && *reach_of(&way) > 0)
			slot = search_further(id, way, SEARCH_WAITING, word);
		if (slot)
			return slot;
	}
}

/* As find(), but without waiting for anything. */
FindResult
find_once(const BucketId *id, Slot **slot, uint64 *word)
{
	Probe		way = probe_of(id->hash);

	*slot = NULL;
	/* the tags are read after the layout */
	pg_read_barrier();
	if (!search_group(id, &way, 0, SEARCH_ONCE, slot, word) && *reach_of(&way) > 0)
		*slot = search_further(id, way, SEARCH_ONCE, word);
	if (!*slot && (way.layout & LAYOUT_LEFT))
		*slot = search_left(id, way.layout, SEARCH_ONCE, word);
	if (*slot)
		return (*word & WORD_LOCKED) ? FIND_BUSY : FIND_HERE;
	return layout_holds(id->hash, way.layout) ? FIND_ABSENT : FIND_BUSY;
}
