/*
 * portions.c
 *		Portions of tokens, which the worker asks homes for and gives back.
 *
 * A call puts its lease into the queue of the worker (lease_request()).  The worker asks
 * for a portion (leases_pop()), whose size depends on what calls of the key use, and puts
 * the answer into the lease (lease_credit()).  From time to time it looks for what is not
 * used (leases_sweep()).
 */
#include "postgres.h"

#include <math.h>

#include "leases.h"
#include "miscadmin.h"
#include "settings.h"

/* How many times as much as last time is asked for, at most */
#define GROWTH		4

/*
 * At least so many calls' worth is asked for, so that a key of which hardly anything is
 * used need not be asked for often.
 */
#define LEAST		10

/* For so long a home is not asked again for a key for which it cannot answer. */
#define REFUSED_TIME INT64CONST(1000000)

/* The worker of a database; null: it has none.  shared->lock is held. */
static Worker *
worker_of(Oid database)
{
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		if (shared->workers[i].database == database)
			return &shared->workers[i];
	}
	return NULL;
}

/*
 * Put a lease, which is locked, into the queue of the worker.  The caller wakes the
 * worker afterwards, if the answer is true.
 */
bool
lease_request(Lease *lease)
{
	Worker	   *worker;

	if (lease->queued || lease->asking)
		return false;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	worker = worker_of(shared->homes[lease->home].database);
	if (worker)
	{
		lease->next_queued = worker->queue;
		worker->queue = lease_number(lease);
		lease->queued = true;
	}
	LWLockRelease(shared->lock);
	return true;
}

/* How many tokens to ask for */
static double
tokens_wanted(Lease *lease, int64 now)
{
	double		seconds = Max(now - lease->asked, 1000) / 1e6;
	double		rate = lease->asked == 0 ? 0 :
		Max(lease->rate, (lease->demand - lease->demand_asked) / seconds);

	/* also what is used until the answer comes */
	return ceil(rate * (span_setting / 1e3 +
						pg_atomic_read_u64(&shared->homes[lease->home].round_trip) / 1e6));
}

/* A lease, which is locked, as a portion to ask for. */
static void
lease_ask(Lease *lease, Portion *portion, int64 now)
{
	double		needed = Max(0, lease->waiting - (lease_is_valid(lease, now) ? lease->tokens : 0));

	lease->portion = Max(LEAST * lease->cost,
						 Min(tokens_wanted(lease, now), GROWTH * lease->portion));
	lease->asking = true;
	lease->asked = now;
	lease->demand_asked = lease->demand;
	portion->lease = lease_number(lease);
	portion->home = lease->home;
	portion->needed = Min(needed, lease->capacity);
	portion->tokens = ceil(Max(lease->portion, portion->needed));
	portion->capacity = lease->capacity;
	portion->refill = lease->refill;
	portion->asked = now;
}

/* The names of a lease, which is locked. */
static void
copy_names(const Lease *lease, Portion *portion)
{
	memcpy(portion->limiter, lease_limiter(lease), lease->limiter_len);
	portion->limiter[lease->limiter_len] = '\0';
	memcpy(portion->key, lease_key(lease), lease->key_len);
	portion->key[lease->key_len] = '\0';
}

/*
 * Empty the queue of this worker: portions to ask for, at most so many.  Leases whose
 * home is not ready leave the queue as well: see leases_request_waiting().  "wanted" says
 * of which homes there were any.
 */
int
leases_pop(Portion *portions, int max, const bool *ready, bool *wanted)
{
	int			n = 0;
	int64		now = now_us();

	while (n < max)
	{
		Worker	   *worker;
		Lease	   *lease = NULL;
		int32		first = -1;

		/* the order of locks is that of lease_request(): a lease, then the queue */
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		worker = worker_of(MyDatabaseId);
		if (worker && worker->queue >= 0)
		{
			first = worker->queue;
			worker->queue = lease_at(first)->next_queued;
		}
		LWLockRelease(shared->lock);
		if (first < 0)
			break;
		/* a lease that is queued is not given up */
		lease = lease_lock_number(first);
		Assert(lease && lease->queued);
		lease->queued = false;
		wanted[lease->home] = true;
		if (ready[lease->home] && !lease->asking)
		{
			lease_ask(lease, &portions[n], now);
			copy_names(lease, &portions[n]);
			n++;
		}
		lease_unlock(lease);
	}
	return n;
}

/* The answer of a home has come: so many tokens, and so many are left in the bucket. */
void
lease_credit(const Portion *portion, double taken, double remaining, double blocked,
			 uint64 epoch, int64 now)
{
	Lease	   *lease = lease_lock_number(portion->lease);
	Home	   *home;
	double		pause;
	double		rate;

	/* a lease that is asking is not given up */
	Assert(lease && lease->asking);
	home = &shared->homes[lease->home];
	if (lease->tokens > 0 && (lease->epoch != epoch || now >= lease->until))
	{
		add_tokens(&home->lost, lease->tokens);
		lease->tokens = 0;
	}
	lease->tokens += taken;
	lease->epoch = epoch;
	/* the home has given them after it was asked */
	lease->until = portion->asked + term_setting * INT64CONST(1000);
	lease->remaining = remaining;
	lease->answered = now;
	lease->blocked_until = blocked > 0 ? now + (int64) (Min(blocked, 1e6) * 1e6) : 0;
	lease->is_short = taken < portion->needed || taken == 0 || blocked > 0;
	/* the bucket has room for what comes meanwhile */
	pause = lease->refill > 0 ? lease->capacity / lease->refill / 8 * 1e6 : 50000;
	lease->empty_until = lease->is_short ? now + (int64) Max(1000, Min(pause, 50000)) : 0;
	rate = Max(lease->rate,
			   (lease->demand - lease->demand_asked) / (Max(now - lease->asked, 10000) / 1e6));
	lease->low = Min(lease->tokens / 2,
					 rate * (0.02 + 2 * pg_atomic_read_u64(&home->round_trip) / 1e6));
	lease->asking = false;
	lease->answers++;
	lease_unlock(lease);
	ConditionVariableBroadcast(&lease->answer);
}

/*
 * There is no answer: whatever the home has taken is lost.  "refused": the home cannot
 * answer for this key.
 */
void
lease_failed(const Portion *portion, bool refused)
{
	Lease	   *lease = lease_lock_number(portion->lease);

	Assert(lease && lease->asking);
	pg_atomic_fetch_add_u64(&shared->homes[lease->home].failed, 1);
	if (refused)
		lease->refused_until = now_us() + REFUSED_TIME;
	lease->asking = false;
	lease->answers++;
	lease_unlock(lease);
	ConditionVariableBroadcast(&lease->answer);
}

/* A worker begins: its predecessor may have ended while it was asking. */
void
leases_forget_asked(void)
{
	for (int i = 0; i < leases_max(); i++)
	{
		Lease	   *lease = lease_lock_number(i);

		if (!lease)
			continue;
		if (shared->homes[lease->home].database == MyDatabaseId)
			lease->asking = false;
		lease_unlock(lease);
	}
}

/* A home is there: ask for what calls wait for. */
void
leases_request_waiting(int home)
{
	for (int i = 0; i < leases_max(); i++)
	{
		Lease	   *lease = lease_lock_number(i);

		if (!lease)
			continue;
		if (lease->home == home && lease->n_waiting > 0)
			(void) lease_request(lease);
		lease_unlock(lease);
	}
}

/* A home is away: calls do not wait for it any more. */
void
leases_wake(int home)
{
	for (int i = 0; i < leases_max(); i++)
	{
		Lease	   *lease = lease_lock_number(i);
		bool		wake;

		if (!lease)
			continue;
		wake = lease->home == home && lease->n_waiting > 0;
		lease_unlock(lease);
		if (wake)
			ConditionVariableBroadcast(&lease->answer);
	}
}

/*
 * How many tokens of a lease, which is locked, are to be given back?  All of them, if it
 * is not called, or what will not be used for long.
 */
static double
tokens_idle(const Lease *lease, int64 now, bool all)
{
	int64		idle = idle_setting * INT64CONST(1000);
	double		expected;

	if (all || now - lease->called > idle || now >= lease->until)
		return lease->tokens;
	if (now - lease->asked < idle)
		return 0;
	expected = 1 + 2 * lease->rate * (span_setting + idle_setting) / 1e3;
	return lease->tokens > 2 * expected ? floor(lease->tokens - expected) : 0;
}

/*
 * Look through the leases of this database.  Those that nobody calls are given up, if
 * they are empty.  Returns portions to give back, at most so many, which are taken from
 * their leases here.  "wanted" says of which homes there are leases left.
 */
int
leases_sweep(Portion *portions, int max, const bool *ready, int64 now, double elapsed,
			 bool all, bool *wanted)
{
	int			n = 0;

	memset(wanted, 0, MAX_HOMES * sizeof(bool));
	for (int i = 0; i < leases_max(); i++)
	{
		Lease	   *lease = lease_lock_number(i);
		Home	   *home;

		if (!lease)
			continue;
		home = &shared->homes[lease->home];
		if (home->database != MyDatabaseId)
		{
			lease_unlock(lease);
			continue;
		}
		lease->rate += ((lease->demand - lease->demand_swept) / elapsed - lease->rate) / 4;
		lease->demand_swept = lease->demand;
		if (lease->tokens > 0)
		{
			double		idle = tokens_idle(lease, now, all);

			if (lease->epoch != pg_atomic_read_u64(&home->epoch) ||
				(!ready[lease->home] && (now >= lease->until || all)))
			{
				add_tokens(&home->lost, lease->tokens);
				lease->tokens = 0;
			}
			else if (idle > 0 && ready[lease->home] && n < max)
			{
				lease->tokens -= idle;
				portions[n].lease = i;
				portions[n].home = lease->home;
				portions[n].tokens = idle;
				portions[n].epoch = lease->epoch;
				portions[n].asked = now;
				copy_names(lease, &portions[n]);
				n++;
			}
		}
		if ((all || now - lease->called > idle_setting * INT64CONST(1000)) &&
			lease_is_free(lease))
			lease_give_up(lease);
		else
		{
			wanted[lease->home] = true;
			lease_unlock(lease);
		}
	}
	return n;
}
