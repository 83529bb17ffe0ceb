# rl_wait(): who comes first is due first, nobody is let through before his tokens
# are due, and those of a wait that is cancelled, terminated or times out go back;
# in shared memory and in the table.
#
# What is checked does not depend on how fast the machine is: that no wait ends
# before it is due, and what the buckets are owed when all is over.  How late waits
# end is printed.
#
# RATELIMIT_FULL=1 for longer loads.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};

# What waits write down when they end.
my $schema = <<'SQL';
CREATE UNLOGGED TABLE came (who int);
CREATE UNLOGGED TABLE done (id bigserial, who int, at timestamptz DEFAULT clock_timestamp());
SQL

sub wait_and_note
{
	my ($who, $arguments) = @_;

	return "INSERT INTO done (who) SELECT $who FROM (SELECT rl_wait($arguments) AS ok OFFSET 0) w WHERE ok;";
}

# When, in seconds, the bucket will be full.
sub full_at
{
	my ($node, $key) = @_;

	return $node->safe_psql('postgres', "SELECT extract(epoch FROM full_at) FROM rate_limit_status WHERE key = '$key'");
}

sub now
{
	my ($node) = @_;

	return $node->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())');
}

# Sessions that are in rl_wait(): asleep in it, or queued for a row.
my $waiting = q{FROM pg_stat_activity WHERE query ~ 'rl_wait|try_wait' AND pid <> pg_backend_pid() AND state = 'active' AND wait_event_type IN ('Extension', 'Lock')};

sub wait_until_waiting
{
	my ($node, $n) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) = $n $waiting") or die "never were there $n waiting";
	return;
}

# Likewise, unless the first of them is done before; then false.
sub all_waiting
{
	my ($node, $n) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) = $n OR EXISTS (SELECT FROM done) $waiting") or die "never were there $n waiting";
	return $node->safe_psql('postgres', 'SELECT NOT EXISTS (SELECT FROM done)') eq 't';
}

# A bucket of capacity 1000 that owes so many tokens more than that.  When it will
# be full, and when it will have paid its debt.
sub make_debtor
{
	my ($node, $key, $rate, $debt) = @_;

	$node->safe_psql('postgres', "TRUNCATE came, done; SELECT rl_penalize('$key', 1000, $rate, 1000 + $debt)");
	my $full_at = full_at($node, $key);
	return ($full_at, $full_at - 1000 / $rate);
}

# Nobody was done before he was due; how late they were.
sub check_done
{
	my ($node, $name, $paid_at, $rate) = @_;
	my $early = 0;
	my $k = 0;
	my @late;

	foreach my $at (split /\n/, $node->safe_psql('postgres', 'SELECT extract(epoch FROM at) FROM done ORDER BY at'))
	{
		my $due = $paid_at + ++$k / $rate;

		# the clocks may be a little apart
		$early++ if $at < $due - 0.002;
		push @late, $at - $due;
	}
	is($early, 0, "$name: nobody was let through before his turn");
	return @late;
}

sub note_lateness
{
	my ($name, @late) = @_;
	my @sorted = sort { $a <=> $b } @late;
	my $within = grep { $_ <= 0.005 } @late;

	note sprintf '%s: woken %.2f ms late (median), %.2f ms (worst), %d of %d within 5 ms',
	  $name, 1000 * $sorted[ $#sorted / 2 ], 1000 * $sorted[-1], $within, scalar(@late);
	return;
}

# The bucket owes what it did, and what those took that are done; to less than a token,
# as the wall clock may be set, by milliseconds.  A session that is terminated gives back
# after it has said so.
sub check_tokens
{
	my ($node, $name, $key, $full_at, $rate) = @_;

	$node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')}) or die 'clients do not end';
	my $done = $node->safe_psql('postgres', 'SELECT count(*) FROM done');
	my $taken = (full_at($node, $key) - $full_at) * $rate;

	cmp_ok(abs($taken - $done), '<', 0.75, "$name: $done waits came to their end, and no token is lost or made")
	  or diag("taken: $taken");
	return;
}

sub check_calls
{
	my ($node, $name) = @_;
	my $sql = sub { return $node->safe_psql('postgres', $_[0]); };
	my $error = sub { my ($rc, $out, $err) = $node->psql('postgres', $_[0]); return $err; };
	my $in_memory = $name eq 'memory';
	my $began = monotonic_seconds();

	is($sql->("SELECT rl_wait('calls', 2, 0), rl_wait('calls', 2, 0), rl_wait('calls', 2, 0)"), 't|t|f', "$name: tokens that are there need no wait, what never comes is not waited for");
	is($sql->("SELECT rl_wait('slow', 1, 0.001), rl_wait('slow', 1, 0.001), rl_wait('slow', 1, 0.001, timeout => '900 s')"), 't|f|f', "$name: false with the timeout too short");
	is($sql->("SELECT rl_wait('slow', 1, 0.001, 1, '0')"), 'f', "$name: ... also when it is 0");
	my $full_at = full_at($node, 'slow');
	cmp_ok($full_at - now($node), '>', 900, "$name: ... of which nothing came back");
	is($sql->("SELECT rl_wait('slow', 1, 0.001), rl_wait('slow', 1, 0.001, 0), rl_wait('slow', 1, 0.001, 2, '100 years')"), 'f|t|f', "$name: cost 0 is always there, more than the capacity never");
	cmp_ok(abs(full_at($node, 'slow') - $full_at), '<', 0.1, "$name: ... and nothing was taken");
	is($sql->("SELECT rl_block('calls', '1 min'), rl_wait('calls', 2, 1000, 1, '1 hour'), rl_wait('calls', 2, 1000, 0, '1 hour')"), '|f|f', "$name: a blocked key is not waited for");
	is($sql->("SET ratelimit.shadow = on; SELECT rl_wait('slow', 1, 0.001), rl_wait('slow', 1, 0.001, 1, '2 hours')"), 't|t', "$name: nobody waits in shadow mode");
	is($sql->("SET ratelimit.enabled = off; SELECT rl_wait('slow', 1, 0.001), rl_wait('slow', 1, 0.001, 9, '2 hours')"), 't|t', "$name: ... nor when disabled");
	is($sql->("SELECT rl_wait('long', 1e12, 1.0 / 31557600, 1e12), rl_wait('long', 1e12, 1.0 / 31557600, 1e12, '1 year')"), 't|f', "$name: a full bucket need not be waited for, however large");
	like($error->("SELECT rl_wait('calls', 2, 0, 1, '-1 s')"), qr/timeout must not be below 0, not -00:00:01/, "$name: a negative timeout");
	like($error->("SELECT rl_wait('calls', 2, 0, 1, NULL)"), qr/timeout must not be null/, "$name: no timeout");
	cmp_ok(monotonic_seconds() - $began, '<', 60, "$name: none of these waited");

	# a wait that is seen, and cancelled
	foreach my $how ('pg_cancel_backend', 'pg_terminate_backend', 'statement_timeout')
	{
		$sql->("SELECT rl_reset('slow'), rl_consume('slow', 2, 0.001, 2)");
		$full_at = full_at($node, 'slow');
		$began = monotonic_seconds();
		my $waiter = in_session($node);
		$waiter->query_safe('SET statement_timeout = 300') if $how eq 'statement_timeout';
		$waiter->query_until(qr/^begun$/m, "\\echo begun\nSELECT rl_wait('slow', 2, 0.001, 2, '1 hour');\n\\echo over\n");
		if ($how ne 'statement_timeout')
		{
			wait_until_waiting($node, 1);
			is($sql->("SELECT wait_event_type, wait_event $waiting"),
				$sql->("SELECT 'Extension|' || CASE WHEN current_setting('server_version_num')::int < 170000 THEN 'Extension' ELSE 'RateLimitWait' END"),
				"$name: a wait can be seen");
			if ($in_memory)
			{
				cmp_ok(full_at($node, 'slow') - $full_at, '>', 1999, "$name: ... its tokens are taken");
			}
			$sql->("SELECT $how(pid) $waiting");
		}
		wait_until_waiting($node, 0);
		ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE query ~ 'rl_wait' AND pid <> pg_backend_pid() AND state = 'active'"), "$name: $how ends it");
		cmp_ok(monotonic_seconds() - $began, '<', 60, "$name: ... at once");
		cmp_ok(abs(full_at($node, 'slow') - $full_at), '<', 0.1, "$name: ... and the tokens are back");
		$how eq 'pg_terminate_backend' ? $waiter->{run}->finish : finish_session($waiter);
	}
	is($sql->("SELECT denied > 0 FROM rate_limit_stats WHERE limiter IS NULL"), $name eq 'memory' ? 't' : '', "$name: figures, where they are counted");
	$sql->('SELECT rl_reset_all(NULL)');
	return;
}

# Waiters that come one after the other.
sub check_order
{
	my ($node, $name) = @_;
	my $n = 6;
	my @sessions = map { in_session($node) } 1 .. $n;
	my ($full_at, $paid_at);

	# again with more time should the machine have been too slow
	foreach my $debt (6, 30, 90)
	{
		($full_at, $paid_at) = make_debtor($node, 'order', 3, $debt);
		foreach my $k (1 .. $n)
		{
			$sessions[ $k - 1 ]->query_until(qr/^begun$/m, "\\echo begun\n" . wait_and_note($k, "'order', 1000, 3") . "\n");
			last if !all_waiting($node, $k);
		}
		last if now($node) < $paid_at && all_waiting($node, $n);
		wait_until_waiting($node, 0);
		$node->safe_psql('postgres', "SELECT rl_reset('order')");
	}
	wait_until_waiting($node, 0);
	is($node->safe_psql('postgres', "SELECT string_agg(who::text, ' ' ORDER BY id) FROM done"), join(' ', 1 .. $n), "$name: first come, first served");
	my $early = 0;
	foreach (split /\n/, $node->safe_psql('postgres', 'SELECT who, extract(epoch FROM at) FROM done'))
	{
		my ($k, $at) = split /\|/;

		$early++ if $at < $paid_at + $k / 3 - 0.002;
	}
	is($early, 0, "$name: ... each when he is due");
	check_tokens($node, $name, 'order', $full_at, 3);
	finish_session($_) foreach @sessions;
	return;
}

# Many waiters, of whom some are cancelled, terminated or time out while all wait.
sub check_cancelled
{
	my ($node, $name, $n, $rate, $debt) = @_;
	my ($full_at, $paid_at);

	# again with more time should the machine have been too slow
	foreach my $again (1 .. 3)
	{
		($full_at, $paid_at) = make_debtor($node, 'cancelled', $rate, $debt);
		my $run = start_clients(
			$node,
			clients => $n,
			transactions => 1,
			script => <<"SCRIPT" . wait_and_note(':client_id', "'cancelled', 1000, $rate"));
INSERT INTO came VALUES (:client_id);
\\if :client_id < 3
SELECT set_config('statement_timeout', (200 + 100 * random())::int::text, false);
\\endif
SCRIPT
		$node->poll_query_until('postgres', "SELECT count(*) = $n FROM came")
		  or die 'not all came';
		my $in_time = all_waiting($node, $n - 3);
		$node->safe_psql('postgres', <<"SQL");
SELECT CASE WHEN n <= 4 THEN pg_cancel_backend(pid) ELSE pg_terminate_backend(pid) END
FROM (SELECT pid, row_number() OVER (ORDER BY random()) AS n $waiting) w WHERE n <= 7
SQL
		$in_time &&= all_waiting($node, $n - 10) && now($node) < $paid_at;
		$run->{handle}->finish;
		my $aborted = () = $run->{output} =~ /canceling statement due to|terminating connection due to/g;
		next if !$in_time && $again < 3;
		ok($in_time, "$name: all of $n waited at the same time");
		is($aborted, 10, "$name: ten of them were cancelled, terminated or timed out") or diag($run->{output});
		last;
	}
	continue
	{
		$debt *= 3;
		$node->safe_psql('postgres', "SELECT rl_reset('cancelled')");
	}
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT who) FROM done'), ($n - 10) . '|' . ($n - 10), "$name: the others were served");
	check_done($node, $name, $paid_at, $rate);
	check_tokens($node, $name, 'cancelled', $full_at, $rate);
	return;
}

# The rate at which many waiters get on who come again and again.
sub check_rate
{
	my ($node, $name, $clients, $rate, $each) = @_;
	my ($full_at, $paid_at) = make_debtor($node, 'rate', $rate, $rate);
	my $n = $clients * $each;

	run_clients($node, $name, clients => $clients, transactions => $each,
		script => wait_and_note(':client_id', "'rate', 1000, $rate"));
	is($node->safe_psql('postgres', 'SELECT count(*) FROM done'), $n, "$name: all were served");
	my @late = check_done($node, $name, $paid_at, $rate);
	my $seconds = $n / $rate;
	# that one of many was woken in time shows that the tokens were there; one of half of
	# them, as a machine that pauses wakes none
	my ($least) = sort { $a <=> $b } map { $late[$_] / (($_ + 1) / $rate) } $#late / 2 .. $#late;
	cmp_ok($least, '<', 0.02, "$name: $rate/s within 2 %");
	check_tokens($node, $name, 'rate', $full_at, $rate);
	note sprintf '%s: %d waits, %.2f/s', $name, $n, $n / ($seconds + $late[-1]);
	note_lateness($name, @late);
	return;
}

#
# In shared memory
#
my $node = start_server('memory', conf => 'max_connections = 100');
$node->safe_psql('postgres', $schema);
check_calls($node, 'memory');
check_order($node, 'memory, order');
check_cancelled($node, 'memory, cancelled', 50, 100, 300);
check_rate($node, 'memory, rate', 50, 100, $full ? 40 : 8);
is($node->safe_psql('postgres', "BEGIN READ ONLY; SELECT rl_wait('rate', 1000, 100); COMMIT"), 't', 'memory: in a read-only transaction, too');

# Under load, waits end in any way at any time.  With refunds, what is committed is
# what was taken: no matter when the end comes.
my $storm = <<'SQL';
CREATE FUNCTION try_wait() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF rl_wait('storm', 1000, 100, 1, '10 s') THEN
		INSERT INTO done (who) VALUES (0);
	END IF;
EXCEPTION
	WHEN query_canceled THEN
		NULL;
END $$;
ALTER DATABASE postgres SET ratelimit.refund_on_rollback = on;
SQL
$node->safe_psql('postgres', $storm);
my ($full_at, $paid_at) = make_debtor($node, 'storm', 100, 100);
my $run = start_clients(
	$node,
	clients => 50,
	transactions => $full ? 80 : 15,
	script => <<'SCRIPT');
\set ms random(1, 1200)
SELECT set_config('statement_timeout', (:ms)::text, false);
SELECT try_wait();
SCRIPT
my $disturbed = 0;
# not all of them, however fast this goes
while ($disturbed < 150 && $run->{handle}->pumpable)
{
	$disturbed += $node->safe_psql('postgres', <<"SQL");
SELECT count(CASE WHEN random() < 0.9 THEN pg_cancel_backend(pid) ELSE pg_terminate_backend(pid) END)
FROM (SELECT pid $waiting ORDER BY random() LIMIT 5) w
SQL
	$run->{handle}->pump_nb;
}
$run->{handle}->finish;
my $served = $node->safe_psql('postgres', 'SELECT count(*) FROM done');
cmp_ok($disturbed, '>', 10, 'memory, storm: waits were cancelled and terminated');
cmp_ok($served, '>', 50, 'memory, storm: and others came to their end');
check_done($node, 'memory, storm', $paid_at, 100);
check_tokens($node, 'memory, storm', 'storm', $full_at, 100);
note "memory, storm: $disturbed cancelled or terminated, $served served";
$node->stop;

#
# In the table
#
foreach my $preload (0, 1)
{
	my $name = $preload ? 'spilled' : 'table';

	$node = start_server($name, preload => $preload, conf => "max_connections = 100\nratelimit.max_buckets = 16");
	$node->safe_psql('postgres', $schema);
	fill_until_spilled($node, 'filling', 2, 0) if $preload;
	check_calls($node, $name) if !$preload;
	check_order($node, "$name, order");
	check_cancelled($node, "$name, cancelled", 20, 50, 150);
	check_rate($node, "$name, rate", 20, 50, $full ? 40 : 6);
	is(store_of($node, 'rate'), 'table', "$name: all of it in the table");

	# a row in debt: nobody waits for it that would have to for too long
	my $sql = sub { return $node->safe_psql('postgres', $_[0]); };
	$sql->("SELECT rl_consume('row', 2, 0.01, 2)");
	$full_at = full_at($node, 'row');
	my $waiter = in_session($node);
	$waiter->query_until(qr/^begun$/m, "\\echo begun\nSELECT rl_wait('row', 2, 0.01, 1, '1 hour');\n");
	wait_until_waiting($node, 1);
	is($sql->("SELECT rl_wait('row', 2, 0.01, 1, '200 ms'), rl_wait('row', 2, 0.01, 1, '0')"), 'f|f', "$name: the next one has only so much time");
	is($sql->("SELECT count(*) $waiting"), 1, "$name: ... while the first one goes on waiting");
	is($sql->("SELECT count(*) FROM pg_locks WHERE relation = 'rate_limit_buckets'::regclass AND pid IN (SELECT pid $waiting)"), 0, "$name: ... and locks nothing");
	$sql->("SELECT pg_cancel_backend(pid) $waiting");
	wait_until_waiting($node, 0);
	cmp_ok(abs(full_at($node, 'row') - $full_at), '<', 0.1, "$name: cancelled, its tokens are back");
	finish_session($waiter);
	$node->stop;
}
done_testing();
