/*
 * refund.c
 *		Tokens that come back when what took them is rolled back:
 *		ratelimit.refund_on_rollback.
 *
 * What allowed calls took from buckets in shared memory is noted until the
 * transaction ends, with the subtransaction that took it.  As subtransactions
 * nest, the notes of one and of those within it are the last ones: when it
 * commits they become its parent's, when it aborts their tokens go back.  (Tokens
 * taken from the table come back by themselves.)
 *
 * Room for a note is made before the decision, so that nothing is taken that
 * could not be noted; and giving back cannot fail, as it happens while a
 * transaction aborts.  What goes back is tokens: should the bucket's parameters
 * have changed, they count by the new ones.  What has been evicted or reset
 * meanwhile is full already.
 *
 * PREPARE TRANSACTION forgets the notes: who rolls back later is another session,
 * or the same after a restart.
 */
#include "ratelimit.h"

#include "miscadmin.h"
#include "refund.h"
#include "utils/memutils.h"

#define MAX_NAME	(MAX_LIMITER_LEN + MAX_KEY_LEN)

typedef struct Note
{
	SubTransactionId subxact;
	double		tokens;
	Size		name;			/* limiter, then key: at this place of names */
	uint8		limiter_len;
	uint8		key_len;
} Note;

static Note *notes = NULL;		/* in TopTransactionContext, as the names */
static int	n_notes = 0;
static int	max_notes = 0;
static char *names = NULL;
static Size names_len = 0;
static Size names_max = 0;

static void
forget_all(void)
{
	notes = NULL;
	names = NULL;
	n_notes = max_notes = 0;
	names_len = names_max = 0;
}

/* The current subtransaction has taken so many tokens from a bucket in memory. */
void
refund_note(const BucketId *id, double tokens)
{
	SubTransactionId subxact = GetCurrentSubTransactionId();
	Note	   *note;

	/* a loop mostly takes from one bucket */
	if (n_notes > 0)
	{
		note = &notes[n_notes - 1];
		if (note->subxact == subxact &&
			note->limiter_len == id->limiter_len && note->key_len == id->key_len &&
			memcmp(names + note->name, id->limiter, id->limiter_len) == 0 &&
			memcmp(names + note->name + id->limiter_len, id->key, id->key_len) == 0)
		{
			note->tokens += tokens;
			return;
		}
	}
	if (n_notes >= max_notes || names_len + MAX_NAME > names_max)
		return;					/* not reserved: cannot be, but costs nothing */
	note = &notes[n_notes++];
	note->subxact = subxact;
	note->tokens = tokens;
	note->name = names_len;
	note->limiter_len = id->limiter_len;
	note->key_len = id->key_len;
	memcpy(names + names_len, id->limiter, id->limiter_len);
	names_len += id->limiter_len;
	memcpy(names + names_len, id->key, id->key_len);
	names_len += id->key_len;
}

/* Give the tokens of the last note back, and forget it. */
static void
refund_last(void)
{
	Note	   *note = &notes[--n_notes];
	const char *limiter = names + note->name;
	BucketId	id;

	names_len = note->name;
	make_bucket_id(&id, MyDatabaseId, limiter, note->limiter_len,
				   limiter + note->limiter_len, note->key_len);
	shmem_give_back(&id, note->tokens);
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (n_notes > 0 && notes[n_notes - 1].subxact == mine)
			refund_last();
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = n_notes - 1; i >= 0 && notes[i].subxact == mine; i--)
			notes[i].subxact = parent;
	}
}

static void
at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
			while (n_notes > 0)
				refund_last();
			forget_all();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PREPARE:
			forget_all();
			break;
		default:
			break;
	}
}

/* Make room for n notes; before anything is taken. */
void
refund_reserve(int n)
{
	static bool called = false;

	call_at_ends(&called, at_xact_end, at_subxact_end);
	if (n_notes + n > max_notes)
	{
		int			wanted = Max(2 * max_notes, 32 + n);

		notes = notes ?
			repalloc_huge(notes, wanted * sizeof(Note)) :
			MemoryContextAlloc(TopTransactionContext, wanted * sizeof(Note));
		max_notes = wanted;
	}
	if (names_len + (Size) n * MAX_NAME > names_max)
	{
		Size		wanted = Max(2 * names_max, 1024 + (Size) n * MAX_NAME);

		names = names ?
			repalloc_huge(names, wanted) :
			MemoryContextAlloc(TopTransactionContext, wanted);
		names_max = wanted;
	}
}
