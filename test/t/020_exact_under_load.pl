# No violation is lost and none written twice, per gateway, limiter and key, while
# many connections are denied and flushes run every second: undisturbed, with the
# workers being terminated again and again, and with the table locked.
#
# RATELIMIT_FULL=1 for the whole load: 2 million calls, 50 terminations.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};
my $calls = $full ? 2_000_000 : 200_000;
my $terminations = $full ? 50 : 6;
my $clients = 16;
my $batch = 500;
my $batches = $calls / $clients / $batch;

my $node = start_server('load', conf => <<'CONF');
ratelimit.max_buckets = 65536
CONF

# Each batch says what it has seen in the statement that makes the calls.
my $script = <<"SCRIPT";
SELECT set_config('ratelimit.gateway_name', 'gateway ' || :client_id % 4, false);
INSERT INTO seen
SELECT current_setting('ratelimit.gateway_name'), limiter, key, count(*), count(*) FILTER (WHERE NOT allowed)
FROM (SELECT limiter, key, rl_consume(key, 10, 0, 1, limiter) AS allowed
	FROM (SELECT 'limiter ' || i % 3 AS limiter, 'key:' || (random() * 1000)::int % 1000 AS key
		FROM generate_series(1, $batch) i OFFSET 0) c OFFSET 0) d
GROUP BY limiter, key;
SCRIPT

# What was seen and is neither written nor pending, or the other way round.
my $difference = <<'SQL';
SELECT count(*), min(gateway || '/' || limiter || '/' || key || ': ' || coalesce(denied, 0) || ' denied, ' || coalesce(counted, 0) || ' counted')
FROM (SELECT gateway, limiter, key, sum(denied) AS denied FROM seen GROUP BY 1, 2, 3) s
FULL JOIN (SELECT gateway_name AS gateway, limiter, key, sum(count) AS counted
	FROM (SELECT gateway_name, limiter, key, count FROM rate_limit_violation_details
		UNION ALL SELECT gateway_name, limiter, key, count FROM rate_limit_pending) v
	GROUP BY 1, 2, 3) c USING (gateway, limiter, key)
WHERE coalesce(denied, 0) <> coalesce(counted, 0)
SQL

sub start_afresh
{
	$node->safe_psql('postgres', 'SELECT rl_flush(); SELECT rl_reset_all(NULL); SELECT rl_stats_reset(); TRUNCATE rate_limit_violations, seen');
	return;
}

sub check_exact
{
	my ($what) = @_;
	my $denied = $node->safe_psql('postgres', 'SELECT sum(denied) FROM seen');

	is($node->safe_psql('postgres', 'SELECT sum(calls) FROM seen'), $batches * $clients * $batch, "$what: every call was made");
	cmp_ok($denied, '>', $calls / 2, "$what: $denied were denied");
	is( $node->safe_psql('postgres', 'SELECT count(DISTINCT gateway), count(DISTINCT limiter), count(DISTINCT key) FROM seen'),
		'4|3|1000', "$what: of 4 gateways, 3 limiters, 1,000 keys");

	# the lock keeps workers from writing while we look; some are surely pending
	my @answers = split /\n/, $node->safe_psql('postgres', <<"SQL");
SET ratelimit.gateway_name = 'gateway 0';
BEGIN;
LOCK TABLE rate_limit_violations IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO seen SELECT 'gateway 0', 'limiter 0', 'key:1', count(*), count(*) FILTER (WHERE NOT rl_consume('key:1', 10, 0, 1, 'limiter 0')) FROM generate_series(1, 7);
SELECT sum(count) >= 7 FROM rate_limit_pending;
$difference;
COMMIT;
SQL
	is($answers[0], 't', "$what: some are pending");
	is($answers[1], '0|', "$what: written and pending together are exactly the denied ones");
	$node->safe_psql('postgres', 'SELECT rl_flush()');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_pending'), 0, "$what: then all are written");
	is($node->safe_psql('postgres', $difference), '0|', "$what: ... and still are exactly the denied ones");
	is( $node->safe_psql('postgres', 'SELECT denied = (SELECT sum(denied) FROM seen), violations_flushed = denied, violations_pending, violations_lost FROM rate_limit_stats WHERE limiter IS NULL'),
		't|t|0|0', "$what: the figures agree");
	is( $node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_violations v WHERE total_count <> (SELECT sum(value::bigint) FROM jsonb_each_text(details))'),
		0, "$what: ... and total_count is the sum of its details");
	return $denied;
}

$node->safe_psql('postgres', 'CREATE UNLOGGED TABLE seen (gateway text, limiter text, key text, calls bigint, denied bigint)');

#
# Flushes every second
#
my $run = start_clients($node, clients => $clients, transactions => $batches,
	rate => $batches * $clients / ($full ? 20 : 5), script => $script);
my $seconds = finish_clients($run, 'flushes');
my $flushes = $node->safe_psql('postgres', 'SELECT count(DISTINCT created_at) FROM rate_limit_violations');
cmp_ok($flushes, '>=', 2, "flushes ran meanwhile: $flushes");
my $denied = check_exact('flushes');
note sprintf('flushes: %d calls, %d denied, %d flushes, %.1f s', $calls, $denied, $flushes, $seconds);

#
# The worker terminated at random, often in the middle of writing or committing.  There is
# always something to write, so that another one comes, even if the clients are over.
#
start_afresh();
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM pg_sleep(random() * 0.02); RETURN NEW; END$$;
CREATE TRIGGER writing BEFORE INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION dawdle();
CREATE CONSTRAINT TRIGGER committing AFTER INSERT ON rate_limit_violations
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle();
SQL
my $from = -s $node->logfile;
$run = start_clients($node, clients => $clients, transactions => $batches,
	rate => $batches * $clients / ($terminations * 1.3), script => $script);
$node->safe_psql('postgres', <<"SQL");
SET ratelimit.gateway_name = 'gateway 0';
DO \$\$
DECLARE
	worker int;
	left_to_do int := $terminations;
BEGIN
	WHILE left_to_do > 0 LOOP
		PERFORM pg_stat_clear_snapshot();
		SELECT pid INTO worker FROM pg_stat_activity WHERE backend_type = 'ratelimit worker';
		CONTINUE WHEN worker IS NULL AND pg_sleep(0.002)::text = '';
		-- at any moment of what it does; every other time as it starts
		IF random() < 0.5 THEN
			PERFORM pg_sleep(random() * 0.15);
		END IF;
		IF pg_terminate_backend(worker) THEN
			left_to_do := left_to_do - 1;
		END IF;
		LOOP
			PERFORM pg_stat_clear_snapshot();
			EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = worker);
			PERFORM pg_sleep(0.002);
		END LOOP;
		INSERT INTO seen SELECT 'gateway 0', 'limiter 0', 'key:1', 0, count(*) FROM generate_series(1, 20) WHERE NOT rl_consume('key:1', 10, 0, 1, 'limiter 0');
	END LOOP;
END
\$\$
SQL
$seconds = finish_clients($run, 'terminated workers');
my $log = slurp_file($node->logfile, $from);
my $terminated = () = $log =~ /terminating background worker "ratelimit worker" due to administrator command/g;
cmp_ok($terminated, '>=', $terminations / 2, "terminated in the middle of something: $terminated of $terminations");
unlike($log, qr/PANIC|server process .* was terminated/, '... which takes nobody else along');
$denied = check_exact('terminated workers');
note sprintf('terminated: %d calls, %d denied, %d terminated, %.1f s', $calls, $denied, $terminated, $seconds);
$node->safe_psql('postgres', 'DROP FUNCTION dawdle() CASCADE');

#
# The table locked for 5 seconds, and until a worker has waited for it in vain
#
start_afresh();
$from = -s $node->logfile;
$run = start_clients($node, clients => $clients, transactions => $batches,
	rate => $batches * $clients / ($full ? 15 : 8), script => $script);
ok($node->poll_query_until('postgres', 'SELECT count(*) > 0 FROM rate_limit_violations'), 'locked table: first a flush');
my $waited = $node->safe_psql('postgres', <<'SQL');
BEGIN;
LOCK TABLE rate_limit_violations IN ACCESS EXCLUSIVE MODE;
SELECT clock_timestamp() AS since \gset
SELECT pg_sleep(5);
SELECT extract(epoch FROM clock_timestamp() - :'since') >= 5;
DO $$ BEGIN WHILE (SELECT flush_failures FROM rate_limit_stats WHERE limiter IS NULL) = 0 LOOP PERFORM pg_sleep(0.05); END LOOP; END $$;
COMMIT;
SQL
like($waited, qr/t$/, 'locked table: for 5 seconds');
$seconds = finish_clients($run, 'locked table');
cmp_ok($node->safe_psql('postgres', 'SELECT flush_failures FROM rate_limit_stats WHERE limiter IS NULL'), '>=', 1, 'locked table: flushes failed');
like($node->safe_psql('postgres', 'SELECT last_error FROM rate_limit_stats WHERE limiter IS NULL'), qr/lock timeout/, '... and it is said why');
ok($node->poll_query_until('postgres', q{SELECT last_flush > last_error_at FROM rate_limit_stats WHERE limiter IS NULL}), '... and succeed again by themselves');
$denied = check_exact('locked table');
note sprintf('locked: %d calls, %d denied, %.1f s', $calls, $denied, $seconds);

#
# One key for all, as fast as they can, each flush taking from under their hands
#
start_afresh();
my $each = $full ? 100 : 25;
run_clients(
	$node, 'one key',
	clients => $clients,
	transactions => $each,
	script => <<'SCRIPT');
SELECT set_config('ratelimit.gateway_name', 'gateway', false);
SELECT count(rl_consume('hot', 1, 0, 2)) FROM generate_series(1, 2000);
SELECT rl_flush();
SCRIPT
is( $node->safe_psql('postgres', <<'SQL'), $clients * $each * 2000, 'one key: every violation is written, once');
SELECT rl_flush() \g /dev/null
SELECT sum(count) FROM rate_limit_violation_details WHERE gateway_name = 'gateway' AND key = 'hot'
SQL

$node->stop;
done_testing();
