# A save that fails says so in one line and leaves what was saved before: a full
# disk, a disk that fails, something in its place.  While a save hangs, nobody else
# waits.  Violations that could be written twice are not taken from a file.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use Errno;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;
use Time::HiRes;

my $node = start_server('saves', conf => <<'CONF');
ratelimit.max_buckets = 65536
fsync = on
ratelimit.save_interval = 0
ratelimit.flush_interval = 1h
CONF
my ($seam, %seam) = preload_seam($node);
my $file = state_file($node);

# Who waits for ever, as in a lock that a save holds, is a failure.
sub query
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql, timeout => $PostgreSQL::Test::Utils::timeout_default);
}

sub start
{
	local %ENV = (%ENV, %seam);

	$node->start;
	return;
}

sub save_every
{
	my ($seconds) = @_;

	query("ALTER SYSTEM SET ratelimit.save_interval = $seconds");
	$node->reload;
	return;
}

sub save_lines
{
	my ($from) = @_;

	return slurp_file($node->logfile, $from) =~ /(ratelimit: .*)/g;
}

sub taken
{
	my ($key) = @_;

	return query("SELECT 100000 - (rl_peek('$key', 100000, 0, 0)).remaining");
}

# enough for several writes
query(q{SELECT count(rl_consume('key ' || i, 10, 0)) FROM generate_series(1, 5000) i});
$node->stop;
start();

#
# While the server runs
#
my %failures = (
	'disk full at once' => [ { write_errno => Errno::ENOSPC, write_after => 0 }, qr/No space left on device/ ],
	'disk full later' => [ { write_errno => Errno::ENOSPC, write_after => 3 }, qr/No space left on device/ ],
	'a disk that fails' => [ { fsync_errno => Errno::EIO }, qr/Input\/output error/ ],
	'no renaming' => [ { rename_errno => Errno::EPERM }, qr/Operation not permitted/ ]);
my $expected = 0;
foreach my $what (sort keys %failures)
{
	my ($how, $message) = @{ $failures{$what} };

	query("SELECT rl_consume('k', 100000, 0)");
	$expected++;
	save_every(1);
	ok(wait_for_save($node), "$what: saved before");
	set_seam($seam, %$how, write_after => 0);
	set_seam($seam, %$how);
	my $from = -s $node->logfile;
	$node->wait_for_log(qr/ratelimit: could not save state to file "pg_stat\/pgsql_tmp\.ratelimit": $message.*could not save state/s, $from);
	save_every(0);
	$node->poll_query_until('postgres', q{SELECT current_setting('ratelimit.save_interval') = '0'});
	my $bytes = state_bytes($node);
	is(scalar(grep { !/could not save state to file/ } save_lines($from)), 0, "$what: one line for each attempt");
	query("SELECT rl_consume('unsaved', 100000, 0)");
	$node->stop('immediate');
	is(state_bytes($node), $bytes, "$what: the file saved before is as it was");
	start();
	is(taken('k'), $expected, "$what: ... and is loaded");

	# at a stop
	$from = -s $node->logfile;
	set_seam($seam, %$how);
	$node->stop;
	my @lines = save_lines($from);
	is(scalar @lines, 1, "$what, at a stop: one line") or diag(explain(\@lines));
	is(state_bytes($node), $bytes, "$what, at a stop: the file saved before is as it was");
	set_seam($seam, map { $_ => 0 } keys %$how);
	start();
	is(taken('k'), $expected, "$what, at a stop: ... and is loaded");
}

# a limit of the system's own, which leaves room for the log
query("SELECT rl_consume('k', 100000, 0)");
$expected++;
save_every(1);
ok(wait_for_save($node), 'saved');
my $pid = saver_pid($node);
SKIP:
{
	skip 'no prlimit', 1 if system("prlimit --pid $pid --fsize=200000:200000 >/dev/null 2>&1") != 0;
	my $from = -s $node->logfile;
	$node->wait_for_log(qr/ratelimit: could not save state to file .*: File too large/, $from);
	pass('a file that must not grow: one line');
}
my $from = -s $node->logfile;
kill 'TERM', $pid;
$node->wait_for_log(qr/background worker "ratelimit saver" \(PID $pid\) exited/, $from);
isnt(saver_pid($node), $pid, 'a saver that is stopped comes again');
ok(wait_for_save($node), '... and saves');

# something in the way
# once no save has it in hand
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if mkdir("$file.new");
	die $! unless $!{EEXIST};
	Time::HiRes::usleep(100_000);
}
$from = -s $node->logfile;
$node->wait_for_log(qr/ratelimit: could not save state to file .*: File exists/, $from);
rmdir("$file.new");
ok(wait_for_save($node), 'a directory where it is written aside: one line, and once it is gone saves go on');

#
# A save that hangs
#
query("SELECT rl_consume('k', 100000, 0)");
$expected++;
my $bytes = state_bytes($node);
set_seam($seam, hang => 3);
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if get_seam($seam, 'hanging');
	Time::HiRes::usleep(100_000);
}
is(get_seam($seam, 'hanging'), 1, 'a save hangs in a write');
my $saved = state_bytes($node);
query('CREATE DATABASE dropped');
query(q{CREATE EXTENSION ratelimit; SELECT rl_consume('k', 1, 0)}, 'dropped');
is(query(<<'SQL'), "6000\nt\n1000\n1\n1\nt|\nt\nt|t|t", '... and meanwhile all goes on: old and new keys, denials, flushes, views, resets');
SET statement_timeout = '30s';
SELECT count(*) FILTER (WHERE rl_consume('key ' || i, 10, 0)) FROM generate_series(1, 6000) i;
SELECT count(rl_consume('key ' || i, 11, 1)) = 6000 FROM generate_series(1, 6000) i;
SELECT count(*) FILTER (WHERE NOT rl_consume('key ' || i, 1, 0, 2)) FROM generate_series(1, 1000) i;
SELECT rl_flush();
SELECT count(DISTINCT gateway_name) FROM rate_limit_violation_details;
SELECT rl_consume('reset', 5, 0), rl_block('key 2', '1 min');
SELECT rl_reset('reset');
SELECT count(*) > 0, (SELECT count(*) > 0 FROM rate_limit_episodes), (SELECT count(*) > 0 FROM rate_limit_stats) FROM rate_limit_status;
SQL
query('SET statement_timeout = \'30s\'; DROP DATABASE dropped');
is(get_seam($seam, 'hanging'), 1, '... the save hangs still');
is(state_bytes($node), $saved, '... and the file is the one saved before');

# not even a stop waits for it longer than it must
my $stopping = IPC::Run::start([ 'pg_ctl', '-D', $node->data_dir, '-m', 'immediate', '-w', 'stop' ], '<', \undef, '>', \my $out);
$stopping->finish;
$node->_update_pid(0);
set_seam($seam, hang => 0, hanging => 0);
start();
is(taken('k') >= $expected - 1, 1, 'an immediate stop in the middle of a save: what was saved before is loaded');
query("SELECT rl_reset('k'); SELECT rl_consume('k', 100000, 0)");
$expected = 1;
ok(wait_for_save($node), '... and saves go on');
save_every(0);

#
# A start that cannot mark the file as used
#
sub written
{
	return query(q{SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE key = 'pending'});
}

query("SELECT rl_report('pending', 'user', 5)");
$node->stop;
my $unused = state_bytes($node);
set_seam($seam, fsync_errno => Errno::EIO, unlink_errno => Errno::EPERM);
$from = -s $node->logfile;
start();
my @lines = save_lines($from);
is(scalar @lines, 1, 'a file that can be neither written nor removed: one line') or diag(explain(\@lines));
like($lines[0], qr/leaving out the pending violations in file "pg_stat\/pgsql_tmp\.ratelimit", which can be neither written nor removed/, '... which says so');
is(taken('k'), $expected, '... buckets are taken from it');
query('SELECT rl_flush()');
is(query('SELECT count(*) FROM rate_limit_pending') . written(), '00', '... and no violation');
$node->stop('immediate');

# one that can be removed
set_seam($seam, unlink_errno => 0);
put_state($node, $unused);
start();
ok(!-e $file, 'a file that can only be removed is removed');
is(taken('k'), $expected, '... its buckets are taken');
query('SELECT rl_flush()');
ok($node->poll_query_until('postgres', q{SELECT sum(count) = 5 FROM rate_limit_violation_details WHERE key = 'pending'}), '... its violations are written');
$node->stop('immediate');
set_seam($seam, fsync_errno => 0);
start();
query('SELECT rl_flush()');
is(written(), 5, '... once, though the server crashed');

$node->stop;
done_testing();
