/*
 * decide/refunds.c
 *		Tokens that come back when what took them is rolled back:
 *		ratelimit.refund_on_rollback.
 *
 * What allowed calls took is noted until the transaction ends: one note for each
 * bucket and subtransaction that took from it, so memory grows with the buckets,
 * not with the calls.  Subtransactions that have notes make a stack of levels, and
 * so do the notes of a bucket, the innermost on top.  When a subtransaction
 * commits, its notes become its parent's, added to those that the parent has of
 * the same buckets; when it aborts, their tokens go back.
 *
 * Room for a note is made before the decision, so that nothing is taken that
 * could not be noted.  Nothing that happens at the end of a (sub)transaction
 * allocates memory or can fail, since a transaction may be aborting.  So a bucket
 * that is in shared memory gets its tokens back at once.  One that is in the table,
 * or may be, cannot be reached from there.  What it is to get stays pending with
 * its record, beyond the end of the transaction, and goes back with the session's next
 * call on the long way, before the commit of a transaction that has made a call, or
 * when the session ends.  At most MAX_PENDING
 * buckets wait so; what further ones are to get is lost, which favours the limit.
 *
 * What goes back is tokens: should the bucket's parameters have changed, they
 * count by the new ones.  What has been evicted or reset meanwhile is full already.
 *
 * PREPARE TRANSACTION forgets the notes: who rolls back later is another session,
 * or the same after a restart.
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

#define MAX_NAME	(MAX_LIMITER_LEN + MAX_KEY_LEN)
#define MAX_PENDING	10000
#define EXIT_LOCK_MS	100		/* that the end of a session may wait for the table */
#define NONE		(-1)

/* A bucket that was taken from: remembered to the transaction's end, or longer. */
typedef struct Bucket
{
	double		pending;		/* tokens for refund_settle() to give; 0: none */
	Size		name;			/* limiter, then key: at this place of names */
	uint32		hash;
	int			next;			/* of the same chain; or NONE */
	int			top;			/* its innermost note; or NONE */
	uint8		limiter_len;
	uint8		key_len;
} Bucket;

/* What a subtransaction has taken from a bucket. */
typedef struct Note
{
	double		tokens;
	int			bucket;
	int			level;			/* the subtransaction's */
	int			below;			/* the same bucket's, of an outer level; or NONE */
	int			next;			/* of the same level, or free; or NONE */
} Note;

/* A subtransaction that has notes. */
typedef struct Level
{
	SubTransactionId subxact;
	int			first;			/* note; or NONE */
} Level;

bool		refund_pending = false;

/* All arrays are there, or none; they outlive a transaction if something is pending. */
static MemoryContext refunds = NULL;
static Bucket *buckets = NULL;
static int	n_buckets = 0;
static int	max_buckets = 0;
static Note *notes = NULL;
static int	n_notes = 0;		/* those that are free included */
static int	max_notes = 0;
static int	free_note = NONE;	/* the first of them */
static int	n_free = 0;
static Level *levels = NULL;
static int	n_levels = 0;
static int	max_levels = 0;
static int *chains = NULL;		/* the first bucket of each; as many as max_buckets */
static int	n_chains = 0;		/* a power of 2 */
static char *names = NULL;
static Size names_len = 0;
static Size names_max = 0;
static int	n_pending = 0;		/* buckets */
static bool reserved = false;	/* in this transaction */

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

/* The bucket's record, made if need be; NONE if there is no room. */
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
		if (bucket->hash == hash &&
			bucket->limiter_len == id->limiter_len && bucket->key_len == id->key_len &&
			memcmp(names + bucket->name, id->limiter, id->limiter_len) == 0 &&
			memcmp(names + bucket->name + id->limiter_len, id->key, id->key_len) == 0)
			return i;
	}
	if (n_buckets >= max_buckets || names_len + MAX_NAME > names_max)
		return NONE;
	bucket = &buckets[n_buckets];
	bucket->pending = 0;
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

/* The current subtransaction has taken so many tokens from a bucket, wherever it is. */
void
refund_note(const BucketId *id, double tokens)
{
	SubTransactionId subxact = GetCurrentSubTransactionId();
	int			bucket = find_bucket(id);
	int			note;
	int			level = n_levels - 1;

	/* not reserved: cannot be, but costs no more than the tokens */
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

/* The array, with room for so many. */
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

/* Make room for n notes; before anything is taken. */
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
		/* a power of 2, and so there is a chain for each bucket */
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
}

/* May the bucket be in the table?  Without looking there. */
static bool
may_be_in_table(const BucketId *id)
{
	if (!memory_attached())
		return true;
	return !RecoveryInProgress() &&
		(!spill_known() || spill_is_set(memory_partition(id->hash)));
}

/*
 * Give tokens back to a bucket, or let them be pending.  May be called where nothing
 * may fail, if there is a record of the bucket or room for it was made.
 */
static void
refund_give(const BucketId *id, double tokens)
{
	int			n;
	double		given;

	if ((memory_attached() && memory_give(id, tokens, &given)) || !may_be_in_table(id))
		return;
	n = find_bucket(id);
	if (n == NONE || (buckets[n].pending == 0 && n_pending >= MAX_PENDING))
		return;
	n_pending += buckets[n].pending == 0;
	buckets[n].pending += tokens;
	refund_pending = true;
}

/* Give the tokens of the topmost level back, and forget it. */
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

/* The topmost level's notes become those of the level below it. */
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

/* No note is left.  Keep of the buckets those for which something is pending. */
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
 * Give back what is pending, if the table can be written here.  Whatever becomes of
 * it, nothing is given twice: what fails, or would have to wait and is not to, is lost.
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
		/* the arrays may move meanwhile */
		memcpy(name, names + buckets[i].name,
			   buckets[i].limiter_len + buckets[i].key_len);
		bucket_id(&id, &buckets[i], name);
		give_tokens(&id, tokens, wait, &given);
	}
	refund_pending = n_pending > 0;
}

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
		/* subtransactions within it have higher numbers */
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
 * Before the commit, if nothing is in the way: what savepoints had to give back
 * would else be lost should the session end here.  Only in a transaction that has
 * called one of our functions: others, such as VACUUM's, may not be allowed to
 * write anywhere.
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

/* The session ends: likewise, waiting for the table for a moment. */
static void
settle_at_exit(int code, Datum arg)
{
	if (!refund_pending || RecoveryInProgress())
		return;
	AbortOutOfAnyTransaction();
	StartTransactionCommand();
	reserved = true;
	settle(EXIT_LOCK_MS);
	CommitTransactionCommand();
}

static void
at_xact_end(XactEvent event, void *arg)
{
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
