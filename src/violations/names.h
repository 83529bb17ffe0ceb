/*
 * violations/names.h
 *		Limiter and key as texts that end in a zero byte, and their hash.
 *
 * Episodes and due flags hold names in this form.  Entries hold them without the zero
 * bytes (violations/entries.h).
 */
#ifndef RATELIMIT_VIOLATIONS_NAMES_H
#define RATELIMIT_VIOLATIONS_NAMES_H

#include "common/hashfn.h"
#include "core/names.h"

/* A hash of database, limiter and key. */
static inline uint64
hash_names(uint64 seed, const BucketId *id)
{
	uint64		hash;

	hash = hash_bytes_extended((const unsigned char *) id->limiter, id->limiter_len,
							   seed ^ id->database);
	return hash_bytes_extended((const unsigned char *) id->key, id->key_len,
							   hash ^ seed);
}

/* Are these texts the names of the bucket? */
static inline bool
same_names(const BucketId *id, const char *limiter, const char *key)
{
	return strncmp(limiter, id->limiter, id->limiter_len) == 0 &&
		limiter[id->limiter_len] == '\0' &&
		strncmp(key, id->key, id->key_len) == 0 && key[id->key_len] == '\0';
}

/* Copy the names of the bucket to texts. */
static inline void
copy_names(const BucketId *id, char *limiter, char *key)
{
	memcpy(limiter, id->limiter, id->limiter_len);
	limiter[id->limiter_len] = '\0';
	memcpy(key, id->key, id->key_len);
	key[id->key_len] = '\0';
}

#endif							/* RATELIMIT_VIOLATIONS_NAMES_H */
