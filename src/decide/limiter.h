/*
 * decide/limiter.h
 *		The limiter that this session called last: see decide/limiter.c.
 */
#ifndef RATELIMIT_DECIDE_LIMITER_H
#define RATELIMIT_DECIDE_LIMITER_H

#include "core/bucket.h"
#include "core/compat.h"
#include "core/names.h"
#include "core/period.h"

typedef struct CurrentLimiter
{
	NameHead	name;			/* its length is 0 if there is no limiter yet */
	Oid			database;
	uint64		hash;			/* the result of hash_limiter() */
} CurrentLimiter;

/* The period that the current limiter was last called with. */
typedef struct CurrentPeriod
{
	NameHead	name;			/* of limiter:period */
	int			limiter_len;	/* of that */
	int			text_len;		/* of the caller's text; -1: there is no period yet */
	uint64		hash;			/* the result of hash_period() */
	double		refill;			/* what says the end of the period that the struct
								 * below found last, see core/bucket.h; 0: none */
	double		length;			/* of that one, in microseconds */
	Period		period;
	char		text[MAX_PERIOD_LEN];
	char		whole[MAX_BUCKET_LIMITER_LEN];	/* limiter:period */
} CurrentPeriod;

extern hidden_data CurrentPeriod current_period;
extern hidden_data CurrentLimiter current_limiter;
extern hidden_data char current_limiter_whole[MAX_LIMITER_LEN]; /* head and rest */

extern void limiter_set(const char *limiter, int len) pg_attribute_cold;
extern void limiter_set_period(const char *text, int len) pg_attribute_cold;
extern void limiter_find_moment(TimestampTz now) pg_attribute_cold;
extern void limiter_use(const char *limiter, int len);
extern void use_bucket(BucketId *id, const char *key, int key_len,
					   const char *limiter, int limiter_len);

/* Make this the current limiter, checked, unless it is that already. */
static pg_attribute_always_inline void
limiter_use_quickly(const char *limiter, int len)
{
	if (unlikely(len != current_limiter.name.limiter_len || len == 0 ||
				 memcmp(limiter, current_limiter.name.bytes, Min(len, HEAD_BYTES)) != 0 ||
				 (len > HEAD_BYTES && memcmp(limiter, current_limiter_whole, len) != 0)))
		limiter_set(limiter, len);
}

/* Make the current limiter that of a bucket, which has such a rule. */
static inline void
limiter_use_of(const BucketId *id, const BucketRule *rule)
{
	limiter_use(id->limiter, bucket_in_period(rule->refill) ?
				plain_limiter_len(id->limiter, id->limiter_len) : id->limiter_len);
}

/*
 * The identity of a bucket of the current limiter.  It points to the bytes of key and
 * limiter, which must outlive it.
 */
static pg_attribute_always_inline void
name_in_current_limiter(BucketId *id, const char *key, int key_len, const char *limiter)
{
	id->hash = hash_key(current_limiter.hash, key, key_len);
	id->database = current_limiter.database;
	id->key = key;
	id->key_len = key_len;
	id->limiter = limiter;
	id->limiter_len = current_limiter.name.limiter_len;
	id->name = current_limiter.name;
	head_add_key(id);
}

/* Make this the current limiter's period, checked, unless it is that already. */
static pg_attribute_always_inline void
limiter_use_period(const char *text, int len)
{
	if (unlikely(len != current_period.text_len ||
				 !same_bytes(text, current_period.text, len)))
		limiter_set_period(text, len);
}

/*
 * See to it that current_period tells of the one of its periods that it is at a
 * moment.
 */
static pg_attribute_always_inline void
limiter_use_moment(TimestampTz now)
{
	if (unlikely(now < current_period.period.begin ||
				 now >= current_period.period.end || current_period.refill == 0))
		limiter_find_moment(now);
}

/*
 * The identity of a bucket of the current limiter and its current period.  It points
 * to the bytes of the key, and to "limiter", which begins with those of
 * current_period.whole; both must outlive it.
 */
static pg_attribute_always_inline void
name_in_current_period(BucketId *id, const char *key, int key_len, const char *limiter)
{
	id->hash = hash_key(current_limiter.hash, key, key_len) ^ current_period.hash;
	id->database = current_limiter.database;
	id->key = key;
	id->key_len = key_len;
	id->limiter = limiter;
	id->limiter_len = current_period.limiter_len;
	id->name = current_period.name;
	head_add_key(id);
}

#endif							/* RATELIMIT_DECIDE_LIMITER_H */
