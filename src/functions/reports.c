/*
 * functions/reports.c
 *		The functions that the views of violations and figures read, rl_flush() and
 *		rl_stats_reset().  Those that show buckets are in functions/buckets.c.
 */
#include "postgres.h"

#include "core/compat.h"
#include "funcapi.h"
#include "memory/databases.h"
#include "memory/partitions.h"
#include "miscadmin.h"
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
