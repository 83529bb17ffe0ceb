"""
leaks.py CALLS
	On the server that PGHOST names:

	- A session of so many calls, of all functions that decide, has no more memory in the end
	  than after the first tenth of them: neither the process, nor its memory contexts.
	- Within one statement no call leaves anything behind: a statement of a million calls has no more
	  than one of ten thousand, while it runs.
	- A session of 20,000 transactions, in which calls are allowed, denied, rolled back, reserved,
	  refunded and raise errors, has no more memory than after the first tenth.
	- 1,000 flushes by the session, and 1,000 by workers, leave nothing behind in the session and in the launcher.
"""
import re
import sys
import time

import psycopg

CALLS = int(sys.argv[1])
TRANSACTION_COUNT = 20000

# statements of 10,000 calls
CALL = [
	"SELECT count(rl_consume('k' || i % 1000, 1e12, 1e6)) FROM generate_series(1, 10000) i",
	"SELECT count(rl_consume('k', 1e12, 1e6)) FROM generate_series(1, 10000) i",
	"SELECT count((rl_throttle('k' || i % 10, 1e12, 1e6)).remaining) FROM generate_series(1, 10000) i",
	"SELECT count((rl_peek('k' || i % 10, 1e12, 1e6)).remaining) FROM generate_series(1, 10000) i",
	"SELECT count(rl_consume('d' || i % 10, 1, 0, 2)) FROM generate_series(1, 10000) i",
	"SELECT count(rl_consume_upto('u', 1e12, 1e6, 2)) FROM generate_series(1, 10000) i",
	"SELECT count(rl_consume_each(ARRAY['a', 'b', 'c', 'd', 'e'], 1e12, 1e6)) FROM generate_series(1, 2000) i",
	"SELECT count(rl_throttle_each(ARRAY['a', 'b', 'c', 'd', 'e'], array_fill(1e12::float8, '{5}'), array_fill(1e6::float8, '{5}'))) FROM generate_series(1, 2000) i",
	"SELECT count(rl_consume_all(ARRAY['a', 'b'], ARRAY[1e12, 1e12], ARRAY[1e6, 1e6])) FROM generate_series(1, 5000) i",
	"SELECT count(rl_consume_policy('api', 'k' || i % 10)) FROM generate_series(1, 10000) i",
	"SELECT count(rl_consume_policies(ARRAY['api', 'b'], ARRAY['k', 'l'])) FROM generate_series(1, 5000) i",
	"SELECT count(rl_consume_period('p', 1e12, 'hour Europe/Berlin')) FROM generate_series(1, 10000) i",
	"SELECT count(rl_count('c', 'day')) FROM generate_series(1, 10000) i",
	"SELECT count(rl_settle(rl_reserve('v', 1e12, 1e6, 5), 1)) FROM generate_series(1, 5000) i",
	"SELECT count(rl_release(rl_acquire('s', 1000000, 1, 'session'))) FROM generate_series(1, 5000) i",
	"SELECT count(rl_report('r', 'g', 1)) FROM generate_series(1, 10000) i",
	"SELECT count(rl_report_batch('[{\"key\": \"k\", \"limiter\": \"g\", \"rejected\": 2}]')) FROM generate_series(1, 10000) i",
	"SELECT count(rl_headers(rl_peek('h', 10, 1))) FROM generate_series(1, 10000) i",
	"SELECT count(r) FROM generate_series(1, 10000) i, rl_period('15 minutes') r",
	"SELECT count(rl_consume('t' || i % 3, 1e12, 1e-3, 1, 'table')) FROM generate_series(1, 10000) i",
]

# a transaction each
TRANSACTIONS = [
	["SELECT rl_consume('x', 1e12, 1)"], ["SELECT rl_consume('y', 1, 0, 2)"],
	['BEGIN', "SELECT rl_consume('x', 1e12, 1)", 'SAVEPOINT a', "SELECT rl_consume('x', 1e12, 1)", 'ROLLBACK TO a', 'ROLLBACK'],
	['BEGIN', 'SET LOCAL ratelimit.refund_on_rollback = on', "SELECT rl_consume('x' || i % 5, 1e12, 1) FROM generate_series(1, 20) i", 'ROLLBACK'],
	['BEGIN', "SELECT rl_acquire('s', 10)", "SELECT rl_reserve('v', 1e12, 1, 5, '1 s')", 'COMMIT'],
	["SELECT rl_consume('', 1, 1)"], ["SELECT rl_enforce('y', 1, 0, 2)"], ["SELECT rl_consume_policy('api', 'x')"],
	["SELECT rl_consume_policy('nobody', 'x')"], ["SELECT rl_report('x', 'g', 1)"], ["SELECT rl_postgrest_check()"],
]

results = []


def check(holds, what):
	results.append(holds)
	print(f"{'ok' if holds else 'not ok'} {what}", flush=True)


def connect(database='postgres'):
	return psycopg.connect(dbname=database, user='postgres', autocommit=True, prepare_threshold=None)


def process(pid):
	"""kB of the process's own memory."""
	with open(f'/proc/{pid}/status', encoding='ascii') as file:
		return int(re.search(r'^RssAnon:\s+(\d+) kB', file.read(), re.M).group(1))


def contexts(conn):
	"""Bytes that are used in the session's memory contexts."""
	return int(conn.execute('SELECT sum(used_bytes) FROM pg_backend_memory_contexts').fetchone()[0])


def memory(conn):
	contexts(conn)
	return process(conn.info.backend_pid), contexts(conn)


def grown(conn, before, what):
	after = memory(conn)
	# caches of the catalog, and what malloc() keeps
	check(after[0] <= before[0] + 512 and after[1] <= before[1] + 16384,
		  f'{what}: {before[0]} kB became {after[0]} kB, contexts of {before[1]} bytes {after[1]}')


def calls(conn):
	"""So many calls in one session."""
	rounds = max(CALLS // (10000 * len(CALL)), 10)
	began = time.monotonic()
	for n in range(rounds):
		for sql in CALL:
			conn.execute(sql)
		if n == rounds // 10 - 1 or rounds < 10:
			before = memory(conn)
	grown(conn, before, f'{rounds * 10000 * len(CALL)} calls in a session ({time.monotonic() - began:.0f} s)')


def one_statement(conn):
	"""A long statement, and what it has when it is nearly over."""
	conn.execute("CREATE FUNCTION pg_temp.used() RETURNS bigint LANGUAGE sql AS 'SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts'")
	for sql in CALL:
		call = re.match(r'SELECT count\((.*)\) FROM generate_series\(1, \d+\) i$', sql)
		if call is None:
			continue
		used = []
		for n in (10000, 100000):
			# the calls come first, and then the look at memory
			used.append(conn.execute(f"""
SELECT max(CASE WHEN i = {n} THEN pg_temp.used() END) FROM (SELECT i, {call.group(1)} AS x FROM (SELECT generate_series(1, {n}) AS i) g OFFSET 0) s WHERE x IS NOT NULL""").fetchone()[0])
		# 90,000 calls more
		if used[1] > used[0] + 90000:
			check(False, f'within a statement: {used[0]} bytes became {used[1]}: {sql}')
			return
	check(True, 'within a statement no call leaves a byte behind')


def transactions(conn):
	errors = 0
	rounds = TRANSACTION_COUNT // len(TRANSACTIONS)
	for n in range(rounds):
		for transaction in TRANSACTIONS:
			for sql in transaction:
				try:
					conn.execute(sql)
				except psycopg.Error:
					errors += 1
		if n == rounds // 10:
			before = memory(conn)
	grown(conn, before, f'{rounds * len(TRANSACTIONS)} transactions, {errors} of them with an error')


def flushes(conn):
	for n in range(1000):
		conn.execute("SELECT rl_consume('f' || i, 1, 0, 2) FROM generate_series(1, 20) i")
		conn.execute('SELECT rl_flush()')
		if n == 100:
			before = memory(conn)
	grown(conn, before, '1000 flushes of the session')


def workers(conn):
	"""Workers of many databases, so that there are many of them in a second."""
	n = 16
	for i in range(n):
		conn.execute(f'CREATE DATABASE d{i}')
	sessions = [connect(f'd{i}') for i in range(n)]
	for session in sessions:
		session.execute('CREATE EXTENSION ratelimit')
	launcher = conn.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'").fetchone()[0]
	done, before, began = 0, None, time.monotonic()
	while done < 1000 and time.monotonic() < began + 300:
		for session in sessions:
			session.execute("SELECT rl_consume('f', 1, 0, 2)")
		for session in sessions:
			while session.execute('SELECT EXISTS (SELECT FROM rate_limit_pending)').fetchone()[0] and time.monotonic() < began + 300:
				time.sleep(0.02)
		done += n
		if before is None and done >= 100:
			before = process(launcher)
	after = process(launcher)
	written = sum(session.execute('SELECT count(*) FROM rate_limit_violations').fetchone()[0] for session in sessions)
	check(written >= 1000 and after <= before + 256, f'{written} rows written by workers: the launcher had {before} kB, and has {after} kB')


def main():
	with connect() as conn:
		conn.execute('CREATE EXTENSION ratelimit')
		conn.execute("INSERT INTO rate_limit_policies (policy, tier, capacity, refill) VALUES ('api', 'a', 1e9, 1e6), ('api', 'b', 1e12, 1e6), ('b', 'default', 1e9, 1e6)")
		# some keys are in the table
		conn.execute("SELECT count(rl_consume('full' || i, 1e9, 0)) FROM generate_series(1, 6000) i")
		conn.execute("SELECT set_config('ratelimit.gateway_name', 'leaks', false)")
		calls(conn)
		one_statement(conn)
	with connect() as conn:
		transactions(conn)
		flushes(conn)
		workers(conn)
	print('ended')
	return all(results)


sys.exit(0 if main() else 1)
