/*
 * core/names.c
 *		What a bucket is called: limiter and key, and their hash.
 *
 * The hash is seeded in secret, as any role may choose limiters and keys: nobody can
 * choose names that collide.  The seed is whatever the part that places buckets by
 * the hash says, the same in all processes of a server.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "core/hot.h"
#include "core/names.h"
#include "mb/pg_wchar.h"

uint64		hash_secrets[3] hot_data;

/* Hash by this seed from here on. */
void
hash_use_seed(uint64 seed)
{
	for (int i = 0; i < lengthof(hash_secrets); i++)
		hash_secrets[i] = hash_bytes_uint32_extended(i, seed);
}

/* Could these be the names of a bucket, or of a block, whose limiter has a prefix? */
bool
names_valid(const char *limiter, int limiter_len, const char *key, int key_len)
{
	if (limiter_len > 0 && *limiter == BLOCK_PREFIX)
	{
		limiter++;
		limiter_len--;
	}
	return limiter_len > 0 && limiter_len <= MAX_LIMITER_LEN &&
		key_len > 0 && key_len <= MAX_KEY_LEN &&
		!memchr(limiter, BLOCK_PREFIX, limiter_len) &&
		!memchr(limiter, '\0', limiter_len) && !memchr(key, '\0', key_len);
}

/* The head of a name whose key is still to be added. */
void
head_of_limiter(NameHead *name, const char *limiter, int len)
{
	memset(name, 0, sizeof(*name));
	name->limiter_len = len;
	memcpy(name->bytes, limiter, Min(len, HEAD_BYTES));
}

/* Put a bucket's name together; nothing is checked. */
void
make_bucket_id(BucketId *id, Oid database, const char *limiter, int limiter_len,
			   const char *key, int key_len)
{
	id->database = database;
	id->limiter = limiter;
	id->limiter_len = limiter_len;
	id->key = key;
	id->key_len = key_len;
	head_of_limiter(&id->name, limiter, limiter_len);
	head_add_key(id);
	id->hash = hash_key(hash_limiter(database, limiter, limiter_len), key, key_len);
}

/* The name is empty, or too long. */
void
fail_length(const char *name, const char *value, int len, int max)
{
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty: \"\"", name)));
	else
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must not be longer than %d bytes, not \"%.*s...\" of %d bytes",
						name, max, pg_mbcliplen(value, len, 32), value, len)));
}

/* May a limiter have this name? */
void
check_limiter(const char *limiter, int len)
{
	check_length("limiter", limiter, len, MAX_LIMITER_LEN);
	if (memchr(limiter, BLOCK_PREFIX, len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limiter must not contain \":\": \"%.*s\"", len, limiter)));
}
