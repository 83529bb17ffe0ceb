/*
 * Many decisions in one round trip, with libpq's pipeline mode.
 *
 *	cc -o decide decide.c -I$(pg_config --includedir) -lpq
 *	decide CAPACITY REFILL LIMITER
 *
 * reads lines "CHANNEL KEY" and answers each with one of
 *
 *	CHANNEL OK		go on
 *	CHANNEL ERR		too many
 *	CHANNEL BH message=...	the server does not take this key
 *
 * which are the lines of Squid's external_acl_type with concurrency=1000.  All lines that are
 * there are decided together.  PGHOST and so on say where the server is.  If it has no answer
 * within TIMEOUT, the answer is OK, and it is tried again after RETRY.
 *
 * What a service takes from here is decide_all().
 */
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT 500				/* ms for all decisions of a round trip */
#define RETRY 1000				/* ms after which a lost server is tried again */
#define MOST 1000				/* decisions in a round trip */

#define STATEMENT "ratelimit_consume"
#define CONSUME "SELECT rl_consume($1, $2::float8, $3::float8, 1, $4)"

/* Since PostgreSQL 17, a Sync needs no packet of its own. */
#ifdef LIBPQ_HAS_SEND_PIPELINE_SYNC
#define send_sync(conn) PQsendPipelineSync(conn)
#else
#define send_sync(conn) PQpipelineSync(conn)
#endif

typedef enum Decision
{
	UNDECIDED,					/* the server did not answer */
	ALLOWED,
	DENIED,
	REFUSED						/* the server raised an error */
} Decision;

typedef struct Call
{
	const char *key;
	Decision	decision;
	char		error[128];		/* if refused */
} Call;

typedef struct Limiter
{
	const char *capacity;		/* tokens */
	const char *refill;			/* tokens per second */
	const char *name;
	PGconn	   *conn;			/* in pipeline mode, or NULL */
	int64_t		retry_at;		/* ms; not connected before */
} Limiter;

static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Wait until the connection can be read, or written if that is wanted.  False: too late. */
static bool
wait_for(PGconn *conn, short events, int64_t deadline)
{
	struct pollfd fd = {.fd = PQsocket(conn), .events = events};
	int			ready;

	do
	{
		int64_t		left = deadline - now_ms();

		ready = poll(&fd, 1, left > 0 ? (int) left : 0);
	} while (ready < 0 && errno == EINTR);
	return ready > 0;
}

/* The next result of the pipeline, or NULL if it does not come in time. */
static PGresult *
next_result(PGconn *conn, int64_t deadline)
{
	PGresult   *result;

	do
	{
		while (PQisBusy(conn))
		{
			/* while there is more to send than the socket takes, do both */
			int			unsent = PQflush(conn);

			if (unsent < 0 || !wait_for(conn, POLLIN | (unsent ? POLLOUT : 0), deadline) || !PQconsumeInput(conn))
				return NULL;
		}
		/* NULL stands between the results of two queries */
		result = PQgetResult(conn);
	} while (result == NULL && PQstatus(conn) == CONNECTION_OK);
	return result;
}

/* Connect without blocking, and prepare the statement. */
static bool
connect_until(Limiter *limiter, int64_t deadline)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;
	PGresult   *result;
	bool		prepared;

	limiter->conn = PQconnectStart("");
	if (PQstatus(limiter->conn) == CONNECTION_BAD)
		return false;
	while (status != PGRES_POLLING_OK)
	{
		if (status == PGRES_POLLING_FAILED ||
			!wait_for(limiter->conn, status == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline))
			return false;
		status = PQconnectPoll(limiter->conn);
	}

	if (PQsetnonblocking(limiter->conn, 1) != 0 || !PQenterPipelineMode(limiter->conn) ||
		!PQsendPrepare(limiter->conn, STATEMENT, CONSUME, 0, NULL) || !PQpipelineSync(limiter->conn))
		return false;
	result = next_result(limiter->conn, deadline);
	prepared = PQresultStatus(result) == PGRES_COMMAND_OK;
	if (result && !prepared)
		fputs(PQresultErrorMessage(result), stderr);
	PQclear(result);
	result = next_result(limiter->conn, deadline);
	prepared = prepared && PQresultStatus(result) == PGRES_PIPELINE_SYNC;
	PQclear(result);
	return prepared;
}

/*
 * Each call has a Sync of its own.  So each is a transaction of its own, and an error ends
 * this one only; with one Sync at the end, all calls after the error would be skipped.
 */
static bool
send_calls(const Limiter *limiter, const Call *calls, int n)
{
	for (int i = 0; i < n; i++)
	{
		const char *values[] = {calls[i].key, limiter->capacity, limiter->refill, limiter->name};

		if (!PQsendQueryPrepared(limiter->conn, STATEMENT, 4, values, NULL, NULL, 0) || !send_sync(limiter->conn))
			return false;
	}
	return true;
}

static bool
receive_decisions(PGconn *conn, Call *calls, int n, int64_t deadline)
{
	for (int i = 0; i < n;)
	{
		PGresult   *result = next_result(conn, deadline);
		const char *severity;

		switch (PQresultStatus(result))
		{
			case PGRES_TUPLES_OK:
				calls[i].decision = *PQgetvalue(result, 0, 0) == 't' ? ALLOWED : DENIED;
				break;
			case PGRES_PIPELINE_SYNC:
				i++;
				break;
			default:
				/* an ERROR of the server is of this call; anything else ends the connection */
				severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
				if (severity == NULL || strcmp(severity, "ERROR") != 0)
				{
					PQclear(result);
					return false;
				}
				calls[i].decision = REFUSED;
				snprintf(calls[i].error, sizeof(calls[i].error), "%s", PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
		}
		PQclear(result);
	}
	return true;
}

/* Decide all calls, of which there may be MOST.  Those that the server does not decide in time are UNDECIDED. */
static void
decide_all(Limiter *limiter, Call *calls, int n)
{
	int64_t		deadline = now_ms() + TIMEOUT;

	for (int i = 0; i < n; i++)
		calls[i].decision = UNDECIDED;

	if (limiter->conn == NULL && now_ms() < limiter->retry_at)
		return;
	if ((limiter->conn || connect_until(limiter, deadline)) &&
		send_calls(limiter, calls, n) && receive_decisions(limiter->conn, calls, n, deadline))
		return;

	/* what is still to come on this connection would be taken for later answers */
	fprintf(stderr, "no decisions: %s\n", *PQerrorMessage(limiter->conn) ? PQerrorMessage(limiter->conn) : "too late");
	PQfinish(limiter->conn);
	limiter->conn = NULL;
	limiter->retry_at = now_ms() + RETRY;
}

static void
answer(const char *channel, const Call *call)
{
	switch (call->decision)
	{
		case UNDECIDED:
		case ALLOWED:
			printf("%s OK\n", channel);
			break;
		case DENIED:
			printf("%s ERR\n", channel);
			break;
		case REFUSED:
			printf("%s BH message=\"", channel);
			for (const char *c = call->error; *c; c++)
				putchar(*c == '"' || *c == '\\' || *c == '\n' ? ' ' : *c);
			puts("\"");
	}
}

int
main(int argc, char **argv)
{
	static char buffer[65536];
	static const char *channels[MOST];
	static Call calls[MOST];
	Limiter		limiter = {0};
	size_t		filled = 0;

	if (argc != 4)
	{
		fprintf(stderr, "usage: %s CAPACITY REFILL LIMITER\n", argv[0]);
		return 2;
	}
	limiter.capacity = argv[1];
	limiter.refill = argv[2];
	limiter.name = argv[3];

	for (;;)
	{
		ssize_t		got = read(STDIN_FILENO, buffer + filled, sizeof(buffer) - filled);
		char	   *line = buffer;
		char	   *end;
		int			n = 0;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;				/* also if a line is longer than the buffer */
		filled += (size_t) got;

		while ((end = memchr(line, '\n', filled - (size_t) (line - buffer))) != NULL)
		{
			*end = '\0';
			calls[n].key = strchr(line, ' ') ? strchr(line, ' ') + 1 : "";
			line[strcspn(line, " ")] = '\0';
			channels[n++] = line;
			line = end + 1;

			if (n == MOST || memchr(line, '\n', filled - (size_t) (line - buffer)) == NULL)
			{
				decide_all(&limiter, calls, n);
				for (int i = 0; i < n; i++)
					answer(channels[i], &calls[i]);
				n = 0;
			}
		}
		fflush(stdout);
		filled -= (size_t) (line - buffer);
		memmove(buffer, line, filled);
	}
	PQfinish(limiter.conn);
	return 0;
}
