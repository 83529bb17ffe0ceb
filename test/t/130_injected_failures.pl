# At the points in src/ where a failure would do most harm, an error is thrown, a process waits and
# leaves, or is killed (injection_point() in core/compat.h): between taking violations and having
# written them, announcing a row and making it, settling a reservation's buckets, while
# somebody waits for slots, writing the saved state and its taking effect, making memory
# without preloading.  Afterwards everything is exact.
#
# Only a server that is built with injection points has them.
#
# Expected in the log: was terminated by signal 9: Killed
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;
use Time::HiRes;

my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
plan skip_all => 'the server is not built with injection points, which PostgreSQL has since version 17'
  unless `$pg_config --configure` =~ /--enable-injection-points/
  && -e do { chomp(my $folder = `$pg_config --sharedir`); "$folder/extension/injection_points.control" };

my $node = start_server('injected', late => 0, conf => <<'CONF');
ratelimit.max_buckets = 256
ratelimit.max_reservations = 16
ratelimit.save_interval = 1s
ratelimit.flush_interval = 1h
restart_after_crash = on
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# What a statement that fails says
sub error_of
{
	my ($rc, $out, $err) = $node->psql('postgres', $_[0]);

	return $err;
}

sub attach
{
	query("SELECT injection_points_attach('ratelimit-$_[0]', '$_[1]')");
	return;
}

sub detach
{
	query("SELECT injection_points_detach('ratelimit-$_[0]')");
	return;
}

sub wake
{
	query("SELECT injection_points_wakeup('ratelimit-$_[0]')");
	return;
}

# A statement in a session of its own; and what it says in the end.
sub begin
{
	my ($sql) = @_;
	my %run = (out => '');

	$run{handle} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ],
		'<', \undef, '>&', \$run{out}, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%run;
}

sub end
{
	my ($run) = @_;

	$run->{handle}->finish;
	chomp($run->{out});
	return $run->{out};
}

# The process that waits at the point
sub waiting_at
{
	my ($point) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'ratelimit-$point'")
	  or die "nobody waits at $point";
	return query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'ratelimit-$point'");
}

# A statement that has reached the point, and its process
sub begin_and_wait
{
	my ($point, $sql) = @_;

	attach($point, 'wait');
	my $run = begin($sql);
	return ($run, waiting_at($point));
}

# The process is killed, and so the server restarts.
sub kill_at
{
	my ($point, $pid) = @_;
	my $from = -s $node->logfile;

	kill('KILL', $pid);
	$node->wait_for_log(qr/reinitializing.*ready to accept connections/s, $from);
	is(query("SELECT rl_consume('after', 1e9, 0)"), 't', "killed at $point: the server comes back");
	is(twice_living($node), '', '... and no bucket is in two places');
	return;
}

my $thrown = qr/error triggered for injection point/;

sub deny
{
	my ($n) = @_;

	return query("SELECT count(*) FROM generate_series(1, $n) WHERE NOT rl_consume('denied', 0, 0)");
}

sub pending
{
	return query('SELECT coalesce(sum(count), 0) FROM rate_limit_pending');
}

sub written
{
	return query('SELECT coalesce(sum(total_count), 0) FROM rate_limit_violations');
}

# How many of eight calls with five tokens are allowed
sub allowed_of_8
{
	my ($key) = @_;

	return query("SELECT count(*) FILTER (WHERE rl_consume('$key', 5, 0)) FROM generate_series(1, 8)");
}

query('CREATE EXTENSION injection_points');

#
# Flushes
#
my $sum = 0;
foreach my $point (qw(flush-taken flush-written))
{
	deny(10);
	attach($point, 'error');
	like(error_of('SELECT rl_flush()'), $thrown, "error at $point");
	is(pending() . ' ' . written(), "10 $sum", '... all are pending again');
	$node->psql('postgres', <<"SQL", on_error_stop => 0);
BEGIN;
SAVEPOINT one;
SELECT rl_flush();
ROLLBACK TO one;
SELECT injection_points_detach('ratelimit-$point');
SELECT rl_flush();
COMMIT;
SQL
	$sum += 10;
	is(pending() . ' ' . written(), "0 $sum", '... and after one in a subtransaction, the same transaction writes them once');

	deny(10);
	my ($run, $pid) = begin_and_wait($point, 'SELECT rl_flush()');
	deny(5);
	like(error_of("SET lock_timeout = '100ms'; SELECT rl_flush()"), qr/lock timeout/, "one waits at $point: another one waits");
	query("SELECT pg_cancel_backend($pid)");
	like(end($run), qr/canceling statement/, '... the first is cancelled');
	is(pending() . ' ' . written(), "15 $sum", '... all are pending again');
	detach($point);

	($run, $pid) = begin_and_wait($point, 'SELECT rl_flush()');
	deny(5);
	detach($point);
	wake($point);
	is(end($run), 1, '... one goes on');
	$sum += 15;
	is(pending() . ' ' . written(), "5 $sum", '... it has written what it had taken');

	($run, $pid) = begin_and_wait($point, 'SELECT rl_flush()');
	kill_at($point, $pid);
	end($run);
	is(pending() . ' ' . written(), "0 $sum", '... what was pending is lost, and nothing is written');
}
{
	my $point = 'flush-committed';

	deny(10);
	my ($run, $pid) = begin_and_wait($point, 'SELECT rl_flush()');
	$sum += 10;
	is(written(), $sum, "one waits at $point: all are written");
	deny(5);
	query("SELECT pg_cancel_backend($pid)");
	detach($point);
	wake($point);
	end($run);
	is(pending() . ' ' . written(), "5 $sum", '... and what has come since is pending');

	($run, $pid) = begin_and_wait($point, 'SELECT rl_flush()');
	$sum += 5;
	kill_at($point, $pid);
	end($run);
	query('SELECT rl_flush()');
	is(pending() . ' ' . written(), "0 $sum", '... all are written once');
}

#
# Rows
#
# the worker comes often, and goes through the table
query(q{ALTER SYSTEM SET ratelimit.flush_interval = '1s'});
$node->reload;
{
	my $point = 'row-announced';

	fill_until_spilled($node, 'fill', 1, 0);
	attach($point, 'error');
	like(error_of("SELECT rl_consume('thrown', 5, 0)"), $thrown, "error at $point");
	detach($point);
	is(allowed_of_8('thrown'), 5, '... the bucket is full');
	is(store_of($node, 'thrown'), 'table', '... and then in the table');

	my ($run, $pid) = begin_and_wait($point, "SELECT rl_consume('waited', 5, 0)");
	like(error_of("SET statement_timeout = '200ms'; SELECT rl_consume('waited', 5, 0)"), qr/statement timeout/, "one waits at $point: another one waits");
	is(allowed_of_8('thrown'), 0, '... but not for other rows');
	detach($point);
	wake($point);
	is(end($run), 't', '... one goes on');
	is(allowed_of_8('waited'), 4, '... and its token is taken');

	($run, $pid) = begin_and_wait($point, "SELECT rl_consume('left', 5, 0)");
	query("SELECT pg_terminate_backend($pid)");
	end($run);
	detach($point);
	is(allowed_of_8('left'), 5, "one is terminated at $point: the bucket is full");

	$point = 'rows-made';
	my $all = q{SELECT rl_consume_all('{first,second}', '{5,5}', '{0,0}')};
	attach($point, 'error');
	like(error_of($all), $thrown, "error at $point");
	detach($point);
	($run, $pid) = begin_and_wait($point, $all);
	is(query("SELECT rl_consume('first', 5, 0)"), 't', "one waits at $point: its rows can be used");
	query("SELECT pg_cancel_backend($pid)");
	like(end($run), qr/canceling statement/, '... it is cancelled');
	detach($point);
	is(allowed_of_8('first') . allowed_of_8('second'), '45', '... and has taken from none');

	query('SELECT rl_reset_all(NULL)');
	ok(wait_until_nothing_spilled($node), 'no row remains announced');

	fill_until_spilled($node, 'again', 1, 0);
	($run, $pid) = begin_and_wait('row-announced', "SELECT rl_consume('killed', 5, 0)");
	kill_at('row-announced', $pid);
	end($run);
	is(allowed_of_8('killed'), 5, '... and it has taken nothing');
	fill_until_spilled($node, 'more', 1, 0);
	($run, $pid) = begin_and_wait('rows-made', q{SELECT rl_consume_all('{third,fourth}', '{5,5}', '{0,0}')});
	kill_at('rows-made', $pid);
	end($run);
	is(allowed_of_8('third') . allowed_of_8('fourth'), '55', '... and it has taken nothing');
	query('SELECT rl_reset_all(NULL)');
	ok(wait_until_nothing_spilled($node), 'no row remains announced');
}

#
# Reservations: in memory and, when it has no room, in the table
#
sub remaining
{
	my ($key, $limiter) = @_;

	return query("SELECT (rl_peek('$key', 10, 0, 0, '$limiter')).remaining");
}

query(q{INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('both', 'one', 10, 0, true), ('both', 'two', 10, 0, true)});
foreach my $where (qw(memory table))
{
	my $point = 'reservation-begun';
	my $number;

	if ($where eq 'table')
	{
		query("CREATE TABLE fillers AS SELECT rl_reserve('filler' || i, 10, 0, 1, '1 hour') AS number FROM generate_series(1, 16) i");
		attach('reservation-inserted', 'error');
		like(error_of("SELECT rl_reserve('kept', 10, 0, 4)"), $thrown, 'error at reservation-inserted');
		detach('reservation-inserted');
		is(remaining('kept', 'default'), 10, '... nothing is taken');
		my ($run, $pid) = begin_and_wait('reservation-inserted', "SELECT rl_reserve('kept', 10, 0, 4)");
		query("SELECT pg_cancel_backend($pid)");
		like(end($run), qr/canceling statement/, '... one is cancelled there');
		detach('reservation-inserted');
		is(remaining('kept', 'default'), 10, '... nothing is taken');
	}

	$number = query("SELECT rl_reserve('$where', 10, 0, 4, '1 hour')");
	is(query("SELECT count(*) FROM rate_limit_reserved WHERE reservation = $number"), $where eq 'table' ? 1 : 0, "a reservation in $where");
	attach($point, 'error');
	like(error_of("SELECT rl_settle($number, 1)"), $thrown, "$where: error at $point");
	detach($point);
	is(remaining($where, 'default'), 6, '... nothing is given back');
	my ($run, $pid) = begin_and_wait($point, "SELECT rl_settle($number, 1)");
	is(query("SELECT rl_settle($number, 1) IS NULL"), 't', "$where: one waits at $point: another one cannot settle it");
	query("SELECT pg_cancel_backend($pid)");
	like(end($run), qr/canceling statement/, '... the first is cancelled');
	detach($point);
	is(query("SELECT rl_settle($number, 1)"), 9, '... and it can be settled');
	is(query("SELECT rl_settle($number, 1) IS NULL"), 't', '... once');
	is(remaining($where, 'default'), 9, '... exactly');

	$number = query("SELECT rl_reserve_policy('both', '$where', 4, '1 hour')");
	attach('bucket-settled', 'error');
	like(error_of("SELECT rl_settle($number, 1)"), $thrown, "$where: error at bucket-settled");
	detach('bucket-settled');
	is(query("SELECT rl_settle($number, 1)"), $where eq 'memory' ? 9 : '', '... '
		  . ($where eq 'memory' ? 'the other bucket is settled later' : 'a row is settled as a whole or not at all'));
	is(remaining($where, 'both/one') . ' ' . remaining($where, 'both/two'), $where eq 'memory' ? '9 9' : '9 6', '... and no bucket twice');
}
{
	my ($run, $pid) = begin_and_wait('reservation-inserted', "SELECT rl_reserve('killed there', 10, 0, 4)");

	kill_at('reservation-inserted', $pid);
	end($run);
	like(remaining('killed there', 'default'), qr/^(6|10)$/, '... and its tokens are taken or not, as state was saved');
}
query('SELECT rl_settle(number, 0) FROM fillers');
foreach my $point (qw(reservation-begun bucket-settled))
{
	my $number = query("SELECT rl_reserve('$point', 10, 0, 4, '1 hour')");

	ok(wait_for_save($node), 'saved');
	my ($run, $pid) = begin_and_wait($point, "SELECT rl_settle($number, 1)");
	kill_at($point, $pid);
	end($run);
	# the bucket is as it was when state was saved last; reservations expire with a crash
	is(query("SELECT rl_settle($number, 0) IS NULL"), 't', '... the reservation is not outstanding');
	like(remaining($point, 'default'), qr/^[69]$/, '... and nothing is given back twice');
}

#
# Slots
#
{
	my $point = 'slot-awaited';
	my $acquire = q{SELECT rl_acquire('slots', 1, 1, '1 hour')};
	my $await = q{SELECT rl_acquire('slots', 1, 1, '1 hour', '10 min')};
	my $held = query($acquire);

	attach($point, 'error');
	like(error_of($await), $thrown, "error at $point");
	detach($point);
	is(query("SELECT rl_release($held)"), 't', '... the slot is free');
	$held = query($acquire);
	isnt($held, '', '... and nobody waits for it any more');

	my ($run, $pid) = begin_and_wait($point, $await);
	is(query("SELECT rl_release($held)"), 't', "one waits at $point: the slot is its own");
	is(query($acquire), '', '... which others see');
	detach($point);
	wake($point);
	$held = end($run);
	like($held, qr/^\d+$/, '... and then itself');
	is(query("SELECT rl_release($held)"), 't', '... and it frees it');

	$held = query($acquire);
	($run, $pid) = begin_and_wait($point, $await);
	query("SELECT rl_release($held)");
	query("SELECT pg_terminate_backend($pid)");
	end($run);
	detach($point);
	ok($node->poll_query_until('postgres', q{SELECT rl_acquire('slots', 1) IS NOT NULL}), "one that has got the slot is terminated at $point: the slot is free");

	$held = query($acquire);
	($run, $pid) = begin_and_wait($point, $await);
	kill_at($point, $pid);
	end($run);
	query("SELECT rl_release($held)");
	isnt(query($acquire), '', '... and the slot can be had');
}

#
# The saved state
#
sub saved_at
{
	return state_header(state_bytes($node))->{saved_at};
}

# The saver waits at the point: the new file is complete, as its header says, which is written last.
sub wait_until_aside
{
	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $bytes = eval { slurp_file(state_file($node) . '.new') } // '';

		return 1 if length($bytes) > 512 && state_header($bytes)->{saved_at} > saved_at();
		Time::HiRes::usleep(10_000);
	}
	return 0;
}
{
	my $point = 'state-written';
	my $from = -s $node->logfile;

	attach($point, 'error');
	ok($node->wait_for_log($thrown, $from), "error at $point");
	my $bytes = state_bytes($node);
	is(query("SELECT rl_consume('meanwhile', 2, 0)"), 't', '... calls do not mind');
	ok($bytes eq state_bytes($node), '... and the file is the one before');
	detach($point);
	ok(wait_for_save($node), '... and then state is saved');
	ok(state_buckets(state_bytes($node))->{ query("SELECT oid FROM pg_database WHERE datname = 'postgres'") . '/default/meanwhile' },
		'... all of it');

	attach($point, 'wait');
	ok(wait_until_aside(), "the saver waits at $point");
	is(query("SELECT rl_consume('meanwhile', 2, 0)"), 't', '... calls do not mind');
	kill_at($point, saver_pid($node));
	is(query("SELECT rl_consume('meanwhile', 2, 0), rl_consume('meanwhile', 2, 0)"), 't|f', '... with the state that was saved before');
	ok(wait_for_save($node), '... and state is saved again');
}
$node->stop;

#
# Without preloading
#
$node = PostgreSQL::Test::Cluster->new('injected_late');
$node->init;
$node->append_conf('postgresql.conf', "ratelimit.max_buckets = 1024\nrestart_after_crash = on\n");
$node->start;
query('CREATE EXTENSION injection_points');
attach('late-make', 'error');
like(error_of('CREATE EXTENSION ratelimit'), qr/system refuses shared memory.*$thrown/s, 'error at late-make: the system is said to refuse memory');
detach('late-make');
is(query("SELECT rl_consume('late', 3, 0)"), 't', '... calls are decided');
is(store_of($node, 'late'), 'table', '... in the table');

$node->restart;
{
	my ($run, $pid) = begin_and_wait('late-make', "SELECT rl_consume('late', 3, 0)");
	like(error_of("SET statement_timeout = '200ms'; SELECT rl_consume('late', 3, 0)"), qr/statement timeout/, 'one waits at late-make: another one waits');
	detach('late-make');
	wake('late-make');
	is(end($run), 't', '... one goes on');
	is(query("SELECT rl_consume('late', 3, 0), rl_consume('late', 3, 0)"), 't|f', '... and others decide by the same memory');
}

attach('late-attach', 'error');
like(error_of("SELECT rl_consume('alone', 1, 0)"), qr/this session keeps buckets in the table.*$thrown/s, 'error at late-attach: the session says that it is alone');
detach('late-attach');
is(query("SELECT rl_consume('together', 1, 0)"), 't', '... others decide');
is(store_of($node, 'together'), 'memory', '... in memory');
{
	my ($run, $pid) = begin_and_wait('late-attach', "SELECT rl_consume('killed', 1, 0)");
	kill_at('late-attach', $pid);
	end($run);
	is(store_of($node, 'after'), 'memory', '... with memory');
}

$node->restart;
attach('late-load', 'error');
is(query("SELECT rl_consume('without', 1, 0)"), 't', 'error at late-load: calls are decided');
is(store_of($node, 'without'), 'memory', '... in memory');
like(slurp_file($node->logfile), qr/could not load all of the saved state: $thrown/, '... without what was saved');
detach('late-load');

foreach my $point (qw(late-make late-load))
{
	$node->restart;
	my ($run, $pid) = begin_and_wait($point, "SELECT rl_consume('killed', 1, 0)");
	kill_at($point, $pid);
	end($run);
	is(store_of($node, 'after'), 'memory', '... with memory');
}

$node->stop;
done_testing();
