# Reservations under load: at every moment the tokens taken are those used, those
# outstanding and those given back, to the token, with 32 connections, in both stores,
# with savepoints and rollbacks; nothing is settled twice; with sessions that are
# cancelled and terminated at random, each bucket has either all of a call or nothing; and
# when a backend is killed, no reservation is left that somebody could settle.
#
# RATELIMIT_FULL=1 for ten times as much.
#
# Expected in the log: was terminated by signal 9: Killed
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;
use Time::HiRes;

my $full = $ENV{RATELIMIT_FULL} ? 10 : 1;
my $clients = 32;

# What was reserved is written down in book, what was settled in settled, of which the
# primary key keeps a reservation from being settled twice.  Every fourth call is one
# on "rolled", which is rolled back, every eighth on "back", which a refund gives back.
my $hot = <<'SQL';
\set key random(1, 3)
\set t random(0, 100)
\set u random(0, 150)
\set how random(1, 12)
SELECT rl_reserve('hot' || :key, 1e9, 0, :t, '1 day') AS number \gset
INSERT INTO book VALUES (:number, 'hot' || :key, :t);
\if :how <= 6
SELECT (rl_settle(:number, :u) IS NOT NULL)::int AS won \gset
INSERT INTO settled SELECT :number, :u WHERE :won = 1;
\elif :how <= 9
INSERT INTO settled SELECT s.number, :u FROM (SELECT b.number FROM book b WHERE b.number % 7 = :key ORDER BY random() LIMIT 2) s
WHERE rl_settle(s.number, :u) IS NOT NULL;
\elif :how = 10
SELECT rl_reserve_policy('both', 'u', :t, '1 day') AS number \gset
INSERT INTO book VALUES (:number, 'policy', :t);
SELECT (rl_settle(:number, :u) IS NOT NULL)::int AS won \gset
INSERT INTO settled SELECT :number, :u WHERE :won = 1;
\elif :how = 11
INSERT INTO rolled VALUES (:t);
BEGIN;
SELECT rl_reserve('rolled', 1e9, 0, :t, '1 day') AS number \gset
ROLLBACK;
\else
BEGIN;
SET LOCAL ratelimit.refund_on_rollback = on;
SELECT rl_consume('back', 1e9, 0, 1);
SELECT rl_reserve('back', 1e9, 0, :t, '1 day') AS number \gset
SAVEPOINT s;
SELECT rl_reserve('back', 1e9, 0, :t, '1 day') AS other \gset
SELECT rl_settle(:number, :u);
ROLLBACK TO s;
SELECT rl_settle(:other, :u);
ROLLBACK;
\endif
SQL

# Each key is used for one call only, whose numbers are written down before it.
my $once = <<'SQL';
\set t random(1, 100)
\set u random(1, 150)
INSERT INTO tried (t, u) VALUES (:t, :u) RETURNING id \gset
SELECT rl_reserve('once' || :id, 1000, 0, :t, '1 day') AS number \gset
SELECT rl_settle(:number, :u);
SELECT rl_settle(:number, 0);
UPDATE tried SET settled = true WHERE id = :id;
SQL

sub test_store
{
	my ($node, $what) = @_;
	my $query = sub { return $node->safe_psql('postgres', $_[0]) };

	$query->(<<'SQL');
CREATE TABLE book (number bigint PRIMARY KEY, key text, tokens float8);
CREATE TABLE settled (number bigint PRIMARY KEY, used float8);
CREATE TABLE rolled (tokens float8);
CREATE TABLE tried (id serial PRIMARY KEY, t float8, u float8, settled boolean);
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('both', 'a', 1e9, 0, true), ('both', 'b', 2e9, 0, true);
SQL
	run_clients($node, $what, clients => $clients, transactions => 60 * $full, script => $hot);

	my $calls = $query->('SELECT count(*) FROM book');
	cmp_ok($calls, '>', 1900 * $full, "$what: $calls reservations");
	cmp_ok($query->('SELECT count(*) FROM settled'), '>', 900 * $full, "$what: ... many of which are settled");
	is($query->(<<'SQL'), '', "$what: taken are those used, those outstanding, and no others");
SELECT k.key, k.taken, b.used, b.outstanding, v.outstanding
FROM (SELECT CASE WHEN limiter = 'both/a' THEN 'policy' ELSE key END AS key, capacity - tokens AS taken FROM rate_limit_status WHERE limiter = 'both/a' OR key ~ '^hot') k
LEFT JOIN (SELECT key, coalesce(sum(used), 0) AS used, coalesce(sum(tokens) FILTER (WHERE used IS NULL), 0) AS outstanding
	FROM book LEFT JOIN settled USING (number) GROUP BY key) b USING (key)
LEFT JOIN (SELECT CASE WHEN limiter = 'both/a' THEN 'policy' ELSE key END AS key, sum(tokens) AS outstanding FROM rate_limit_reservations GROUP BY 1) v USING (key)
WHERE k.taken <> b.used + b.outstanding OR b.outstanding <> coalesce(v.outstanding, 0)
SQL
	is($query->(<<'SQL'), 't', "$what: both tiers of the policy gave as much");
SELECT max(capacity - tokens) = min(capacity - tokens) FROM rate_limit_status WHERE limiter ~ '^both/'
SQL
	is($query->("SELECT capacity - tokens FROM rate_limit_status WHERE key = 'rolled'"),
		$query->('SELECT sum(tokens) FROM rolled'), "$what: a rollback gives nothing back");
	is($query->("SELECT coalesce(sum(capacity - tokens), 0) FROM rate_limit_status WHERE key = 'back'"),
		0, "$what: a refund gives back everything, whatever was settled in which savepoint");
	is($query->("SELECT count(*) FROM rate_limit_reservations WHERE key = 'back'"), 0, "$what: ... and nothing of it is outstanding");

	# the rest, by 8 sessions that all try all of them
	run_clients($node, "$what, the rest", clients => 8, transactions => 1, script => <<'SQL');
INSERT INTO settled SELECT b.number, 5 FROM (SELECT number FROM book ORDER BY number % 97 OFFSET 0) b WHERE rl_settle(b.number, 5) IS NOT NULL;
SQL
	is($query->('SELECT count(*) FROM book WHERE number NOT IN (SELECT number FROM settled)'), 0, "$what: 8 sessions settle the rest, each once");
	is($query->(<<'SQL'), 't', "$what: taken are those used");
SELECT (SELECT sum(capacity - tokens) FROM rate_limit_status WHERE limiter = 'both/a' OR key ~ '^hot') = (SELECT sum(used) FROM settled)
SQL

	#
	# Cancelled and terminated
	#
	my $rounds = 2 * $full;
	my $ended = 0;
	foreach (1 .. $rounds)
	{
		my $run = do {
			local $ENV{PGAPPNAME} = 'pgbench';
			start_clients($node, clients => $clients, seconds => 30, script => $once);
		};

		$node->poll_query_until('postgres', "SELECT count(*) = $clients FROM pg_stat_activity WHERE application_name = 'pgbench'") or die 'not all came';
		# until all of them have come to their end
		my $left = $clients;
		while ($left > 0)
		{
			my $n = $query->(<<'SQL');
SELECT count(CASE WHEN random() < 0.5 THEN pg_cancel_backend(pid) ELSE pg_terminate_backend(pid) END)
FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' ORDER BY random() LIMIT 8) a
SQL

			$ended += $n;
			$left = $query->("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'");
			last if !$run->{handle}->pumpable;
			Time::HiRes::usleep(20_000);
		}
		$run->{handle}->finish;
		$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'") or die 'not all ended';
	}
	cmp_ok($ended, '>=', $clients, "$what: $ended sessions were ended");
	my $tried = $query->('SELECT count(*) FROM tried');
	note "$what: $tried calls";
	is($query->(<<'SQL'), '', "$what: ... and each bucket has all of a call or nothing");
CREATE TEMP TABLE buckets AS SELECT key, capacity - tokens AS taken FROM rate_limit_status WHERE key ~ '^once';
CREATE TEMP TABLE outstanding AS SELECT key, tokens FROM rate_limit_reservations WHERE key ~ '^once';
ANALYZE buckets, outstanding;
SELECT c.*, coalesce(b.taken, 0) AS taken, o.tokens AS outstanding
FROM (SELECT *, 'once' || id AS key FROM tried) c LEFT JOIN buckets b USING (key) LEFT JOIN outstanding o USING (key)
WHERE CASE WHEN c.settled THEN coalesce(b.taken, 0) <> c.u OR o.key IS NOT NULL
	WHEN o.key IS NOT NULL THEN coalesce(b.taken, 0) <> c.t
	ELSE coalesce(b.taken, 0) NOT IN (0, c.t, c.u) END
LIMIT 10
SQL
	cmp_ok($query->("SELECT count(*) FROM rate_limit_reservations WHERE key ~ '^once'"), '<', $clients * $rounds, "$what: ... and few are outstanding");

	return;
}

# A backend is killed under load, so the server starts anew.
sub test_kill
{
	my ($node, $what) = @_;
	my $query = sub { return $node->safe_psql('postgres', $_[0]) };

	$node->append_conf('postgresql.conf', 'restart_after_crash = on');
	$node->reload;
	foreach my $round (1 .. $full)
	{
		$query->('TRUNCATE book, settled');
		my $run = start_clients($node, clients => $clients, seconds => 30, script => $hot);
		ok($node->poll_query_until('postgres', 'SELECT count(*) > 500 FROM book'), "$what: under load");
		my $checkpointer = $query->(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
		kill 'KILL', $query->(q{SELECT pid FROM pg_stat_activity WHERE query ~ 'rl_' AND pid <> pg_backend_pid() LIMIT 1});
		$run->{handle}->finish;
		ok($node->poll_query_until('postgres', "SELECT pid <> $checkpointer FROM pg_stat_activity WHERE backend_type = 'checkpointer'"), "$what: ... killed, and started anew");
		is($query->('SELECT count(*) FROM rate_limit_reservations'), 0, "$what: no reservation is outstanding");
		is($query->('SELECT count(rl_settle(number, 0)) FROM book'), 0, "$what: ... and none can be settled");
		is($query->(<<'SQL'), '', "$what: ... and no bucket has given more than was taken from it");
SELECT key, capacity - tokens FROM rate_limit_status WHERE tokens > capacity
SQL
	}
	return;
}

foreach (
	# of 64 places in memory, and buckets that spill into the table
	[ memory => conf => "ratelimit.max_reservations = 64\nratelimit.max_buckets = 256\n" ],
	[ table => preload => 0 ])
{
	my ($what, @options) = @$_;
	my $node = start_server($what, @options);

	test_store($node, $what);
	if ($what eq 'memory')
	{
		cmp_ok($node->safe_psql('postgres', 'SELECT decided_in_table FROM rate_limit_stats WHERE limiter IS NULL'), '>', 100, 'buckets were in both stores');
		cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_reserved'), '>', 100, 'and so were reservations');
	}
	test_kill($node, $what);
	$node->stop;
}

done_testing();
