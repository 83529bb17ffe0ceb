/*
 * leases.h
 *		Leases: tokens that this server has taken from the bucket at a key's home.
 */
#ifndef REGION_LEASES_H
#define REGION_LEASES_H

#include "shared.h"
#include "storage/condition_variable.h"

/* Which key of which home. */
typedef struct LeaseName
{
	int			home;			/* in shared->homes */
	const char *limiter;
	int			limiter_len;
	const char *key;
	int			key_len;
	uint64		hash;
} LeaseName;

/*
 * A lease.  Everything in it is protected by the lock of its chain, which lease_lock()
 * takes.  A lease that "used" does not say is free.
 */
typedef struct Lease
{
	int32		next;			/* in its chain, or free; -1: the last */
	int32		next_queued;
	bool		used;
	bool		queued;			/* in the queue of the worker */
	bool		asking;			/* a portion has been asked for */
	bool		is_short;		/* the home has had less than was needed */
	int			home;
	uint64		hash;
	double		tokens;
	uint64		epoch;			/* of the home, when it gave them */
	int64		until;			/* they are void then */
	double		capacity;		/* of the last call */
	double		refill;
	double		cost;
	double		demand;			/* tokens that calls wanted, so far */
	double		demand_asked;	/* of them, when a portion was asked for last */
	double		demand_swept;	/* and at the last sweep */
	double		rate;			/* tokens that calls want a second, of late */
	double		portion;		/* how many were wanted last */
	double		low;			/* the next portion is asked for below this */
	double		remaining;		/* in the bucket, when its home answered */
	int64		called;			/* when; all times are microseconds of now_us() */
	int64		asked;
	int64		answered;
	int64		empty_until;	/* the home is not asked before */
	int64		blocked_until;
	int64		refused_until;	/* the home cannot answer */
	double		waiting;		/* tokens that calls wait for */
	int			n_waiting;
	uint64		answers;		/* how many have come, failures as well */
	/* decisions */
	uint64		here;
	uint64		waited;
	uint64		denied;
	uint64		undecided;
	ConditionVariable answer;	/* that it has come; not under the lock */
	uint8		limiter_len;
	uint8		key_len;
	char		names[LIMITER_LENGTH + KEY_LENGTH];
} Lease;

#define lease_limiter(lease) ((lease)->names)
#define lease_key(lease) ((lease)->names + (lease)->limiter_len)

/* What a portion is asked for, or given back. */
typedef struct Portion
{
	int32		lease;			/* its number */
	int			home;
	double		tokens;			/* wanted, or given back */
	double		needed;
	double		capacity;
	double		refill;
	uint64		epoch;
	int64		asked;
	char		limiter[LIMITER_LENGTH + 1];
	char		key[KEY_LENGTH + 1];
} Portion;

extern Size leases_size(void);
extern void leases_startup(bool found);
extern int	leases_max(void);
extern void lease_name(LeaseName *name, int home, const char *limiter, int limiter_len,
					   const char *key, int key_len);
extern Lease *lease_lock(const LeaseName *name);
extern Lease *lease_lock_number(int n);
extern void lease_unlock(Lease *lease);
extern Lease *lease_at(int n);
extern int	lease_number(const Lease *lease);
extern bool lease_is_free(const Lease *lease);
extern bool lease_is_valid(const Lease *lease, int64 now);
extern bool lease_take(Lease *lease, double cost, int64 now);
extern void lease_give_up(Lease *lease);
extern void leases_forget_home(int home);

/* portions.c */
extern bool lease_request(Lease *lease);
extern int	leases_pop(Portion *portions, int max, const bool *ready, bool *wanted);
extern void lease_credit(const Portion *portion, double taken, double remaining,
						 double blocked, uint64 epoch, int64 now);
extern void lease_failed(const Portion *portion, bool refused);
extern void leases_forget_asked(void);
extern void leases_request_waiting(int home);
extern void leases_wake(int home);
extern int	leases_sweep(Portion *portions, int max, const bool *ready, int64 now,
						 double elapsed, bool all, bool *wanted);

#endif							/* REGION_LEASES_H */
