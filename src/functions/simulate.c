/*
 * functions/simulate.c
 *		rl_simulate(), rl_simulate_period(): what a rule would have decided on recorded
 *		traffic.
 *
 * They are window functions.  Each window partition is one bucket, and its rows are the
 * calls on it, in order.  Each row says its own time.  No bucket of a store plays a
 * part.
 */
#include "postgres.h"

#include "core/period.h"
#include "decide/rules.h"
#include "functions/arguments.h"
#include "utils/timestamp.h"
#include "windowapi.h"

SQL_FUNCTION(rl_simulate);
SQL_FUNCTION(rl_simulate_period);

/* The bucket of one window partition; all zero before its first row. */
typedef struct Simulation
{
	bool		begun;
	TimestampTz now;			/* time of the latest row so far */
	double		capacity;		/* 0: there is no bucket yet */
	double		refill;
	int64		owed[2];		/* an Owed: this memory is aligned for int64 only */
} Simulation;

/* The same for an allowance of periods. */
typedef struct PeriodSimulation
{
	bool		begun;
	TimestampTz now;			/* time of the latest row so far */
	TimestampTz period_began;	/* the period that this is in */
	int64		used[2];		/* in it, an Owed */
	int			name_len;
	char		name[MAX_PERIOD_NAME_LEN];	/* of the period of all rows */
} PeriodSimulation;

/* Read the arguments of a row, of which the first is its time. */
static TimestampTz
read_row(WindowObject window, const char *const *names, Datum *args)
{
	TimestampTz ts;

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
				 errmsg("%s must be finite, not %s", names[0], timestamptz_to_str(ts))));
	return ts;
}

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

	ts = read_row(window, names, args);
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

/* Raise an error unless all rows of the window partition have this period. */
static void
check_same_period(PeriodSimulation *bucket, const Period *period)
{
	int			len;
	const char *name = period_name(period, &len);

	if (bucket->begun &&
		(bucket->name_len != len || memcmp(bucket->name, name, len) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("period must be the same in all rows of a window partition, not \"%.*s\" and \"%.*s\"",
						bucket->name_len, bucket->name, len, name),
				 errhint("Each period has a bucket of its own: PARTITION BY the period as well.")));
	memcpy(bucket->name, name, len);
	bucket->name_len = len;
}

/* rl_simulate_period(ts, allowance, period, cost) over (...) returns boolean */
Datum
rl_simulate_period(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"ts", "allowance", "period", "cost"};
	WindowObject window = PG_WINDOW_OBJECT();
	PeriodSimulation *bucket;
	const Period *period;
	const BucketRule *rule;
	const char *bytes;
	int			len;
	Datum		args[4];
	TimestampTz ts;
	TimestampTz begin;
	TimestampTz end;
	Owed		used = 0;
	bool		allowed;

	bucket = WinGetPartitionLocalMemory(window, sizeof(PeriodSimulation));
	ts = read_row(window, names, args);
	bytes = text_bytes(args[2], &len);
	period = period_of(bytes, len);
	check_same_period(bucket, period);
	/* one end stands for all; which period it is, is looked at here */
	rule = find_rule_in_period(DatumGetFloat8(args[1]), -1, DatumGetFloat8(args[3]), 0);

	if (bucket->begun)
		ts = Max(ts, bucket->now);
	period_around(period, ts, &begin, &end);
	if (bucket->begun && bucket->period_began == begin)
		memcpy(&used, bucket->used, sizeof(used));
	allowed = !bucket_rule_is_closed(rule) && bucket_take(rule, &used);

	bucket->begun = true;
	bucket->now = ts;
	bucket->period_began = begin;
	memcpy(bucket->used, &used, sizeof(used));
	PG_RETURN_BOOL(allowed);
}
