/*
 * violations/count.h
 *		Violations not yet written: see violations/count.c.
 */
#ifndef RATELIMIT_VIOLATIONS_H
#define RATELIMIT_VIOLATIONS_H

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

#define MAX_GATEWAY_LEN		255 /* bytes */
#define OTHER_KEY			"(other)"

/* The most that may be added at once. */
#define MAX_VIOLATIONS_ADDED (INT64CONST(1) << 40)

/* The most that one key can have pending. */
#define MAX_VIOLATIONS_PENDING (INT64CONST(1) << 43)

/* One (gateway, limiter, key) and its violations. */
typedef struct ViolationView
{
	char		gateway[MAX_GATEWAY_LEN + 1];
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	int64		count;
	bool		again;			/* taken: for another time in this transaction */
	TimestampTz last_at;
} ViolationView;

extern Size violations_size(void);
extern int	violations_locks(void);
extern void violations_startup(void *memory, LWLockPadded *locks, bool found);
extern const char *violations_gateway(void);
extern void violations_expect(const BucketId *id);
extern bool violations_add(const BucketId *id, int64 n, int64 now);
extern uint32 violations_entries(void);
extern bool violations_view(uint32 entry, Oid database, ViolationView *view,
							Oid *owner);
extern int64 violations_lost(void);
extern int	violations_databases(Oid *databases, int max);
extern bool violations_take(uint32 entry, ViolationView *view);
extern void violations_settle(uint32 entry, Oid database, bool written);
extern void violations_restored(void);
extern void violations_fold(void);
extern long violations_fold_wait(void);
extern void violations_set_window(void);
extern void violations_forget_database(Oid database);

#pragma GCC visibility pop

#endif							/* RATELIMIT_VIOLATIONS_H */
