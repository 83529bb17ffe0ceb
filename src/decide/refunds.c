/*
 * decide/refunds.c
 *		Giving tokens back when the call that took them is rolled back:
 *		ratelimit.refund_on_rollback.
 *
 * What allowed calls have taken is noted until the transaction ends.  There is one
 * note for each bucket and each subtransaction that took from it, so memory grows
 * with the number of buckets, not of calls.  The subtransactions that have notes form
 * a stack of levels.  The notes of one bucket form a stack, too, with the innermost
 * on top.  When a subtransaction commits, its notes become its parent's and are added
 * to those that the parent has for the same buckets.  When it aborts, their tokens
 * are given back.
 *
 * Room for a note is made before the decision, so that nothing is taken that could
 * not be noted.  The end of a (sub)transaction must neither allocate memory nor fail,
 * because the transaction may be aborting.  So at that point only a bucket in shared
 * memory gets its tokens back.  A bucket that is or may be in the table cannot be
 * reached from there.  Its tokens stay pending with its record, beyond the end of the
 * transaction.  They are given back by the session's next call that takes the long
 * way, before the commit of a transaction that has made a call, or when the session
 * ends.  At most MAX_PENDING buckets can have pending tokens.  The tokens of further
 * ones are lost, which errs on the side of the limit.
 *
 * Tokens are given back as a number.  If the bucket's parameters have changed
 * meanwhile, that many tokens count by the new parameters.  A bucket that was evicted
 * or reset meanwhile is full already.  Tokens that were taken in a period are not
 * given back to a later one.
 *
 * PREPARE TRANSACTION forgets the notes, because the transaction may be rolled back
 * by another session, or after a restart.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "core/transaction.h"
#include "decide/refunds.h"
#include "decide/stores.h"
#include "memory/administration.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "table/sql.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define MAX_NAME	(MAX_BUCKET_LIMITER_LEN + MAX_KEY_LEN)
#define MAX_PENDING	10000
#define EXIT_LOCK_MS	100		/* how long a session that ends waits for the table */
#define NONE		(-1)		/* instead of an index */

/*
 * A bucket from which tokens were taken.  It is remembered until the transaction
 * ends, or until its pending tokens are given back.
 */
typedef struct Bucket
{
	double		pending;		/* tokens that refund_settle() has to give */
	double		ends;			/* of a bucket in a period: which period, as its
								 * refill; else 0 */
	Size		name;			/* where in names its limiter and key are */
	uint32		hash;
	int			next;			/* the next one in the same chain, or NONE */
	int			top;			/* its innermost note, or NONE */
	uint8		limiter_len;
	uint8		key_len;
} Bucket;

/* How much a subtransaction has taken from a bucket. */
typedef struct Note
{
	double		tokens;
	int			bucket;
	int			level;			/* the level of the subtransaction */
	int			below;			/* the bucket's note of an outer level, or NONE */
	int			next;			/* the next one of the level, or free one, or NONE */
} Note;

/* A subtransaction that has notes. */
typedef struct Level
{
	SubTransactionId subxact;
	int			first;			/* its first note, or NONE */
} Level;

bool		refund_pending = false;
void		(*refund_before_undo) (SubTransactionId aborted) = NULL;

/*
 * The arrays, all in this memory context.  They outlive a transaction only if tokens
 * are pending; otherwise its end frees them all.
 */
static MemoryContext refunds = NULL;
static Bucket *buckets = NULL;
static int	n_buckets = 0;
static int	max_buckets = 0;
static Note *notes = NULL;
static int	n_notes = 0;		/* including free ones */
static int	max_notes = 0;
static int	free_note = NONE;	/* the first free one */
static int	n_free = 0;
static Level *levels = NULL;
static int	n_levels = 0;
static int	max_levels = 0;
static int *chains = NULL;		/* the first bucket of each chain, or NONE */
static int	n_chains = 0;		/* a power of 2, at least max_buckets */
static char *names = NULL;
static Size names_len = 0;
static Size names_max = 0;
static int	n_pending = 0;		/* buckets with pending tokens */
static bool reserved = false;	/* has this transaction called refund_reserve()? */

/* Put all buckets into chains by their hash. */
static void
chain_up(void)
{
	for (int i = 0; i < n_chains; i++)
		chains[i] = NONE;
	for (int i = 0; i < n_buckets; i++)
	{
		int		   *chain = &chains[buckets[i].hash & (n_chains - 1)];

		buckets[i].next = *chain;
		*chain = i;
	}
}

/*
 * Noting
 */

static uint32
hash_names(const BucketId *id)
{
	return hash_combine(hash_bytes((const unsigned char *) id->limiter, id->limiter_len),
						hash_bytes((const unsigned char *) id->key, id->key_len));
}

/* Find the bucket's record, or make it.  NONE if there is no room. */
static int
find_bucket(const BucketId *id)
{
	uint32		hash = hash_names(id);
	Bucket	   *bucket;

	if (n_chains == 0)
		return NONE;
	for (int i = chains[hash & (n_chains - 1)]; i != NONE; i = buckets[i].next)
	{
		bucket = &buckets[i];
		if (bucket->hash == hash && bucket->ends == id->ends &&
			bucket->limiter_len == id->limiter_len && bucket->key_len == id->key_len &&
			memcmp(names + bucket->name, id->limiter, id->limiter_len) == 0 &&
			memcmp(names + bucket->name + id->limiter_len, id->key, id->key_len) == 0)
			return i;
	}
	if (n_buckets >= max_buckets || names_len + MAX_NAME > names_max)
		return NONE;
	bucket = &buckets[n_buckets];
	bucket->pending = 0;
	bucket->ends = id->ends;
	bucket->name = names_len;
	bucket->hash = hash;
	bucket->top = NONE;
	bucket->limiter_len = id->limiter_len;
	bucket->key_len = id->key_len;
	memcpy(names + names_len, id->limiter, id->limiter_len);
	names_len += id->limiter_len;
	memcpy(names + names_len, id->key, id->key_len);
	names_len += id->key_len;
	bucket->next = chains[hash & (n_chains - 1)];
	chains[hash & (n_chains - 1)] = n_buckets;
	return n_buckets++;
}

static int
take_free_note(void)
{
	int			taken = free_note;

	if (taken == NONE)
		return n_notes < max_notes ? n_notes++ : NONE;
	free_note = notes[taken].next;
	n_free--;
	return taken;
}

static void
put_free_note(int note)
{
	notes[note].next = free_note;
	free_note = note;
	n_free++;
}

/* Note that the current subtransaction has taken so many tokens from the bucket. */
void
refund_note(const BucketId *id, double tokens)
{
	SubTransactionId subxact = GetCurrentSubTransactionId();
	int			bucket = find_bucket(id);
	int			note;
	int			level = n_levels - 1;

	/* refund_reserve() has made room; without it, the tokens are not given back */
	if (bucket == NONE)
		return;
	note = buckets[bucket].top;
	if (n_levels > 0 && levels[level].subxact == subxact)
	{
		if (note != NONE && notes[note].level == level)
		{
			notes[note].tokens += tokens;
			return;
		}
	}
	else
	{
		if (n_levels >= max_levels)
			return;
		level = n_levels++;
		levels[level].subxact = subxact;
		levels[level].first = NONE;
	}
	note = take_free_note();
	if (note == NONE)
		return;
	notes[note].tokens = tokens;
	notes[note].bucket = bucket;
	notes[note].level = level;
	notes[note].below = buckets[bucket].top;
	notes[note].next = levels[level].first;
	levels[level].first = note;
	buckets[bucket].top = note;
}

/* Enlarge the array, or make it, to have room for so many elements. */
static void *
enlarge(void *array, int *max, int wanted, Size size)
{
	array = array ? repalloc_huge(array, wanted * size) :
		MemoryContextAllocHuge(refunds, wanted * size);
	*max = wanted;
	return array;
}

static void settle_at_exit(int code, Datum arg);
static void at_xact_end(XactEvent event, void *arg);
static void at_subxact_end(SubXactEvent event, SubTransactionId mine,
						   SubTransactionId parent, void *arg);

/* Make room for n notes, before anything is taken. */
void
refund_reserve(int n)
{
	static bool called = false;

	call_at_ends(&called, at_xact_end, at_subxact_end);
	reserved = true;
	if (!refunds)
	{
		refunds = AllocSetContextCreate(TopMemoryContext, "ratelimit refunds",
										ALLOCSET_DEFAULT_SIZES);
		before_shmem_exit(settle_at_exit, (Datum) 0);
	}
	if (max_notes - n_notes + n_free < n)
		notes = enlarge(notes, &max_notes, Max(2 * max_notes, 16 + n), sizeof(Note));
	if (max_levels - n_levels < 1)
		levels = enlarge(levels, &max_levels, Max(2 * max_levels, 8), sizeof(Level));
	if (names_max - names_len < (Size) n * MAX_NAME)
	{
		Size		wanted = Max(2 * names_max, 1024 + (Size) n * MAX_NAME);

		names = names ? repalloc_huge(names, wanted) :
			MemoryContextAllocHuge(refunds, wanted);
		names_max = wanted;
	}
	if (max_buckets - n_buckets < n)
	{
		int			wanted = Max(2 * max_buckets, 16);

		while (wanted - n_buckets < n)
			wanted *= 2;
		/* wanted is a power of 2, as n_chains has to be */
		if (n_chains < wanted)
		{
			chains = enlarge(chains, &n_chains, wanted, sizeof(int));
			chain_up();
		}
		buckets = enlarge(buckets, &max_buckets, wanted, sizeof(Bucket));
	}
}

/*
 * Giving back
 */

static void
bucket_id(BucketId *id, const Bucket *bucket, const char *name)
{
	make_bucket_id(id, MyDatabaseId, name, bucket->limiter_len,
				   name + bucket->limiter_len, bucket->key_len);
	id->ends = bucket->ends;
}

/* May the bucket be in the table?  Found out without looking there. */
static bool
may_be_in_table(const BucketId *id)
{
	if (!memory_attached())
		return true;
	return !RecoveryInProgress() &&
		(!spill_known() || spill_is_set(memory_partition(id->hash)));
}

/*
 * Give tokens back to a bucket in memory, or make them pending.  A bucket that is in
 * neither store is full.  Nothing here can fail or allocate memory: the bucket has a
 * record already, or refund_reserve() has made room for one.
 */
void
refund_give(const BucketId *id, double tokens)
{
	int			n;
	double		given;

	/* what a reservation took is noted apart, and nothing may be left of a note */
	if (tokens <= 0)
		return;
	if ((memory_attached() && memory_give(id, tokens, &given)) || !may_be_in_table(id))
		return;
	n = find_bucket(id);
	if (n == NONE || (buckets[n].pending == 0 && n_pending >= MAX_PENDING))
		return;
	n_pending += buckets[n].pending == 0;
	buckets[n].pending += tokens;
	refund_pending = true;
}

/* Give back the tokens of the topmost level, and forget the level. */
static void
refund_level(void)
{
	int			next;

	for (int i = levels[n_levels - 1].first; i != NONE; i = next)
	{
		Bucket	   *bucket = &buckets[notes[i].bucket];
		BucketId	id;

		bucket_id(&id, bucket, names + bucket->name);
		refund_give(&id, notes[i].tokens);
		bucket->top = notes[i].below;
		next = notes[i].next;
		put_free_note(i);
	}
	n_levels--;
}

/* The topmost level commits: its notes go to the level below it. */
static void
merge_level(void)
{
	int			to = n_levels - 2;
	int			next;

	for (int i = levels[n_levels - 1].first; i != NONE; i = next)
	{
		Note	   *note = &notes[i];

		next = note->next;
		if (note->below != NONE && notes[note->below].level == to)
		{
			notes[note->below].tokens += note->tokens;
			buckets[note->bucket].top = note->below;
			put_free_note(i);
			continue;
		}
		note->level = to;
		note->next = levels[to].first;
		levels[to].first = i;
	}
	n_levels--;
}

/* No note is needed any more.  Keep only the buckets that have pending tokens. */
static void
forget_settled(void)
{
	int			kept = 0;
	Size		len = 0;

	n_levels = n_notes = n_free = 0;
	free_note = NONE;
	refund_pending = n_pending > 0;
	if (!refund_pending)
	{
		if (refunds)
			MemoryContextReset(refunds);
		buckets = NULL;
		notes = NULL;
		levels = NULL;
		chains = NULL;
		names = NULL;
		n_buckets = max_buckets = max_notes = max_levels = n_chains = 0;
		names_len = names_max = 0;
		return;
	}
	for (int i = 0; i < n_buckets; i++)
	{
		Bucket		bucket = buckets[i];
		int			name_len = bucket.limiter_len + bucket.key_len;

		if (bucket.pending == 0)
			continue;
		memmove(names + len, names + bucket.name, name_len);
		bucket.name = len;
		bucket.top = NONE;
		buckets[kept++] = bucket;
		len += name_len;
	}
	n_buckets = kept;
	names_len = len;
	chain_up();
}

/*
 * Give back the pending tokens, if the table can be written here.  Nothing is given
 * twice: tokens stop being pending before they are given, so they are lost if giving
 * them fails, or if it would have to wait and "wait" is false.
 */
static void
settle_pending(bool wait)
{
	if (!refund_pending || RecoveryInProgress() || IsInParallelMode())
		return;
	for (int i = 0; i < n_buckets && n_pending > 0; i++)
	{
		double		tokens = buckets[i].pending;
		char		name[MAX_NAME];
		BucketId	id;
		double		given;

		CHECK_FOR_INTERRUPTS();
		if (tokens == 0)
			continue;
		buckets[i].pending = 0;
		n_pending--;
		/* copy the name, as enlarging the arrays meanwhile may move it */
		memcpy(name, names + buckets[i].name,
			   buckets[i].limiter_len + buckets[i].key_len);
		bucket_id(&id, &buckets[i], name);
		give_tokens(&id, tokens, wait, &given);
	}
	refund_pending = n_pending > 0;
}

/* Give back the pending tokens, on a call's long way. */
void
refund_settle(void)
{
	settle_pending(true);
}

/*
 * The ends of transactions
 */

static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		if (refund_before_undo)
			refund_before_undo(mine);
		/* subtransactions inside this one have higher numbers */
		while (n_levels > 0 && levels[n_levels - 1].subxact >= mine)
			refund_level();
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB &&
			 n_levels > 0 && levels[n_levels - 1].subxact == mine)
	{
		if (n_levels > 1 && levels[n_levels - 2].subxact == parent)
			merge_level();
		else
			levels[n_levels - 1].subxact = parent;
	}
}

/*
 * Give back the pending tokens if the table can be locked within so many
 * milliseconds.
 *
 * This is done before a commit, so that tokens that a savepoint's rollback made
 * pending are not lost if the session is then cut off.  It is done only in a
 * transaction that has called one of our functions, because others, such as VACUUM's,
 * may not be allowed to write to a table.
 */
static void
settle(int ms)
{
	if (refund_pending && reserved && !RecoveryInProgress() && !IsInParallelMode() &&
		sql_lock_within(SQL_BUCKETS, RowExclusiveLock, ms) == NULL)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		settle_pending(false);
		PopActiveSnapshot();
	}
}

/*
 * Give back the pending tokens at the end of the session, and those of a transaction that
 * is cut off, which become pending as it is aborted here.
 */
static void
settle_at_exit(int code, Datum arg)
{
	if ((!refund_pending && n_levels == 0) || RecoveryInProgress())
		return;
	AbortOutOfAnyTransaction();
	if (!refund_pending)
		return;
	StartTransactionCommand();
	reserved = true;
	settle(EXIT_LOCK_MS);
	CommitTransactionCommand();
}

static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT && refund_before_undo)
		refund_before_undo(TopSubTransactionId);
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
		while (n_levels > 0)
			refund_level();
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			settle(0);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PREPARE:
			if (n_buckets > 0 || max_notes > 0)
				forget_settled();
			reserved = false;
			break;
		default:
			break;
	}
}
