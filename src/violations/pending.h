/*
 * violations/pending.h
 *		Violations that are not written yet.  See violations/pending.c.
 */
#ifndef RATELIMIT_VIOLATIONS_PENDING_H
#define RATELIMIT_VIOLATIONS_PENDING_H

#include "core/names.h"
#include "core/settings.h"
#include "datatype/timestamp.h"

/* One (gateway, limiter, key) and its violations. */
typedef struct ViolationView
{
	char		gateway[MAX_GATEWAY_LEN + 1];
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	int64		count;
	bool		again;			/* this transaction has taken from it before */
	TimestampTz last_at;
} ViolationView;

extern uint32 violations_entries(void);
extern bool violations_view(uint32 entry, Oid database, ViolationView *view,
							Oid *owner);
extern int64 violations_lost(void);
extern int	violations_databases(Oid *databases, int max);
extern bool violations_take(uint32 entry, int64 ahead, ViolationView *view);
extern void violations_settle(uint32 entry, Oid database, bool written);
extern void violations_forget_database(Oid database, bool dropped);

#endif							/* RATELIMIT_VIOLATIONS_PENDING_H */
