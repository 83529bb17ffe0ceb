# Folding violations into episodes and flags keeps nobody waiting: with many keys and
# as many episodes as there can be, reading episodes is quick and can be cancelled, calls
# go on meanwhile, and the server stops at once.  And it is done in time: what several
# gateways deny of one key counts together, though one of them goes on and none is
# flushed.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('folding', conf => <<'CONF');
ratelimit.flush_interval = 1h
ratelimit.max_violations = 131072
ratelimit.max_episodes = 10000
ratelimit.flag_threshold = 100
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# keys that differ in their last bytes
sub violate_all
{
	return query("SELECT count(rl_report(repeat('k', 200) || i, 'user', 1)) FROM generate_series(1, 120000) i");
}

# How long the session's process works for it, whatever else the machine does.
sub seconds
{
	my ($session, $do) = @_;
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	my $ticks = sub {
		my ($user, $system) = slurp_file("/proc/$pid/stat") =~ /^\d+ \(.*\) \S(?: \S+){10} (\d+) (\d+) /;
		return $user + $system;
	};
	my $before = $ticks->();

	$do->();
	return ($ticks->() - $before) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

is(violate_all(), 120000, 'violations of 120,000 keys');
my $reader = in_session($node);
my $took = seconds($reader,
	sub {
		$reader->query(q{BEGIN; SET LOCAL statement_timeout = '5ms'; SELECT count(*) FROM rate_limit_episodes; ROLLBACK});
		like($reader->{stderr}, qr/canceling statement due to statement timeout/, 'reading episodes can be cancelled');
		$reader->{stderr} = '';
	});
cmp_ok($took, '<', 2, '... at once');
$took = seconds($reader, sub { is($reader->query_safe('SELECT count(*), sum(rejected) FROM rate_limit_episodes'), '10000|10000', 'then they are read, each once') });
cmp_ok($took, '<', 5, '... quickly');

is(violate_all(), 120000, 'once more');
$reader->query_safe("SELECT count(*) FROM rate_limit_episodes");
# which episode is the last one that has a place is told by microseconds: a call at that
# edge may come before another in one round and after it in the next
is(query('SELECT count(*), min(rejected) >= 1, max(rejected) = 2, count(*) FILTER (WHERE rejected < 2) < 100 FROM rate_limit_episodes'),
	'10000|t|t|t', 'all episodes go on, except a few at the edge of those that came last');
finish_session($reader);
is(violate_all(), 120000, 'and again');
my $began = monotonic_seconds();
$node->stop('fast');
cmp_ok(monotonic_seconds() - $began, '<', 30, 'a stop with all of them to fold and to save is quick');

#
# Several gateways
#
$node->append_conf('postgresql.conf', "ratelimit.flag_window = 3s");
$node->start;
query(<<'SQL');
SELECT rl_flush();
DO $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	PERFORM set_config('ratelimit.gateway_name', 'resting', false);
	PERFORM rl_report('two gateways', 'user', 60);
	PERFORM set_config('ratelimit.gateway_name', 'going on', false);
	PERFORM rl_report('two gateways', 'user', 60);
	-- until both are out of the window
	WHILE clock_timestamp() < began + interval '4 s' LOOP
		PERFORM rl_report('two gateways', 'user', 1), pg_sleep(0.2);
	END LOOP;
END
$$;
SELECT count(*) FROM rate_limit_episodes;
ALTER SYSTEM SET ratelimit.flush_interval = '1s';
SQL
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'two gateways'}),
	'120 violations of two gateways, of which one goes on and none is flushed: flagged');

$node->stop;
done_testing();
