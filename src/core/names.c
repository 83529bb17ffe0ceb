/*
 * core/names.c
 *		The name of a bucket, which is limiter and key, and its hash; checking names.
 *
 * Any role may choose limiters and keys, so the hash has a secret seed: without it,
 * nobody can choose names that collide.  All processes of a server use the same seed.
 * It comes from the part that places buckets by the hash (hash_use_seed()).
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "core/names.h"
#include "mb/pg_wchar.h"

uint64		hash_secrets[3];

/* Use this seed from now on. */
void
hash_use_seed(uint64 seed)
{
	for (int i = 0; i < lengthof(hash_secrets); i++)
		hash_secrets[i] = hash_bytes_uint32_extended(i, seed);
}

/*
 * The length of a bucket's limiter as callers know it, without the period that
 * follows it if the bucket is a period's.
 */
int
plain_limiter_len(const char *limiter, int len)
{
	const char *separator = len > 1 ?
		memchr(limiter + 1, PERIOD_SEPARATOR, len - 1) : NULL;

	return separator ? separator - limiter : len;
}

/*
 * Can a bucket have these names?  A block is a bucket too; its limiter has a prefix.
 * So is what stands for a reservation.  A period's bucket has the period behind the
 * limiter.
 */
bool
names_valid(const char *limiter, int limiter_len, const char *key, int key_len)
{
	int			plain_len = plain_limiter_len(limiter, limiter_len);
	int			period_len = limiter_len - plain_len - 1;

	if (limiter_len == strlen(RESERVED_LIMITER) &&
		memcmp(limiter, RESERVED_LIMITER, limiter_len) == 0)
		return key_len > 0 && key_len <= MAX_KEY_LEN && !memchr(key, '\0', key_len);
	if (period_len >= 0)
	{
		if (period_len == 0 || period_len > MAX_NAMED_PERIOD || *limiter == BLOCK_PREFIX ||
			memchr(limiter + plain_len, '\0', limiter_len - plain_len))
			return false;
		limiter_len = plain_len;
	}
	else if (limiter_len > 0 && *limiter == BLOCK_PREFIX)
	{
		limiter++;
		limiter_len--;
	}
	return limiter_len > 0 && limiter_len <= MAX_LIMITER_LEN &&
		key_len > 0 && key_len <= MAX_KEY_LEN &&
		!memchr(limiter, BLOCK_PREFIX, limiter_len) &&
		!memchr(limiter, '\0', limiter_len) && !memchr(key, '\0', key_len);
}

/* Begin the head of a name with its limiter; head_add_key() completes it. */
void
head_of_limiter(NameHead *name, const char *limiter, int len)
{
	memset(name, 0, sizeof(*name));
	name->limiter_len = len;
	memcpy(name->bytes, limiter, Min(len, HEAD_BYTES));
}

/* Put a bucket's name together, without checking it. */
void
make_bucket_id(BucketId *id, Oid database, const char *limiter, int limiter_len,
			   const char *key, int key_len)
{
	int			plain_len = plain_limiter_len(limiter, limiter_len);

	id->database = database;
	id->limiter = limiter;
	id->limiter_len = limiter_len;
	id->key = key;
	id->key_len = key_len;
	head_of_limiter(&id->name, limiter, limiter_len);
	head_add_key(id);
	id->hash = hash_key(hash_limiter(database, limiter, plain_len), key, key_len);
	if (plain_len < limiter_len)
		id->hash ^= hash_period(limiter + plain_len + 1, limiter_len - plain_len - 1);
	id->ends = 0;
}

/* The name of the same key's bucket without a period. */
void
make_plain_id(BucketId *plain, const BucketId *id)
{
	*plain = *id;
	plain->limiter_len = plain_limiter_len(id->limiter, id->limiter_len);
	if (plain->limiter_len == id->limiter_len)
		return;
	plain->hash ^= hash_period(id->limiter + plain->limiter_len + 1,
							   id->limiter_len - plain->limiter_len - 1);
	head_of_limiter(&plain->name, id->limiter, plain->limiter_len);
	head_add_key(plain);
}

/* Raise the error for a name that is empty or too long. */
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

/* Raise an error unless a limiter may have this name. */
void
check_limiter(const char *limiter, int len)
{
	check_length("limiter", limiter, len, MAX_LIMITER_LEN);
	if (memchr(limiter, BLOCK_PREFIX, len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limiter must not contain \":\": \"%.*s\"", len, limiter)));
}
