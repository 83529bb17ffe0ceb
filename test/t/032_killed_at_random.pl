# Processes killed at random under load (backend, launcher, flush worker, saver,
# checkpointer, postmaster), again and again: each time the server comes back and
# serves; no bucket admits more than its capacity, its refill, and what it admitted
# between the last save and the crash; no violation is written twice.
#
# RATELIMIT_FULL=1 for 20 rounds.
#
# Expected in the log: was terminated by signal 9: Killed
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

my $rounds = $ENV{RATELIMIT_FULL} ? 20 : 6;
my $clients = 16;
my $seed = $ENV{RATELIMIT_SEED} || time;
srand($seed);
note "RATELIMIT_SEED=$seed";

my $node = start_server('killed', conf => <<'CONF');
ratelimit.save_interval = 1s
ratelimit.flush_interval = 1s
restart_after_crash = on
synchronous_commit = on
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# flushes take their time, so that some are killed in the middle of one
query(<<'SQL');
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END$$;
CREATE TRIGGER writing BEFORE INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION dawdle();
CREATE CONSTRAINT TRIGGER committing AFTER INSERT ON rate_limit_violations
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle();
SQL

#
# Each session writes down what it was told: key, answer, and the server's clock.  Keys
# quota1-20 have 2,000 tokens and no refill, those from 11 on in a period that does
# not end; rate1-20 have 100 and 20 a second.
#
start_callers($node, $clients, <<'SQL' x 100);
SELECT key, CASE WHEN key ~ 'quota(1[1-9]|20)' THEN rl_consume_period(key, 2000, '100 years') WHEN key ~ 'quota' THEN rl_consume(key, 2000, 0) ELSE rl_consume(key, 100, 20) END,
	extract(epoch FROM clock_timestamp())
FROM (SELECT CASE WHEN random() < 0.5 THEN 'quota' ELSE 'rate' END || 1 + (random() * 20)::int % 20 AS key OFFSET 0) k;
SELECT key, rl_consume_period(key, 2000, '100 years'), extract(epoch FROM clock_timestamp())
FROM (SELECT 'quota' || 11 + i AS key FROM generate_series(1, 5) i OFFSET 0) k;
SQL

sub pid_of
{
	my ($condition) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $pid = query("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $condition LIMIT 1");

		return $pid if $pid ne '';
		Time::HiRes::usleep(20_000);
	}
	die "nobody with $condition";
}

#
# Rounds
#
my %find = (
	backend => sub { pid_of("backend_type = 'client backend' AND query ~ 'rl_consume'") },
	launcher => sub { pid_of("backend_type = 'ratelimit launcher'") },
	'flush worker' => sub { pid_of("backend_type = 'ratelimit worker'") },
	checkpointer => sub { pid_of("backend_type = 'checkpointer'") },
	saver => sub { saver_pid($node) },
	postmaster => sub { undef });
my @targets = map { (sort keys %find) } 1 .. $rounds;
my @crashes;
my $served = 0;
my $from = -s $node->logfile;
foreach my $round (1 .. $rounds)
{
	# each at least once, if there are rounds enough
	my $target = splice(@targets, $round <= keys %find ? int(rand(keys(%find) - $round + 1)) : int(rand(@targets)), 1);

	# some time after the last save, and before the next or in its middle
	ok(wait_for_save($node), "round $round: saved");
	Time::HiRes::usleep(int(rand(1_500_000)));
	$from = -s $node->logfile;
	if ($target eq 'postmaster')
	{
		kill_postmaster($node);
	}
	else
	{
		# some leave by themselves just then: another one
		foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
		{
			my $pid = $find{$target}->();

			kill('KILL', $pid);
			Time::HiRes::usleep(20_000) while kill(0, $pid);
			my $killed = qr/PID $pid\) was terminated by signal 9/;
			# the postmaster may take its time to say so
			foreach (1 .. 100)
			{
				last if slurp_file($node->logfile, $from) =~ $killed;
				Time::HiRes::usleep(20_000);
			}
			last if slurp_file($node->logfile, $from) =~ $killed;
		}
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $from);
		$node->wait_for_log(qr/reinitializing.*ready to accept connections/s, $from);
	}
	# without preloading, the first session loads it
	$served += $node->poll_query_until('postgres', "SELECT rl_consume('after', 1e6, 0)");
	$node->wait_for_log(qr/ratelimit: loaded \d+ buckets, saved /, $from);
	my $log = slurp_file($node->logfile, $from);
	my ($loaded, $saved) = $log =~ /^(\S+ \S+ \S+) [^\n]*ratelimit: loaded \d+ buckets, saved ([^,]+),/m;
	ok($saved, "round $round, $target killed: what was saved is loaded") or diag($log);
	push @crashes, {
		target => $target,
		saved => query("SELECT extract(epoch FROM timestamptz '$saved')"),
		loaded => query("SELECT extract(epoch FROM timestamptz '$loaded')") };
	unlike(slurp_file($node->logfile, $from), qr/PANIC|signal 11|signal 6|ratelimit: ignoring|ratelimit: could not/, "round $round, $target killed: nothing else is wrong");
}
is($served, $rounds, 'after each the server serves');
note join(', ', map { $_->{target} } @crashes);
ok(wait_for_save($node), 'saved at last');
end_callers();
query('SELECT rl_flush()');
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'all is flushed');

#
# What the clients were told
#
my %allowed;
my %denied;
my $calls = 0;
my ($first, $last) = (9e99, 0);
foreach my $told (read_answers())
{
	my ($gateway, $key, $answer, $at) = @$told;

	$calls++;
	$first = $at if $at < $first;
	$last = $at if $at > $last;
	$answer eq 't' ? push(@{ $allowed{$key} }, $at) : $denied{"$gateway $key"}++;
}
cmp_ok($calls, '>', 1000 * $rounds, "$calls calls were answered");
is(scalar keys %allowed, 40, '... of 40 keys');

my $most = 0;
my $given_back = 0;
foreach my $key (sort keys %allowed)
{
	my $quota = $key =~ /quota/;
	my $bound = $quota ? 2000 : 100 + 20 * ($last - $first);
	my $admitted = scalar @{ $allowed{$key} };

	# what a crash made the server forget: all since the save that it went back to
	foreach my $crash (@crashes)
	{
		my $lost = grep { $_ >= $crash->{saved} && $_ <= $crash->{loaded} } @{ $allowed{$key} };

		$bound += $lost;
		$given_back += $lost;
	}
	$most++ if $admitted > $bound + 1;
	diag("$key admitted $admitted, at most $bound") if $admitted > $bound + 1;
}
is($most, 0, "no bucket admits more than it should ($given_back calls came between a save and a crash)");

# Of a statement whose answer was lost, all calls may have been counted: at most 5 of
# a key.
my %written = map { split /\|/ } split /\n/, query(q{SELECT gateway_name || ' ' || key, sum(count) FROM rate_limit_violation_details WHERE gateway_name ~ '^[0-9]+[.]' GROUP BY 1});
my $twice = 0;
foreach my $name (sort keys %written)
{
	next if $written{$name} <= ($denied{$name} // 0) + 5;
	diag("$name: $written{$name} written, " . ($denied{$name} // 0) . ' denied') if $twice++ < 10;
}
my ($written_in_all, $denied_in_all) = (0, 0);
$written_in_all += $_ foreach values %written;
$denied_in_all += $_ foreach values %denied;
is($twice, 0, "no violation is written twice ($denied_in_all denied, $written_in_all written)");
cmp_ok($written_in_all, '>', 0, '... and some are');

$node->stop;
done_testing();
