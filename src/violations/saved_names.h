/*
 * violations/saved_names.h
 *		Limiter and key at the end of a record that is saved for the next start.
 *
 * Records of episodes and due flags end in these.  Other parts save names in records
 * of their own form.
 */
#ifndef RATELIMIT_VIOLATIONS_SAVED_NAMES_H
#define RATELIMIT_VIOLATIONS_SAVED_NAMES_H

#include "core/names.h"
#include "core/saved_file.h"

typedef struct SavedNames
{
	uint8		limiter_len;
	uint8		key_len;
	char		bytes[MAX_LIMITER_LEN + MAX_KEY_LEN];	/* limiter, then key */
} SavedNames;

/* Put the names into a record.  Returns how many bytes they take. */
static inline Size
put_names(SavedNames *names, const char *limiter, const char *key)
{
	names->limiter_len = strlen(limiter);
	names->key_len = strlen(key);
	memcpy(names->bytes, limiter, names->limiter_len);
	memcpy(names->bytes + names->limiter_len, key, names->key_len);
	return offsetof(SavedNames, bytes) + names->limiter_len + names->key_len;
}

/*
 * Get the names from a record, as pointers into it.  False if they make no sense or
 * do not take exactly "size" bytes.
 */
static inline bool
get_names(const SavedNames *names, Size size, BucketId *id)
{
	if (size < offsetof(SavedNames, bytes) ||
		size - offsetof(SavedNames, bytes) != names->limiter_len + names->key_len ||
		!saved_name_valid(names->bytes, names->limiter_len, MAX_LIMITER_LEN) ||
		!saved_name_valid(names->bytes + names->limiter_len, names->key_len, MAX_KEY_LEN))
		return false;
	id->limiter = names->bytes;
	id->limiter_len = names->limiter_len;
	id->key = names->bytes + names->limiter_len;
	id->key_len = names->key_len;
	return true;
}

#endif							/* RATELIMIT_VIOLATIONS_SAVED_NAMES_H */
