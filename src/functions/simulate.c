/*
 * functions/simulate.c
 *		rl_simulate(): what a rule would have decided on recorded traffic.
 *
 * It is a window function.  Each window partition is one bucket, and its rows are the
 * calls on it, in order.  Each row says its own time.  No bucket of a store plays a
 * part.
 */
#include "postgres.h"

#include "decide/rules.h"
#include "functions/arguments.h"
#include "utils/timestamp.h"
#include "windowapi.h"

SQL_FUNCTION(rl_simulate);

/* The bucket of one window partition; all zero before its first row. */
typedef struct Simulation
{
	bool		begun;
	TimestampTz now;			/* time of the latest row so far */
	double		capacity;		/* 0: there is no bucket yet */
	double		refill;
	int64		owed[2];		/* an Owed: this memory is aligned for int64 only */
} Simulation;

/* rl_simulate(ts, capacity, refill, cost) over (...) returns boolean */
Datum
rl_simulate(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"ts", "capacity", "refill", "cost"};
	WindowObject window = PG_WINDOW_OBJECT();
	Simulation *bucket = WinGetPartitionLocalMemory(window, sizeof(Simulation));
	const BucketRule *rule;
	Datum		args[4];
	TimestampTz ts;
	Owed		owed = 0;
	bool		allowed;

	for (int i = 0; i < 4; i++)
	{
		bool		isnull;

		args[i] = WinGetFuncArgCurrent(window, i, &isnull);
		if (isnull)
			fail_null(names[i]);
	}
	ts = DatumGetTimestampTz(args[0]);
	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ts must be finite, not %s", timestamptz_to_str(ts))));
	rule = get_rule(DatumGetFloat8(args[1]), DatumGetFloat8(args[2]),
					DatumGetFloat8(args[3]));

	if (bucket->begun)
	{
		Owed		elapsed = Max((Owed) ts - bucket->now, 0) * 1000;

		memcpy(&owed, bucket->owed, sizeof(owed));
		if (bucket->capacity > 0)
			owed = bucket_refilled(bucket_timed(bucket->capacity, bucket->refill),
								   owed, elapsed);
		ts = Max(ts, bucket->now);
	}
	if (bucket_rule_is_closed(rule))
		allowed = false;		/* and the bucket stays as it is */
	else
	{
		if (bucket->capacity > 0 &&
			(bucket->capacity != rule->capacity || bucket->refill != rule->refill))
			owed = bucket_carry(bucket->capacity, bucket->refill, owed, rule);
		allowed = bucket_take(rule, &owed);
		bucket->capacity = rule->capacity;
		bucket->refill = rule->refill;
	}

	bucket->begun = true;
	bucket->now = ts;
	memcpy(bucket->owed, &owed, sizeof(owed));
	PG_RETURN_BOOL(allowed);
}
