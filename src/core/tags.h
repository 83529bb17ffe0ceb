/*
 * core/tags.h
 *		Looking through a group of tags.
 *
 * Two tables in shared memory, that of buckets and that of violations, are arrays of
 * places in groups of 16.  Beside the places stand their tags: a part of the hash of
 * what a place holds, so that one cache line of tags tells which places of a group to
 * look at.  Each hash has a place in its group where looking begins.  A tag is TAG_FREE
 * until its place is first used and never again, so a search ends there: what is
 * searched for would have taken that place.
 */
#ifndef RATELIMIT_TAGS_H
#define RATELIMIT_TAGS_H

#define GROUP_PLACES		16

#define TAG_FREE			0	/* the place was never used */
#define TAG_FIRST			2	/* the least that a hash gives; 1 is the tables' */

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
	TAG_NO_MORE					/* the group has no further place with it */
} TagResult;

/*
 * Find the next place of a group that has a tag.  "group" is the group's first place,
 * "begin" where looking begins in it, and *i how many places have been looked at, at
 * first 0.  Others may write tags meanwhile.
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
