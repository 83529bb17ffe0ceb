# Without preloading, on PostgreSQL 17 and later: the saver saves the state at a clean
# stop, as the last process that uses memory, and the first session loads it.  After a
# crash memory is made anew from the last save, and the workers are there once.
# Expected in the log: terminated by signal 9
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('late');
plan skip_all => 'before PostgreSQL 17, shared memory needs preloading' unless can_be_late($node);

$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
max_connections = 60
ratelimit.flush_interval = 1h
ratelimit.save_interval = 1h
restart_after_crash = on
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION ratelimit');

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# Violations of limiter user that wait, and those that are written
sub pending
{
	return query("SELECT coalesce(sum(count), 0) FROM rate_limit_pending WHERE limiter = 'user' AND key = '$_[0]'");
}

sub written
{
	return query("SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE limiter = 'user' AND key = '$_[0]'");
}

# While the table is hidden, no worker can write violations, and they wait.
sub hide
{
	return query('ALTER TABLE rate_limit_violations RENAME TO hidden');
}

sub show
{
	return query('ALTER TABLE hidden RENAME TO rate_limit_violations');
}

# How many processes with this title the server has
sub processes
{
	my ($title) = @_;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];

	return scalar grep { (eval { slurp_file("/proc/$_/stat") } // '') =~ /^\d+ \(.*\) [^ZX] $postmaster / }
	  map { m{/proc/(\d+)/} } grep { (eval { slurp_file($_) } // '') =~ /\Q$title/ } glob '/proc/[0-9]*/cmdline';
}

#
# Clean stops
#
hide();
foreach my $mode (qw(fast smart))
{
	query("SELECT rl_consume('$mode', 2, 0), rl_report('$mode', 'user', 7)");
	is(pending($mode), 7, "$mode: violations wait");
	$node->stop($mode);
	my $header = state_header(state_bytes($node));

	is("$header->{at_stop}|$header->{used}", '1|0', '... saved at the stop');
	$node->start;
	is(query("SELECT rl_consume('$mode', 2, 0), rl_consume('$mode', 2, 0)"), 't|f', '... loaded by the first call');
	is(pending($mode), 7, '... with its violations');
	is(state_header(state_bytes($node))->{used}, 1, '... which no other start takes');
}

# Those who work until the end: what the last one of them did is saved
my $run = start_clients(
	$node,
	clients => 10,
	seconds => 60,
	script => "SELECT rl_consume('busy', 1e9, 0);");
$node->poll_query_until('postgres', "SELECT 1e9 - tokens > 1000 FROM rate_limit_status WHERE key = 'busy'");
query(q{CREATE TABLE told AS SELECT 1e9 - tokens AS n FROM rate_limit_status WHERE key = 'busy'});
$node->stop('fast');
$run->{handle}->finish;
$node->start;
is(query("SELECT 1e9 - tokens >= n FROM told, rate_limit_status WHERE key = 'busy'"), 't', 'stopped under load: no token comes back');

# A start that nobody notices leaves the file as it is, with its violations
query("SELECT rl_report('unnoticed', 'user', 3)");
$node->restart;
$node->restart;
is(pending('unnoticed'), 3, 'violations outlive a start without a call');
show();
query('SELECT rl_flush()');
is(written('unnoticed') . '|' . pending('unnoticed'), '3|0', '... and are written');
$node->stop('immediate');
$node->start;
is(written('unnoticed') . '|' . pending('unnoticed'), '3|0', '... once, also if the next stop is a crash');

# A saver that is told to stop alone does not take this for a stop
query("SELECT rl_consume('saver', 1, 0)");
my $pid = saver_pid($node);
kill 'TERM', $pid;
wait_until_gone($pid);
is(query("SELECT rl_consume('saver', 1, 0)"), 'f', 'the saver ended alone');
isnt(saver_pid($node), $pid, '... there is another one');
$node->restart;
is(query("SELECT rl_consume('saver', 1, 0)"), 'f', '... and state is saved at the stop');

# ... nor does the state depend on it: if it does not run just then, another process saves
query("SELECT rl_consume('no saver', 1, 0)");
$pid = saver_pid($node);
kill 'TERM', $pid;
$node->wait_for_log(qr/background worker "ratelimit saver" \(PID $pid\) exited/);
$node->restart;
is(query("SELECT rl_consume('no saver', 1, 0)"), 'f', 'without a saver, state is saved at the stop');

#
# Crashes
#
$node->append_conf('postgresql.conf', 'ratelimit.save_interval = 1s');
$node->reload;
hide();
query("SELECT rl_consume('crash', 2, 0), rl_report('crash', 'user', 9)");
ok(wait_for_save($node), 'saved while it runs');
my $session = in_session($node);
my $backend = $session->query_safe('SELECT pg_backend_pid()');
my $launcher = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'});
kill 'KILL', $backend;
eval { $session->quit };
ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $launcher)"), 'a backend is killed: the server restarts');
# by now sessions and the restarted workers have come first at once
run_clients(
	$node, 'many first calls after a crash',
	clients => 20,
	transactions => 10,
	script => "SELECT rl_consume('crash', 2, 0);");
is(query("SELECT rl_consume('crash', 2, 0), tokens FROM rate_limit_status WHERE key = 'crash'"), 'f|0', '... which find the saved bucket');
is(pending('crash'), 0, '... but not what was pending');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), 'one launcher');
saver_pid($node);
is(processes('ratelimit saver'), 1, 'one saver');
show();
query("SELECT rl_report('later', 'user', 1)");
query('SELECT rl_flush()');
is(written('later'), 1, 'violations are written');
ok(wait_for_save($node), 'the state is saved again');
$node->append_conf('postgresql.conf', 'ratelimit.save_interval = 1h');
$node->reload;

# Every worker is killed in turn, which is a crash, too
foreach my $victim ('saver', 'launcher')
{
	my $old = $victim eq 'saver' ? saver_pid($node) : query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'});

	kill 'KILL', $old;
	wait_until_gone($old);
	ok($node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher' AND pid <> $old}), "the $victim killed: one launcher");
	is(query("SELECT rl_consume('crash', 2, 0)"), 'f', '... and the bucket');
	saver_pid($node);
	is(processes('ratelimit saver'), 1, '... and one saver');
}

# An immediate stop saves nothing
query("SELECT rl_consume('immediate', 1, 0)");
$node->stop('immediate');
$node->start;
is(query("SELECT rl_consume('immediate', 1, 0)"), 't', 'an immediate stop saves nothing');
is(query("SELECT rl_consume('crash', 2, 0)"), 'f', '... but the save before it counts');

#
# With preloading and without by turns
#
hide();
query("SELECT rl_consume('turns', 3, 0), rl_report('turns', 'user', 4)");
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ratelimit'");
$node->restart;
is(query("SELECT rl_consume('turns', 3, 0)") . pending('turns'), 't4', 'preloaded: the same state');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
is(query("SELECT rl_consume('turns', 3, 0), rl_consume('turns', 3, 0)") . pending('turns'), 't|f4', 'and back');
is(store_of($node, 'turns'), 'memory', '... in memory');
$node->stop;
done_testing();
