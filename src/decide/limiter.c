/*
 * decide/limiter.c
 *		The limiter that this session called last: checked once, and counted for until
 *		another one is called.
 */
#include "postgres.h"

#include "core/hot.h"
#include "decide/limiter.h"
#include "miscadmin.h"
#include "violations/stats.h"

CurrentLimiter current_limiter hot_data;
char		current_limiter_whole[MAX_LIMITER_LEN];

/* Another limiter is called; its name is checked. */
void
limiter_set(const char *limiter, int len)
{
	check_limiter(limiter, len);
	current_limiter.database = MyDatabaseId;
	current_limiter.hash = hash_limiter(MyDatabaseId, limiter, len);
	head_of_limiter(&current_limiter.name, limiter, len);
	memcpy(current_limiter_whole, limiter, len);
	stats_set_limiter(limiter, len);
}

/* Check the limiter, and count for it from here on. */
void
limiter_use(const char *limiter, int len)
{
	limiter_use_quickly(limiter, len);
}

/* The name of a bucket, checked; its calls are counted from here on. */
void
use_bucket(BucketId *id, const char *key, int key_len, const char *limiter,
		   int limiter_len)
{
	check_length("key", key, key_len, MAX_KEY_LEN);
	limiter_use_quickly(limiter, limiter_len);
	name_in_current_limiter(id, key, key_len, limiter);
}
