/*
 * batches.c
 *		Queries to a home: portions that are asked for or given back, several in a query.
 *
 * Several queries are under way at a time, and their answers come in order.
 *
 * A query that has no answer is never sent again.  If the home raises an error, for
 * example because it does not have a character of a key, the portions of the query are
 * asked for one by one, so that one key does not hold up others.
 */
#include "postgres.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "link.h"
#include "settings.h"

/* Refusals are logged once in so many microseconds. */
#define LOG_TIME	INT64CONST(10000000)

#define NO_HOME "It does not answer as a home does."

/* What a query that is given up has asked for is lost. */
static void
batch_lost(Link *link, Batch *batch)
{
	Home	   *home = &shared->homes[link->home];

	for (int i = 0; i < batch->n; i++)
	{
		if (batch->kind == BATCH_ASK)
			lease_failed(&batch->portions[i], batch->failed);
		else
			add_tokens(&home->lost, batch->portions[i].tokens);
	}
}

/* The connection is closed, and with it all queries that are under way. */
void
batches_lost(Link *link)
{
	while (link->first)
	{
		Batch	   *batch = link->first;

		link->first = batch->next;
		batch_lost(link, batch);
		pfree(batch);
	}
	link->last = NULL;
}

/* Send a query, which is then under way. */
static void
send_batch(Link *link, Batch *batch, const char *query, int n_params, const char *const *params)
{
	if (!link->conn)
	{
		batch_lost(link, batch);
		pfree(batch);
		return;
	}
	batch->sent = now_us();
	batch->next = NULL;
	if (link->last)
		link->last->next = batch;
	else
		link->first = batch;
	link->last = batch;
	if (!PQsendQueryParams(link->conn, query, n_params, NULL, params, NULL, NULL, 0) ||
		!PQpipelineSync(link->conn))
	{
		link_failed(link, "could not send a query");
		return;
	}
	link->write = true;
}

static Batch *
new_batch(BatchKind kind, const Portion *portions, int n)
{
	Batch	   *batch = palloc(offsetof(Batch, portions) + n * sizeof(Portion));

	batch->next = NULL;
	batch->kind = kind;
	batch->answered = false;
	batch->failed = false;
	batch->n = n;
	if (n > 0)
		memcpy(batch->portions, portions, n * sizeof(Portion));
	return batch;
}

/* The connection is there: ask what has to be known before portions are asked for. */
void
link_greet(Link *link)
{
	if (PQsetnonblocking(link->conn, 1) != 0 || !PQenterPipelineMode(link->conn))
	{
		link_failed(link, "could not enter pipeline mode");
		return;
	}
	link->state = LINK_GREETING;
	send_batch(link, new_batch(BATCH_SCHEMA, NULL, 0),
			   "SELECT pg_catalog.quote_ident(n.nspname), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"
			   " FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
			   " WHERE e.extname OPERATOR(pg_catalog.=) 'ratelimit_region'", 0, NULL);
}

/* An element of an array as text */
static void
append_text(StringInfo array, const char *value)
{
	appendStringInfoString(array, array->len == 0 ? "{\"" : ",\"");
	for (; *value; value++)
	{
		if (*value == '"' || *value == '\\')
			appendStringInfoChar(array, '\\');
		appendStringInfoChar(array, *value);
	}
	appendStringInfoChar(array, '"');
}

static void
append_number(StringInfo array, double value)
{
	appendStringInfo(array, "%s%.17g", array->len == 0 ? "{" : ",", value);
}

/* Ask for portions. */
void
link_ask(Link *link, const Portion *portions, int n)
{
	StringInfoData arrays[6];
	const char *params[7];
	char		query[512];

	for (int i = 0; i < 6; i++)
		initStringInfo(&arrays[i]);
	for (int i = 0; i < n; i++)
	{
		append_text(&arrays[0], portions[i].key);
		append_text(&arrays[1], portions[i].limiter);
		append_number(&arrays[2], portions[i].capacity);
		append_number(&arrays[3], portions[i].refill);
		append_number(&arrays[4], portions[i].needed);
		append_number(&arrays[5], portions[i].tokens);
	}
	params[0] = server_name();
	for (int i = 0; i < 6; i++)
	{
		appendStringInfoChar(&arrays[i], '}');
		params[i + 1] = arrays[i].data;
	}
	snprintf(query, sizeof(query),
			 "SELECT * FROM %s.rl_lease_take($1::text, $2::text[], $3::text[], $4::float8[], $5::float8[], $6::float8[], $7::float8[])",
			 link->schema);
	pg_atomic_fetch_add_u64(&shared->homes[link->home].asked, n);
	send_batch(link, new_batch(BATCH_ASK, portions, n), query, 7, params);
	for (int i = 0; i < 6; i++)
		pfree(arrays[i].data);
}

/* Give back portions, which are of one epoch: see leases_sweep(). */
void
link_return(Link *link, const Portion *portions, int n)
{
	StringInfoData arrays[3];
	const char *params[5];
	char		query[512];
	char		epoch[32];

	for (int i = 0; i < 3; i++)
		initStringInfo(&arrays[i]);
	for (int i = 0; i < n; i++)
	{
		append_text(&arrays[0], portions[i].key);
		append_text(&arrays[1], portions[i].limiter);
		append_number(&arrays[2], portions[i].tokens);
	}
	snprintf(epoch, sizeof(epoch), INT64_FORMAT, (int64) portions[0].epoch);
	params[0] = server_name();
	params[1] = epoch;
	for (int i = 0; i < 3; i++)
	{
		appendStringInfoChar(&arrays[i], '}');
		params[i + 2] = arrays[i].data;
	}
	snprintf(query, sizeof(query),
			 "SELECT %s.rl_lease_return($1::text, $2::bigint, $3::text[], $4::text[], $5::float8[])",
			 link->schema);
	send_batch(link, new_batch(BATCH_RETURN, portions, n), query, 5, params);
	for (int i = 0; i < 3; i++)
		pfree(arrays[i].data);
}

/* The home has said in which schema its functions are: ask for its epoch. */
static void
schema_known(Link *link, PGresult *result)
{
	char		query[256];

	if (PQntuples(result) != 1)
	{
		link_close(link, "The home does not have the extension ratelimit_region.");
		return;
	}
	strlcpy(link->schema, PQgetvalue(result, 0, 0), sizeof(link->schema));
	snprintf(query, sizeof(query), "SELECT %s.rl_lease_epoch()", link->schema);
	send_batch(link, new_batch(BATCH_EPOCH, NULL, 0), query, 0, NULL);
}

/* The home has said what its epoch is.  Tokens of another one are void. */
static void
epoch_known(Link *link, PGresult *result)
{
	pg_atomic_write_u64(&shared->homes[link->home].epoch,
						PQntuples(result) == 1 ? strtoull(PQgetvalue(result, 0, 0), NULL, 10) : 0);
	link->state = LINK_READY;
	link->backoff = 0;
	link_set_state(link, HOME_THERE, NULL);
	leases_request_waiting(link->home);
}

/* A number of an answer; NaN if it is none */
static double
number_of(const PGresult *result, int row, int column)
{
	const char *value = PQgetvalue(result, row, column);
	char	   *end;
	double		number = strtod(value, &end);

	return end > value && *end == '\0' ? number : NAN;
}

/* Portions have come.  No home gives more than it was asked for. */
static void
taken(Link *link, Batch *batch, PGresult *result, int64 now)
{
	Home	   *home = &shared->homes[link->home];
	bool		valid = PQntuples(result) == batch->n && PQnfields(result) == 4;

	for (int i = 0; valid && i < batch->n; i++)
	{
		double		tokens = number_of(result, i, 0);
		double		remaining = number_of(result, i, 1);
		double		blocked = number_of(result, i, 2);

		valid = tokens >= 0 && tokens <= batch->portions[i].tokens &&
			remaining >= 0 && isfinite(remaining) && blocked >= 0;
	}
	if (!valid)
	{
		link_close(link, NO_HOME);
		return;
	}
	for (int i = 0; i < batch->n; i++)
	{
		double		tokens = number_of(result, i, 0);
		uint64		epoch = strtoull(PQgetvalue(result, i, 3), NULL, 10);

		pg_atomic_write_u64(&home->epoch, epoch);
		lease_credit(&batch->portions[i], tokens, number_of(result, i, 1),
					 number_of(result, i, 2), epoch, now);
		add_tokens(&home->taken, tokens);
	}
}

/* The first query has an answer. */
static void
answered(Link *link, PGresult *result, int64 now)
{
	Batch	   *batch = link->first;
	Home	   *home = &shared->homes[link->home];
	int64		before = pg_atomic_read_u64(&home->round_trip);
	int64		took = now - batch->sent;

	pg_atomic_write_u64(&home->round_trip, before == 0 ? took : before + (took - before) / 8);
	if (batch->kind == BATCH_SCHEMA)
		schema_known(link, result);
	else if (batch->kind == BATCH_EPOCH)
		epoch_known(link, result);
	else if (batch->kind == BATCH_ASK)
		taken(link, batch, result, now);
	else
	{
		for (int i = 0; i < batch->n; i++)
			add_tokens(&home->returned, batch->portions[i].tokens);
	}
	if (!link->conn)
		return;
	batch->answered = true;
	/* it is not lost any more, even if the query does not come to its end */
	batch->n = 0;
	if (link->state == LINK_READY)
		link_set_state(link, HOME_THERE, NULL);
}

/* The home has raised an error, and taken nothing, or what it has taken is lost. */
static void
refused(Link *link, PGresult *result)
{
	Batch	   *batch = link->first;
	const char *whole = PQresultErrorMessage(result);
	char		message[MESSAGE_SIZE];

	link_copy_message(message, whole, strcspn(whole, "\r\n"));
	if (link->state == LINK_GREETING)
	{
		link_close(link, message);
		return;
	}
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	strlcpy(shared->homes[link->home].error, message, sizeof(shared->homes[link->home].error));
	LWLockRelease(shared->lock);
	if (batch->n == 1 && now_us() >= link->logged + LOG_TIME)
	{
		link->logged = now_us();
		ereport(LOG,
				(errmsg("ratelimit home \"%s\" could not answer", NameStr(shared->homes[link->home].name)),
				 errdetail_internal("%s", message)));
	}
	batch->failed = true;
}

/*
 * The first query is over.  If it has failed, its portions are asked for one by one, behind
 * those that are under way.  What was to be given back is not sent again: the home may have
 * got some of it before it has failed.
 */
static void
over(Link *link)
{
	Batch	   *batch = link->first;

	if (!batch->failed && !batch->answered)
	{
		link_close(link, NO_HOME);
		return;
	}
	link->first = batch->next;
	if (!link->first)
		link->last = NULL;
	if (batch->failed && batch->kind == BATCH_ASK && batch->n > 1)
	{
		for (int i = 0; i < batch->n; i++)
			link_ask(link, &batch->portions[i], 1);
	}
	else if (batch->failed)
		batch_lost(link, batch);
	pfree(batch);
}

/* Read what has come. */
void
link_receive(Link *link)
{
	int			nulls = 0;

	if (!PQconsumeInput(link->conn))
	{
		link_failed(link, "the connection is broken");
		return;
	}
	while (!PQisBusy(link->conn) && link->first)
	{
		PGresult   *result = PQgetResult(link->conn);

		if (!result)
		{
			if (++nulls > 2)
				break;
			continue;
		}
		nulls = 0;
		switch (PQresultStatus(result))
		{
			case PGRES_TUPLES_OK:
				answered(link, result, now_us());
				break;
			case PGRES_PIPELINE_SYNC:
				over(link);
				break;
			case PGRES_FATAL_ERROR:
				refused(link, result);
				break;
			default:
				/* some of these would come again and again */
				link_close(link, NO_HOME);
				break;
		}
		PQclear(result);
		if (!link->conn)
			return;
	}
	if (PQstatus(link->conn) == CONNECTION_BAD)
		link_failed(link, "the connection is broken");
}
