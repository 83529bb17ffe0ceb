/*
 * episodes.h
 *		Recent runs of violations, and who is to be flagged: see episodes.c.
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
extern void episodes_startup(void *memory, bool found);
extern int64 episodes_fold_interval(void);
extern void episodes_set_window(void);
extern bool episodes_add(Oid database, const char *limiter, const char *key,
						 int64 n, TimestampTz at, int64 at_mono, bool make);
extern bool episodes_get(int n, Episode *episode);
extern bool flags_get_due(int n, Oid database, DueFlag *flag);
extern void flags_done(const DueFlag *flag);
extern int	flags_databases(Oid *databases, int n, int max);
extern void flags_start_anew(Oid database, const char *limiter, const char *key);
extern void episodes_forget_database(Oid database);

#pragma GCC visibility pop

#endif							/* RATELIMIT_EPISODES_H */
