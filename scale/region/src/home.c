/*
 * home.c
 *		What the home of keys does for other servers: rl_lease_take() gives them tokens,
 *		and rl_lease_return() takes them back.
 *
 * How many it gives: what calls wait for, if the bucket has it.  For what is to come, a
 * server gets what it wants, but at most its share of half of what the bucket has.  So
 * portions become small as the bucket becomes empty, and nobody has much while others have
 * nothing.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "homes.h"
#include "miscadmin.h"
#include "shared.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* The part of what a bucket has that all servers together get at a time, at most */
#define SHARE		0.5
#define MAX_KEYS	10000

PG_FUNCTION_INFO_V1(rl_lease_epoch);
PG_FUNCTION_INFO_V1(rl_lease_take);
PG_FUNCTION_INFO_V1(rl_lease_return);

/* The elements of an array that has no nulls, all arrays being of one length */
static Datum *
elements(FunctionCallInfo fcinfo, int n, Oid type, const char *name, int *count)
{
	Datum	   *values;
	ArrayType  *array;
	int			len;

	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	array = PG_GETARG_ARRAYTYPE_P(n);
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain nulls", name)));
	if (type == TEXTOID)
		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &len);
	else
		deconstruct_array(array, FLOAT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  &values, NULL, &len);
	if (*count >= 0 && len != *count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays must have the same length")));
	if (len > MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there must not be more than %d keys, not %d", MAX_KEYS, len)));
	*count = len;
	return values;
}

static char *
read_server(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("server must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (strlen(name) >= SERVER_NAME_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("server must not be longer than %d bytes", SERVER_NAME_LENGTH - 1)));
	return name;
}

static void
check_wanted(double tokens, const char *name)
{
	if (!(tokens >= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must contain numbers not below 0, not %g", name, tokens)));
}

/* What the bucket has, and for how many seconds its key is blocked */
static double
look(const Datum *bucket, double *blocked)
{
	Datum		args[5] = {bucket[0], bucket[1], bucket[2], Float8GetDatum(0), bucket[3]};
	HeapTupleHeader row = DatumGetHeapTupleHeader(engine_call(ENGINE_PEEK, 5, args, false));
	bool		allowed;
	double		remaining;
	bool		null;
	Datum		wait;

	allowed = DatumGetBool(GetAttributeByNum(row, 1, &null));
	remaining = DatumGetFloat8(GetAttributeByNum(row, 3, &null));
	*blocked = 0;
	if (null)
		return 0;
	if (!allowed)
	{
		wait = GetAttributeByNum(row, 4, &null);
		*blocked = null ? 1e6 : DatumGetIntervalP(wait)->time / 1e6 +
			DatumGetIntervalP(wait)->day * 86400.0 + DatumGetIntervalP(wait)->month * 2592000.0;
	}
	return remaining;
}

/* Take tokens from a bucket: how many it had, at most so many */
static double
take(const Datum *bucket, double tokens)
{
	Datum		args[5] = {bucket[0], bucket[1], bucket[2], Float8GetDatum(tokens), bucket[3]};

	if (tokens == floor(tokens))
		return DatumGetFloat8(engine_call(ENGINE_CONSUME_UPTO, 5, args, false));
	return DatumGetBool(engine_call(ENGINE_CONSUME, 5, args, false)) ? tokens : 0;
}

/* How many tokens to give */
static double
portion(double level, double needed, double wanted, int servers)
{
	double		tokens = Max(floor(Min(wanted, level * SHARE / servers)), needed);

	if (wanted >= 1)
		tokens = Max(tokens, 1);
	if (tokens <= level)
		return tokens;
	/* calls that need less may have it */
	return needed <= level ? Max(needed, floor(level)) : floor(level);
}

Datum
rl_lease_epoch(PG_FUNCTION_ARGS)
{
	shared_check();
	PG_RETURN_INT64((int64) shared->epoch);
}

Datum
rl_lease_take(PG_FUNCTION_ARGS)
{
	char	   *server;
	int			n = -1;
	Datum	   *keys;
	Datum	   *limiters;
	Datum	   *capacities;
	Datum	   *refills;
	Datum	   *needed;
	Datum	   *wanted;
	ReturnSetInfo *set;
	int			servers;
	double	   *levels;
	double	   *blocks;
	double		sum = 0;

	shared_check();
	server = read_server(fcinfo);
	keys = elements(fcinfo, 1, TEXTOID, "keys", &n);
	limiters = elements(fcinfo, 2, TEXTOID, "limiters", &n);
	capacities = elements(fcinfo, 3, FLOAT8OID, "capacities", &n);
	refills = elements(fcinfo, 4, FLOAT8OID, "refills", &n);
	needed = elements(fcinfo, 5, FLOAT8OID, "needed", &n);
	wanted = elements(fcinfo, 6, FLOAT8OID, "wanted", &n);
	InitMaterializedSRF(fcinfo, 0);
	set = (ReturnSetInfo *) fcinfo->resultinfo;
	/* this server may use its keys itself */
	servers = server_seen(server, 0, 0) + 1;
	/* a bad argument raises its error before any tokens have been taken */
	levels = palloc(n * sizeof(double));
	blocks = palloc(n * sizeof(double));
	for (int i = 0; i < n; i++)
	{
		Datum		bucket[4] = {keys[i], capacities[i], refills[i], limiters[i]};

		CHECK_FOR_INTERRUPTS();
		check_wanted(DatumGetFloat8(needed[i]), "needed");
		check_wanted(DatumGetFloat8(wanted[i]), "wanted");
		levels[i] = look(bucket, &blocks[i]);
	}
	for (int i = 0; i < n; i++)
	{
		Datum		bucket[4] = {keys[i], capacities[i], refills[i], limiters[i]};
		double		blocked = blocks[i];
		double		level = levels[i];
		double		tokens = 0;
		Datum		values[4];
		bool		nulls[4] = {false};

		CHECK_FOR_INTERRUPTS();
		if (blocked == 0 && level > 0)
		{
			tokens = portion(level, DatumGetFloat8(needed[i]), DatumGetFloat8(wanted[i]), servers);
			if (tokens > 0)
				tokens = take(bucket, tokens);
		}
		sum += tokens;
		values[0] = Float8GetDatum(tokens);
		values[1] = Float8GetDatum(Max(level - tokens, 0));
		values[2] = Float8GetDatum(blocked);
		values[3] = Int64GetDatum((int64) shared->epoch);
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
	(void) server_seen(server, sum, 0);
	return (Datum) 0;
}

Datum
rl_lease_return(PG_FUNCTION_ARGS)
{
	char	   *server;
	int			n = -1;
	Datum	   *keys;
	Datum	   *limiters;
	Datum	   *tokens;
	double		sum = 0;

	shared_check();
	server = read_server(fcinfo);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("epoch must not be null")));
	keys = elements(fcinfo, 2, TEXTOID, "keys", &n);
	limiters = elements(fcinfo, 3, TEXTOID, "limiters", &n);
	tokens = elements(fcinfo, 4, FLOAT8OID, "tokens", &n);
	/* the buckets may have forgotten that they have given them */
	if ((uint64) PG_GETARG_INT64(1) != shared->epoch)
		PG_RETURN_FLOAT8(0);
	for (int i = 0; i < n; i++)
	{
		Datum		args[3] = {keys[i], tokens[i], limiters[i]};

		CHECK_FOR_INTERRUPTS();
		sum += DatumGetFloat8(engine_call(ENGINE_REWARD, 3, args, false));
	}
	(void) server_seen(server, 0, sum);
	PG_RETURN_FLOAT8(sum);
}
