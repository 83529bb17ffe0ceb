/*
 * violations/flush.h
 *		Writing violations.  See violations/flush.c.
 */
#ifndef RATELIMIT_FLUSH_H
#define RATELIMIT_FLUSH_H

#include "violations/count.h"

extern void flush_record_locally(const BucketId *id, int64 n);
extern int64 flush_violations(void);
extern void flush_retention(void);
extern void flush_failed(bool is_flush, const char *message);
extern bool flush_waiting(void);
extern bool flush_failing(void);
extern void flush_succeeded(void);

/*
 * Record n violations at a time of the monotonic clock; 0 means now.  They are
 * counted in shared memory, or for the transaction if there is none.
 */
static inline void
flush_record(const BucketId *id, int64 n, int64 now)
{
	if (unlikely(!violations_add(id, n, now)))
		flush_record_locally(id, n);
}

#endif							/* RATELIMIT_FLUSH_H */
