/*
 * memory/living.h
 *		Looking at the living buckets in shared memory: see memory/living.c.
 */
#ifndef RATELIMIT_MEMORY_LIVING_H
#define RATELIMIT_MEMORY_LIVING_H

#include "core/call.h"

/*
 * Called for each living bucket that is counted, with its partition and the first bytes
 * of its limiter, which have at least the limiter without the period.
 */
typedef void (*CountBucket) (int partition, const char *limiter, int len, void *arg);

extern uint32 memory_slots(void);
extern uint32 memory_layouts(void);
extern int64 memory_evicted(int partition);
extern bool memory_view(uint32 slot, Oid database, const BucketFilter *filter,
						BucketView *view);
extern void memory_count(Oid database, CountBucket count, void *arg);

#endif							/* RATELIMIT_MEMORY_LIVING_H */
