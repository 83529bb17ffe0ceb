"""
sql.py SECONDS SEED
	An unprivileged role's sessions call every function that it may, with whatever may come
	in an argument, while they are cancelled and killed, and are not told what became of
	those calls.  What must hold:

	- The server goes on, and all errors are of those SQLSTATEs that the reference names,
	  or follow from a cancel or a kill.  A function that is not for everybody says so.
	- From a bucket of limiter "exact" is missing what the calls that were answered took, and
	  of the others no more than they would have taken.  Likewise all violations of limiter
	  "denied" are counted, once.
	- No bucket is there twice.  Sessions that are gone hold no slots.

	The database is of encoding SQL_ASCII, in which a text may have any bytes.  PGHOST says
	which server it is; it must be for this only.  Exit status 0: all holds; the last line says
	how many calls there were.
"""
import os
import random
import sys
import threading
import time

import psycopg

SECONDS, SEED = float(sys.argv[1]), int(sys.argv[2])
DATABASE = 'fuzz_sql'
SESSIONS = 6
EXACT_KEYS = 8

# What the reference names, and what a cancel, a kill or a failed transaction makes of a call
ERRORS = ('22', '54000', '54001', '42704', '53400', '25006', '55000', '55P03', '40P01', 'PT429', 'PGRST',
		  '25P01', '25P02', '25P03', '57014', '57P01', '2202E', '3B001')
CUT_OFF = ('57014', '57P01', '25P03')


class Finding(Exception):
	pass


def connect(user, **options):
	return psycopg.connect(dbname=DATABASE, user=user, autocommit=True, **options)


def prepare():
	with psycopg.connect(dbname='postgres', user='postgres', autocommit=True) as conn:
		conn.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
		conn.execute('CREATE ROLE fuzzer LOGIN')
	with connect('postgres') as conn:
		conn.execute('CREATE EXTENSION ratelimit')
		conn.execute("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES"
					 " ('exact', 'default', 1e9, 0, true), ('denied', 'default', 1, 0, true),"
					 " ('api', 'a', 5, 1, false), ('api', 'b', 100, 0, true)")
		conn.execute("INSERT INTO rate_limit_policies (policy, tier, capacity, period) VALUES ('api', 'c', 1000, 'hour')")
		conn.execute("INSERT INTO rate_limit_policies (policy, capacity, slots) VALUES ('few', 3, true)")
		conn.execute("INSERT INTO rate_limit_exceptions (policy, key, action, factor) VALUES ('api', 'a', 'factor', 2)")
		conn.execute("INSERT INTO rate_limit_postgrest_rules (position, path, policy) VALUES (1, '/a*', 'api')")
		# name, argument names and types, how many have defaults, may everybody call it?
		return [(row[0].decode(), [x.decode() for x in row[1]], [x.decode() for x in row[2]], row[3], row[4]) for row in conn.execute("""
SELECT p.proname::text, coalesce((SELECT array_agg(p.proargnames[i] ORDER BY i) FROM generate_series(1, p.pronargs) i), '{}')::text[],
	coalesce((SELECT array_agg(format_type(p.proargtypes[i], NULL) ORDER BY i) FROM generate_series(0, p.pronargs - 1) i), '{}')::text[],
	p.pronargdefaults, has_function_privilege('fuzzer', p.oid, 'EXECUTE')
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
WHERE p.prokind = 'f' AND p.proname ~ '^_?rl_' AND p.prorettype <> 'trigger'::regtype ORDER BY 1""")]


class Expected:
	"""What calls took from each bucket, or counted: at least, and at most."""

	def __init__(self):
		self.lock = threading.Lock()
		self.least = {}
		self.most = {}
		self.calls = 0

	def add(self, name, least, most):
		with self.lock:
			self.least[name] = self.least.get(name, 0) + least
			self.most[name] = self.most.get(name, 0) + most


class Caller:
	"""A session, which is begun again when it is killed."""

	def __init__(self, functions, expected, rng):
		self.functions, self.expected, self.rng = functions, expected, rng
		self.conn = None
		self.seen = set()

	def text(self):
		rng = self.rng
		kind = rng.random()
		if kind < 0.5:
			return b'k%d' % rng.randrange(400)
		if kind < 0.7:
			return rng.choice([b'', b'a', b'default', b'api', b'exact', b'few', b'x:y', b'k' * 255, b'k' * 256, b'l' * 63, b'day', b'hour Europe/Berlin',
							   b'15 minutes from 2026-01-01', b'transaction', b'session', b'1 min', b'/a', b'::1', b'\xff', b"'; --", b'%s'])
		return bytes(rng.randrange(1, 256) for _ in range(rng.choice([1, 3, 30, 64, 127, 256, 300])))

	def number(self):
		rng = self.rng
		return rng.choice([0, 1, 1, 2, 5, 10, 100, 0.5, 1 / 3, 1e12, 1e-9, -1, -0.0, 1e308, 5e-324, float('inf'), float('nan'), float('-inf'), rng.uniform(0, 100)])

	def value(self, name, kind):
		"""A text of SQL with its arguments."""
		rng = self.rng
		if rng.random() < 0.03:
			return f'NULL::{kind}', []
		if kind.endswith('[]'):
			parts = [self.value(name, kind[:-2]) for _ in range(rng.choice([0, 1, 1, 2, 3, 8, 70]))]
			return 'ARRAY[%s]::%s' % (', '.join(p[0] for p in parts), kind), [a for p in parts for a in p[1]]
		if kind == 'text':
			if name in ('policy', 'policies') and rng.random() < 0.7:
				return f"'{rng.choice(['api', 'few'])}'::text", []
			if name == 'limiter' and rng.random() < 0.7:
				return f"'{rng.choice(['default', 'api', 'ip'])}'::text", []
			if name == 'hold' and rng.random() < 0.8:
				return f"'{rng.choice(['transaction', 'session', '1 s'])}'::text", []
			if name == 'period' and rng.random() < 0.7:
				return f"'{rng.choice(['day', '2 s', 'hour Asia/Kathmandu', 'month'])}'::text", []
			return "convert_from(%s::bytea, 'SQL_ASCII')", [self.text()]
		if kind == 'double precision':
			return '%s::float8', [self.number()]
		if kind == 'integer':
			return '%s::integer', [rng.choice([0, 1, 2, 3, 10, -1, 2**31 - 1, -2**31])]
		if kind == 'bigint':
			return '%s::bigint', [rng.choice([0, 1, 5, -1, 2**63 - 1, -2**63, rng.randrange(2**63)])]
		if kind == 'interval':
			# waits are short
			return '%s::interval', [rng.choice(['0', '10 ms', '50 ms', '-1 s', '1 s'] + (['100 years', '178000000 years'] if name != 'timeout' else []))]
		if kind == 'timestamp with time zone':
			return '%s::timestamptz', [rng.choice(['now', '-infinity', 'infinity', '2026-03-29 02:30+01', '294276-12-31 23:59+00', '4714-11-24 BC'])]
		if kind == 'rl_result':
			return '(%s, %s::float8, %s::float8, %s::interval, %s::interval, %s, %s, %s::interval)::rl_result', [
				True, self.number(), self.number(), '1 s', None, None, False, rng.choice([None, '1 day'])]
		if kind == 'bytea':
			return '%s::bytea', [self.text()]
		if kind == 'boolean':
			return rng.choice(['true', 'false']), []
		if kind == 'jsonb':
			return "'[]'::jsonb", []
		raise Finding(f'no value for an argument {name} {kind}')

	def run(self, sql, arguments=()):
		"""The rows; None: an error.  cut_off says whether something may have happened."""
		self.cut_off = False
		self.expected.calls += 1
		try:
			cursor = self.conn.execute(sql, arguments)
			return cursor.fetchall() if cursor.description else []
		except psycopg.Error as error:
			state = error.sqlstate
			self.seen.add(state)
			if state is None or self.conn.closed:
				# the connection is gone, because it was killed
				self.cut_off = True
				self.connect()
			elif not state.startswith(ERRORS):
				if not (state == '42501' and self.may_be_refused):
					raise Finding(f'{sql} {arguments!r}: {state} {error}')
			else:
				self.cut_off = state in CUT_OFF
			return None

	def connect(self):
		while True:
			try:
				if self.conn is not None:
					self.conn.close()
				self.conn = connect('fuzzer')
				self.conn.execute(self.rng.choice(['SET statement_timeout = 0', "SET statement_timeout = '20ms'", "SET lock_timeout = '5ms'",
												   "SET ratelimit.gateway_name = 'g'", 'SET ratelimit.postgrest_headers = problem',
												   'SET default_transaction_read_only = on', 'SET plan_cache_mode = force_generic_plan']))
				return
			except psycopg.Error as error:
				# killed meanwhile; a server that is gone is found by finish()
				if time.monotonic() > self.end + 30:
					raise Finding(f'no connection: {error}') from error
				time.sleep(0.05)

	def call_any(self):
		"""One function of all, with any arguments."""
		name, names, kinds, defaults, everybody = self.rng.choice(self.functions)
		values = [self.value(n, k) for n, k in zip(names, kinds)]
		if defaults and self.rng.random() < 0.2:
			values = values[:-self.rng.randint(1, defaults)]
		self.may_be_refused = not everybody
		call = '%s(%s)' % (name, ', '.join(v[0] for v in values))
		rows = self.run(self.rng.choice(['SELECT {}', 'SELECT {}', 'SELECT {} FROM generate_series(1, 5)']).format(call),
						[a for v in values for a in v[1]])
		if rows is not None and not everybody:
			raise Finding(f'an unprivileged role may call {call}')

	def call_exact(self):
		"""A call on a bucket whose content is known."""
		rng = self.rng
		key, cost, times = 'e%d' % rng.randrange(EXACT_KEYS), rng.randrange(1, 4), rng.choice([1, 1, 1, 20])
		other = 'e%d' % rng.randrange(EXACT_KEYS)
		arguments = f"'{key}', 1e9, 0, {cost}"
		series = f'FROM generate_series(1, {times})'
		sql, rows_of = rng.choice([
			(f"SELECT rl_consume({arguments}, 'exact') {series}", {key: cost * times}),
			(f"SELECT (rl_throttle({arguments}, 'exact')).allowed {series}", {key: cost * times}),
			(f"SELECT rl_consume_upto({arguments}, 'exact') = {cost} {series}", {key: cost * times}),
			(f"SELECT rl_wait({arguments}, '1 s', 'exact') {series}", {key: cost * times}),
			(f"SELECT rl_enforce({arguments}, 'exact') IS NOT NULL {series}", {key: cost * times}),
			(f"SELECT true = ALL (rl_consume_each(ARRAY['{key}', '{key}'], 1e9, 0, {cost}, 'exact'))", {key: 2 * cost}),
			(f"SELECT rl_consume_all(ARRAY['{key}', '{other}'], ARRAY[1e9, 1e9], ARRAY[0, 0], ARRAY[{cost}, 1], ARRAY['exact', 'exact']) {series}",
			 {key: cost * times, other: times} if key != other else {key: (cost + 1) * times}),
			(f"SELECT rl_consume_policy('exact', '{key}', {cost}) {series}", {key: cost * times}),
			(f"SELECT rl_settle(rl_reserve('{key}', 1e9, 0, {cost + 2}, '1 min', 'exact'), {cost}) > 0", {key: cost}),
		])
		self.may_be_refused = False
		rows = self.run(sql, ())
		if rows is not None and not all(row[0] for row in rows):
			raise Finding(f'{sql}: not allowed')
		for name, taken in rows_of.items():
			# a reservation that is not settled has used all
			most = taken + 2 if 'rl_reserve' in sql else taken
			self.expected.add(('exact', name), taken if rows is not None else 0, (taken if rows is not None else most if self.cut_off or self.conn else 0))

	def call_denied(self):
		times = self.rng.choice([1, 5])
		self.may_be_refused = False
		rows = self.run(f"SELECT rl_consume('d{self.rng.randrange(3)}', 1, 0, 2, 'denied') FROM generate_series(1, {times})")
		if rows is not None and any(row[0] for row in rows):
			raise Finding('a call above the capacity is allowed')
		self.expected.add('denied', times if rows is not None else 0, times)

	def work(self, end):
		self.end = end
		self.connect()
		inside = False
		while time.monotonic() < end:
			self.may_be_refused = False
			kind = self.rng.random()
			if kind < 0.1:
				self.run(self.rng.choice(['BEGIN', 'BEGIN READ ONLY', 'BEGIN ISOLATION LEVEL SERIALIZABLE']) if not inside else
						 self.rng.choice(['COMMIT', 'ROLLBACK', 'SAVEPOINT a', 'ROLLBACK TO a', 'ROLLBACK']))
			elif kind < 0.6:
				self.call_any()
			elif kind < 0.9:
				self.call_exact()
			else:
				self.call_denied()
			inside = self.conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
		self.conn.close()


def disturb(rng, end):
	"""Cancels and kills, until the end; how many."""
	n = [0, 0]
	with connect('postgres') as conn:
		while time.monotonic() < end:
			kill = rng.random() < 0.1
			pids = [row[0] for row in conn.execute(
				"SELECT pid FROM pg_stat_activity WHERE usename = 'fuzzer' AND (state <> 'idle' OR %s)", [kill])]
			if pids:
				conn.execute('SELECT pg_terminate_backend(%s)' if kill else 'SELECT pg_cancel_backend(%s)', [rng.choice(pids)])
				n[kill] += 1
			time.sleep(rng.uniform(0, 0.02))
	return n


def check(expected):
	with connect('postgres') as conn:
		def one(sql):
			return conn.execute(sql).fetchone()

		for _ in range(600):
			if one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'fuzzer'")[0] == 0:
				break
			time.sleep(0.05)
		else:
			raise Finding('sessions do not end')
		held = one("SELECT count(*) FROM rate_limit_slots WHERE hold IN ('transaction', 'session')")[0]
		if held:
			raise Finding(f'{held} tickets are held by sessions that are gone')
		twice = conn.execute('SELECT limiter, key FROM rate_limit_status WHERE tokens IS NOT NULL GROUP BY limiter, key, period HAVING count(*) > 1').fetchall()
		if twice:
			raise Finding(f'twice: {twice}')
		# others may have a policy's name, too, and count in a period
		missing = {row[0].decode(): row[1] for row in conn.execute(
			"SELECT key, capacity - tokens FROM rate_limit_status WHERE limiter = 'exact' AND key = ANY (%s) AND period IS NULL",
			[[f'e{i}' for i in range(EXACT_KEYS)]])}
		for i in range(EXACT_KEYS):
			name = ('exact', f'e{i}')
			least, most = expected.least.get(name, 0), expected.most.get(name, 0)
			if not least <= missing.get(name[1], 0) <= most:
				raise Finding(f'{name}: {missing.get(name[1], 0)} are missing, not {least} to {most}')
		conn.execute('SELECT rl_flush()')
		# what a worker is about to write is neither here nor there for a moment
		for _ in range(600):
			if not one("SELECT EXISTS (SELECT FROM rate_limit_pending WHERE limiter = 'denied')")[0]:
				break
			time.sleep(0.1)
		counted = int(one("SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE limiter = 'denied'")[0]) + \
			int(one("SELECT coalesce(sum(count), 0) FROM rate_limit_pending WHERE limiter = 'denied'")[0])
		if not expected.least.get('denied', 0) <= counted <= expected.most.get('denied', 0):
			raise Finding(f"{counted} violations, not {expected.least.get('denied', 0)} to {expected.most.get('denied', 0)}")
		return counted, sum(missing.values())


def main():
	functions = prepare()
	expected = Expected()
	end = time.monotonic() + SECONDS
	callers = [Caller(functions, expected, random.Random(SEED * 100 + i)) for i in range(SESSIONS)]
	problems = []

	def run(caller):
		try:
			caller.work(end)
		except Exception as error:
			problems.append(error)

	threads = [threading.Thread(target=run, args=[caller]) for caller in callers]
	for thread in threads:
		thread.start()
	cancels, kills = disturb(random.Random(SEED), end)
	for thread in threads:
		thread.join()
	if problems:
		raise problems[0]
	counted, missing = check(expected)
	states = sorted(str(s) for s in set().union(*(caller.seen for caller in callers)))
	print(f'{expected.calls} calls of {len(functions)} functions, {cancels} cancels, {kills} kills; '
		  f'{missing:.0f} tokens and {counted} violations are accounted for; errors {" ".join(states)}')


try:
	main()
except Finding as finding:
	print(f'FINDING: {finding}')
	sys.exit(1)
