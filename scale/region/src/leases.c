/*
 * leases.c
 *		Leases, in shared memory: tokens that were taken from the bucket of a key at its
 *		home, before any call uses them.
 *
 * So all servers together never use more than the bucket has given:
 *
 * - A portion counts here once, when the answer comes.  If it does not come, the tokens
 *   are lost.  Nothing is asked for twice: a new question takes new tokens.
 * - What is given back is taken from the lease before it is sent (leases_sweep() in
 *   portions.c).  If it does not arrive, it is lost.
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

#include "common/hashfn.h"
#include "leases.h"
#include "port/pg_bitutils.h"
#include "settings.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#define TRANCHE		"ratelimit_region"
#define N_LEASE_LOCKS 64

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

/* The lease with a number, which may be free.  It is not locked. */
Lease *
lease_at(int n)
{
	return &slots[n];
}

int
lease_number(const Lease *lease)
{
	return lease - slots;
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
bool
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

/* Give up a lease, which is locked, and unlock it.  If it has tokens, they are lost. */
void
lease_give_up(Lease *lease)
{
	lease_unlink(link_of(lease));
	LWLockRelease(lock_of(lease->hash));
	SpinLockAcquire(&leases->free_lock);
	lease->next = leases->free;
	leases->free = lease_number(lease);
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
bool
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

/* A database is gone, and nobody calls or asks for leases of its homes any more: forget them. */
void
leases_forget_home(int home)
{
	for (int i = 0; i < leases->n_leases; i++)
	{
		Lease	   *lease = lease_lock_number(i);

		if (!lease)
			continue;
		if (lease->home == home)
			lease_give_up(lease);
		else
			lease_unlock(lease);
	}
}
