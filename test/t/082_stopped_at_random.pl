# Processes that are stopped at random, and go on, while they make buckets, change their
# parameters and grow partitions, take exactly what they are told was taken.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;
use Time::HiRes;

my $seconds = $ENV{RATELIMIT_FULL} ? 60 : 8;
my $seed = $ENV{RATELIMIT_SEED} || time;
srand($seed);
note "RATELIMIT_SEED=$seed";

# 64 partitions of 256 slots, of which 64 are used at first
my $node = start_server('random', conf => <<'CONF');
ratelimit.max_buckets = 16384
ratelimit.save_interval = 1
CONF

# Both refills never refill, but differ; nobody is denied, so what is taken is what is counted.
my $clients = start_clients($node, clients => 8, seconds => $seconds, script => <<'SQL');
\set key random(1, 5)
\set new random(1, 4000)
\set slow random(0, 1)
\set what random(1, 20)
\if :what = 1
SELECT count(rl_consume('new ' || i % 4000, 1e9, 0, 1, 'new')) FROM generate_series(:new, :new + 20) i;
\elif :what < 4
SELECT rl_consume_all(ARRAY['key 1', 'key 2', 'key ' || 2 + :key, 'all ' || :new], ARRAY[1e9, 1e9, 1e9, 1e9], ARRAY[0, 0, 0, 0], NULL, ARRAY['hot', 'hot', 'hot', 'new']);
\else
SELECT count(rl_consume('key ' || :key, 1e9, 1e-300 * ((i + :slow) % 2), 1, 'hot')) FROM generate_series(1, 20) i;
\endif
SQL
my @pids;
my $stops = 0;
do
{
	@pids = split /\n/, $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()})
	  if @pids < 8;
	my @stopped = map { $pids[ rand @pids ] // () } 1 .. 2;

	kill('STOP', @stopped) if @stopped;
	Time::HiRes::usleep(rand(20_000));
	kill('CONT', @stopped) if @stopped;
	$stops += @stopped;
	Time::HiRes::usleep(rand(5_000));
	$clients->{handle}->pump_nb;
} while $clients->{handle}->pumpable;
finish_clients($clients, "stopped $stops times");
cmp_ok($stops, '>', 5 * $seconds, '... that is often');

foreach my $limiter ('hot', 'new')
{
	is( $node->safe_psql('postgres', "SELECT allowed, denied FROM rate_limit_stats WHERE limiter = '$limiter'"),
		$node->safe_psql('postgres', "SELECT sum(capacity - tokens), 0 FROM rate_limit_status WHERE limiter = '$limiter'"),
		"$limiter: what was allowed is what is missing");
}
is(twice_living($node), '', 'no bucket is there twice');
is($node->safe_psql('postgres', 'SELECT sum(evicted), bool_or(spilled) FROM rl_partitions()'), '0|f', 'none had to give way');
unlike(slurp_file($node->logfile), qr/PANIC|stuck spinlock|TRAP|terminated by signal/, 'nothing went down');

$node->stop;
done_testing();
