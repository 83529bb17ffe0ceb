# Memory as full as it gets, restarted: every bucket is back, none has given way, whatever the order in which they are loaded.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $buckets = 4096;
my $node = start_server('full', conf => <<"CONF");
ratelimit.max_buckets = $buckets
ratelimit.flush_interval = 1h
CONF
my $all = q{SELECT count(*), sum(tokens), md5(string_agg(concat_ws(' ', limiter, key, tokens), ',' ORDER BY limiter, key)) FROM rate_limit_status};

# Every seventh with names that take more than one slot.
foreach my $keys ($buckets * 7 / 8, $buckets)
{
	$node->safe_psql('postgres', <<"SQL");
SELECT count(rl_consume('key ' || i || CASE WHEN i % 7 = 0 THEN repeat('x', 100) ELSE '' END, 10, 0, i % 9 + 1))
FROM generate_series(1, $keys) i;
SELECT rl_block('blocked ' || i, '1 day') FROM generate_series(1, 20) i;
SQL
	my $before = $node->safe_psql('postgres', $all);
	isnt(spilled($node), 0, "$keys buckets: some did not fit");
	foreach my $round (1 .. 3)
	{
		my $log = -s $node->logfile;
		$node->restart;
		is($node->safe_psql('postgres', $all), $before, "$keys buckets, restart $round: all are there");
		unlike(slurp_file($node->logfile, $log), qr/did not fit/, '... none has given way');
	}
	is( $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE rl_consume('blocked ' || i, 10, 0)) FROM generate_series(1, 20) i"),
		0, '... blocks are in force');
	$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
}

# Fewer: some give way, and the log says so; those that stay are right
$node->safe_psql('postgres', "SELECT count(rl_consume('key ' || i, 10, 0)) FROM generate_series(1, $buckets / 2) i");
$node->append_conf('postgresql.conf', 'ratelimit.max_buckets = 1024');
my $log = -s $node->logfile;
$node->restart;
like(slurp_file($node->logfile, $log), qr/did not fit: those nearest to full gave way/, 'less memory: what does not fit gives way, and is logged');
is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_status WHERE tokens NOT IN (9) AND blocked_until IS NULL'), 0, '... the others are as they were');

$node->stop;
done_testing();
