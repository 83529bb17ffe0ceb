/*
 * decide/exceptions.h
 *		Keys for which policies have exceptions: see decide/exceptions.c.
 */
#ifndef RATELIMIT_DECIDE_EXCEPTIONS_H
#define RATELIMIT_DECIDE_EXCEPTIONS_H

#include "core/bucket.h"
#include "fmgr.h"
#include "table/exceptions.h"

/* The exceptions for a key under a policy, the one that wins first. */
typedef struct Exceptions
{
	int			n;
	ExceptionRow rows[FLEXIBLE_ARRAY_MEMBER];
} Exceptions;

/* What this session knows of all exceptions. */
typedef struct KnownExceptions
{
	bool		valid;			/* is the filter complete, in mark.generation? */
	bool		changed;		/* did the table change while that was made sure? */
	Oid			relid;			/* of rate_limit_exceptions */
	ExceptionMark mark;
} KnownExceptions;

extern hidden_data KnownExceptions known_exceptions;

extern void exceptions_init(void);
extern bool exceptions_find(const text *policy, const text *key, Exceptions **found);
extern const ExceptionRow *exceptions_choose(const Exceptions *exceptions,
											 const char *tier, int tier_len);
extern double exceptions_allowance(const ExceptionRow *row, double allowance);
extern void exceptions_rule(const ExceptionRow *row, double capacity, double refill,
							double cost, BucketRule *rule);

/*
 * May the key have exceptions?  "No" is certain.  The caller has just read the
 * invalidations.
 */
static pg_attribute_always_inline bool
exceptions_possible(const char *key, int len)
{
	const ExceptionMark *mark = &known_exceptions.mark;

	if (unlikely(!known_exceptions.valid))
		return true;
	if (likely(!mark->keys && !mark->networks))
		return false;
	if (mark->keys && unlikely(exception_filter_has(exception_key_hash(key, len))))
		return true;
	if (mark->networks && unlikely(exception_filter_has_address(key, len)))
		return true;

	/* were the bits there, or was the filter being emptied? */
	pg_read_barrier();
	return unlikely(pg_atomic_read_u32(&exception_filter.head->generation) !=
					mark->generation);
}

#endif							/* RATELIMIT_DECIDE_EXCEPTIONS_H */
