# What the TAP tests of ratelimit share: servers with and without preloading,
# many clients at once, and waiting for what the worker does.
package RateLimitTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our @EXPORT = qw(
  can_be_late start_server in_session finish_session start_clients finish_clients
  tell_clients_to_end run_clients wait_until_spilled wait_until_nothing_spilled spilled
  twice_living store_of fill_until_spilled end_rounds wait_until_workers_ended
  monotonic_seconds log_since
);

# Since PostgreSQL 17 the library makes shared memory without preloading, too.
sub can_be_late
{
	my ($node) = @_;

	return $node->pg_version >= 17;
}

# A started server with the extension in database postgres.  preload: 0 for one
# without shared memory; late: 1 for one that makes it without preloading; conf: more
# lines for postgresql.conf; streaming: 1 if standbys will follow it.  If RATELIMIT_LATE
# is set, servers that would preload the library make memory without, too.
sub start_server
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$options{late} //= $options{preload} // 1 if $ENV{RATELIMIT_LATE} && can_be_late($node);
	$node->init(allows_streaming => $options{streaming});
	$node->append_conf('postgresql.conf', <<'CONF');
log_statement = none
max_connections = 60
max_prepared_transactions = 5
shared_buffers = 32MB
autovacuum_naptime = 1s
CONF
	$node->append_conf('postgresql.conf', <<'CONF')
shared_preload_libraries = 'ratelimit'
ratelimit.flush_interval = 1s
CONF
	  if ($options{preload} // 1) && !$options{late};
	$node->append_conf('postgresql.conf', 'ratelimit.flush_interval = 1s') if $options{late};
	$node->append_conf('postgresql.conf', 'ratelimit.shared_memory = off')
	  if !($options{preload} // 1);
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION ratelimit');
	return $node;
}

# A session to give several statements, which may fail or wait.
sub in_session
{
	my ($node, $database) = @_;

	return $node->background_psql($database // 'postgres', on_error_stop => 0);
}

sub finish_session
{
	my ($session) = @_;

	$session->quit;
	return;
}

# What the server has logged since the log was as long as $from, but for what autovacuum says
# on a busy machine, where a worker of it may start late.
sub log_since
{
	my ($node, $from) = @_;

	return slurp_file($node->logfile, $from) =~ s/^.*(?:worker took too long to start; canceled|canceling autovacuum task).*\n//mgr;
}

sub monotonic_seconds
{
	return clock_gettime(CLOCK_MONOTONIC);
}

my $scripts = 0;

# Start so many connections, each of which runs the pgbench script so many times
# (transactions), for so long (seconds, of which pgbench takes some to connect), or until
# tell_clients_to_end() (until_told).  They begin together, once all are connected.
sub start_clients
{
	my ($node, %options) = @_;
	my $script = $node->basedir . '/script' . ++$scripts . '.sql';
	my %run = (output => '', %options);

	if ($options{until_told})
	{
		$node->safe_psql($options{database} // 'postgres',
			'SET client_min_messages = warning; CREATE UNLOGGED TABLE IF NOT EXISTS clients_told (client int PRIMARY KEY); TRUNCATE clients_told');
		$options{seconds} = $PostgreSQL::Test::Utils::timeout_default;
		$options{script} = <<"SCRIPT";
SELECT count(*) = 0 AS go_on FROM clients_told WHERE client < 0 \\gset
\\if :go_on
$options{script}
\\else
INSERT INTO clients_told VALUES (:client_id) ON CONFLICT DO NOTHING;
SELECT pg_sleep(0.05);
\\endif
SCRIPT
	}
	my @command = (
		'pgbench', '--no-vacuum',
		'--host' => $node->host,
		'--port' => $node->port,
		'--client' => $options{clients},
		'--jobs' => 2,
		'--protocol' => 'prepared',
		'--file' => $script,
		defined $options{transactions}
		? ('--transactions' => $options{transactions})
		: ('--time' => $options{seconds}),
		(map { ('--define' => "$_=$options{define}{$_}") } keys %{ $options{define} // {} }),
		defined $options{rate} ? ('--rate' => $options{rate}) : (),
		$options{database} // 'postgres');

	PostgreSQL::Test::Utils::append_to_file($script, $options{script});
	$run{began} = monotonic_seconds();
	$run{handle} = IPC::Run::start(\@command, '<', \undef, '>&', \$run{output},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%run;
}

# Wait for them to end.  How long they took, seen from outside.
sub finish_clients
{
	my ($run, $what) = @_;
	my $ok = $run->{handle}->finish;
	my $seconds = monotonic_seconds() - $run->{began};

	ok($ok && $run->{output} !~ /aborted|error:|failed transactions: [1-9]/, "$what: every client got through")
	  or diag($run->{output});
	return $seconds;
}

# End clients that go on until they are told to, each after the end of its script.  How
# long they took, seen from outside.
sub tell_clients_to_end
{
	my ($node, $run, $what) = @_;
	my $database = $run->{database} // 'postgres';

	$node->safe_psql($database, 'INSERT INTO clients_told VALUES (-1)');
	my $ok = $node->poll_query_until($database, "SELECT count(*) = $run->{clients} + 1 FROM clients_told");
	my $seconds = monotonic_seconds() - $run->{began};

	$run->{handle}->signal('TERM');
	$run->{handle}->finish;
	ok($ok && $run->{output} !~ /aborted|error:/, "$what: every client got through")
	  or diag($run->{output});
	return $seconds;
}

sub run_clients
{
	my ($node, $what, %options) = @_;

	return finish_clients(start_clients($node, %options), $what);
}

# Does any partition have its buckets in the table?
sub spilled
{
	my ($node, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		'SELECT count(*) FROM rl_partitions() WHERE spilled');
}

sub wait_until_spilled
{
	my ($node, $database) = @_;

	return $node->poll_query_until($database // 'postgres',
		'SELECT bool_or(spilled) FROM rl_partitions()');
}

sub wait_until_nothing_spilled
{
	my ($node, $database) = @_;

	return $node->poll_query_until($database // 'postgres',
		'SELECT NOT bool_or(spilled) FROM rl_partitions()');
}

# Buckets that are in more than one place.  A key has one for each period.  A bucket that
# moves to memory while the view looks is shown twice, but not again at the next looks.
sub twice_living
{
	my ($node, $database) = @_;
	my $twice;

	foreach my $look (1 .. 5)
	{
		$twice = $node->safe_psql($database // 'postgres',
			'SELECT limiter, key, period, count(*) FROM rate_limit_status'
			  . ' GROUP BY limiter, key, period HAVING count(*) > 1');
		last if $twice eq '';
	}
	return $twice;
}

# In which store the bucket lives; empty if it does not.
sub store_of
{
	my ($node, $key, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		"SELECT store FROM rate_limit_status WHERE key = '$key'");
}

# The launcher begins no round any more, and those that it had begun are over.
sub end_rounds
{
	my ($node) = @_;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];

	$node->safe_psql('postgres', q{ALTER SYSTEM SET ratelimit.flush_interval = '1h'});
	$node->reload;
	# before it does anything else, the launcher reads the settings when it wakes up
	$node->poll_query_until('postgres',
		q{SELECT current_setting('ratelimit.flush_interval') = '1h' AND wait_event = 'Extension'
		   FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'})
	  or die 'the launcher does not come to rest';
	# a worker that is starting is not in the view yet
	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my @children = grep { (eval { slurp_file("$_/stat") } // '') =~ /^\d+ \(.*\) [^ZX] $postmaster / } glob '/proc/[0-9]*';

		return unless grep { (eval { slurp_file("$_/cmdline") } // '') =~ /ratelimit worker/ } @children;
		Time::HiRes::usleep(10_000);
	}
	die 'rounds go on';
}

# Until the log, from there on and at debug1, has nothing more to say of the workers that
# the launcher has had started.
sub wait_until_workers_ended
{
	my ($node, $from) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $log = slurp_file($node->logfile, $from);
		my $begun = () = $log =~ /: +registering background worker "ratelimit worker"/g;
		my $gone = () = $log =~ /unregistering background worker "ratelimit worker"/g;
		my $ended = () = $log =~ /background worker "ratelimit worker" \(PID \d+\) exited/g;

		return 1 if $gone >= $begun && $ended >= $begun;
		Time::HiRes::usleep(100_000);
	}
	return 0;
}

# Make keys prefix1, prefix2 ... until every partition has spilled; how many.
sub fill_until_spilled
{
	my ($node, $prefix, $capacity, $refill) = @_;

	return $node->safe_psql('postgres', <<"SQL");
CREATE TEMP TABLE filled (n int);
DO \$\$
DECLARE
	n int := 0;
BEGIN
	LOOP
		n := n + 1;
		IF NOT rl_consume('$prefix' || n, $capacity, $refill) THEN
			RAISE 'bucket $prefix% was not full', n;
		END IF;
		EXIT WHEN (SELECT bool_and(spilled) FROM rl_partitions());
	END LOOP;
	INSERT INTO filled VALUES (n);
END
\$\$;
SELECT n FROM filled;
SQL
}

1;
