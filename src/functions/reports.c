/*
 * functions/reports.c
 *		The functions that the views read, and rl_flush() and rl_stats_reset().
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "decide/refunds.h"
#include "funcapi.h"
#include "functions/result.h"
#include "memory/administration.h"
#include "memory/consume.h"
#include "memory/databases.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "table/clean.h"
#include "table/sql.h"
#include "table/store.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "violations/episodes.h"
#include "violations/flush.h"
#include "violations/fold.h"
#include "violations/pending.h"
#include "violations/stats.h"

SQL_FUNCTION(rl_pending);
SQL_FUNCTION(rl_episodes);
SQL_FUNCTION(rl_limiters);
SQL_FUNCTION(rl_flushes);
SQL_FUNCTION(rl_flush);
SQL_FUNCTION(rl_stats_reset);
SQL_FUNCTION(rl_buckets);
SQL_FUNCTION(rl_partitions);

/* Show a living bucket, or a block, as a row of _rl_buckets(). */
static void
show_bucket(const BucketView *view, const char *store, ReturnSetInfo *rsinfo)
{
	bool		is_block = limiter_is_block(view->limiter, view->limiter_len);
	int			plain_len = plain_limiter_len(view->limiter, view->limiter_len);
	bool		in_period = plain_len < view->limiter_len;
	BucketRule	rule;
	Datum		values[9];
	bool		nulls[9] = {false};

	/* what stands for a reservation is no bucket of anybody */
	if (view->limiter[0] == BLOCK_PREFIX && !is_block)
		return;
	bucket_rule(&rule, view->capacity, view->refill, 0);
	values[0] = PointerGetDatum(cstring_to_text_with_len(view->limiter + is_block,
														 plain_len - is_block));
	values[1] = PointerGetDatum(cstring_to_text_with_len(view->key, view->key_len));
	values[2] = Float8GetDatum(bucket_tokens(&rule, view->owed));
	values[3] = Float8GetDatum(view->capacity);
	values[4] = Float8GetDatum(view->refill);
	values[5] = TimestampTzGetDatum(rule.timed ? timestamp_after(view->owed) : DT_NOEND);
	values[6] = values[5];
	nulls[2] = nulls[3] = nulls[4] = nulls[5] = is_block;
	nulls[6] = !is_block;
	values[7] = CStringGetTextDatum(store);
	nulls[8] = !in_period;
	if (in_period)
	{
		values[5] = TimestampTzGetDatum(end_of_refill(view->refill));
		values[8] = PointerGetDatum(cstring_to_text_with_len(view->limiter + plain_len + 1,
															 view->limiter_len - plain_len - 1));
		/* rl_count() names no allowance */
		nulls[2] = nulls[3] = isinf(view->capacity);
		nulls[4] = true;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Show a row of the table, unless memory has the bucket. */
static void
show_table_bucket(const BucketView *view, void *arg)
{
	BucketId	id;
	BucketRule	rule;
	Decision	decision;

	/* the row of a bucket that has moved to memory is out of date */
	make_bucket_id(&id, MyDatabaseId, view->limiter, view->limiter_len, view->key, view->key_len);
	bucket_rule(&rule, view->capacity, view->refill, 0);
	if (memory_attached() && memory_peek(&id, &rule, &decision))
		return;
	show_bucket(view, "table", arg);
}

/*
 * _rl_buckets() returns setof (limiter, key, tokens, capacity, refill, full_at,
 * blocked_until, store, period): the living buckets of this database, and its blocks
 */
Datum
rl_buckets(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (refund_pending)
		refund_settle();
	InitMaterializedSRF(fcinfo, 0);

	/*
	 * The table comes first.  Buckets move from there to memory, so one that moves
	 * meanwhile is shown twice rather than not at all.
	 */
	table_views(show_table_bucket, rsinfo);
	if (memory_attached())
	{
		BucketView	view;

		for (uint32 n = 0; n < memory_slots(); n++)
		{
			if (n % 1024 == 0)
				CHECK_FOR_INTERRUPTS();
			if (memory_view(n, MyDatabaseId, &view))
				show_bucket(&view, "memory", rsinfo);
		}
	}
	return (Datum) 0;
}

/*
 * rl_partitions() returns setof (partition, slots, living, spilled, evicted):
 * how full shared memory is.  "living" and "spilled" are of this database.
 */
Datum
rl_partitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (memory_attached() && !RecoveryInProgress() && sql_available() && !spill_known())
		(void) table_find_empty();
	for (int i = 0; memory_attached() && i < memory_partitions(); i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};
		int64		slots;
		int64		living;
		int64		evicted;

		CHECK_FOR_INTERRUPTS();
		memory_partition_stats(i, MyDatabaseId, &slots, &living, &evicted);
		values[0] = Int32GetDatum(i);
		values[1] = Int64GetDatum(slots);
		values[2] = Int64GetDatum(living);
		values[3] = BoolGetDatum(!RecoveryInProgress() && spill_is_set(i));
		values[4] = Int64GetDatum(evicted);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _rl_pending() returns setof (gateway_name, limiter, key, count, last_at): this
 * database's violations that are counted and not yet written
 */
Datum
rl_pending(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ViolationView view;
	Oid			owner;

	InitMaterializedSRF(fcinfo, 0);
	for (uint32 i = 0; i < violations_entries(); i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (!violations_view(i, MyDatabaseId, &view, &owner))
			continue;
		values[0] = CStringGetTextDatum(view.gateway);
		values[1] = CStringGetTextDatum(view.limiter);
		values[2] = CStringGetTextDatum(view.key);
		values[3] = Int64GetDatum(view.count);
		values[4] = TimestampTzGetDatum(view.last_at);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _rl_episodes() returns setof (limiter, key, first_at, last_at, rejected): this
 * database's recent episodes
 */
Datum
rl_episodes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Episode    *episodes;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	if (!memory_attached())
		return (Datum) 0;
	violations_fold();
	episodes = episodes_copy(&n);
	for (int i = 0; i < n; i++)
	{
		Episode    *episode = &episodes[i];
		Datum		values[5];
		bool		nulls[5] = {false};

		if (episode->database != MyDatabaseId)
			continue;
		values[0] = CStringGetTextDatum(episode->limiter);
		values[1] = CStringGetTextDatum(episode->key);
		values[2] = TimestampTzGetDatum(episode->first_at);
		values[3] = TimestampTzGetDatum(episode->last_at);
		values[4] = Int64GetDatum(episode->rejected);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _rl_limiters() returns setof (limiter, allowed, denied, shadowed, overflowed):
 * decisions counted in this database, a row per limiter
 */
Datum
rl_limiters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *limiter;
	int			len;
	uint64		counts[N_COUNTS];
	int			at = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (!memory_attached())
		return (Datum) 0;
	stats_copy();
	while (stats_get(&at, &limiter, &len, counts))
	{
		Datum		values[1 + N_COUNTS];
		bool		nulls[1 + N_COUNTS] = {false};

		values[0] = PointerGetDatum(cstring_to_text_with_len(limiter, len));
		for (int j = 0; j < N_COUNTS; j++)
			values[1 + j] = Int64GetDatum((int64) counts[j]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _rl_flushes() returns (flushed, failures, last_flush, last_error_at, last_error,
 * lost, since): how writing this database's violations went
 */
Datum
rl_flushes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SharedDatabase *mine = my_shared_database();
	FlushStats	stats;
	Datum		values[7];
	bool		nulls[7] = {false};

	InitMaterializedSRF(fcinfo, 0);
	if (!mine)
		return (Datum) 0;
	databases_lock_flushes();
	stats = mine->flushes;
	databases_unlock_flushes();

	values[0] = Int64GetDatum(stats.flushed);
	values[1] = Int64GetDatum(stats.failures);
	values[2] = TimestampTzGetDatum(stats.last_flush);
	nulls[2] = stats.last_flush == 0;
	values[3] = TimestampTzGetDatum(stats.last_error_at);
	values[4] = CStringGetTextDatum(stats.last_error);
	nulls[3] = nulls[4] = stats.last_error_at == 0;
	values[5] = Int64GetDatum(violations_lost());
	values[6] = TimestampTzGetDatum(stats.since);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* rl_flush() returns bigint: rows written */
Datum
rl_flush(PG_FUNCTION_ARGS)
{
	PreventCommandDuringRecovery("rl_flush()");
	PreventCommandIfReadOnly("rl_flush()");
	PG_RETURN_INT64(flush_violations());
}

/* rl_stats_reset() returns void */
Datum
rl_stats_reset(PG_FUNCTION_ARGS)
{
	SharedDatabase *mine = my_shared_database();

	if (mine)
	{
		stats_reset();
		databases_lock_flushes();
		mine->flushes.flushed = 0;
		mine->flushes.failures = 0;
		mine->flushes.last_flush = 0;
		mine->flushes.last_error_at = 0;
		mine->flushes.since = GetCurrentTimestamp();
		databases_unlock_flushes();
	}
	PG_RETURN_VOID();
}
