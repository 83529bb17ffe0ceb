# For CHAOS_SECONDS: under load, processes are killed and stopped, the server is killed,
# stopped and restarted, its disk is full, and standbys come, decide and are promoted.
# What must hold:
#
# - The server comes back and serves, after each.
# - No bucket admits more than its capacity, its refill, and what it admitted between the
#   last save and a crash that followed.
# - No violation is written twice.  None is lost but those that came after the last flush
#   before a crash.
# - What a standby denied, and only that, is written once it is promoted.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use Callers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;
use Time::HiRes;

my $seconds = $ENV{CHAOS_SECONDS} || 60;
my $disk = $ENV{CHAOS_DISK};
my $clients = 12;
my $seed = $ENV{RATELIMIT_SEED} || time;
srand($seed);
diag "RATELIMIT_SEED=$seed";

# few slots, so that buckets are in both stores
my $node = start_server('chaos', streaming => 1, conf => <<'CONF');
ratelimit.max_buckets = 256
ratelimit.save_interval = 1s
ratelimit.flush_interval = 1s
restart_after_crash = on
synchronous_commit = on
max_wal_size = 64MB
wal_keep_size = 32MB
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# Onto the small disk
if ($disk)
{
	my $folder = $node->data_dir;

	$node->stop;
	system_or_bail('cp', '-a', $folder, "$disk/data");
	system_or_bail('rm', '-rf', $folder);
	symlink("$disk/data", $folder) or die $!;
	$node->start;
}

# flushes take their time, so that some are interrupted
query(<<'SQL');
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END$$;
CREATE TRIGGER writing BEFORE INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION dawdle();
CREATE CONSTRAINT TRIGGER committing AFTER INSERT ON rate_limit_violations
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle();
SQL

#
# Each client writes down what it was told: key, answer, and the server's clock.  Keys
# quota1-20 have 2,000 tokens and no refill, rate1-20 have 100 and 20 a second.  Other keys
# fill memory, so that some of these are in the table.
#
start_callers($node, $clients, <<'SQL' x 100);
SELECT key, CASE WHEN key ~ 'quota' THEN rl_consume(key, 2000, 0) ELSE rl_consume(key, 100, 20) END, extract(epoch FROM clock_timestamp())
FROM (SELECT CASE WHEN random() < 0.5 THEN 'quota' ELSE 'rate' END || 1 + (random() * 20)::int % 20 AS key OFFSET 0) k;
SELECT count(rl_consume('other' || (random() * 400)::int, 1000, 500)) AS other;
SQL

# A process of the server, or undef if there is none just now.
sub pid_of
{
	my ($condition) = @_;
	my $pid = eval { query("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $condition ORDER BY random() LIMIT 1") };

	return $pid || undef;
}

sub signal
{
	my ($signal, $condition) = @_;
	my $pid = pid_of($condition);

	kill($signal, $pid) if $pid;
	return $pid;
}

# Is the postmaster there?
sub runs
{
	my $pid = (split /\n/, eval { slurp_file($node->data_dir . '/postmaster.pid') } // '')[0];

	return $pid && kill(0, $pid) && (eval { slurp_file("/proc/$pid/stat") } // '') =~ /\) [^ZX] /;
}

# As nobody is told, start it if it has gone down.
sub revive
{
	return if runs();
	$node->{_pid} = undef;
	unlink($node->data_dir . '/postmaster.pid');
	$node->start(fail_ok => 1);
	return;
}

# Until no byte is free, for some time.
sub fill_disk
{
	open(my $file, '>', "$disk/filler") or die $!;
	my $until = Time::HiRes::time() + 0.5 + rand(2);

	while (Time::HiRes::time() < $until)
	{
		syswrite($file, 'x' x 65536) or syswrite($file, 'x') or Time::HiRes::usleep(10_000);
	}
	close($file);
	unlink("$disk/filler");
	return;
}

my $standbys = 0;

# A standby decides, stops and starts, and is promoted.
sub use_standby
{
	my $name = 'standby' . ++$standbys;
	my $standby = PostgreSQL::Test::Cluster->new($name);
	my ($told, $calls) = (0, 200 + int(rand(500)));

	$node->backup($name);
	$standby->init_from_backup($node, $name, has_streaming => 1);
	$standby->append_conf('postgresql.conf', "ratelimit.max_buckets = 64\n");
	$standby->start;
	foreach my $part (1 .. 3)
	{
		$told += $standby->safe_psql('postgres', <<"SQL");
SET ratelimit.gateway_name = '$name';
SELECT count(*) FILTER (WHERE NOT rl_consume('hot' || i % 7, 10, 0)) FROM generate_series(1, $calls) i;
SQL
		$standby->restart if rand() < 0.4;
	}
	$standby->promote;
	$standby->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)');
	my $written = $standby->safe_psql('postgres', "SELECT coalesce(sum(total_count), 0) FROM rate_limit_violations WHERE gateway_name = '$name'");

	$standby->stop;
	$standby->clean_node;
	system('rm', '-rf', $node->backup_dir . "/$name");
	return $told == 3 * $calls - 70 && $written == $told;
}

my %do = (
	'a backend killed' => sub { signal('KILL', "backend_type = 'client backend' AND query ~ 'rl_consume'") },
	'a worker killed' => sub { signal('KILL', "backend_type ~ 'ratelimit'") },
	'another process killed' => sub { signal('KILL', "backend_type IN ('checkpointer', 'background writer', 'walwriter', 'autovacuum launcher')") },
	'the saver killed' => sub { kill('KILL', saver_pid($node)) },
	'the postmaster killed' => sub { kill_postmaster($node) },
	'stopped fast' => sub { $node->restart },
	'stopped immediately' => sub { $node->stop('immediate'); $node->start },
	'backends terminated' => sub { query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()") },
	'a process stopped for a while' => sub {
		my $pid = signal('STOP', "backend_type ~ 'client backend|ratelimit'");

		Time::HiRes::usleep(200_000 + int(rand(500_000)));
		kill('CONT', $pid) if $pid;
	},
	'a standby promoted' => sub { ok(use_standby(), "standby $standbys: all that it denied is written, once") });
$do{'the disk full'} = \&fill_disk if $disk;

my %done;
my $end = monotonic_seconds() + $seconds;
my $not_served = 0;
my @todo;
ok(wait_for_save($node), 'saved');
my $from = -s $node->logfile;
while (monotonic_seconds() < $end)
{
	# each once, in any order, and so again and again
	@todo = sort { rand() <=> 0.5 } sort keys %do if !@todo;
	my $what = shift @todo;

	Time::HiRes::usleep(int(rand(1_500_000)));
	eval { $do{$what}->(); 1 } or diag("$what: $@");
	$done{$what}++;
	my $patience = monotonic_seconds() + $PostgreSQL::Test::Utils::timeout_default;
	my $serves = 0;

	# it may still be about to go down
	Time::HiRes::usleep(200_000);
	until ($serves || monotonic_seconds() > $patience)
	{
		revive();
		my ($rc, $out) = $node->psql('postgres', "SELECT rl_consume('after', 1e6, 0)", timeout => 20);

		$serves = $rc == 0 && $out eq 't';
		Time::HiRes::usleep(100_000) if !$serves;
	}
	if (!$serves)
	{
		ok(0, "after $what the server serves");
		$not_served++;
	}
}
is($not_served, 0, 'the server served after each: ' . join(', ', map { "$done{$_} $_" } sort keys %done));
end_callers();
query('SELECT rl_flush()');
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'all is flushed');
is(twice_living($node), '', 'no bucket is there twice');

#
# Which crashes there were: when the state was loaded, and when it had been saved; and the last
# flush before.
#
my $log = slurp_file($node->logfile, $from);
my @crashes;
while ($log =~ /^(\d\S+ \S+ \S+) [^\n]*ratelimit: loaded \d+ buckets, saved ([^,]+),/mg)
{
	push @crashes, [ map { $_ eq '' ? 0 : $_ } split /\|/, query(<<"SQL"), -1 ];
SELECT extract(epoch FROM timestamptz '$2'), extract(epoch FROM timestamptz '$1'),
	(SELECT extract(epoch FROM max(created_at) AT TIME ZONE 'UTC') FROM rate_limit_violations WHERE created_at < timestamptz '$1' AT TIME ZONE 'UTC')
SQL
}
# a server whose disk is full may end in a PANIC
unlike($log, qr/signal 11|TRAP:|ratelimit: ignoring|repaired the bucket|PANIC:(?![^\n]*No space left)/, 'nothing else went wrong');

#
# What the clients were told
#
my %allowed;
my %denied;
my ($calls, $safe, $first, $last) = (0, 0, 9e99, 0);
foreach my $told (read_answers())
{
	my ($gateway, $key, $answer, $at) = @$told;

	$calls++;
	$first = $at if $at < $first;
	$last = $at if $at > $last;
	if ($answer eq 't')
	{
		push @{ $allowed{$key} }, $at;
		next;
	}
	$denied{"$gateway $key"}++;
	# a flush takes what is there when it begins, and ends within two seconds
	$safe++ if !grep { $at > $_->[2] - 2 && $at <= $_->[1] } @crashes;
}
cmp_ok($calls, '>', 10 * $seconds, "$calls calls were answered, over " . @crashes . ' crashes');

my ($most, $given_back) = (0, 0);
foreach my $key (sort keys %allowed)
{
	my $bound = $key =~ /quota/ ? 2000 : 100 + 20 * ($last - $first);
	my $admitted = scalar @{ $allowed{$key} };
	my $lost = grep { my $at = $_; grep { $at >= $_->[0] && $at <= $_->[1] } @crashes } @{ $allowed{$key} };

	$given_back += $lost;
	next if $admitted <= $bound + $lost + 1;
	$most++;
	diag("$key admitted $admitted, at most $bound and $lost");
}
is($most, 0, "no bucket admits more than it should ($given_back calls came between a save and a crash)");

# Of a statement whose answer was lost, the call may have been counted.
my %written = map { split /\|/ } split /\n/, query(q{SELECT gateway_name || ' ' || key, sum(count) FROM rate_limit_violation_details WHERE gateway_name ~ '^[0-9]+[.]' GROUP BY 1});
my ($twice, $written_in_all, $denied_in_all) = (0, 0, 0);
foreach my $name (sort keys %written)
{
	$written_in_all += $written{$name};
	next if $written{$name} <= ($denied{$name} // 0) + 1;
	diag("$name: $written{$name} written, " . ($denied{$name} // 0) . ' denied') if $twice++ < 10;
}
$denied_in_all += $_ foreach values %denied;
is($twice, 0, "no violation is written twice ($denied_in_all denied, $written_in_all written)");
cmp_ok($written_in_all, '>=', $safe, "... none of the $safe is lost that did not come between a flush and a crash");

$node->stop;
done_testing();
