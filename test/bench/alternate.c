/*
 * alternate.c
 *		Two servers under the same load, by turns, over connections that stay.
 *
 * alternate ROUNDS MS CLIENTS HOST A B STATEMENT RANGE...
 *		calls a second of the server at port A and of that at port B, and nanoseconds
 *		that their backends run for a call, a line a round.  Parameters are random
 *		numbers from 1 to RANGE; "keys": an array of 1000 of 10,000 keys.
 * alternate ROUNDS 0 ROWS HOST A B STATEMENT FLOOR
 *		nanoseconds that the backend runs for each of so many rows of a query, less
 *		those of another query, the floor; for A and for B.
 *
 * Clients and their backends are pinned to processors, as in pgbench_rate (lib.sh).
 * Short turns, as what else the machine does then meets both alike.
 */
#define _GNU_SOURCE
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIENTS	64
#define MAX_PARAMS	4
#define LISTS		10

static int	rounds, ms, clients, processors, n_params;
static char **args, **params;
static char *lists[LISTS];
static double rate[64][2], busy[64][2];	/* of each processor's last turns */
static pthread_barrier_t barrier;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void
check(PGconn *conn, PGresult *result)
{
	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(conn));
		exit(1);
	}
	PQclear(result);
}

/* Nanoseconds that the connection's backend has run. */
static double
run_time(PGconn *conn)
{
	char		path[64];
	double		ns = 0;
	FILE	   *file;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", PQbackendPID(conn));
	file = fopen(path, "r");
	if (!file || fscanf(file, "%lf", &ns) != 1)
		exit(1);
	fclose(file);
	return ns;
}

static PGconn *
connect_to(int side, int processor)
{
	char		info[256];
	PGconn	   *conn;
	cpu_set_t	set;

	snprintf(info, sizeof(info), "host=%s port=%s user=postgres dbname=postgres "
			 "options='-c jit=off -c max_parallel_workers_per_gather=0'", args[4], args[5 + side]);
	conn = PQconnectdb(info);
	if (PQstatus(conn) != CONNECTION_OK)
		fprintf(stderr, "%s", PQerrorMessage(conn)), exit(1);
	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	sched_setaffinity(PQbackendPID(conn), sizeof(set), &set);
	return conn;
}

static void
call(PGconn *conn, unsigned int *seed)
{
	char		numbers[MAX_PARAMS][16];
	const char *values[MAX_PARAMS];

	for (int i = 0; i < n_params; i++)
	{
		values[i] = numbers[i];
		if (strcmp(params[i], "keys") == 0)
			values[i] = lists[rand_r(seed) % LISTS];
		else
			snprintf(numbers[i], 16, "%d", rand_r(seed) % atoi(params[i]) + 1);
	}
	if (!PQsendQueryPrepared(conn, "s", n_params, values, NULL, NULL, 0))
		fprintf(stderr, "%s", PQerrorMessage(conn)), exit(1);
}

/* A processor's clients: the server's turn. */
static void
turn(int processor, int side, PGconn **conns, int n, unsigned int *seed)
{
	struct pollfd fds[MAX_CLIENTS];
	double		began, run = 0;
	long		calls = 0;
	int			open = n;

	for (int i = 0; i < n; i++)
	{
		run -= run_time(conns[i]);
		fds[i] = (struct pollfd) {PQsocket(conns[i]), POLLIN, 0};
	}
	pthread_barrier_wait(&barrier);
	began = now();
	for (int i = 0; i < n; i++)
		call(conns[i], seed);
	while (open > 0)
	{
		double		late;

		poll(fds, n, -1);
		late = now() - began >= ms * 1e6;
		for (int i = 0; i < n; i++)
		{
			PGresult   *result;

			if (!(fds[i].revents & POLLIN))
				continue;
			PQconsumeInput(conns[i]);
			while (!PQisBusy(conns[i]) && (result = PQgetResult(conns[i])))
				check(conns[i], result);
			if (PQtransactionStatus(conns[i]) == PQTRANS_ACTIVE)
				continue;
			calls++;
			if (late)
				fds[i].fd = -1, open--;
			else
				call(conns[i], seed);
		}
	}
	rate[processor][side] = calls / (now() - began) * 1e9;
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < n; i++)
		run += run_time(conns[i]);
	busy[processor][side] = run;
}

static void *
load(void *arg)
{
	int			processor = (int) (long) arg;
	int			n = clients / processors + (processor < clients % processors);
	unsigned int seed = processor + time(NULL);
	PGconn	   *conns[2][MAX_CLIENTS];
	cpu_set_t	set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	sched_setaffinity(0, sizeof(set), &set);
	for (int i = 0; i < 2 * n; i++)
	{
		conns[i % 2][i / 2] = connect_to(i % 2, processor);
		check(conns[i % 2][i / 2], PQprepare(conns[i % 2][i / 2], "s", args[7], 0, NULL));
	}
	for (int round = -1; round < rounds; round++)
	{
		double		a = 0, b = 0, run_a = 0, run_b = 0;

		for (int i = 0; i < 2; i++)
			turn(processor, (round + i) & 1, conns[(round + i) & 1], n, &seed);
		pthread_barrier_wait(&barrier);
		for (int i = 0; i < processors; i++)
			a += rate[i][0], b += rate[i][1], run_a += busy[i][0], run_b += busy[i][1];
		if (processor == 0 && round >= 0)
			printf("%.0f %.0f %.1f %.1f\n", a, b, run_a / a / ms * 1e3, run_b / b / ms * 1e3);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

static void
query(int rows)
{
	PGconn	   *conns[2] = {connect_to(0, 0), connect_to(1, 0)};

	for (int round = -2; round < rounds; round++)
	{
		double		ns[2];

		for (int i = 0; i < 2; i++)
		{
			int			side = (round + i) & 1;
			double		before = run_time(conns[side]), between;

			check(conns[side], PQexec(conns[side], args[7]));
			between = run_time(conns[side]);
			check(conns[side], PQexec(conns[side], args[8]));
			ns[side] = (2 * between - before - run_time(conns[side])) / rows;
		}
		if (round >= 0)
			printf("%.2f %.2f\n", ns[0], ns[1]);
	}
}

int
main(int argc, char **argv)
{
	pthread_t	threads[64];

	if (argc < 9)
		return 2;
	args = argv;
	rounds = atoi(argv[1]);
	ms = atoi(argv[2]);
	clients = atoi(argv[3]);
	if (ms == 0)
		return query(clients), 0;
	params = argv + 8;
	n_params = argc - 8;
	processors = sysconf(_SC_NPROCESSORS_ONLN);
	for (int i = 0; i < LISTS; i++)
	{
		char	   *to = lists[i] = malloc(16 * 1000);

		for (int j = 1; j <= 1000; j++)
			to += sprintf(to, "%cuser:%d", j == 1 ? '{' : ',', i * 1000 + j);
		strcpy(to, "}");
	}
	pthread_barrier_init(&barrier, NULL, processors);
	for (long i = 0; i < processors; i++)
		pthread_create(&threads[i], NULL, load, (void *) i);
	for (int i = 0; i < processors; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
