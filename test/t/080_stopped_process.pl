# A process that has been stopped while it holds a bucket, or a part of memory, keeps
# nobody from being cancelled, terminated or timed out, brings nothing down, and once it
# goes on everything is exact.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;
use Time::HiRes;

# 511: all buckets are in one partition, which at first uses 64 of 512 slots
my $node = start_server('stopped', conf => <<'CONF');
ratelimit.max_buckets = 511
ratelimit.save_interval = 0
ratelimit.flush_interval = 1s
CONF
my ($seam, %seam) = preload_seam($node);

$node->stop;
{
	local %ENV = (%ENV, %seam);

	$node->start;
}

sub query
{
	return $node->safe_psql('postgres', $_[0], timeout => $PostgreSQL::Test::Utils::timeout_default);
}

sub wait_for
{
	my ($condition) = @_;

	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $condition->();
		Time::HiRes::usleep(10_000);
	}
	return 0;
}

sub pid_of
{
	return $_[0]->query_safe('SELECT pg_backend_pid()');
}

# Start a statement without waiting for its end.
sub begin
{
	my ($session, $sql) = @_;

	$session->query_until(qr/begun/, "\\echo begun\n$sql;\n\\echo ended\n");
	return;
}

# Wait for its end; its answer.
sub end
{
	my ($session) = @_;
	my $answer = $session->query_until(qr/ended/, '');

	$answer =~ s/\s*(begun|ended)\s*//g;
	return $answer;
}

# Have a session execute a statement that stops its process at the n-th time that it
# looks at the clock.
sub stop_in
{
	my ($session, $n, $sql) = @_;
	my $stopped = get_seam($seam, 'stopped');
	my $pid = pid_of($session);

	set_seam($seam, stop_after => $n - 1);
	set_seam($seam, stop_pid => $pid);
	begin($session, $sql);
	ok(wait_for(sub { slurp_file("/proc/$pid/stat") =~ /\) T / }), "stopped: $sql");
	is(get_seam($seam, 'stopped'), $stopped + 1, '... by the seam');
	return $pid;
}

# The statement ends within its time.
sub times_out
{
	my ($sql, $what) = @_;
	my $began = monotonic_seconds();
	my ($code, $answer, $messages) = $node->psql('postgres', "SET statement_timeout = '300ms'; $sql");

	like($messages, qr/canceling statement due to statement timeout/, "$what: is timed out");
	# or else it waits for ever
	cmp_ok(monotonic_seconds() - $began, '<', 30, '... in time');
	return;
}

sub can_be_interrupted
{
	my ($sql, $what) = @_;
	my $session = in_session($node);
	my $pid = pid_of($session);
	my $waits = qq{SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid};

	begin($session, $sql);
	ok($node->poll_query_until('postgres', $waits), "$what: is shown as waiting");
	my $began = monotonic_seconds();
	query("SELECT pg_cancel_backend($pid)");
	end($session);
	like($session->{stderr}, qr/canceling statement due to user request/, '... is cancelled');
	cmp_ok(monotonic_seconds() - $began, '<', 20, '... at once');
	begin($session, $sql);
	ok($node->poll_query_until('postgres', $waits), '... waits again');
	$began = monotonic_seconds();
	query("SELECT pg_terminate_backend($pid)");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), '... is terminated');
	cmp_ok(monotonic_seconds() - $began, '<', 20, '... at once');
	$session->{run}->finish;
	return;
}

sub takes_and_tells
{
	my ($key, $left, $what) = @_;

	is(query("SELECT (rl_peek('$key', 10, 0, 0)).remaining"), $left, $what);
	return;
}

#
# A bucket's word
#
query(q{SELECT rl_consume('hot', 10, 0), rl_consume('other', 10, 0)});
my $holder = in_session($node);
my $undone = in_session($node);
$undone->query_safe(q{SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_consume('hot', 10, 0)});
my $waiting = in_session($node);
my $waiting_pid = pid_of($waiting);
query(q{SELECT rl_consume('due', 1, 0.001)});
begin($waiting, q{SELECT rl_wait('due', 1, 0.001, 1, '1 day')});
ok($node->poll_query_until('postgres', q{SELECT (rl_peek('due', 1, 0.001, 0)).remaining < -0.5}), 'a call waits for its token');
my $pid = stop_in($holder, 1, q{SELECT rl_consume_all('{hot,other,due}', '{20,20,1}', '{0,0,0.001}', '{1,1,0}')});

times_out($_, $_)
  foreach q{SELECT rl_consume('hot', 10, 0)},
  q{SELECT rl_consume('hot', 20, 0)},
  q{SELECT (rl_throttle('hot', 10, 0)).allowed},
  q{SELECT rl_peek('hot', 10, 0)},
  q{SELECT rl_consume_upto('hot', 10, 0, 2)},
  q{SELECT rl_consume_each('{new,hot}', 10, 0)},
  q{SELECT rl_consume_all('{hot,new}', '{10,10}', '{0,0}')},
  q{SELECT rl_wait('hot', 10, 0)},
  q{SELECT rl_reward('hot', 1)},
  q{SELECT rl_penalize('hot', 10, 0, 1)},
  q{SELECT rl_reset('hot')},
  q{SELECT rl_reset_all(NULL)},
  q{SELECT * FROM rate_limit_status};
can_be_interrupted(q{SELECT rl_consume('hot', 10, 0)}, 'a call');
can_be_interrupted(q{SELECT rl_consume_all('{hot,new}', '{10,10}', '{0,0}')}, 'a call on several buckets');

my $began = monotonic_seconds();
begin($undone, 'ROLLBACK');
end($undone);
cmp_ok(monotonic_seconds() - $began, '<', 20, 'a rollback that would give tokens back ends');
$began = monotonic_seconds();
query("SELECT pg_cancel_backend($waiting_pid)");
end($waiting);
like($waiting->{stderr}, qr/canceling statement due to user request/, 'a wait that would give its token back is cancelled');
cmp_ok(monotonic_seconds() - $began, '<', 20, '... in time');

# the partition grows three times, and has the bucket stay where it is
is(query(q{SET statement_timeout = '30s'; SELECT count(*) FILTER (WHERE rl_consume('key ' || i, 10, 0)) FROM generate_series(1, 400) i}),
	400, 'new keys are taken in meanwhile');
is(query(q{SELECT count(*) FROM generate_series(1, 400) i, rl_peek('key ' || i, 10, 0, 0) p WHERE p.remaining = 9}),
	400, '... and are found');
times_out(q{SELECT rl_consume('hot', 10, 0)}, 'the bucket, which did not move,');

my $from = -s $node->logfile;
query('ALTER SYSTEM SET ratelimit.save_interval = 1');
$node->reload;
ok(wait_for_save($node), 'state is saved meanwhile');
ok($node->log_contains(qr/leaving a bucket out of the saved state/, $from), '... without the bucket');
is(scalar(grep { /\bkey \d/ } keys %{ state_buckets(state_bytes($node)) }), 400, '... with all others');
query('ALTER SYSTEM SET ratelimit.save_interval = 0');
$node->reload;
is(query('SELECT rl_flush()'), 0, 'violations can be written');

kill('CONT', $pid);
is(end($holder), 't', 'the process goes on, and its call is allowed');
takes_and_tells('hot', 7, 'its bucket is as it would be: two calls and one that could not be undone');
takes_and_tells('other', 8, 'and so is the other');
is(query(q{SELECT count(*) FROM rate_limit_status WHERE key IN ('hot', 'other')}), 2, '... each once');
is(query(q{SELECT count(*) FILTER (WHERE rl_consume('hot', 10, 0)) FROM generate_series(1, 20)}), 7, 'it is counted exactly');
is(twice_living($node), '', 'no bucket is there twice');
is(query('SELECT sum(evicted) FROM rl_partitions()'), 0, 'none had to give way');
finish_session($holder);
finish_session($undone);
finish_session($waiting);
$node->restart;
takes_and_tells('hot', 0, 'it is saved at a stop, and found');

#
# A partition that grows: the process is stopped as it moves a bucket.
#
query('SELECT rl_reset_all(NULL)');
$node->stop;
unlink(state_file($node));
{
	local %ENV = (%ENV, %seam);

	$node->start;
}
$holder = in_session($node);
$pid = pid_of($holder);
my $stopped = get_seam($seam, 'stopped');
my $made = 0;
# making a bucket looks at the clock once, moving others as often as there are some
while ($made < 200)
{
	$made++;
	set_seam($seam, stop_after => 1);
	set_seam($seam, stop_pid => $pid);
	$holder->{stdin} .= "SELECT rl_consume('key $made', 10, 0);\n\\echo made $made\n";
	wait_for(sub { $holder->{run}->pump_nb; $holder->{stdout} =~ /made $made\b/ || get_seam($seam, 'stopped') > $stopped });
	last if get_seam($seam, 'stopped') > $stopped;
}
cmp_ok($made, '<', 65, 'stopped as the partition grows');
ok(wait_for(sub { slurp_file("/proc/$pid/stat") =~ /\) T / }), '... in the middle');
times_out($_, $_)
  foreach q{SELECT rl_consume('absent', 10, 0)},
  q{SELECT rl_peek('absent', 10, 0)},
  q{SELECT rl_consume_all('{absent,more}', '{10,10}', '{0,0}')},
  q{SELECT rl_reset('absent')},
  q{SELECT rl_reset_all(NULL)};
can_be_interrupted(q{SELECT rl_consume('absent', 10, 0)}, 'a call on a bucket that may be moving');
is(query(q{SET statement_timeout = '60s'; SELECT count(*) FROM rl_status('key 1')}), 1, 'who only shows buckets does not wait');
times_out('SELECT count(*) FROM _rl_export()', 'who must not miss one waits');
query('ALTER SYSTEM SET ratelimit.save_interval = 1');
$node->reload;
ok(wait_for_save($node), 'state is saved meanwhile');
cmp_ok(scalar(keys %{ state_buckets(state_bytes($node)) }), '>=', $made - 2, '... with nearly all of it');
query('ALTER SYSTEM SET ratelimit.save_interval = 0');
$node->reload;
kill('CONT', $pid);
$holder->{run}->pump until $holder->{stdout} =~ /made $made\b/;
$holder->{stdout} = '';
is(query("SELECT count(*) FROM generate_series(1, $made) i, rl_peek('key ' || i, 10, 0, 0) p WHERE p.remaining = 9"),
	$made, 'the process goes on: all buckets are there');
is(twice_living($node), '', '... each once');

#
# A partition's lock, and the slots for a new bucket: the process is stopped between taking
# them and filling them.
#
$pid = stop_in($holder, 3, q{SELECT rl_consume('late', 10, 1e-9)});
is(query(q{SET statement_timeout = '30s'; SELECT rl_consume('key 1', 10, 0)}), 't', 'buckets that are there are decided on');
times_out($_, $_)
  foreach q{SELECT rl_consume('absent', 10, 0)},
  q{SELECT rl_consume_all('{absent,more}', '{10,10}', '{0,0}')};
can_be_interrupted(q{SELECT rl_consume('absent', 10, 0)}, 'a call on a new bucket');
kill('CONT', $pid);
is(end($holder), 't', 'the process goes on');
is(query(q{SELECT count(*) FILTER (WHERE rl_consume('late', 10, 1e-9)) FROM generate_series(1, 20)}), 9, '... and its bucket counts exactly');

#
# The extension is dropped
#
$pid = stop_in($holder, 1, q{SELECT rl_consume_all('{key 1}', '{20}', '{0}')});
$began = monotonic_seconds();
query(q{SET statement_timeout = '60s'; DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit});
cmp_ok(monotonic_seconds() - $began, '<', 40, 'the extension is dropped in time');
is(query("SELECT count(*) FROM generate_series(2, $made) i, rl_peek('key ' || i, 10, 0, 0) p WHERE p.remaining = 10"),
	$made - 1, '... and all other buckets with it');
kill('CONT', $pid);
end($holder);
finish_session($holder);

unlike(slurp_file($node->logfile), qr/PANIC|stuck spinlock|TRAP|terminated by signal/, 'nothing went down');
$node->stop;
done_testing();
