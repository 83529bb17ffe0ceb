/*
 * core/tags.h
 *		Searching a group of places by their tags.
 *
 * The buckets in shared memory, and the violations, are each in an array of places,
 * in groups of 16.  Each place has a tag in another array.  It is a part of the hash
 * of what the place holds, so that one cache line of tags says which places of a
 * group to look at.  The hash also says at which place of the group a search begins.
 * A tag is TAG_FREE until its place is used for the first time, and never again.  So
 * a search ends there: what it looks for would have taken that place.
 */
#ifndef RATELIMIT_TAGS_H
#define RATELIMIT_TAGS_H

#define GROUP_PLACES		16

#define TAG_FREE			0	/* the place was never used */
#define TAG_FIRST			2	/* the least that a hash gives; 1 has other uses */

/* The tag that some bits of a hash give. */
static inline uint32
tag_from(uint32 bits)
{
	return bits < TAG_FIRST ? bits + TAG_FIRST : bits;
}

typedef enum TagResult
{
	TAG_SAME,					/* *place has the tag */
	TAG_NEVER_USED,				/* the search ends */
	TAG_NO_MORE					/* no further place of the group has the tag */
} TagResult;

/*
 * Find the next place of a group that has this tag.  "group" is the group's first
 * place, and the search begins "begin" places after it.  *i counts the places that
 * have been looked at; the caller sets it to 0 first.  Other processes may write tags
 * meanwhile.
 */
static pg_attribute_always_inline TagResult
next_tag(const uint32 *tags, uint32 group, uint32 begin, uint32 tag, uint32 *i,
		 uint32 *place)
{
	while (*i < GROUP_PLACES)
	{
		uint32		found;

		*place = group + (begin + (*i)++) % GROUP_PLACES;
		found = ((const volatile uint32 *) tags)[*place];
		if (likely(found == tag))
			return TAG_SAME;
		if (found == TAG_FREE)
			return TAG_NEVER_USED;
	}
	return TAG_NO_MORE;
}

#endif							/* RATELIMIT_TAGS_H */
