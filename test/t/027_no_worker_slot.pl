# With all background workers taken by others, violations wait: one warning, no
# loss, and they are written by themselves once a slot is free.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# Three slots: those of the launcher and the saver, and one that a parallel query takes and gives back.
my $node = start_server('slots', conf => <<'CONF');
max_worker_processes = 3
max_logical_replication_workers = 0
max_parallel_workers = 1
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), 'the launcher has a slot');
query("SELECT rl_report('before', 'user', 3)");
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'with a slot free violations are written');

# A parallel query whose worker waits at a gate; again, should it find no slot
# because a worker of ours was just about to leave.
query(<<'SQL');
CREATE TABLE pages (i int, filler char(4000));
ALTER TABLE pages ALTER filler SET STORAGE PLAIN, SET (parallel_workers = 1);
INSERT INTO pages SELECT i FROM generate_series(1, 10) i;
UPDATE pages SET filler = 'x';
ANALYZE pages;
CREATE FUNCTION wait_for_gate(i int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE COST 1000000 AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() AND backend_type = 'parallel worker') THEN
		PERFORM pg_advisory_lock_shared(42);
	ELSE
		PERFORM pg_sleep(0.1);
	END IF;
	RETURN i;
END
$$;
SQL
my $gate = in_session($node);
$gate->query_safe('SELECT pg_advisory_lock(42)');
my $parallel = in_session($node);
my $from = -s $node->logfile;
$parallel->query_until(qr/started/, <<'SQL');
\echo started
SET max_parallel_workers_per_gather = 1;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
DO $$
BEGIN
	LOOP
		EXECUTE 'SELECT sum(wait_for_gate(i)) FROM pages';
		EXIT WHEN NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND mode = 'ExclusiveLock');
	END LOOP;
END
$$;
SQL
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND wait_event = 'advisory'}), 'now a parallel worker has the other slot')
  or diag(query('SELECT pid, backend_type, state, wait_event, left(query, 60) FROM pg_stat_activity'));

query("SELECT count(*) FILTER (WHERE NOT rl_consume('k', 1, 0, limiter => 'user')) FROM generate_series(1, 11)");
query("SELECT rl_report('flagged', 'user', 1000)");
$node->wait_for_log(qr/WARNING: .*no background worker slot is free/, $from);
query("SELECT rl_consume('k', 1, 0, limiter => 'user') FROM generate_series(1, 5)");

# three more rounds of the launcher, by the server's clock
my $later = query("SELECT clock_timestamp() + interval '3.5 s'");
$node->poll_query_until('postgres', "SELECT clock_timestamp() > '$later'");
my $warnings = () = slurp_file($node->logfile, $from) =~ /no background worker slot is free/g;
is($warnings, 1, 'no slot: one warning');
is(query("SELECT sum(count) FROM rate_limit_pending WHERE key = 'k'"), 15, '... the violations wait');
is(query("SELECT count(*) FROM rate_limit_violation_details WHERE key = 'k'"), 0, '... not written');
is(query('SELECT violations_pending, violations_lost FROM rate_limit_stats WHERE limiter IS NULL'), '1015|0', '... as the figures say');

$gate->query_safe('SELECT pg_advisory_unlock(42)');
finish_session($gate);
finish_session($parallel);
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'a slot is free: written');
is(query("SELECT sum(count) FROM rate_limit_violation_details WHERE key = 'k'"), 15, '... all of them, once');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'flagged'"), '... flags, too');
ok($node->wait_for_log(qr/ratelimit: got a background worker slot again/, $from), '... and the log says so');

# not even one for the launcher: by hand
query("SELECT rl_report('by hand', 'user', 4)");
$node->append_conf('postgresql.conf', "max_worker_processes = 0\nmax_parallel_workers = 0");
$node->restart;
query("SELECT rl_report('by hand', 'user', 5); SELECT rl_flush()");
is(query("SELECT sum(count) FROM rate_limit_violation_details WHERE key = 'by hand'"), 9, 'no slot at all: rl_flush() writes them');
query("SELECT rl_report('by hand', 'user', 6)");
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), '... or a later server');
is(query("SELECT sum(count) FROM rate_limit_violation_details WHERE key = 'by hand'"), 15, '... all of them, once');

$node->stop;
done_testing();
