# Who waits for slots gets them in the order of coming, whatever happens to the others:
# they are cancelled or terminated, or their time is over.  What is held for a
# transaction, a session or an interval is freed when that ends, however it ends: also
# by a restart, or a crash.  In shared memory, and without it; on a standby, too.
#
# RATELIMIT_FULL=1 for 500 waiters.
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

my $full = $ENV{RATELIMIT_FULL};

my $schema = <<'SQL';
CREATE UNLOGGED TABLE done (id bigserial, pid int);
SQL

# Sessions that sleep until they get slots: in the extension or, without shared memory,
# queued for a lock.
my $waiting = q{FROM pg_stat_activity WHERE query ~ 'rl_acquire' AND pid <> pg_backend_pid() AND state = 'active' AND (wait_event_type = 'Extension' OR wait_event_type = 'Lock')};

sub wait_until_waiting
{
	my ($node, $n) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) = $n $waiting") or die "never were there $n waiting";
	return;
}

# A session in which a call waits; or has waited, if that may be over before we see it.
sub begin_waiting
{
	my ($node, $call, $n, $may_be_over) = @_;
	my $session = in_session($node);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_until(qr/^begun$/m, "\\echo begun\nSELECT 'got', $call > 0;\n");
	$may_be_over
	  ? $node->poll_query_until('postgres', "SELECT (SELECT count(*) = $n $waiting) OR EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND state = 'idle' AND query ~ 'rl_acquire')") || die 'it neither waits nor has waited'
	  : wait_until_waiting($node, $n);
	return $session;
}

sub value
{
	my ($node, $sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

#
# n waiters, one after the other; some of them give up
#
sub check_order
{
	my ($node, $name, $n) = @_;
	my $holder = in_session($node);
	# the first of the queue waits for slots, the others for its lock
	my $queue = $name eq 'memory' ? "SELECT pid, since AS at FROM rate_limit_slots WHERE state = 'waiting'"
	  : "SELECT pid, coalesce(waitstart, '-infinity') AS at FROM pg_locks WHERE locktype = 'userlock' AND objsubid = -1 AND (granted OR waitstart IS NOT NULL)";

	value($node, 'TRUNCATE done');
	$holder->query_safe("SELECT rl_acquire('order', 1, 1, 'session') AS ticket \\gset");
	my $run = start_clients(
		$node,
		clients => $n,
		transactions => 1,
		script => <<'SCRIPT');
SELECT rl_acquire('order', 1, 1, 'session', '5 min') AS ticket \gset
INSERT INTO done (pid) VALUES (pg_backend_pid());
SELECT rl_release(:ticket);
SCRIPT
	$node->poll_query_until('postgres', "SELECT count(*) = $n FROM ($queue) q") or die 'not all wait';
	is(value($node, "SELECT count(*), max(waiting), max(held) FROM rate_limit_slots WHERE state = 'waiting'"), "$n|$n|1", "$name: the view shows them")
	  if $name eq 'memory';
	my @pids = split /\n/, value($node, "SELECT pid FROM ($queue) q ORDER BY at");
	# of every ten, one is cancelled and one is terminated, the first and last among them
	my @cancelled = map { $_ % 10 == 0 ? $pids[$_] : () } 0 .. $#pids;
	my @terminated = map { $_ % 10 == 9 ? $pids[$_] : () } 0 .. $#pids;
	my @left = map { $_ % 10 == 0 || $_ % 10 == 9 ? () : $pids[$_] } 0 .. $#pids;
	value($node, "SELECT pg_cancel_backend(pid) FROM unnest(ARRAY[" . join(', ', @cancelled) . "]) pid; SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[" . join(', ', @terminated) . "]) pid");
	$node->poll_query_until('postgres', "SELECT count(*) = " . @left . " FROM ($queue) q") or die 'they do not leave';
	is(value($node, 'SELECT count(*) FROM done'), 0, "$name: nobody gets what is held");
	my $began = monotonic_seconds();
	$holder->query_safe('SELECT rl_release(:ticket)');
	$run->{handle}->finish;
	note sprintf '%s: %d waiters served in %.2f s', $name, scalar(@left), monotonic_seconds() - $began;
	is(value($node, "SELECT string_agg(pid::text, ' ' ORDER BY id) FROM done"), "@left", "$name: first come, first served, without those that have left");
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM rate_limit_slots') or die 'some are left';
	finish_session($holder);
	return;
}

#
# Two waiters, of whom the first needs two slots
#
sub check_heavy
{
	my ($node, $name) = @_;
	my $holder = in_session($node);

	foreach my $how ('granted', 'cancelled', 'terminated', 'timed out')
	{
		my $timeout = $how eq 'timed out' ? '1500 ms' : '5 min';

		$holder->query_safe("SELECT rl_acquire('heavy', 2, 1, 'session') AS ticket \\gset");
		my $heavy = begin_waiting($node, "rl_acquire('heavy', 2, 2, 'session', '$timeout')", 1, $how eq 'timed out');

		# one slot is free, and others wait for it
		my $denied = value($node, "SELECT rl_acquire('heavy', 2) IS NULL");
		my $light = begin_waiting($node, "rl_acquire('heavy', 2, 1, 'session', '5 min')", 2)
		  if $how ne 'timed out';

		is($denied, 't', "$name: nobody overtakes one that waits for more ($how)") if $how ne 'timed out';
		if ($how eq 'granted')
		{
			$holder->query_safe('SELECT rl_release(:ticket)');
			like($heavy->query_safe('SELECT 1'), qr/1/, "$name: it gets them");
			# it may look just then whether it is its turn
			wait_until_waiting($node, 1);
			pass("$name: ... and the other one waits on");
		}
		elsif ($how ne 'timed out')
		{
			my $function = $how eq 'cancelled' ? 'pg_cancel_backend' : 'pg_terminate_backend';

			value($node, "SELECT $function(pid) $waiting AND query ~ ' 2, 2'");
		}
		else
		{
			$light = in_session($node);
			$light->query_safe("SELECT 'got', rl_acquire('heavy', 2, 1, 'session', '5 min') > 0");
		}
		if ($how eq 'terminated')
		{
			$heavy->{run}->finish;
		}
		else
		{
			finish_session($heavy);
		}
		like($light->query_safe('SELECT 1'), qr/1/, "$name: the one behind it gets its slot ($how)");
		finish_session($light);
		$holder->query_safe('SELECT rl_release(:ticket)') if $how ne 'granted';
		$node->poll_query_until('postgres', "SELECT rl_acquire('heavy', 2, 2) IS NOT NULL") or die 'never free';
	}
	finish_session($holder);
	return;
}

#
# What is held is freed, and waiters get it
#
sub check_ends
{
	my ($node, $name) = @_;
	my %ends = (
		'commit' => [ "BEGIN;\nSELECT rl_acquire('end', 1)", 'COMMIT' ],
		'rollback' => [ "BEGIN;\nSELECT rl_acquire('end', 1)", 'ROLLBACK' ],
		'rollback to a savepoint' => [ "BEGIN;\nSAVEPOINT a;\nSELECT rl_acquire('end', 1)", 'ROLLBACK TO a' ],
		'release' => [ "SELECT rl_acquire('end', 1, 1, 'session') AS ticket \\gset", 'SELECT rl_release(:ticket)' ],
		'terminated transaction' => [ "BEGIN;\nSELECT rl_acquire('end', 1)", undef ],
		'terminated session' => [ "SELECT rl_acquire('end', 1, 1, 'session')", undef ],
		'interval' => [ "SELECT rl_acquire('end', 1, 1, '1 s')", '' ],
		'interval renewed to less' => [ "SELECT rl_acquire('end', 1, 1, '1 hour') AS ticket \\gset", "SELECT rl_renew(:ticket, '1 ms')" ]);

	foreach my $how (sort keys %ends)
	{
		my ($begin, $end) = @{ $ends{$how} };
		my $holder = in_session($node);

		$holder->query_safe($begin);
		my $pid = $holder->query_safe('SELECT pg_backend_pid()');
		my $waiter = begin_waiting($node, "rl_acquire('end', 1, 1, 'transaction', '5 min')", 1, $how eq 'interval');

		defined $end
		  ? ($end ne '' && $holder->query_safe($end))
		  : value($node, "SELECT pg_terminate_backend($pid)");
		like($waiter->query_safe('SELECT 1'), qr/1/, "$name: one that waits gets what is freed by: $how");
		finish_session($waiter);
		defined $end ? finish_session($holder) : $holder->{run}->finish;
	}
	return;
}

foreach my $preload (1, 0)
{
	my $name = $preload ? 'memory' : 'table';
	my $n = $full ? ($preload ? 500 : 50) : ($preload ? 50 : 20);
	my $node = start_server($name, preload => $preload, streaming => 1,
		conf => "max_connections = 600\nrestart_after_crash = on\nautovacuum = off");

	$node->safe_psql('postgres', $schema);
	check_order($node, $name, $n);
	check_heavy($node, $name);
	check_ends($node, $name);

	# a call in parallel mode is refused
	like($node->safe_psql('postgres', "SELECT proparallel FROM pg_proc WHERE proname = 'rl_acquire'"), qr/u/, "$name: no parallel query calls it");

	#
	# A standby has slots of its own
	#
	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new("standby_$name");
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
	my $on_primary = in_session($node);
	$on_primary->query_safe("SELECT rl_acquire('standby', 1, 1, 'session')");
	my $on_standby = in_session($standby);
	is($on_standby->query_safe("SELECT rl_acquire('standby', 1, 1, 'session') > 0, rl_acquire('standby', 1) > 0"), 't|', "standby, $name: slots of its own");
	my ($rc, $out, $err) = $standby->psql('postgres', "SELECT rl_acquire('interval', 1, 1, '1 hour') > 0");
	$preload ? is($out, 't', 'standby, memory: for an interval, too')
	  : like($err, qr/cannot hold slots of key "interval", limiter "default" for an interval during recovery/, 'standby, table: not for an interval');
	finish_session($on_standby);
	finish_session($on_primary);
	$standby->stop;

	#
	# A clean restart: what is held for an interval stays, under the same ticket
	#
	if ($preload)
	{
		my $sql = sub { return value($node, $_[0]); };
		my $ticket = $sql->("SELECT rl_acquire('kept', 2, 2, '1 hour')");
		my $other = $sql->("SELECT rl_acquire('kept too', 2, 1, '1 hour', limiter => 'l') FROM generate_series(1, 2) OFFSET 1");
		$sql->("SELECT rl_acquire('over', 1, 1, '1 ms')");
		my $session = in_session($node);
		$session->query_safe("SELECT rl_acquire('session', 1, 1, 'session'); BEGIN; SELECT rl_acquire('transaction', 1)");
		$sql->("CREATE TABLE before AS SELECT * FROM rate_limit_slots WHERE hold = 'interval'");
		$session->{run}->kill_kill;
		$node->restart;
		is($sql->("SELECT count(*), count(*) FILTER (WHERE abs(extract(epoch FROM a.since - b.since)) < 0.5 AND abs(extract(epoch FROM a.until - b.until)) < 0.5) FROM before b FULL JOIN rate_limit_slots a USING (limiter, key, ticket, weight, hold, role, slots, held)"),
			'3|3', 'memory: a restart keeps what is held for an interval, and nothing else');
		is($sql->("SELECT rl_acquire('kept', 2) IS NULL, rl_renew($ticket, '2 hours'), rl_release($ticket), rl_release($ticket), rl_acquire('kept', 2, 2) > 0"), 't|t|t|f|t', 'memory: ... under the same ticket');
		is($sql->("SELECT rl_release($other), (SELECT count(*) FROM rate_limit_slots)"), 't|1', 'memory: ... of several');
		$node->restart;
		is($sql->('SELECT count(*), max(held) FROM rate_limit_slots'), '1|1', 'memory: ... and another one');
		# more than fit now
		$sql->("SELECT count(rl_acquire('many' || i, 1, 1, '1 hour')) FROM generate_series(1, 2000) i");
		$node->append_conf('postgresql.conf', 'ratelimit.max_tickets = 16');
		$node->restart;
		cmp_ok($sql->('SELECT count(*) FROM rate_limit_slots'), '>=', 20, 'memory: as many as fit, if there is less room now');
		$sql->('SELECT count(rl_release(ticket)) FROM rate_limit_slots');
		is($sql->('SELECT count(*) FROM rate_limit_slots'), 0, 'memory: ... and those can be released');
	}

	#
	# A crash frees all
	#
	value($node, "SELECT rl_acquire('crash', 1, 1, '1 hour')");
	my $session = in_session($node);
	$session->query_safe("SELECT rl_acquire('crash', 2, 1, 'session')");
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$node->stop('immediate');
	$node->start;
	is(value($node, "SELECT count(*) FROM rate_limit_slots"), 0, "$name: an immediate stop frees all");
	eval { $session->{run}->kill_kill };
	$session = in_session($node);
	$session->query_safe("SELECT rl_acquire('crash', 2, 1, 'session')");
	value($node, "SELECT rl_acquire('crash', 2, 1, '1 hour')");
	$pid = $session->query_safe('SELECT pg_backend_pid()');
	kill('KILL', $pid);
	eval { $session->{run}->kill_kill };
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid) AND rl_acquire('crash', 2, 2) IS NOT NULL") or die 'never free';
	is(value($node, "SELECT count(*) FROM rate_limit_slots"), 0, "$name: so does a crash");
	$node->stop;
}

#
# One role's tickets do not use up another's room
#
my $node = start_server('shares', conf => "ratelimit.max_tickets = 16\nratelimit.on_error = deny");
$node->safe_psql('postgres', 'CREATE ROLE hog1; CREATE ROLE hog2; CREATE ROLE other');
my @got = map { $node->safe_psql('postgres', "SET client_min_messages = error; SET ROLE $_; SELECT count(rl_acquire('$_' || i, 1, 1, '1 hour')) FROM generate_series(1, 1000) i") } qw(hog1 hog2 other);
note "@got";
cmp_ok($got[0], '>=', 16, 'shares: a role that is alone gets what the setting says');
cmp_ok($got[1], '>=', 8, 'shares: the next one gets some of the rest');
cmp_ok($got[2], '>=', 2, 'shares: ... and so does another one');
is($node->safe_psql('postgres', "SET ratelimit.on_error = allow; SET client_min_messages = error; SET ROLE hog1; SELECT rl_acquire('more', 1)"), 0, 'shares: ratelimit.on_error decides calls for which there is no room');
my ($rc, $out, $err) = $node->psql('postgres', "SET ratelimit.on_error = error; SET ROLE hog1; SELECT rl_acquire('more', 1)");
like($err, qr/cannot acquire slots of key "more", limiter "default": too many tickets are held\nHINT:  Increase ratelimit.max_tickets./, 'shares: ... or there is an error');

# A session that only releases what others have acquired leaves the room as it was.  When a
# session has ended, what it held is free a moment later.
my $most = "(SELECT count(rl_acquire('all' || i, 1, 1, 'session')) FROM generate_series(1, 1000) i)";
$node->safe_psql('postgres', 'SELECT rl_release(ticket) FROM rate_limit_slots');
$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM rate_limit_slots') or die 'never free';
my $before = $node->safe_psql('postgres', "SET client_min_messages = error; SELECT $most");
for my $i (1 .. 3)
{
	my $ticket = $node->safe_psql('postgres', "SELECT rl_acquire('once', 1, 1, '1 hour')");
	$node->safe_psql('postgres', "SELECT rl_release($ticket)");
}
ok($node->poll_query_until('postgres', "SELECT set_config('client_min_messages', 'error', false) = 'error' AND $most = $before"), 'shares: who only releases keeps no room');
$node->stop;
done_testing();
