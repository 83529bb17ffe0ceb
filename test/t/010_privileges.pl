# Anybody may consume, in either store; only those entitled see keys or change
# buckets; and no search_path, however hostile, changes what is decided.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

foreach my $preload (1, 0)
{
	my $name = $preload ? 'spilled' : 'not preloaded';
	my $node = start_server("privileges_$preload", preload => $preload, conf => 'ratelimit.max_buckets = 16');

	$node->safe_psql('postgres', <<'SQL');
CREATE ROLE app LOGIN;
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE hostile LOGIN;
GRANT CREATE ON DATABASE postgres TO hostile;
SQL
	fill_until_spilled($node, 'filling', 5, 0) if $preload;

	my $as = sub {
		my ($role, $sql) = @_;
		my ($rc, $out, $err) = $node->psql('postgres', $sql,
			extra_params => [ '-U', $role ], on_error_stop => 0);
		return ($out, $err);
	};

	#
	# An unprivileged role
	#
	my ($out, $err) = $as->('app', "SELECT rl_consume('secret', 3, 0), (rl_throttle('secret', 3, 0)).remaining, (rl_peek('secret', 3, 0)).remaining, current_user");
	is("$out$err", 't|1|0|app', "$name: may consume, throttle, peek");
	is(store_of($node, 'secret'), 'table', "$name: ... in the table");
	is(($as->('app', "SELECT rl_simulate(now(), 1, 1) OVER ()"))[0], 't', "$name: may simulate");
	foreach my $sql (
		'SELECT * FROM rate_limit_buckets', 'SELECT * FROM rate_limit_status',
		'DELETE FROM rate_limit_buckets', 'TRUNCATE rate_limit_buckets',
		"UPDATE rate_limit_buckets SET owed = 0",
		"SELECT rl_reset('secret')", 'SELECT rl_reset_all(NULL)',
		'SELECT * FROM _rl_buckets()', 'SELECT * FROM rl_partitions()')
	{
		($out, $err) = $as->('app', $sql);
		like("$out$err", qr/^[^\n]*ERROR:  permission denied for/, "$name: may not: $sql");
	}
	($out, $err) = $as->('app', "SELECT rl_consume('secret', 3, 0, 9); SET ratelimit.on_error = allow");
	like($err, qr/permission denied to set parameter "ratelimit.on_error"/, "$name: may not say what errors mean");
	($out, $err) = $as->('app', "SET ratelimit.on_error = allow; BEGIN READ ONLY; SELECT rl_consume('other', 3, 0, 9); ROLLBACK; SHOW ratelimit.on_error");
	like($out, qr/^(f\n)?error$/, "$name: ... not even before the library is loaded");
	is(($as->('app', "BEGIN; SELECT rl_consume('secret', 3, 0, 9); SELECT current_user, session_user; COMMIT"))[0],
		"f\napp|app", "$name: is who it was after the call");

	# also after an error inside, caught or not
	$node->safe_psql('postgres', 'SET lock_timeout = 0; ALTER ROLE app SET lock_timeout = 100');
	my $locker = in_session($node);
	$locker->query_safe('BEGIN; UPDATE rate_limit_buckets SET owed = owed');
	($out, $err) = $as->('app', "SELECT rl_consume('secret', 3, 0)");
	like($err, qr/canceling statement due to lock timeout/, "$name: a lock timeout inside");
	($out, $err) = $as->('app', <<'SQL');
DO $$ BEGIN PERFORM rl_consume('secret', 3, 0); EXCEPTION WHEN lock_not_available THEN RAISE NOTICE 'caught as %', current_user; END $$;
SELECT current_user;
SELECT * FROM rate_limit_buckets;
SQL
	like($err, qr/caught as app.*permission denied for table rate_limit_buckets/s, "$name: ... leaves nobody more rights");
	is($out, 'app', "$name: ... than he had");
	finish_session($locker);
	$node->safe_psql('postgres', 'ALTER ROLE app RESET lock_timeout');

	#
	# pg_monitor
	#
	($out, $err) = $as->('monitor', "SELECT key, tokens, store FROM rate_limit_status WHERE key = 'secret'; SELECT key FROM rate_limit_buckets WHERE key = 'secret'; SELECT count(*) > 0 FROM rl_partitions()");
	is("$out$err", "secret|1|table\nsecret\n" . ($preload ? 't' : 'f'), "$name: pg_monitor may look");
	foreach my $sql (
		"SELECT rl_reset('secret')", 'SELECT rl_reset_all(NULL)',
		'DELETE FROM rate_limit_buckets', 'INSERT INTO rate_limit_buckets VALUES (1, 1, 1, 1, 1, now())')
	{
		($out, $err) = $as->('monitor', $sql);
		like("$out$err", qr/^[^\n]*ERROR:  permission denied for/, "$name: and may not: $sql");
	}

	#
	# A hostile search_path: whatever a statement inside could mean instead, it
	# writes down that it was called, and by whom.
	#
	($out, $err) = $as->('hostile', <<'SQL');
CREATE SCHEMA trap;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE TABLE trap.sprung (what text, who text DEFAULT current_user);
GRANT INSERT ON trap.sprung TO PUBLIC;
CREATE FUNCTION trap.spring(what text) RETURNS void LANGUAGE sql AS 'INSERT INTO trap.sprung (what) VALUES ($1)';
CREATE FUNCTION trap.eq(text, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(''text = text''); RETURN false; END';
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.eq);
CREATE FUNCTION trap.le(numeric, numeric) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(''<= numeric''); RETURN true; END';
CREATE OPERATOR trap.<= (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = trap.le);
CREATE FUNCTION trap.le(float8, float8) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(''<= float8''); RETURN true; END';
CREATE OPERATOR trap.<= (LEFTARG = float8, RIGHTARG = float8, FUNCTION = trap.le);
CREATE FUNCTION trap.le(numeric, int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(''<= int''); RETURN true; END';
CREATE OPERATOR trap.<= (LEFTARG = numeric, RIGHTARG = int, FUNCTION = trap.le);
CREATE FUNCTION trap.eq(tid, tid) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(''tid''); RETURN true; END';
CREATE OPERATOR trap.= (LEFTARG = tid, RIGHTARG = tid, FUNCTION = trap.eq);
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(''clock''); RETURN ''infinity''; END';
CREATE FUNCTION trap.isfinite(timestamptz) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(''isfinite''); RETURN true; END';
CREATE DOMAIN trap.text AS pg_catalog.text CHECK (false);
CREATE DOMAIN trap.float8 AS pg_catalog.float8 CHECK (false);
CREATE TABLE trap.rate_limit_buckets (limiter pg_catalog.text, key pg_catalog.text, capacity pg_catalog.float8, refill pg_catalog.float8, owed numeric, updated_at timestamptz, PRIMARY KEY (limiter, key));
GRANT ALL ON trap.rate_limit_buckets TO PUBLIC;
SQL
	is($err, '', "$name: a trap is laid");
	($out, $err) = $as->('hostile', <<'SQL');
SET search_path = trap, pg_catalog;
SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text;
SELECT what FROM trap.sprung;
DELETE FROM trap.sprung;
SQL
	is("$out$err", "f\ntext = text", "$name: ... and can spring");
	my $hostile = <<'SQL';
SET search_path = trap, pg_temp, pg_catalog, public;
CREATE TEMP TABLE rate_limit_buckets (limiter pg_catalog.text, key pg_catalog.text, capacity pg_catalog.float8, refill pg_catalog.float8, owed numeric, updated_at timestamptz);
SELECT public.rl_consume('trapped', 2, 0), public.rl_consume('trapped', 2, 0), public.rl_consume('trapped', 2, 0);
SELECT pg_catalog.count(*) FILTER (WHERE public.rl_consume('brief' || i, 1, 1000)) FROM pg_catalog.generate_series(1, 100) i;
SELECT (SELECT pg_catalog.count(*) FROM pg_temp.rate_limit_buckets) OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM trap.rate_limit_buckets);
SQL
	($out, $err) = $as->('hostile', $hostile);
	is("$out$err", "t|t|f\n100\n0", "$name: a hostile caller gets what anybody gets");
	is(store_of($node, 'trapped'), 'table', "$name: ... in the real table");
	($out, $err) = $as->('postgres', "$hostile; SELECT public.rl_reset('trapped'); SELECT public.rl_reset_all(NULL) OPERATOR(pg_catalog.>) 0");
	is("$out$err", "f|f|f\n100\n0\nt\nt", "$name: so does a superuser led into it");
	is($node->safe_psql('postgres', 'SELECT * FROM trap.sprung'), '', "$name: nothing sprang");

	# row-level security that somebody put on the table does not bind its owner
	$node->safe_psql('postgres', 'ALTER TABLE rate_limit_buckets ENABLE ROW LEVEL SECURITY');
	fill_until_spilled($node, 'filling', 5, 0) if $preload;
	is(($as->('app', "SELECT rl_consume('rls', 1, 0), rl_consume('rls', 1, 0)"))[0], 't|f', "$name: row-level security changes nothing");

	$node->stop;
}

done_testing();
