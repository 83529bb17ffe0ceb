/*
 * link.c
 *		The connection of the worker to one home.  What passes over it is in batches.c.
 *
 * Nothing here waits: the worker waits for all of its links together, outside of any
 * transaction.
 */
#include "postgres.h"

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

#define MAX_OPTIONS 64

static int64
timeout_us(void)
{
	return timeout_setting * INT64CONST(1000);
}

/* Say how it is with a home. */
void
link_set_state(Link *link, HomeState state, const char *error)
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
		link_set_state(link, HOME_AWAY, why);
	}
	batches_lost(link);
	if (message)
		pfree(message);
}

/*
 * Copy so many bytes of a message, or fewer if there is no room.  What a home says before it
 * knows our encoding may be in another one.
 */
void
link_copy_message(char *to, const char *from, int len)
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
void
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
	link_copy_message(why, message, len);
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
			link_greet(link);
		else if (now - link->opened > timeout_us() * PATIENCE)
			link_close(link, "The connection is not made in time.");
		else if (now - link->opened > timeout_us())
			link_set_state(link, HOME_AWAY, "The connection is not made in time.");
		return;
	}
	link_receive(link);
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
		link_set_state(link, HOME_AWAY, "There is no answer in time.");
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
