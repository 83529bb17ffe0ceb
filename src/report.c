/*
 * report.c
 *		What the views read.
 */
#include "ratelimit.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(rl_buckets);
PG_FUNCTION_INFO_V1(rl_partitions);

/* A living bucket as a row of rl_buckets(). */
static void
show_bucket(const BucketView *view, const char *tier, ReturnSetInfo *rsinfo)
{
	BucketRule	rule;
	Datum		values[7];
	bool		nulls[7] = {false};
	Owed		full_at;

	bucket_rule(&rule, view->capacity, view->refill, 0);
	values[0] = PointerGetDatum(cstring_to_text_with_len(view->limiter, view->limiter_len));
	values[1] = PointerGetDatum(cstring_to_text_with_len(view->key, view->key_len));
	values[2] = Float8GetDatum(bucket_tokens(&rule, view->owed));
	values[3] = Float8GetDatum(view->capacity);
	values[4] = Float8GetDatum(view->refill);

	full_at = GetCurrentTimestamp() + (view->owed + 999) / 1000;
	if (!rule.timed || full_at >= END_TIMESTAMP)
		values[5] = TimestampTzGetDatum(DT_NOEND);
	else
		values[5] = TimestampTzGetDatum((TimestampTz) full_at);
	values[6] = CStringGetTextDatum(tier);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
show_table_bucket(const BucketView *view, void *arg)
{
	show_bucket(view, "table", arg);
}

/*
 * rl_buckets() returns setof (limiter, key, tokens, capacity, refill, full_at,
 * tier): the living buckets of this database
 */
Datum
rl_buckets(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (shmem_attached())
	{
		BucketView	view;

		for (uint32 n = 0; n < shmem_slots(); n++)
		{
			if (n % 1024 == 0)
				CHECK_FOR_INTERRUPTS();
			if (shmem_view(n, MyDatabaseId, &view))
				show_bucket(&view, "memory", rsinfo);
		}
	}
	table_views(show_table_bucket, rsinfo);
	return (Datum) 0;
}

/*
 * rl_partitions() returns setof (partition, slots, living, spilled, evicted):
 * how full shared memory is; living buckets and spilling of this database
 */
Datum
rl_partitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; shmem_attached() && i < shmem_partitions(); i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};
		int64		slots;
		int64		living;
		int64		evicted;

		CHECK_FOR_INTERRUPTS();
		shmem_partition_stats(i, MyDatabaseId, &slots, &living, &evicted);
		values[0] = Int32GetDatum(i);
		values[1] = Int64GetDatum(slots);
		values[2] = Int64GetDatum(living);
		values[3] = BoolGetDatum(spill_is_set(i));
		values[4] = Int64GetDatum(evicted);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
