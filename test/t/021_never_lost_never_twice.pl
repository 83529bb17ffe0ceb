# Whatever keeps violations from being written, they stay pending and are written
# once it is over: a missing table, a failing insert, a lock, a stop of the server.
# What was written before a crash is not written again after it.
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

my $node = start_server('failures', streaming => 1, conf => "restart_after_crash = on\nlog_error_verbosity = verbose");
my $all = 'SELECT * FROM rate_limit_stats WHERE limiter IS NULL';

sub query
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

sub wait_for
{
	my ($sql, $database) = @_;

	return $node->poll_query_until($database // 'postgres', $sql);
}

# So many violations of a key.
sub violate
{
	my ($n, $key, $database) = @_;

	query("SELECT rl_reset('$key'); SELECT rl_consume('$key', 1, 0)", $database);
	is(query("SELECT count(*) FILTER (WHERE NOT rl_consume('$key', 1, 0)) FROM generate_series(1, $n)", $database), $n, "$n violations of $key");
	return;
}

sub pending
{
	my ($key, $database) = @_;

	return query("SELECT coalesce(sum(count), 0) FROM rate_limit_pending WHERE key = '$key'", $database);
}

sub written
{
	my ($key, $database) = @_;

	return query("SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE key = '$key'", $database);
}

sub count_in_log
{
	my ($from, $pattern) = @_;
	my $n = () = log_since($node, $from) =~ /$pattern/g;

	return $n;
}

sub set_for_all
{
	my ($setting, $value) = @_;

	query("ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	wait_for("SELECT current_setting('$setting') = '$value'");
	return;
}

# Until the launcher has been through its databases so many times.
sub rounds
{
	my ($n) = @_;

	for my $round (1 .. $n)
	{
		query("SELECT rl_report('round', 'round', 1)", 'elsewhere');
		wait_for('SELECT NOT EXISTS (SELECT FROM rate_limit_pending)', 'elsewhere');
	}
	return;
}

# From now on flushes only as the server starts; the first one is over, and its worker gone,
# which would write once more what comes just then.
sub flush_by_hand
{
	set_for_all('ratelimit.flush_interval', '1h');
	query("SELECT rl_report('last', 'round', 1)");
	$node->restart;
	wait_for('SELECT NOT EXISTS (SELECT FROM rate_limit_pending)');
	end_rounds($node);
	return;
}

query('CREATE DATABASE elsewhere');
query('CREATE EXTENSION ratelimit', 'elsewhere');

#
# The table renamed
#
my $from = -s $node->logfile;
query('ALTER TABLE rate_limit_violations RENAME TO hidden');
violate(5, 'renamed');
query(<<"SQL");
CREATE TABLE failures (n int, at timestamptz PRIMARY KEY);
DO \$\$
BEGIN
	WHILE (SELECT count(*) FROM failures) < 3 LOOP
		INSERT INTO failures SELECT flush_failures, last_error_at FROM rate_limit_stats
			WHERE limiter IS NULL AND flush_failures > 0 ON CONFLICT DO NOTHING;
		PERFORM pg_sleep(0.05);
	END LOOP;
END
\$\$
SQL
is(query('SELECT count(*) FROM (SELECT n, at - lag(at) OVER (ORDER BY at) AS pause FROM failures) f WHERE pause >= make_interval(secs => 2 ^ (n - 2) - 0.1)'),
	2, 'renamed: it is tried again, at growing intervals');
is(pending('renamed'), 5, '... the violations stay pending');
like(query("SELECT last_error FROM rate_limit_stats WHERE limiter IS NULL"), qr/writing violations: relation .*rate_limit_violations" does not exist/, '... and the administrator sees why');
is(count_in_log($from, qr/LOG: .*ratelimit: failed writing violations/), 1, '... the log says it once');
is(count_in_log($from, qr/(ERROR|FATAL|WARNING): /), 0, '... and nothing else is wrong');
query('ALTER TABLE hidden RENAME TO rate_limit_violations');
ok(wait_for("SELECT count(*) = 0 FROM rate_limit_pending"), 'renamed back: written by itself');
is(written('renamed'), 5, '... once');
$node->wait_for_log(qr/ratelimit: what failed before has succeeded/, $from);
is(count_in_log($from, qr/what failed before has succeeded/), 1, '... the log says so, once');
is(query("SELECT violations_flushed, violations_pending FROM rate_limit_stats WHERE limiter IS NULL"), '5|0', '... the figures are right');

#
# Inserting fails
#
query(<<'SQL');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no such thing'; END$$;
CREATE TRIGGER refuse BEFORE INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT rl_stats_reset();
SQL
violate(7, 'refused');
ok(wait_for("SELECT flush_failures >= 1 AND last_error ~ 'no such thing' FROM rate_limit_stats WHERE limiter IS NULL"), 'refused: the worker failed');
my ($rc, $out, $err) = $node->psql('postgres', 'SELECT rl_flush()');
like($err, qr/no such thing/, '... and so does rl_flush()');
is(pending('refused'), 7, '... the violations stay pending');
violate(2, 'meanwhile');
is(query(<<'SQL'), "7\n0\n2", '... and a savepoint rolled back brings them back as well');
BEGIN;
DO $$BEGIN PERFORM rl_flush(); EXCEPTION WHEN raise_exception THEN NULL; END$$;
SELECT sum(count) FROM rate_limit_pending WHERE key = 'refused';
SELECT count(*) FROM rate_limit_violations WHERE details ? 'refused:default';
SELECT sum(count) FROM rate_limit_pending WHERE key = 'meanwhile';
COMMIT;
SQL

# a trigger that fails at the commit only
query(<<'SQL');
DROP TRIGGER refuse ON rate_limit_violations;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON rate_limit_violations
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
SQL
($rc, $out, $err) = $node->psql('postgres', 'SELECT rl_flush()');
like($err, qr/no such thing/, 'refused at commit');
is(pending('refused') + pending('meanwhile'), 9, '... the violations stay pending');
is(written('refused'), 0, '... and are not written');
query('DROP FUNCTION refuse() CASCADE; SELECT rl_flush()');
ok(wait_for("SELECT count(*) = 0 FROM rate_limit_pending"), 'no longer refused: written');
is(written('refused') . written('meanwhile'), '72', '... once');

#
# The extension dropped while a flush waits for the table
#
query('CREATE DATABASE dropping');
foreach my $round (1 .. 3)
{
	query('CREATE EXTENSION ratelimit', 'dropping');
	$from = -s $node->logfile;
	my $session = in_session($node, 'dropping');
	$session->query_safe('BEGIN; LOCK TABLE rate_limit_violations IN ACCESS EXCLUSIVE MODE');
	violate(3, "dropped $round", 'dropping');
	ok( wait_for(q{SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE backend_type = 'ratelimit worker' AND NOT granted}),
		'a flush waits for the table');
	# if this took long, one has waited in vain before, and said so
	$from = -s $node->logfile;
	$session->query_safe('DROP EXTENSION ratelimit; COMMIT');
	finish_session($session);
	rounds(2);
	cmp_ok(count_in_log($from, qr/(ERROR|FATAL|WARNING): |ratelimit: failed/), '<=', 1, 'dropped meanwhile: no more than one line in the log')
	  or diag(log_since($node, $from));
}
query('CREATE EXTENSION ratelimit', 'dropping');
is(query('SELECT count(*) FROM rate_limit_pending', 'dropping'), 0, 'created again: nothing is left of before');
violate(4, 'again', 'dropping');
ok(wait_for('SELECT count(*) = 0 FROM rate_limit_pending', 'dropping'), '... new ones are written');
is(query('SELECT sum(count), string_agg(DISTINCT key, \',\') FROM rate_limit_violation_details', 'dropping'), '4|again', '... and none but them');

#
# The database dropped with violations pending, and again and again failing
#
query('ALTER TABLE rate_limit_violations RENAME TO hidden', 'dropping');
violate(3, 'lost', 'dropping');
ok(wait_for("SELECT flush_failures >= 1 FROM rate_limit_stats WHERE limiter IS NULL", 'dropping'), 'failing');
$from = -s $node->logfile;
query('DROP DATABASE dropping WITH (FORCE)');
rounds(3);
# a worker on its way when the database goes says so, but none is started after that
cmp_ok(count_in_log($from, qr/(ERROR|WARNING): |ratelimit: failed|does not exist/), '<=', 1, 'database dropped: no more than one line in the log')
  or diag(log_since($node, $from));

#
# A clean restart
#
flush_by_hand();
query('TRUNCATE rate_limit_violations');
# as soon as the server has started, so has the worker
my $names = 'SELECT gateway_name, limiter, key, count FROM rate_limit_pending ORDER BY 1, 2, 3';
my $names_written = 'SELECT gateway_name, limiter, key, count FROM rate_limit_violation_details ORDER BY 1, 2, 3';
query(<<'SQL');
SELECT count(rl_report('key ' || i, 'user', i)) FROM generate_series(1, 300) i;
SET ratelimit.gateway_name = 'Übergang "1"';
SELECT rl_report('2001:db8::1', 'ip', 3);
SELECT rl_report(repeat('k', 255), repeat('l', 63), 1::bigint << 40);
SQL
my $before = query($names);
is(scalar(split /\n/, $before), 302, 'before a restart: pending');
my $session = in_session($node);
$session->query_safe('BEGIN');
is($session->query_safe('SELECT rl_flush()'), 2, '... in the middle of a flush');
$from = -s $node->logfile;
$node->stop('fast');
$node->start;
eval { finish_session($session) };
ok(wait_for('SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'started: what was pending is written by itself');
is(query($names_written), $before, '... exactly that');
is(count_in_log($from, qr/ratelimit: /), 0, '... nothing to tell');
$node->restart;
is(query('SELECT count(*) FROM rate_limit_pending'), 0, 'restarted: what was written does not come back');

query("SELECT count(rl_report('some ' || i, 'user', 2)) FROM generate_series(1, 300) i");
# for the next server: this one would write them at once
query("ALTER SYSTEM SET ratelimit.flush_interval = '1s'");
$node->stop('fast');
$node->append_conf('postgresql.conf', 'ratelimit.max_violations = 16');
$node->start;
ok(wait_for('SELECT count(*) = 0 FROM rate_limit_pending'), 'started with room for fewer: they are written by themselves');
is(query(q{SELECT sum(count), count(*) <= 17 FROM rate_limit_violation_details WHERE key LIKE 'some %' OR key = '(other)'}), '600|t', '... all of them')
  or diag(query("SELECT * FROM rate_limit_violation_details WHERE key = '(other)'"));
is(query('SELECT violations_lost FROM rate_limit_stats WHERE limiter IS NULL'), 0, '... none is lost');
flush_by_hand();

#
# Crashes: what was written is not written again
#
violate(5, 'before a crash');
query('SELECT rl_flush()');
violate(3, 'before a crash');
$node->stop('immediate');
$node->start;
query('SELECT rl_flush()');
cmp_ok(written('before a crash'), '<=', 8, 'immediate stop: nothing is written twice');
cmp_ok(written('before a crash'), '>=', 5, '... and what was written is');

# Saved at a stop, loaded, written, then the crash: the saved file must not come back.
violate(6, 'saved');
$node->restart;
query('SELECT rl_flush()');
is(written('saved'), 6, 'saved, loaded, written');
$node->stop('immediate');
$node->start;
query('SELECT rl_flush()');
is(written('saved'), 6, '... written once, though the server crashed');

# A flush that has committed here and waits for a standby: in doubt for those who
# wait, but written.
foreach my $how ('immediate', 'fast', 'backend')
{
	my $key = "in doubt, $how";

	violate(5, $key);
	query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
	$node->reload;
	wait_for("SELECT current_setting('synchronous_standby_names') = 'nobody'");
	my $flush = IPC::Run::start([ 'psql', '-XAt', '-d', $node->connstr('postgres'), '-c', 'SELECT rl_flush()' ],
		'<', \undef, '>&', \my $output);
	ok(wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), "$key: the flush waits for a standby");
	if ($how eq 'backend')
	{
		my $pid = query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'");

		$from = -s $node->logfile;
		kill 'KILL', $pid;
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $from);
		wait_for('SELECT true');
		query("SET synchronous_commit = local; ALTER SYSTEM RESET synchronous_standby_names");
		$node->reload;
	}
	else
	{
		$node->stop($how);
		$node->append_conf('postgresql.auto.conf', "synchronous_standby_names = ''");
		$node->start;
	}
	eval { $flush->finish };
	wait_for("SELECT current_setting('synchronous_standby_names') = ''");
	query('SELECT rl_flush()');
	is(written($key) + pending($key), 5, "$key: written once");
}

$node->stop;
done_testing();
