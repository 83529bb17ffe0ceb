/*
 * link.c
 *		The connection of the worker to one home.
 *
 * Several queries are under way at a time, and their answers come in order.  Nothing here
 * waits: the worker waits for all of its links together, outside of any transaction.
 *
 * A query that has no answer is never sent again.  If the home raises an error, for
 * example because it does not have a character of a key, the portions of the query are
 * asked for one by one, so that one key does not hold up others.
 */
#include "postgres.h"

#include <math.h>
#include <poll.h>

#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "foreign/foreign.h"
#include "homes.h"
#include "link.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "settings.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define FIRST_RETRY	INT64CONST(50000)	/* microseconds */
#define LAST_RETRY	INT64CONST(5000000)

/* A connection is given up if there is no answer for so many timeouts. */
#define PATIENCE	5

/* One of several hosts, as a home and its standby, is: so there is time for the next one. */
#define HOST_PATIENCE 3

/* Refusals are logged once in so many microseconds. */
#define LOG_TIME	INT64CONST(10000000)

#define MAX_OPTIONS 64

#define NO_HOME "It does not answer as a home does."

static int64
timeout_us(void)
{
	return timeout_setting * INT64CONST(1000);
}

/* Say how it is with a home. */
static void
set_state(Link *link, HomeState state, const char *error)
{
	Home	   *home = &shared->homes[link->home];
	HomeState	before = pg_atomic_read_u32(&home->state);

	if (state == HOME_THERE && before == HOME_THERE)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (state != before)
		home->since = GetCurrentTimestamp();
	if (error)
		strlcpy(home->error, error, sizeof(home->error));
	LWLockRelease(shared->lock);
	pg_atomic_write_u32(&home->state, state);
	if (state == before)
		return;
	if (state == HOME_AWAY)
	{
		ereport(LOG,
				(errmsg("ratelimit home \"%s\" is away", NameStr(home->name)),
				 errdetail_internal("%s", error)));
		leases_wake(link->home);
	}
	else if (before == HOME_AWAY)
		ereport(LOG, (errmsg("ratelimit home \"%s\" is back", NameStr(home->name))));
}

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

/* Close a connection; "why": it has failed, and is opened again later. */
void
link_close(Link *link, const char *why)
{
	/* it may be what the connection says */
	char	   *message = why ? pstrdup(why) : NULL;

	why = message;
	if (link->conn)
	{
		PQfinish(link->conn);
		ReleaseExternalFD();
		link->conn = NULL;
	}
	link->state = LINK_CLOSED;
	link->write = false;
	if (why)
	{
		link->backoff = Min(Max(link->backoff * 2, FIRST_RETRY), LAST_RETRY);
		link->retry = now_us() + link->backoff;
		/* before those that wait see that their portions have failed */
		set_state(link, HOME_AWAY, why);
	}
	while (link->first)
	{
		Batch	   *batch = link->first;

		link->first = batch->next;
		batch_lost(link, batch);
		pfree(batch);
	}
	link->last = NULL;
	if (message)
		pfree(message);
}

/*
 * Copy so many bytes of a message, or fewer if there is no room.  What a home says before it
 * knows our encoding may be in another one.
 */
static void
copy_message(char *to, const char *from, int len)
{
	if (pg_verify_mbstr(GetDatabaseEncoding(), from, len, true))
		strlcpy(to, from, pg_mbcliplen(from, len, MESSAGE_SIZE - 1) + 1);
	else
	{
		strlcpy(to, from, Min(len + 1, MESSAGE_SIZE));
		for (; *to; to++)
		{
			if (IS_HIGHBIT_SET(*to))
				*to = '?';
		}
	}
}

/* The connection has failed: why. */
static void
link_failed(Link *link, const char *what)
{
	const char *message = link->conn ? PQerrorMessage(link->conn) : "";
	char		why[MESSAGE_SIZE];
	int			len;

	if (!message[0])
		message = what;
	len = strlen(message);
	while (len > 0 && strchr("\r\n", message[len - 1]))
		len--;
	copy_message(why, message, len);
	link_close(link, why);
}

/* Is this an option of a connection, and not one of the foreign data wrapper? */
static bool
is_connection_option(const PQconninfoOption *defaults, const char *name)
{
	for (; defaults && defaults->keyword; defaults++)
	{
		if (strcmp(defaults->keyword, name) == 0)
			return strcmp(name, "client_encoding") != 0;
	}
	return false;
}

/* Copies of options, which live as long as the transaction that has read them */
static int
add_options(List *options, const PQconninfoOption *defaults, MemoryContext context,
			const char **keywords, const char **values, int n)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst(cell);

		if (n < MAX_OPTIONS && is_connection_option(defaults, option->defname))
		{
			keywords[n] = MemoryContextStrdup(context, option->defname);
			values[n++] = MemoryContextStrdup(context, strVal(option->arg));
		}
	}
	return n;
}

/*
 * The options of the server and of the extension owner's mapping, behind the first n, in a
 * transaction of its own.  Returns what is in the way, or null.
 */
static char *
read_options(Link *link, MemoryContext context, const PQconninfoOption *defaults,
			 const char **keywords, const char **values, int *n)
{
	const Home *home = &shared->homes[link->home];
	char	   *volatile problem = NULL;

	PG_TRY();
	{
		Oid			owner = InvalidOid;
		ForeignServer *server;
		UserMapping *mapping;

		StartTransactionCommand();
		/* what changes while this reads is read again */
		link->stale = false;
		(void) extension_schema("ratelimit_region", &owner);
		server = GetForeignServerExtended(home->server, FSV_MISSING_OK);
		if (!server || !OidIsValid(owner))
			ereport(ERROR, (errmsg("server \"%s\" does not exist", NameStr(home->name))));
		mapping = GetUserMapping(owner, home->server);
		*n = add_options(server->options, defaults, context, keywords, values, *n);
		*n = add_options(mapping->options, defaults, context, keywords, values, *n);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
		problem = error->message;
	}
	PG_END_TRY();
	return problem;
}

/* What a home says besides its answers would get into our log, in lines of its choice. */
static void
ignore_notice(void *arg, const PGresult *notice)
{
}

/* Begin to connect.  Returns what is in the way, or null. */
static const char *
connect_start(Link *link, MemoryContext context)
{
	const char *keywords[MAX_OPTIONS + 5];
	const char *values[MAX_OPTIONS + 5];
	char		patience[32];
	int			n = 0;
	const char *problem;
	PQconninfoOption *defaults;

	keywords[n] = "fallback_application_name";
	values[n++] = "ratelimit_region";
	/* a home that vanishes is noticed while data is under way */
	keywords[n] = "tcp_user_timeout";
	snprintf(patience, sizeof(patience), "%d", timeout_setting * HOST_PATIENCE);
	values[n++] = patience;
	defaults = PQconndefaults();
	problem = read_options(link, context, defaults, keywords, values, &n);
	PQconninfoFree(defaults);
	if (problem)
		return problem;
	keywords[n] = "client_encoding";
	values[n++] = GetDatabaseEncodingName();
	keywords[n] = values[n] = NULL;
	if (!AcquireExternalFD())
		return "there is no file descriptor for another connection";
	link->conn = PQconnectStartParams(keywords, values, 0);
	if (!link->conn)
	{
		ReleaseExternalFD();
		return "out of memory";
	}
	PQsetNoticeReceiver(link->conn, ignore_notice, NULL);
	return PQstatus(link->conn) == CONNECTION_BAD ? "could not connect" : NULL;
}

static void
link_open(Link *link, int64 now)
{
	MemoryContext before = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(before, "ratelimit connection",
												  ALLOCSET_SMALL_SIZES);
	const char *problem = connect_start(link, context);

	MemoryContextSwitchTo(before);
	if (problem)
		link_failed(link, problem);
	else
	{
		link->state = LINK_CONNECTING;
		link->poll = PGRES_POLLING_WRITING;
		link->opened = now;
	}
	MemoryContextDelete(context);
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

static void
greet(Link *link)
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
	set_state(link, HOME_THERE, NULL);
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
		set_state(link, HOME_THERE, NULL);
}

/* The home has raised an error, and taken nothing, or what it has taken is lost. */
static void
refused(Link *link, PGresult *result)
{
	Batch	   *batch = link->first;
	const char *whole = PQresultErrorMessage(result);
	char		message[MESSAGE_SIZE];

	copy_message(message, whole, strcspn(whole, "\r\n"));
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
static void
receive(Link *link)
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

/*
 * Is there what PQconnectPoll() wants to wait for?  If it is called before, it may wait by
 * itself, without an end, for a home that nothing comes from.
 */
static bool
connection_is_ready(const Link *link)
{
	struct pollfd fd = {.fd = PQsocket(link->conn)};

	fd.events = link->poll == PGRES_POLLING_WRITING ? POLLOUT : POLLIN;
	return fd.fd < 0 || poll(&fd, 1, 0) > 0;
}

/* Go on with what a link does, as far as that is possible without waiting. */
void
link_step(Link *link, bool wanted, int64 now)
{
	if (link->state == LINK_CLOSED)
	{
		if (wanted && now >= link->retry)
			link_open(link, now);
		return;
	}
	if ((link->stale || !wanted) && link->state == LINK_READY && !link->first)
	{
		link_close(link, NULL);
		return;
	}
	if (link->state == LINK_CONNECTING)
	{
		if (connection_is_ready(link))
			link->poll = PQconnectPoll(link->conn);
		if (link->poll == PGRES_POLLING_FAILED)
			link_failed(link, "could not connect");
		else if (link->poll == PGRES_POLLING_OK)
			greet(link);
		else if (now - link->opened > timeout_us() * PATIENCE)
			link_close(link, "The connection is not made in time.");
		else if (now - link->opened > timeout_us())
			set_state(link, HOME_AWAY, "The connection is not made in time.");
		return;
	}
	receive(link);
	if (!link->conn)
		return;
	if (link->write)
	{
		int			rest = PQflush(link->conn);

		if (rest < 0)
		{
			link_failed(link, "the connection is broken");
			return;
		}
		link->write = rest > 0;
	}
	if (link->first && now - link->first->sent > timeout_us() * PATIENCE)
		link_close(link, "There is no answer.");
	else if (link->first && now - link->first->sent > timeout_us())
		set_state(link, HOME_AWAY, "There is no answer in time.");
}

/* What to wait for */
int
link_events(const Link *link)
{
	if (!link->conn || PQsocket(link->conn) < 0)
		return 0;
	if (link->state == LINK_CONNECTING)
		return link->poll == PGRES_POLLING_WRITING ? WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE;
	return WL_SOCKET_READABLE | (link->write ? WL_SOCKET_WRITEABLE : 0);
}

/* When there is something to do if nothing comes; 0: never */
int64
link_deadline(const Link *link)
{
	return link->state == LINK_CLOSED ? link->retry : 0;
}
