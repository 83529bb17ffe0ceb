/*
 * violations/episodes.h
 *		Recent runs of violations, and who is to be flagged: see violations/episodes.c.
 */
#ifndef RATELIMIT_EPISODES_H
#define RATELIMIT_EPISODES_H

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

typedef struct Episode
{
	Oid			database;		/* InvalidOid: free */
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	TimestampTz first_at;
	TimestampTz last_at;
	int64		rejected;
} Episode;

/* A key that crossed the threshold and has no row in rate_limit_flags yet. */
typedef struct DueFlag
{
	Oid			database;		/* InvalidOid: free */
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	int64		rejected;		/* within the window */
} DueFlag;

#define MAX_DUE_FLAGS	1024

extern Size episodes_size(void);
extern int	episodes_locks(void);
extern void episodes_use_locks(LWLockPadded *locks);
extern void episodes_startup(void *memory, bool found);
extern int64 episodes_slice(void);
extern bool episodes_set_window(void);
extern bool episodes_add(const BucketId *id, int64 n, TimestampTz first_at,
						 TimestampTz last_at, bool make);
extern Episode *episodes_copy(int *n);
extern void episodes_forget_database(Oid database);
extern void flags_count(const BucketId *id, int64 n, int64 at);
extern bool flags_get_due(int *at, Oid database, DueFlag *flag);
extern void flags_done(const DueFlag *flag);
extern int	flags_databases(Oid *databases, int n, int max);
extern void flags_start_anew(const BucketId *id);

#pragma GCC visibility pop

#endif							/* RATELIMIT_EPISODES_H */
