# What happens to a caller does not happen to the buckets: a rollback gives no
# tokens back, a cancelled statement leaves no lock and no half-made bucket, and
# after a SIGKILL the server comes up again by itself and decides.
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

my $node = start_server('interrupted', conf => <<'CONF');
restart_after_crash = on
ratelimit.max_buckets = 32768
CONF

#
# Rollback
#
is($node->safe_psql('postgres', <<'SQL'), "t\nt\nt\nf\nf", 'no rollback gives tokens back, of whatever kind');
BEGIN;
SELECT rl_consume('rolled back', 3, 0);
SAVEPOINT s;
SELECT rl_consume('rolled back', 3, 0);
ROLLBACK TO s;
SELECT rl_consume('rolled back', 3, 0);
ROLLBACK;
SELECT rl_consume('rolled back', 3, 0);
DO $$
BEGIN
	PERFORM rl_consume('in block', 1, 0);
	RAISE EXCEPTION 'never mind';
EXCEPTION WHEN OTHERS THEN
END $$;
SELECT rl_consume('in block', 1, 0);
SQL

#
# Cancelled in the middle of very many calls
#
# Calls that make buckets, change parameters, hit living ones, long keys and short.
my $calls = <<'SQL';
SELECT count(*) FILTER (WHERE rl_consume(CASE i % 4 WHEN 0 THEN 'hot' WHEN 1 THEN repeat('long', 20 + i % 40) || i % 500 ELSE 'k' || i % 5000 END, 1e9 + i % 2, 1))
FROM (SELECT generate_series(1, 1000000000) AS i) s
SQL
$calls =~ s/\n/ /g;

# Every bucket can still be made and used, by calls that must not wait: a lock that
# was left would stop them.
sub count_exactly
{
	my ($what) = @_;
	my $name = $what;

	$name =~ s/\W/_/g;
	is( $node->safe_psql('postgres', <<"SQL"), '5000|15000|0', "$what: all works and counts exactly");
SET statement_timeout = '60s';
SELECT count(*) FILTER (WHERE allowed = 3), sum(allowed), count(*) FILTER (WHERE allowed <> 3) FROM (
	SELECT i % 5000 AS key, count(*) FILTER (WHERE rl_consume(CASE i % 2 WHEN 0 THEN 'k' ELSE repeat('long', 40) END || i % 5000, 3, 0, 1, '$name')) AS allowed
	FROM generate_series(1, 20000) i GROUP BY 1) s;
SQL
	is(twice_living($node), '', "$what: no bucket twice");
	$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
	return;
}

foreach my $round (1 .. 5)
{
	my $session = in_session($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_until(qr/begun/, "\\echo begun\n$calls;\n\\echo ended\n");
	ok( $node->poll_query_until('postgres',
			"SELECT count(*) > 1000 FROM rate_limit_status"),
		"cancel $round: calls are being decided");
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)"),
		't', "cancel $round: cancelled");
	$session->query_until(qr/ended/, '');
	like($session->{stderr}, qr/canceling statement due to user request/, "cancel $round: the statement ended by it");
	$session->{stderr} = '';
	is($session->query_safe("SELECT rl_consume('session', 10, 0)"), 't', "cancel $round: its session goes on");
	finish_session($session);
	count_exactly("cancel $round");
}

foreach my $round (1 .. 5)
{
	my ($rc, $stdout, $stderr) = $node->psql('postgres',
		"SET statement_timeout = '" . 100 * $round . "ms'; $calls");
	like($stderr, qr/canceling statement due to statement timeout/, "timeout $round: the statement ended by it");
	count_exactly("timeout $round");
}

# Terminated, while others call
my $bystanders = start_clients(
	$node,
	clients => 4,
	seconds => 5,
	script => "SELECT count(*) FROM generate_series(1, 100) i WHERE rl_consume('hot', 1e9 + i % 2, 1);");
foreach my $round (1 .. 10)
{
	my $session = in_session($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_until(qr/begun/, "\\echo begun\n$calls;\n");
	$node->poll_query_until('postgres',
		"SELECT state = 'active' FROM pg_stat_activity WHERE pid = $pid");
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	ok( $node->poll_query_until('postgres',
			"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"),
		"terminate $round: gone");
	$session->{run}->finish;
}
finish_clients($bystanders, 'others during that');
count_exactly('after terminating');

#
# Killed: the postmaster starts anew with empty shared memory
#
foreach my $round (1 .. 3)
{
	my $session = in_session($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_until(qr/begun/, "\\echo begun\n$calls;\n");
	$node->poll_query_until('postgres',
		"SELECT count(*) > 1000 FROM rate_limit_status");
	my $from = -s $node->logfile;
	is(kill('KILL', $pid), 1, "kill $round: killed");
	# only then is a connection one to the restarted server
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $from);
	ok($node->poll_query_until('postgres', 'SELECT true'), "kill $round: accepts connections again");
	$session->{run}->finish;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_status'), 0, "kill $round: all buckets are full, so far");
	count_exactly("kill $round");
}
ok( $node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}),
	'the launcher is back');

#
# The same where most buckets are rows
#
$node->append_conf('postgresql.conf', 'ratelimit.max_buckets = 64');
$node->restart;
$calls =~ s/WHEN 0 THEN 'hot' //;
foreach my $round (1 .. 4)
{
	my $session = in_session($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	my $from = -s $node->logfile;

	$session->query_until(qr/begun/, "\\echo begun\n$calls;\n\\echo ended\n");
	ok(wait_until_spilled($node), "in table, $round: calls are being decided");
	if ($round < 4)
	{
		$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
		$session->query_until(qr/ended/, '');
		like($session->{stderr}, qr/canceling statement due to user request/, "in table, $round: cancelled");
		finish_session($session);
	}
	else
	{
		kill('KILL', $pid);
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $from);
		ok($node->poll_query_until('postgres', 'SELECT true'), "in table, $round: killed, accepts connections again");
		$session->{run}->finish;
	}
	count_exactly("in table, $round");
	ok(wait_until_nothing_spilled($node), "in table, $round: the marks go");
}

$node->stop;
done_testing();
