/*
 * decide/limiter.c
 *		The limiter that this session called last, and its last period.
 *
 * Most calls name the same limiter as the call before.  So a limiter is checked and
 * hashed when it is first named, and calls are counted for it (violations/stats.c)
 * until another limiter is named.
 */
#include "postgres.h"

#include "core/clock.h"
#include "decide/limiter.h"
#include "miscadmin.h"
#include "violations/stats.h"

CurrentLimiter current_limiter;
CurrentPeriod current_period = {.text_len = -1};
char		current_limiter_whole[MAX_LIMITER_LEN];

/* Make another limiter the current one, after checking its name. */
void
limiter_set(const char *limiter, int len)
{
	check_limiter(limiter, len);
	current_limiter.database = MyDatabaseId;
	current_limiter.hash = hash_limiter(MyDatabaseId, limiter, len);
	head_of_limiter(&current_limiter.name, limiter, len);
	memcpy(current_limiter_whole, limiter, len);
	current_period.text_len = -1;
	stats_set_limiter(limiter, len);
}

/* Make another period, as a text says it, that of the current limiter. */
void
limiter_set_period(const char *text, int len)
{
	int			limiter_len = current_limiter.name.limiter_len;
	int			name_len;
	const char *name;

	current_period.text_len = -1;
	current_period.period = *period_of(text, len);
	name = period_name(&current_period.period, &name_len);
	if (name_len > MAX_NAMED_PERIOD)
		fail_length("period", name, name_len, MAX_NAMED_PERIOD);
	memcpy(current_period.whole, current_limiter_whole, limiter_len);
	current_period.whole[limiter_len] = PERIOD_SEPARATOR;
	memcpy(current_period.whole + limiter_len + 1, name, name_len);
	current_period.limiter_len = limiter_len + 1 + name_len;
	head_of_limiter(&current_period.name, current_period.whole, current_period.limiter_len);
	current_period.hash = hash_period(name, name_len);
	current_period.refill = 0;
	memcpy(current_period.text, text, len);
	current_period.text_len = len;
}

/* Find the period around a moment, for limiter_use_moment(). */
void
limiter_find_moment(TimestampTz now)
{
	int64		begin;
	int64		end;

	period_around(&current_period.period, now, &begin, &end);
	current_period.refill = refill_of_end(end);
	current_period.length = (double) end - (double) begin;
}

/* Make this the current limiter: calls are counted for it from now on. */
void
limiter_use(const char *limiter, int len)
{
	limiter_use_quickly(limiter, len);
}

/* The identity of a bucket, checked.  Its limiter becomes the current one. */
void
use_bucket(BucketId *id, const char *key, int key_len, const char *limiter,
		   int limiter_len)
{
	check_length("key", key, key_len, MAX_KEY_LEN);
	limiter_use_quickly(limiter, limiter_len);
	name_in_current_limiter(id, key, key_len, limiter);
}
