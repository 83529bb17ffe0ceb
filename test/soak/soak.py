"""
soak.py SECONDS SEED FOLDER
	Everything at once on the server that PGHOST names: see the script "run" beside this.

	pgbench runs the scripts below, and says how often each ran.  From that it follows what has to be
	missing from buckets, how many calls were allowed and denied, and how many violations
	there were; in each script a comment says it, for one transaction.  What refills is only
	counted, as it is not known how much comes back.
"""
import os
import random
import re
import subprocess
import sys
import threading
import time

import psycopg

SECONDS, SEED, FOLDER = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

# name, connections, script.  "taken LIMITER N": tokens; "allowed LIMITER N", "denied LIMITER N": calls;
# "violations LIMITER N".
SCRIPTS = [
	('memory', 2, """
-- taken m 20, allowed m 20
SELECT count(rl_consume('m' || i, 1e12, 0, 1, 'm')) FROM generate_series(1, 20) i;
"""),
	('table', 1, """
-- taken t 20, allowed t 20
\\set n random(1, 100000)
SELECT count(rl_consume('t' || (:n + i) % 3000, 1e9, 0, 1, 't')) FROM generate_series(1, 20) i;
"""),
	('refilling', 1, """
-- allowed r 10
\\set n random(1, 100000)
SELECT count((rl_throttle('r' || (:n + i) % 500, 1e6, 1e5, 1, 'r')).remaining) FROM generate_series(1, 10) i;
"""),
	('denied', 1, """
-- denied d 10, violations d 10
\\set n random(1, 100000)
SELECT count(rl_consume('d' || (:n + i) % 50, 1, 0, 2, 'd')) FROM generate_series(1, 10) i;
"""),
	('together', 1, """
-- taken a 9, allowed a 6
SELECT rl_consume_all(ARRAY['a1', 'a2', 'a3'], ARRAY[1e12, 1e12, 1e12], ARRAY[0, 0, 0], ARRAY[1, 2, 3], ARRAY['a', 'a', 'a']);
SELECT rl_throttle_each(ARRAY['e1', 'e2'], ARRAY[1e6, 1e6], ARRAY[1e6, 1e6], NULL, ARRAY['e', 'e']);
SELECT rl_consume_each(ARRAY['a4', 'a5', 'a4'], 1e12, 0, 1, 'a');
"""),
	('periods', 1, """
SELECT rl_consume_period('p' || :client_id, 1e12, 'hour Europe/Berlin', 1, 'p'), rl_count('p', 'day', 1, 'p');
"""),
	('policies', 1, """
-- taken quota 3
SELECT rl_consume_policy('quota', 'q' || i) FROM generate_series(1, 3) i;
SELECT (rl_throttle_policy('api', 'user')).remaining;
SELECT rl_consume_policies(ARRAY['api', 'edited'], ARRAY['user', 'user']);
"""),
	('reservations', 1, """
-- taken v 3
SELECT rl_settle(rl_reserve('v' || i, 1e12, 0, 5, '1 min', 'v'), 1) FROM generate_series(1, 3) i;
"""),
	('slots', 2, """
BEGIN;
SELECT rl_acquire('s', 1, 1, 'transaction', '1 s', 's') IS NOT NULL AS got;
COMMIT;
SELECT rl_release(rl_acquire('long', 1000000, 1, '1 min', '0', 's'));
"""),
	('waiters', 2, """
-- allowed w 1
SELECT rl_wait('w', 1, 500, 1, '10 s', 'w');
"""),
	('rolled back', 1, """
BEGIN;
SELECT rl_consume('b', 1e12, 0, 7, 'b');
SAVEPOINT a;
SELECT rl_consume('b', 1e12, 0, 5, 'b');
ROLLBACK TO a;
ROLLBACK;
"""),
	('reports', 1, """
-- violations g 7
SET ratelimit.gateway_name = 'edge';
SELECT rl_report_batch('[{"key": "k1", "limiter": "g", "rejected": 2}, {"key": "k2", "limiter": "g", "rejected": 4}]');
SELECT rl_report('k1', 'g', 1);
"""),
	('enforced', 1, """
-- denied f 1, violations f 1
DO $$BEGIN PERFORM rl_enforce('f', 1, 0, 2, 'f'); RAISE 'allowed'; EXCEPTION WHEN SQLSTATE 'PT429' THEN NULL; END$$;
SELECT rl_headers(rl_peek('f', 10, 1, 1, 'f'));
"""),
]

SETUP = """
CREATE EXTENSION ratelimit;
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES
	('quota', 'default', 1e12, 0, true), ('api', 'second', 1e6, 1e6, false), ('api', 'hour', 1e9, 1e6, false), ('edited', 'default', 100, 1e6, false);
CREATE ROLE refunded LOGIN;
ALTER ROLE refunded SET ratelimit.refund_on_rollback = on;
"""

results = []


def check(holds, what):
	results.append(holds)
	print(f"{'ok' if holds else 'not ok'} {what}", flush=True)


def connect(database='postgres'):
	return psycopg.connect(dbname=database, user='postgres', autocommit=True)


def edit(rng, end, problems):
	"""What operators and others do meanwhile."""
	n = 0
	try:
		with connect() as conn:
			while time.monotonic() < end:
				n += 1
				for sql in rng.sample([
						f"UPDATE rate_limit_policies SET capacity = {rng.randrange(50, 200)} WHERE policy = 'edited'",
						"INSERT INTO rate_limit_exceptions (policy, key, action, factor) VALUES ('edited', 'user', 'factor', 2) ON CONFLICT DO NOTHING",
						"DELETE FROM rate_limit_exceptions",
						f"CREATE TABLE IF NOT EXISTS other{n % 5} (i int); ALTER TABLE other{n % 5} ADD IF NOT EXISTS c{n} int",
						f"DROP TABLE IF EXISTS other{rng.randrange(5)}",
						'VACUUM rate_limit_buckets', 'ANALYZE rate_limit_violations', 'SELECT rl_flush()',
						"SELECT rl_block('blocked', '1 s', 'x'), rl_unblock('blocked', 'x'), rl_reset('blocked', 'x')",
						"SELECT rl_flag('flagged', 'x'), rl_unflag('flagged', 'x')",
						"SELECT rl_reward('rewarded', 1, 'x'), rl_penalize('rewarded', 10, 1, 2, 'x')",
						*(f'SELECT count(v) FROM {view} v' for view in (
							'rate_limit_status', 'rate_limit_stats', 'rate_limit_episodes', 'rate_limit_top_offenders', 'rate_limit_slots',
							'rate_limit_tickets', 'rate_limit_reservations', 'rate_limit_flagged', 'rate_limit_pending', 'rl_partitions()'))], 6):
					conn.execute(sql)
				if n % 10 == 1:
					conn.execute('CREATE DATABASE passing')
					with connect('passing') as other:
						other.execute('CREATE EXTENSION ratelimit')
						other.execute("SELECT rl_consume('k' || i, 1, 0, 2) FROM generate_series(1, 50) i")
						if n % 20 == 1:
							other.execute('DROP EXTENSION ratelimit')
					conn.execute('DROP DATABASE passing WITH (FORCE)')
				time.sleep(rng.uniform(0, 0.3))
	except Exception as error:
		problems.append(error)


def memory_of(pid):
	"""kB of a process's own memory; None if it is gone."""
	try:
		with open(f'/proc/{pid}/status', encoding='ascii') as file:
			return int(re.search(r'^RssAnon:\s+(\d+) kB', file.read(), re.M).group(1))
	except (OSError, AttributeError):
		return None


def memory(conn):
	"""Of each process that lasts: its kind, and the kB."""
	return {pid: (kind, kb) for pid, kind, kb in (
		(pid, kind, memory_of(pid)) for pid, kind in conn.execute(
			"SELECT pid, CASE WHEN backend_type = 'client backend' THEN application_name ELSE backend_type END FROM pg_stat_activity"
			" WHERE pid <> pg_backend_pid() AND (application_name LIKE 'soak %' OR backend_type IN ('ratelimit launcher', 'checkpointer'))")) if kb}


def processor_time(postmaster):
	"""Seconds that the server has used, with its processes that have ended."""
	ticks = 0
	for entry in os.listdir('/proc'):
		try:
			with open(f'/proc/{int(entry)}/stat', encoding='ascii', errors='replace') as file:
				fields = file.read().rpartition(')')[2].split()
		except (OSError, ValueError):
			continue
		# the parent; user and system time of the process, and of its children that have ended
		if int(entry) == postmaster:
			ticks += sum(map(int, fields[11:15]))
		elif int(fields[1]) == postmaster:
			ticks += sum(map(int, fields[11:13]))
	return ticks / os.sysconf('SC_CLK_TCK')


def start_pgbench(number):
	name, clients, script = SCRIPTS[number]
	path = os.path.join(FOLDER, f'soak{number}.sql')
	with open(path, 'w', encoding='utf-8') as file:
		file.write(script)
	return subprocess.Popen(
		['pgbench', '-n', '-c', str(clients), '-j', '1', '-M', 'simple' if 'DO $$' in script else 'prepared', '-T', str(round(SECONDS)),
		 '-P', str(max(round(SECONDS / 6), 1)), '-f', path, '-U', 'refunded' if name == 'rolled back' else 'postgres', 'postgres'],
		env={**os.environ, 'PGAPPNAME': f'soak {name}'}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main():
	with connect() as conn:
		conn.execute(SETUP)
		postmaster = int(conn.execute("SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)").fetchone()[0])
	began = time.monotonic()
	end = began + SECONDS
	running = [start_pgbench(number) for number in range(len(SCRIPTS))]
	problems = []
	editor = threading.Thread(target=edit, args=[random.Random(SEED), end - 1, problems])
	editor.start()

	samples = []
	early = late = {}
	with connect() as conn:
		while time.monotonic() < end - 0.5:
			time.sleep(min(1, max(0, end - 0.5 - time.monotonic())))
			samples.append((time.monotonic() - began, int(conn.execute(
				"SELECT allowed + denied FROM rate_limit_stats WHERE limiter IS NULL").fetchone()[0]), processor_time(postmaster)))
			if not early and samples[-1][0] > SECONDS / 6:
				early = memory(conn)
			if samples[-1][0] < end - began - 1:
				late = memory(conn) or late
		shared = conn.execute("SELECT sum(allocated_size) FROM pg_shmem_allocations WHERE name LIKE 'ratelimit%'").fetchone()[0]
	editor.join()

	# how often each script ran, and what follows
	expected = {}
	sixths = {}
	for (name, _, script), process in zip(SCRIPTS, running):
		output = process.communicate()[0]
		ran = re.search(r'transactions actually processed: (\d+)', output)
		failed = re.search(r'number of failed transactions: (\d+)', output)
		sixths[name] = [float(tps) for tps in re.findall(r'^progress: .* ([\d.]+) tps', output, re.M)][:6]
		if process.returncode != 0 or not ran or (failed and failed.group(1) != '0'):
			check(False, f'{name}: {output[-600:]}')
			continue
		for what, limiter, n in re.findall(r'(taken|allowed|denied|violations) (\w+) (\d+)', script):
			expected[what, limiter] = expected.get((what, limiter), 0) + int(n) * int(ran.group(1))
	check(not problems, f'what others do succeeds {problems}')

	with connect() as conn:
		conn.execute('SELECT rl_flush()')
		# what a worker is about to write
		while conn.execute('SELECT EXISTS (SELECT FROM rate_limit_pending)').fetchone()[0] and time.monotonic() < end + 60:
			time.sleep(0.1)
		for (what, limiter), n in sorted(expected.items()):
			sql = {
				'taken': 'SELECT sum(capacity - tokens) FROM rate_limit_status WHERE limiter = %s',
				'allowed': 'SELECT sum(allowed) FROM rate_limit_stats WHERE limiter = %s',
				'denied': 'SELECT sum(denied) FROM rate_limit_stats WHERE limiter = %s',
				'violations': 'SELECT (SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE limiter = %s)',
			}[what]
			got = conn.execute(sql, [limiter]).fetchone()[0]
			check(got == n, f'{what} of limiter {limiter}: {got:.0f}' + ('' if got == n else f', not {n}'))
		got = conn.execute("SELECT coalesce(sum(capacity - tokens), 0) FROM rate_limit_status WHERE limiter = 'b'").fetchone()[0]
		check(got == 0, f'what was rolled back is given back ({got:.0f} is missing)')
		got = conn.execute('SELECT count(*) FROM rate_limit_tickets').fetchone()[0]
		check(got == 0, f'no slots are held ({got} tickets)')
		got = conn.execute('SELECT count(*) FROM rate_limit_reservations').fetchone()[0]
		check(got == 0, f'no reservations are left ({got})')
		twice = conn.execute('SELECT limiter, key FROM rate_limit_status WHERE tokens IS NOT NULL GROUP BY limiter, key, period HAVING count(*) > 1').fetchall()
		check(not twice, f'no bucket is there twice {twice[:3]}')
		stores = dict(conn.execute('SELECT store, count(*) FROM rate_limit_status GROUP BY 1').fetchall())
		check(len(stores) == 2, f'both stores are used: {stores}')

	grown = {pid: (late[pid][0], early[pid][1], late[pid][1]) for pid in early if pid in late and late[pid][1] > early[pid][1] + 1024}
	check(len(early) > 5 and not grown, f'no process has grown by 1 MB, of {len(early)}: {list(grown.values())}')
	most = max((kb - early[pid][1] for pid, (_, kb) in late.items() if pid in early), default=0)
	print(f'-- memory: {max(kb for _, kb in late.values())} kB at most in a process, grown by {most} kB at most since the first sixth; {shared} bytes of shared memory')

	def rate(begin, stop, of):
		inside = [s for s in samples if begin <= s[0] <= stop]
		return (inside[-1][1] - inside[0][1]) / (inside[-1][of] - inside[0][of]) if len(inside) > 1 else float('nan')

	print(f'-- {samples[-1][1]} decisions')
	for of, what in (0, 'second'), (2, 'second of processor time'):
		first, last = rate(1, 1 + SECONDS / 6, of), rate(SECONDS * 5 / 6 - 0.5, SECONDS - 0.5, of)
		print(f'-- decisions in a {what}: {first:.0f} in the first sixth, {last:.0f} in the last: {last / first:.3f}')
	print('-- transactions in the last sixth, of those in the first: ' + ', '.join(
		f'{name} {tps[-1] / tps[0]:.2f}' for name, tps in sixths.items() if len(tps) > 1 and tps[0] > 0))
	print('ended')
	return all(results)


sys.exit(0 if main() else 1)
