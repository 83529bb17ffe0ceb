/*
 * functions/buckets.c
 *		The functions that show the living buckets of this database, all of them
 *		(_rl_buckets(), _rl_export()) or those of a key (rl_status()), and those that
 *		count them (_rl_living(), rl_partitions()).
 *
 * The table comes before memory.  Buckets move from there to memory, so one that moves
 * meanwhile is shown twice rather than not at all.
 *
 * A bucket is shown only when a query asks for it, so that one with LIMIT looks only at
 * as many as it needs.  A block is shown together with its bucket, and may be
 * found before or after it.  So if there may be blocks, these are collected first, which
 * takes a look at everything.  The buckets of one key are mostly few, and are collected
 * in the same look.  But any role can make as many of them as there are limiters, so if
 * there are more than MAX_COLLECTED, they are shown as those of all keys are.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/xlog.h"
#include "common/pg_prng.h"
#include "core/clock.h"
#include "core/compat.h"
#include "decide/blocks.h"
#include "decide/refunds.h"
#include "funcapi.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "memory/consume.h"
#include "memory/living.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "table/clean.h"
#include "table/sql.h"
#include "table/store.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

SQL_FUNCTION(rl_buckets);
SQL_FUNCTION(rl_export);
SQL_FUNCTION(rl_status);
SQL_FUNCTION(rl_living);
SQL_FUNCTION(rl_memory);
SQL_FUNCTION(rl_partitions);

/* The columns of rate_limit_status. */
enum
{
	STATUS_LIMITER,
	STATUS_KEY,
	STATUS_TOKENS,
	STATUS_CAPACITY,
	STATUS_REFILL,
	STATUS_FULL_AT,
	STATUS_BLOCKED_UNTIL,
	STATUS_STORE,
	STATUS_PERIOD,
	STATUS_COLUMNS
};

/* Slots between looks at whether the caller has been cancelled. */
#define CHECK_EVERY		1024

/* So many buckets of a key are kept at once: half a megabyte. */
#define MAX_COLLECTED	1024

/* How often to look again if buckets have moved meanwhile */
#define MAX_LOOKS 3

/* Pages of the table that are read before their buckets are shown. */
#define PAGES_AT_ONCE	4

/*
 * Going through buckets
 */

/* Whose block it is. */
typedef struct BlockName
{
	uint8		limiter_len;
	uint8		key_len;
	char		bytes[MAX_LIMITER_LEN + MAX_KEY_LEN];
} BlockName;

typedef struct KeyBlock
{
	BlockName	name;
	TimestampTz until;
	const char *store;
	bool		shown;
} KeyBlock;

/* A bucket that has been found, and is to be shown. */
typedef struct Found
{
	BucketView	view;
	const char *store;
} Found;

/* How far going through the buckets has got. */
typedef struct Walk
{
	BucketFilter filter;
	HTAB	   *blocks;			/* NULL: there are none */
	HASH_SEQ_STATUS others;		/* those that are left at the end ... */
	bool		at_others;		/* ... which it has reached */
	TablePages	pages;
	uint32		next_slot;
	Found	   *found;			/* what comes before those pages and slots */
	int			max_found;
	int			n_found;
	int			next_found;
	BucketView	view;			/* where it is */
	const char *store;
} Walk;

/*
 * Is this a row that the bucket has left behind?  The row of a bucket that has moved to
 * memory is out of date.
 */
static bool
is_out_of_date(const BucketView *view)
{
	BucketId	id;
	BucketRule	rule;
	Decision	decision;

	if (!memory_attached())
		return false;
	make_bucket_id(&id, MyDatabaseId, view->limiter, view->limiter_len, view->key, view->key_len);
	bucket_rule(&rule, view->capacity, view->refill, 0);
	return memory_peek(&id, &rule, &decision);
}

/* Keep a bucket, to be shown. */
static void
keep_bucket(Walk *walk, const BucketView *view, const char *name)
{
	if (walk->n_found == walk->max_found)
	{
		walk->max_found *= 2;
		walk->found = repalloc(walk->found, walk->max_found * sizeof(Found));
	}
	walk->found[walk->n_found].view = *view;
	walk->found[walk->n_found++].store = name;
}

static void
keep_row(const BucketView *view, void *arg)
{
	if (!is_out_of_date(view))
		keep_bucket(arg, view, "table");
}

/* Go on to the next bucket.  Return false if there is none. */
static bool
next_bucket(Walk *walk)
{
	while (walk->next_found == walk->n_found && walk->pages.next < walk->pages.end)
	{
		walk->n_found = walk->next_found = 0;
		table_views(&walk->pages, PAGES_AT_ONCE, &walk->filter, keep_row, walk);
	}
	if (walk->next_found < walk->n_found)
	{
		walk->view = walk->found[walk->next_found].view;
		walk->store = walk->found[walk->next_found++].store;
		return true;
	}

	walk->store = "memory";
	while (memory_attached() && walk->next_slot < memory_slots())
	{
		if (walk->next_slot % CHECK_EVERY == 0)
			CHECK_FOR_INTERRUPTS();
		if (memory_view(walk->next_slot++, MyDatabaseId, &walk->filter, &walk->view))
			return true;
	}
	return false;
}

static void
begin_walk(Walk *walk, const char *key, int key_len)
{
	memset(walk, 0, sizeof(*walk));
	walk->filter.key = key;
	walk->filter.key_len = key_len;
	walk->max_found = 64;
	walk->found = palloc(walk->max_found * sizeof(Found));
	table_all_pages(&walk->pages);
}

/* The name of the block of the bucket where the walk is, or of the block there. */
static void
block_name(BlockName *name, const BucketView *view)
{
	int			prefix = limiter_is_block(view->limiter, view->limiter_len);

	memset(name, 0, sizeof(*name));
	name->limiter_len = view->limiter_len - prefix;
	name->key_len = view->key_len;
	memcpy(name->bytes, view->limiter + prefix, name->limiter_len);
	memcpy(name->bytes + name->limiter_len, view->key, name->key_len);
}

/*
 * A walk has seen each bucket once if this is the same before and after, and not 0: see
 * memory/living.c.
 */
static uint32
layouts_now(void)
{
	return memory_attached() ? memory_layouts() : 1;
}

/*
 * Collect the blocks, and, if the walk is for one key, its other buckets, unless they are
 * too many.
 */
static void
collect(Walk *walk)
{
	bool		whole = false;
	HASHCTL		control = {.keysize = sizeof(BlockName),.entrysize = sizeof(KeyBlock),.hcxt = CurrentMemoryContext};
	Walk		all;
	uint32		layouts;

	walk->blocks = hash_create("ratelimit blocks", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	/*
	 * A bucket that has moved meanwhile may be seen twice, or not at all.  But nobody has
	 * to wait here until a process that moves buckets, and was stopped, goes on.
	 */
	for (int look = 0; look < MAX_LOOKS; look++)
	{
		whole = walk->filter.key != NULL;
		walk->n_found = 0;
		layouts = layouts_now();
		begin_walk(&all, walk->filter.key, walk->filter.key_len);
		all.filter.blocks = walk->filter.key == NULL;
		while (next_bucket(&all))
		{
			BlockName	name;
			KeyBlock   *block;

			if (!limiter_is_block(all.view.limiter, all.view.limiter_len))
			{
				if (walk->n_found == MAX_COLLECTED)
					whole = false;
				if (whole)
					keep_bucket(walk, &all.view, all.store);
				continue;
			}
			block_name(&name, &all.view);
			block = hash_search(walk->blocks, &name, HASH_ENTER, NULL);
			block->until = timestamp_after(all.view.owed);
			block->store = all.store;
			block->shown = false;
		}
		pfree(all.found);
		if (layouts != 0 && layouts == layouts_now())
			break;
	}
	if (whole)
	{
		walk->pages.next = walk->pages.end;
		walk->next_slot = all.next_slot;
	}
	else
		walk->n_found = 0;
	/* so that a walk that does not reach the end leaves nothing behind */
	hash_freeze(walk->blocks);
}

/* Begin showing the buckets of a key, or, if that is NULL, of all keys. */
static void
begin_showing(Walk *walk, const char *key, int key_len)
{
	if (refund_pending)
		refund_settle();
	begin_walk(walk, key, key_len);
	if (key || blocks_possible())
		collect(walk);
}

/* Show the bucket where the walk is, as a row of rate_limit_status. */
static void
show_bucket(Walk *walk, Datum *values, bool *nulls)
{
	const BucketView *view = &walk->view;
	int			plain_len = plain_limiter_len(view->limiter, view->limiter_len);
	bool		in_period = plain_len < view->limiter_len;
	KeyBlock   *block = NULL;
	BlockName	name;
	BucketRule	rule;

	if (walk->blocks && !in_period)
	{
		block_name(&name, view);
		block = hash_search(walk->blocks, &name, HASH_FIND, NULL);
	}
	bucket_rule(&rule, view->capacity, view->refill, 0);
	values[STATUS_LIMITER] = PointerGetDatum(cstring_to_text_with_len(view->limiter, plain_len));
	values[STATUS_KEY] = PointerGetDatum(cstring_to_text_with_len(view->key, view->key_len));
	values[STATUS_TOKENS] = Float8GetDatum(bucket_tokens(&rule, view->owed));
	values[STATUS_CAPACITY] = Float8GetDatum(view->capacity);
	values[STATUS_REFILL] = Float8GetDatum(view->refill);
	values[STATUS_FULL_AT] = TimestampTzGetDatum(rule.timed ? timestamp_after(view->owed) : DT_NOEND);
	values[STATUS_STORE] = CStringGetTextDatum(walk->store);
	nulls[STATUS_BLOCKED_UNTIL] = block == NULL;
	if (block)
	{
		values[STATUS_BLOCKED_UNTIL] = TimestampTzGetDatum(block->until);
		block->shown = true;
	}
	nulls[STATUS_PERIOD] = !in_period;
	if (in_period)
	{
		values[STATUS_FULL_AT] = TimestampTzGetDatum(end_of_refill(view->refill));
		values[STATUS_PERIOD] = PointerGetDatum(cstring_to_text_with_len(view->limiter + plain_len + 1,
																		 view->limiter_len - plain_len - 1));
		/* rl_count() names no allowance */
		nulls[STATUS_TOKENS] = nulls[STATUS_CAPACITY] = isinf(view->capacity);
		nulls[STATUS_REFILL] = true;
	}
}

/* Show a block whose bucket is full, and so is nowhere. */
static void
show_block(const KeyBlock *block, Datum *values, bool *nulls)
{
	const BlockName *name = &block->name;

	memset(nulls, true, STATUS_COLUMNS * sizeof(bool));
	nulls[STATUS_LIMITER] = nulls[STATUS_KEY] = nulls[STATUS_BLOCKED_UNTIL] = nulls[STATUS_STORE] = false;
	values[STATUS_LIMITER] = PointerGetDatum(cstring_to_text_with_len(name->bytes, name->limiter_len));
	values[STATUS_KEY] = PointerGetDatum(cstring_to_text_with_len(name->bytes + name->limiter_len,
																  name->key_len));
	values[STATUS_BLOCKED_UNTIL] = TimestampTzGetDatum(block->until);
	values[STATUS_STORE] = CStringGetTextDatum(block->store);
}

/* The next row of rate_limit_status.  Return false if there is none. */
static bool
next_row(Walk *walk, Datum *values, bool *nulls)
{
	KeyBlock   *block;

	memset(nulls, false, STATUS_COLUMNS * sizeof(bool));
	while (!walk->at_others && next_bucket(walk))
	{
		/* what stands for a reservation is no bucket of anybody */
		if (walk->view.limiter[0] == BLOCK_PREFIX)
			continue;
		show_bucket(walk, values, nulls);
		return true;
	}
	if (!walk->blocks)
		return false;
	if (!walk->at_others)
		hash_seq_init(&walk->others, walk->blocks);
	walk->at_others = true;
	while ((block = hash_seq_search(&walk->others)) != NULL)
	{
		if (block->shown)
			continue;
		show_block(block, values, nulls);
		return true;
	}
	walk->blocks = NULL;
	return false;
}

/*
 * _rl_buckets() returns setof (limiter, key, tokens, capacity, refill, full_at,
 * blocked_until, store, period): the living buckets of this database, and its blocks
 */
Datum
rl_buckets(PG_FUNCTION_ARGS)
{
	FuncCallContext *calls;
	MemoryContext before;
	Datum		values[STATUS_COLUMNS];
	bool		nulls[STATUS_COLUMNS];
	bool		found;

	if (SRF_IS_FIRSTCALL())
	{
		TupleDesc	desc;

		calls = SRF_FIRSTCALL_INIT();
		before = MemoryContextSwitchTo(calls->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
			desc->natts != STATUS_COLUMNS)
			elog(ERROR, "_rl_buckets() has other columns than the library");
		calls->tuple_desc = BlessTupleDesc(desc);
		calls->user_fctx = palloc(sizeof(Walk));
		begin_showing(calls->user_fctx, NULL, 0);
		MemoryContextSwitchTo(before);
	}
	calls = SRF_PERCALL_SETUP();
	found = next_row(calls->user_fctx, values, nulls);
	if (!found)
		SRF_RETURN_DONE(calls);
	SRF_RETURN_NEXT(calls, HeapTupleGetDatum(heap_form_tuple(calls->tuple_desc, values, nulls)));
}

/*
 * rl_status(key) returns setof rate_limit_status: the living buckets of a key, and its
 * blocks
 */
Datum
rl_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *key;
	int			key_len;
	Walk		walk;
	Datum		values[STATUS_COLUMNS];
	bool		nulls[STATUS_COLUMNS];

	check_not_null(fcinfo, 0, "key");
	key = text_bytes(PG_GETARG_DATUM(0), &key_len);
	check_length("key", key, key_len, MAX_KEY_LEN);
	InitMaterializedSRF(fcinfo, 0);
	if (rsinfo->setDesc->natts != STATUS_COLUMNS)
		elog(ERROR, "rate_limit_status has other columns than the library");
	begin_showing(&walk, key, key_len);
	while (next_row(&walk, values, nulls))
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* Add a bucket to what _rl_export() returns, unless it is a block. */
static void
put_exported(ReturnSetInfo *rsinfo, const BucketView *view)
{
	bool		nulls[6] = {false};
	Datum		values[6];

	if (view->limiter[0] == BLOCK_PREFIX)
		return;
	values[0] = PointerGetDatum(cstring_to_text_with_len(view->limiter, view->limiter_len));
	values[1] = PointerGetDatum(cstring_to_text_with_len(view->key, view->key_len));
	values[2] = Float8GetDatum(view->capacity);
	values[3] = Float8GetDatum(view->refill);
	values[4] = Int64GetDatum((int64) (view->owed % OWED_UNIT));
	values[5] = Int64GetDatum((int64) (view->owed / OWED_UNIT));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	pfree(DatumGetPointer(values[0]));
	pfree(DatumGetPointer(values[1]));
}

/*
 * _rl_export() returns setof (limiter, key, capacity, refill, owed, owed_high): the
 * living buckets of this database as they are kept, for _rl_import().  Blocks, and what
 * stands for reservations, are left out.
 */
Datum
rl_export(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Walk		walk;
	uint32		layouts;

	InitMaterializedSRF(fcinfo, 0);
	if (rsinfo->setDesc->natts != 6)
		elog(ERROR, "_rl_export() has other columns than the library");
	if (refund_pending)
		refund_settle();
	/* a bucket that has moved meanwhile may be there twice, or not at all */
	do
	{
		tuplestore_clear(rsinfo->setResult);
		layouts = layouts_now();
		begin_walk(&walk, NULL, 0);
		while (next_bucket(&walk))
			put_exported(rsinfo, &walk.view);
		pfree(walk.found);
	} while (layouts == 0 || layouts != layouts_now());
	return (Datum) 0;
}

/*
 * Counting
 */

/* A table larger than this (4 MB) is estimated from as many of its pages. */
#define SAMPLED_PAGES	512

typedef struct LimiterName
{
	uint8		len;
	char		bytes[MAX_LIMITER_LEN];
} LimiterName;

typedef struct LimiterCount
{
	LimiterName name;
	char		status;			/* of the hash table */
	int64		in_memory;
	int64		in_table;
} LimiterCount;

#define SH_PREFIX limiter_counts
#define SH_ELEMENT_TYPE LimiterCount
#define SH_KEY_TYPE LimiterName
#define SH_KEY name
/* any role names limiters, so the hash has a secret */
#define SH_HASH_KEY(table, key) (uint32) hash_limiter(InvalidOid, (key).bytes, (key).len)
#define SH_EQUAL(table, a, b) ((a).len == (b).len && memcmp((a).bytes, (b).bytes, (a).len) == 0)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define RECENT_LIMITERS	64

/* Counts, and those of limiters that were counted lately, by some of their bytes. */
typedef struct Counts
{
	limiter_counts_hash *all;
	LimiterCount *recent[RECENT_LIMITERS];
} Counts;

/* The counts of the limiter whose bucket or block this is; NULL for a reservation. */
static LimiterCount *
count_of(Counts *counts, const char *limiter, int len)
{
	int			prefix = limiter_is_block(limiter, len);
	LimiterCount **recent;
	LimiterName name;
	bool		found;

	if (limiter[0] == BLOCK_PREFIX && !prefix)
		return NULL;
	len = plain_limiter_len(limiter, len) - prefix;
	limiter += prefix;
	recent = &counts->recent[(uint8) (limiter[0] + 5 * limiter[len / 2] + 7 * len) % RECENT_LIMITERS];
	if (*recent && (*recent)->name.len == len &&
		memcmp((*recent)->name.bytes, limiter, len) == 0)
		return *recent;

	name.len = len;
	memcpy(name.bytes, limiter, len);
	*recent = limiter_counts_insert(counts->all, name, &found);
	if (!found)
	{
		LimiterCount *count = *recent;

		count->in_memory = count->in_table = 0;
		/* the others may have moved */
		memset(counts->recent, 0, sizeof(counts->recent));
		return count;
	}
	return *recent;
}

/* Count a bucket in memory. */
static void
count_in_memory(int partition, const char *limiter, int len, void *arg)
{
	LimiterCount *count = count_of(arg, limiter, len);

	if (count)
		count->in_memory++;
}

/* Count a bucket in the table. */
static void
count_in_table(const BucketView *view, void *arg)
{
	LimiterCount *count = is_out_of_date(view) ? NULL :
		count_of(arg, view->limiter, view->limiter_len);

	if (count)
		count->in_table++;
}

/*
 * Count the buckets in the table.  Return how many buckets each of them stands for: it
 * is 1 unless the table is large, and only some of its pages have been read.
 */
static double
count_table(Counts *counts)
{
	static const BucketFilter every = {NULL};
	TablePages	pages;
	BlockNumber all;
	BlockNumber first;

	table_all_pages(&pages);
	all = pages.end;
	if (all == 0)
		return 1;
	pages.step = (all + SAMPLED_PAGES - 1) / SAMPLED_PAGES;
	first = pages.next = (BlockNumber) pg_prng_uint64_range(&pg_global_prng_state, 0, pages.step - 1);
	table_views(&pages, all, &every, count_in_table, counts);
	return (double) all / Max((pages.next - first) / pages.step, 1);
}

/*
 * _rl_living() returns setof (limiter, in_memory, in_table): how many buckets and blocks
 * of this database live, a row per limiter.  in_table is an estimate if the table is
 * large.
 */
Datum
rl_living(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Counts		counts = {NULL};
	limiter_counts_iterator all;
	LimiterCount *count;
	double		factor;

	if (refund_pending)
		refund_settle();
	InitMaterializedSRF(fcinfo, 0);
	counts.all = limiter_counts_create(CurrentMemoryContext, 64, NULL);
	factor = count_table(&counts);
	if (memory_attached())
		memory_count(MyDatabaseId, count_in_memory, &counts);

	limiter_counts_start_iterate(counts.all, &all);
	while ((count = limiter_counts_iterate(counts.all, &all)) != NULL)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = PointerGetDatum(cstring_to_text_with_len(count->name.bytes, count->name.len));
		values[1] = Int64GetDatum(count->in_memory);
		values[2] = Int64GetDatum((int64) rint(count->in_table * factor));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _rl_memory() returns setof (slots, evicted): those of all partitions together; no row
 * if there is no shared memory
 */
Datum
rl_memory(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		evicted = 0;
	Datum		values[2];
	bool		nulls[2] = {false};

	InitMaterializedSRF(fcinfo, 0);
	if (!memory_attached())
		return (Datum) 0;
	for (int i = 0; i < memory_partitions(); i++)
		evicted += memory_evicted(i);
	values[0] = Int64GetDatum(memory_slots());
	values[1] = Int64GetDatum(evicted);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* Count a bucket of a partition. */
static void
count_in_partition(int partition, const char *limiter, int len, void *arg)
{
	((int64 *) arg)[partition]++;
}

/*
 * rl_partitions() returns setof (partition, slots, living, spilled, evicted):
 * how full shared memory is.  "living" and "spilled" are of this database.
 */
Datum
rl_partitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		living[MAX_PARTITIONS] = {0};

	InitMaterializedSRF(fcinfo, 0);
	if (!memory_attached())
		return (Datum) 0;
	if (!RecoveryInProgress() && sql_available() && !spill_known())
		(void) table_find_empty();
	memory_count(MyDatabaseId, count_in_partition, living);
	for (int i = 0; i < memory_partitions(); i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = Int32GetDatum(i);
		values[1] = Int64GetDatum(memory_slots() / memory_partitions());
		values[2] = Int64GetDatum(living[i]);
		values[3] = BoolGetDatum(!RecoveryInProgress() && spill_is_set(i));
		values[4] = Int64GetDatum(memory_evicted(i));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
