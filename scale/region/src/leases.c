/*
 * leases.c
 *		Leases, in shared memory: tokens that were taken from the bucket of a key at its
 *		home, before any call uses them.
 *
 * So all servers together never use more than the bucket has given:
 *
 * - A portion counts here once, when the answer comes.  If it does not come, the tokens
 *   are lost.  Nothing is asked for twice: a new question takes new tokens.
 * - What is given back is taken from the lease before it is sent (leases_sweep()).  If
 *   it does not arrive, it is lost.
 * - A lease that is not here is empty.  So nothing is lost but tokens when the server
 *   crashes, or a lease gives way to another.
 * - Tokens are void once the home has started anew, because its bucket may have
 *   forgotten that it has given them; that is what the epoch is for.
 *
 * test/model/leases.pml has SPIN try all orders of these steps.
 *
 * Leases are found by chains.  One of N_LEASE_LOCKS locks protects a chain with all
 * leases in it, and is held for a few instructions only.
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "leases.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "settings.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#define TRANCHE		"ratelimit_region"
#define N_LEASE_LOCKS 64

/* How many times as much as last time is asked for, at most */
#define GROWTH		4

/*
 * At least so many calls' worth is asked for, so that a key of which hardly anything is
 * used need not be asked for often.
 */
#define LEAST		10

/* For so long a home is not asked again for a key for which it cannot answer. */
#define REFUSED_TIME INT64CONST(1000000)

/* How many chains are searched for a lease that can give way. */
#define MAX_SEARCH	64

typedef struct Leases
{
	int			n_leases;
	uint32		n_chains;		/* a power of 2 */
	slock_t		free_lock;
	int32		free;			/* the first free lease; under free_lock */
} Leases;

static Leases *leases;
static int32 *chains;
static Lease *slots;
static LWLockPadded *locks;

static uint32
chains_for(int n_leases)
{
	return Max(pg_nextpower2_32(n_leases), N_LEASE_LOCKS);
}

Size
leases_size(void)
{
	Size		size = MAXALIGN(sizeof(Leases));

	size = add_size(size, MAXALIGN(mul_size(chains_for(max_leases_setting), sizeof(int32))));
	return add_size(size, mul_size(max_leases_setting, sizeof(Lease)));
}

void
leases_startup(bool found)
{
	char	   *memory = ShmemInitStruct("ratelimit_region leases", leases_size(), &found);

	leases = (Leases *) memory;
	memory += MAXALIGN(sizeof(Leases));
	chains = (int32 *) memory;
	memory += MAXALIGN(chains_for(max_leases_setting) * sizeof(int32));
	slots = (Lease *) memory;
	locks = &GetNamedLWLockTranche(TRANCHE)[1];
	if (found)
		return;

	leases->n_leases = max_leases_setting;
	leases->n_chains = chains_for(max_leases_setting);
	SpinLockInit(&leases->free_lock);
	leases->free = 0;
	for (uint32 i = 0; i < leases->n_chains; i++)
		chains[i] = -1;
	memset(slots, 0, mul_size(max_leases_setting, sizeof(Lease)));
	for (int i = 0; i < leases->n_leases; i++)
	{
		slots[i].next = i + 1 < leases->n_leases ? i + 1 : -1;
		ConditionVariableInit(&slots[i].answer);
	}
}

int
leases_max(void)
{
	return leases->n_leases;
}

static LWLock *
lock_of(uint64 hash)
{
	return &locks[hash & (N_LEASE_LOCKS - 1)].lock;
}

static int32 *
chain_of(uint64 hash)
{
	return &chains[hash & (leases->n_chains - 1)];
}

void
lease_name(LeaseName *name, int home, const char *limiter, int limiter_len,
		   const char *key, int key_len)
{
	uint64		hash;

	Assert(limiter_len <= LIMITER_LENGTH && key_len <= KEY_LENGTH);
	hash = DatumGetUInt64(hash_any_extended((const unsigned char *) limiter, limiter_len,
											shared->seed + home));
	hash = DatumGetUInt64(hash_any_extended((const unsigned char *) key, key_len, hash));
	name->home = home;
	name->limiter = limiter;
	name->limiter_len = limiter_len;
	name->key = key;
	name->key_len = key_len;
	name->hash = hash;
}

static bool
lease_has_name(const Lease *lease, const LeaseName *name)
{
	return lease->hash == name->hash && lease->home == name->home &&
		lease->limiter_len == name->limiter_len && lease->key_len == name->key_len &&
		memcmp(lease_limiter(lease), name->limiter, name->limiter_len) == 0 &&
		memcmp(lease_key(lease), name->key, name->key_len) == 0;
}

/* Does neither a call nor the worker need a lease? */
static bool
lease_is_idle(const Lease *lease)
{
	return lease->n_waiting == 0 && !lease->asking && !lease->queued;
}

/* May a lease be given up without losing anything? */
static bool
lease_is_free(const Lease *lease)
{
	return lease->tokens <= 0 && lease_is_idle(lease);
}

/*
 * Take a lease, which is idle, out of its chain.  The chain's lock is held.  Its tokens are
 * lost.
 */
static void
lease_unlink(int32 *link)
{
	Lease	   *lease = &slots[*link];
	Home	   *home = &shared->homes[lease->home];

	if (lease->tokens > 0)
		add_tokens(&home->lost, lease->tokens);
	lease->tokens = 0;
	pg_atomic_fetch_add_u64(&home->here, lease->here);
	pg_atomic_fetch_add_u64(&home->waited, lease->waited);
	pg_atomic_fetch_add_u64(&home->denied, lease->denied);
	pg_atomic_fetch_add_u64(&home->undecided, lease->undecided);
	lease->used = false;
	*link = lease->next;
}

/* What leads to a lease, which is locked, in its chain */
static int32 *
link_of(const Lease *lease)
{
	int32	   *link = chain_of(lease->hash);

	while (&slots[*link] != lease)
		link = &slots[*link].next;
	return link;
}

/* A lease that has been taken out of its chain can be used for another key. */
static void
lease_free(Lease *lease)
{
	SpinLockAcquire(&leases->free_lock);
	lease->next = leases->free;
	leases->free = lease - slots;
	SpinLockRelease(&leases->free_lock);
}

/*
 * The number of a lease that is not used; -1: there is none.
 *
 * If there is no room, a lease under the same lock gives way: one without tokens or, so that a
 * role cannot take all room by calling very many keys, the one that has decided the fewest
 * calls.
 */
static int32
lease_new(uint64 hash)
{
	int32		n;
	int32	   *least = NULL;
	uint64		least_calls = 0;

	SpinLockAcquire(&leases->free_lock);
	n = leases->free;
	if (n >= 0)
		leases->free = slots[n].next;
	SpinLockRelease(&leases->free_lock);
	if (n >= 0)
		return n;

	for (uint32 i = 0; i < Min(MAX_SEARCH, leases->n_chains / N_LEASE_LOCKS); i++)
	{
		int32	   *link = chain_of(hash + (uint64) i * N_LEASE_LOCKS);

		for (; *link >= 0; link = &slots[*link].next)
		{
			const Lease *lease = &slots[*link];
			uint64		calls = lease->here + lease->waited;

			n = *link;
			if (lease_is_free(lease))
			{
				lease_unlink(link);
				return n;
			}
			if (lease_is_idle(lease) && (!least || calls < least_calls))
			{
				least = link;
				least_calls = calls;
			}
		}
	}
	if (!least)
		return -1;
	n = *least;
	lease_unlink(least);
	return n;
}

/*
 * Lock the lease of a key.  It is made if need be; null, and nothing locked, if there is
 * no room for it.
 */
Lease *
lease_lock(const LeaseName *name)
{
	int32	   *chain = chain_of(name->hash);
	Lease	   *lease;
	int32		n;

	LWLockAcquire(lock_of(name->hash), LW_EXCLUSIVE);
	for (n = *chain; n >= 0; n = slots[n].next)
	{
		if (lease_has_name(&slots[n], name))
			return &slots[n];
	}
	n = lease_new(name->hash);
	if (n < 0)
	{
		LWLockRelease(lock_of(name->hash));
		return NULL;
	}
	lease = &slots[n];
	/* the condition variable stays as it is */
	memset(lease, 0, offsetof(Lease, answer));
	lease->home = name->home;
	lease->hash = name->hash;
	lease->limiter_len = name->limiter_len;
	lease->key_len = name->key_len;
	memcpy(lease_limiter(lease), name->limiter, name->limiter_len);
	memcpy(lease_key(lease), name->key, name->key_len);
	lease->portion = 1;
	lease->called = now_us();
	lease->next = *chain;
	*chain = n;
	/* lease_lock_number() reads this first */
	pg_write_barrier();
	lease->used = true;
	return lease;
}

/* Lock the lease with a number; null, and nothing locked, if it is free. */
Lease *
lease_lock_number(int n)
{
	Lease	   *lease = &slots[n];

	for (;;)
	{
		/*
		 * A lease may pass to another chain before its lock is held.  It is used
		 * only after it has its hash, and is not used in between.
		 */
		uint64		hash;

		if (!*(volatile bool *) &lease->used)
			return NULL;
		pg_read_barrier();
		hash = *(volatile uint64 *) &lease->hash;
		LWLockAcquire(lock_of(hash), LW_EXCLUSIVE);
		if (*(volatile bool *) &lease->used)
		{
			pg_read_barrier();
			if (*(volatile uint64 *) &lease->hash == hash)
				return lease;
		}
		LWLockRelease(lock_of(hash));
	}
}

void
lease_unlock(Lease *lease)
{
	LWLockRelease(lock_of(lease->hash));
}

/* Tokens are void if their term is over, or their home has started anew. */
static bool
lease_is_valid(const Lease *lease, int64 now)
{
	return now < lease->until &&
		lease->epoch == pg_atomic_read_u64(&shared->homes[lease->home].epoch);
}

/* Take tokens from a lease, which is locked. */
bool
lease_take(Lease *lease, double cost, int64 now)
{
	if (lease->tokens < cost || !lease_is_valid(lease, now))
		return false;
	lease->tokens -= cost;
	return true;
}

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
		worker->queue = lease - slots;
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
	portion->lease = lease - slots;
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
			worker->queue = slots[first].next_queued;
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

/* A database is gone, and nobody calls or asks for leases of its homes any more: forget them. */
void
leases_forget_home(int home)
{
	for (int i = 0; i < leases->n_leases; i++)
	{
		Lease	   *lease = lease_lock_number(i);
		bool		forget;

		if (!lease)
			continue;
		forget = lease->home == home;
		if (forget)
			lease_unlink(link_of(lease));
		lease_unlock(lease);
		if (forget)
			lease_free(lease);
	}
}

/* A worker begins: its predecessor may have ended while it was asking. */
void
leases_forget_asked(void)
{
	for (int i = 0; i < leases->n_leases; i++)
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
	for (int i = 0; i < leases->n_leases; i++)
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
	for (int i = 0; i < leases->n_leases; i++)
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
	for (int i = 0; i < leases->n_leases; i++)
	{
		Lease	   *lease = lease_lock_number(i);
		Home	   *home;
		bool		given_up = false;
		int			lease_home;

		if (!lease)
			continue;
		lease_home = lease->home;
		home = &shared->homes[lease_home];
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
				portions[n].home = lease_home;
				portions[n].tokens = idle;
				portions[n].epoch = lease->epoch;
				portions[n].asked = now;
				copy_names(lease, &portions[n]);
				n++;
			}
		}
		if ((all || now - lease->called > idle_setting * INT64CONST(1000)) &&
			lease_is_free(lease))
		{
			lease_unlink(link_of(lease));
			given_up = true;
		}
		lease_unlock(lease);
		if (given_up)
			lease_free(lease);
		else
			wanted[lease_home] = true;
	}
	return n;
}
