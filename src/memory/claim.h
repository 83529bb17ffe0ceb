/*
 * memory/claim.h
 *		Claiming slots for buckets: see memory/claim.c.
 */
#ifndef RATELIMIT_MEMORY_CLAIM_H
#define RATELIMIT_MEMORY_CLAIM_H

#include "memory/slots.h"

/* What a call holds while it is decided together with others. */
typedef struct Held
{
	Slot	   *slot;			/* the call's bucket; NULL if it is not here */
	uint64		word;
	int			n_claimed;		/* slots for a bucket that is to be made */
	uint32		claimed[1 + MAX_CONTINUATIONS];
	uint64		words[1 + MAX_CONTINUATIONS];
} Held;

typedef enum EvictResult
{
	EVICTED,
	EVICT_BUSY,					/* those that could give way are in use just now */
	EVICT_NONE					/* no bucket could give way */
} EvictResult;

extern void empty_slot(uint32 n);
extern bool claim_slot(uint32 n, int64 now, uint64 *word);
extern bool claim_slots(const Probe *probe, uint32 groups, int needed,
						uint32 *claimed, uint64 *words);
extern void release_slots(const uint32 *claimed, const uint64 *words, int n);
extern void fill_slots(const BucketId *id, const BucketRule *rule, Owed full_at,
					   int needed, const uint32 *claimed, const uint64 *words);
extern int	slots_needed(const BucketId *id);
extern void extend_reach(const Probe *probe, uint32 i);
extern EvictResult evict_one(const Probe *probe, int partition, const Held *held,
							 int n_held);

#endif							/* RATELIMIT_MEMORY_CLAIM_H */
