# After a crash the state saved last is used, whoever saved it: the saver while the
# server ran, or the postmaster as it stopped.  An older one never comes back, and
# what was pending is never written twice.  The table of buckets is empty after a
# crash, and nothing says that a partition had spilled.
#
# Expected in the log: was terminated by signal 9: Killed
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;

my $node = start_server('crash', conf => <<'CONF');
ratelimit.max_buckets = 16
ratelimit.save_interval = 1s
ratelimit.flush_interval = 1h
restart_after_crash = on
CONF

sub query
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub take
{
	my ($n, $key) = @_;

	return is(query("SELECT count(*) FILTER (WHERE rl_consume('$key', 100, 0)) FROM generate_series(1, $n)"), $n, "$n tokens of $key");
}

sub taken
{
	my ($key) = @_;

	return query("SELECT 100 - (rl_peek('$key', 100, 0, 0)).remaining");
}

sub written
{
	my ($key) = @_;

	return query("SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE key = '$key'");
}

# Saves only at a stop, or every second.
sub saving
{
	my ($on) = @_;

	query('ALTER SYSTEM SET ratelimit.save_interval = ' . ($on ? 1 : 0));
	$node->reload;
	# without preloading, a session knows the setting once it has called a function
	$node->poll_query_until('postgres', "SELECT current_setting('ratelimit.save_interval') = '" . ($on ? '1s' : '0') . "' FROM rl_partitions() LIMIT 1");
	# a save that began before
	if (!$on)
	{
		my $pid = saver_pid($node);

		kill 'TERM', $pid;
		$node->wait_for_log(qr/background worker "ratelimit saver" \(PID $pid\) exited/);
	}
	return;
}

sub crash
{
	my ($how) = @_;
	my $from = -s $node->logfile;

	if ($how eq 'backend')
	{
		my $pid = query('SELECT pid FROM pg_stat_activity WHERE backend_type = \'checkpointer\'');

		kill 'KILL', $pid;
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $from);
		$node->wait_for_log(qr/ready to accept connections/, $from);
		$node->poll_query_until('postgres', 'SELECT true');
	}
	elsif ($how eq 'postmaster')
	{
		kill_postmaster($node);
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	return;
}

#
# One state after the other
#
my $expected = 0;
foreach my $how ('immediate', 'backend', 'postmaster')
{
	note "== $how";

	# a clean stop saves, with 3 pending
	saving(0);
	take(5, 'k');
	$expected += 5;
	query("SELECT rl_report('$how', 'user', 3)");
	$node->restart;
	is(taken('k'), $expected, "$how: loaded what a stop saved");
	ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), "$how: what was pending is written");
	my $header = state_header(state_bytes($node));
	ok($header->{at_stop} && $header->{used} && $header->{n_violation} == 1, "$how: and the file says that it is used");

	# the same file again, before anybody has saved
	crash($how);
	is(taken('k'), $expected, "$how before the first save: the file of the stop before");
	is(query('SELECT count(*) FROM rate_limit_pending'), 0, "$how: nothing is pending");
	is(written($how), 3, "$how: ... nor written again");

	# the saver's is newer than the stop's
	saving(1);
	take(5, 'k');
	$expected += 5;
	ok(wait_for_save($node), "$how: saved while running");
	query("SELECT rl_report('$how', 'user', 4)");
	is(query("SELECT rl_flush()"), 1, "$how: more are written");
	query("SELECT rl_report('$how', 'user', 100)");
	ok(wait_for_save($node), "$how: saved with some pending");
	my $from = -s $node->logfile;
	crash($how);
	is(taken('k'), $expected, "$how after a save: the file of the saver");
	like(slurp_file($node->logfile, $from), qr/LOG: .*ratelimit: loaded \d+ buckets, saved /, "$how: the log says of when");
	query('SELECT rl_flush()');
	is(written($how), 7, "$how: what was written is not written again, what was pending is lost");

	# a second time: what was taken from it once more is overwritten, not repeated
	take(5, 'k');
	$expected += 5;
	ok(wait_for_save($node), "$how: saved again");
	crash($how);
	is(taken('k'), $expected, "$how again: the newest file");

	# a crash that no save has seen
	saving(0);
	take(2, 'unsaved');
	crash($how);
	is(taken('unsaved'), 0, "$how: what nobody saved is gone");
	saving(1);
}

#
# The table
#
query('SELECT rl_reset_all(NULL)');
query("ALTER SYSTEM SET ratelimit.flush_interval = '1s'");
$node->reload;
foreach my $how ('immediate', 'backend', 'postmaster')
{
	fill_until_spilled($node, "$how filling", 1, 0);
	is(spilled($node), 1, "$how: spilled");
	ok(wait_for_save($node), "$how: ... and saved so");
	my $living = query("SELECT count(*) FROM rate_limit_status WHERE store = 'memory'");
	crash($how);
	is(query('SELECT count(*) FROM rate_limit_buckets'), 0, "$how: the table is empty");
	is(spilled($node), 0, "$how: nothing has spilled");
	is(query("SELECT count(*) FROM rate_limit_status WHERE store = 'memory'"), $living, "$how: what was in memory is there");
	is(query("SELECT rl_consume('$how after', 2, 0), rl_consume('$how after', 2, 0), rl_consume('$how after', 2, 0)"), 't|t|f', "$how: a key that does not fit is decided");
	is(store_of($node, "$how after"), 'table', "$how: ... in the table");
	is(twice_living($node), '', "$how: no bucket is in both stores");
	query('SELECT rl_reset_all(NULL)');
	ok(wait_until_nothing_spilled($node), "$how: the worker moves back to memory");
}

#
# A database that was dropped after the last save
#
query('CREATE DATABASE dropped');
$node->safe_psql('dropped', q{CREATE EXTENSION ratelimit; SELECT rl_consume('dropped', 5, 0)});
my $database = query(q{SELECT oid FROM pg_database WHERE datname = 'dropped'});
ok(wait_for_save($node), 'saved');
like(join(' ', keys %{ state_buckets(state_bytes($node)) }), qr/\b$database\/default\/dropped/, 'a bucket of another database is saved');
saving(0);
query('DROP DATABASE dropped');
crash('immediate');
saving(1);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher' AND wait_event_type = 'Extension'}), 'a crash after it was dropped');
ok(wait_for_save($node), '... and the next save');
unlike(join(' ', keys %{ state_buckets(state_bytes($node)) }), qr/\b$database\//, '... which has it no more');

#
# A save that was cut off leaves something aside: nobody reads it
#
take(5, 'aside');
ok(wait_for_save($node), 'saved');
saving(0);
$node->stop('immediate');
my $aside = state_file($node) . '.new';
my $victim = $node->basedir . '/victim';
PostgreSQL::Test::Utils::append_to_file($victim, 'of somebody else');
symlink($victim, $aside) or die $!;
$node->start;
is(taken('aside'), 5, 'a start takes nothing from a file aside');
take(5, 'aside');
$node->restart;
is(taken('aside'), 10, '... and a save does not mind it');
is(slurp_file($victim), 'of somebody else', '... nor follow it');
ok(!-e $aside, '... and it is gone');

$node->stop;
done_testing();
