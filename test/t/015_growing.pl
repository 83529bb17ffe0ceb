# A partition uses more of its memory as buckets come, and moves those it has: under load nothing is lost, taken twice or seen full.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $buckets = $ENV{RATELIMIT_FULL} ? 1_048_576 : 131_072;
my $node = start_server('growing', conf => <<"CONF");
ratelimit.max_buckets = $buckets
ratelimit.flush_interval = 1h
ratelimit.violation_sink = none
CONF
$node->safe_psql('postgres', <<'SQL');
-- every seventh takes more than one slot
CREATE FUNCTION name(i bigint) RETURNS text IMMUTABLE
	RETURN 'key ' || i || CASE WHEN i % 7 = 0 THEN repeat('x', 100) ELSE '' END;
CREATE FUNCTION exhaust(a_limiter text) RETURNS bigint LANGUAGE sql AS
	$$SELECT count(*) FILTER (WHERE rl_consume('empty ' || i, 1, 0, 1, a_limiter)) FROM generate_series(1, 200) i$$;
SQL

# Each key is called once by each of four clients, in orders of their own: 3 of the calls are allowed.
# Meanwhile a fifth looks at buckets that have been empty all along.
foreach my $part (0.1, 0.4, 0.7)
{
	my $keys = int($buckets * $part);
	my $limiter = "part $part";

	is($node->safe_psql('postgres', "SELECT exhaust('$limiter')"), 200, "$keys keys: some are emptied");
	my $looks = 0;
	my $wrong = 0;
	my $exported = '';
	my $clients = start_clients($node, clients => 4, transactions => 1, define => { keys => $keys },
		script => <<"SQL");
SELECT count(rl_consume(name(i), 3, 0, 1, '$limiter')) FROM (SELECT i FROM generate_series(1, :keys) i ORDER BY hashint8extended(i, :client_id)) keys;
SQL
	do
	{
		$wrong += $node->safe_psql('postgres', "SELECT count(*) FROM generate_series(1, 200) i, rl_peek('empty ' || i, 1, 0, 1, '$limiter') p WHERE p.allowed");
		my $empty = $node->safe_psql('postgres', "SELECT count(*), count(DISTINCT key) FROM _rl_export() WHERE limiter = '$limiter' AND key LIKE 'empty %'");
		$exported .= " $empty" if $empty ne '200|200';
		$looks++;
		$clients->{handle}->pump_nb;
	} while $clients->{handle}->pumpable;
	finish_clients($clients, '... called by all');
	is( $node->safe_psql('postgres', "SELECT allowed, denied FROM rate_limit_stats WHERE limiter = '$limiter'"),
		(3 * $keys + 200) . "|$keys", '... 3 calls of each are allowed, of 4');
	is( $node->safe_psql('postgres', "SELECT count(*), sum(tokens) FROM rate_limit_status WHERE limiter = '$limiter'"),
		($keys + 200) . '|0', '... which emptied each');
	is($wrong, 0, "... in $looks looks meanwhile none of the empty ones was full");
	is($exported, '', '... and what is exported has each of them once');
	is($node->safe_psql('postgres', "SELECT exhaust('$limiter')"), 0, '... nor is now');
	is($node->safe_psql('postgres', "SELECT rl_reset_all('$limiter')"), $keys + 200, '... and all are reset');
}
is($node->safe_psql('postgres', 'SELECT sum(evicted) FROM rl_partitions()'), 0, 'none had to give way');

# Grown as it is, it comes back
$node->safe_psql('postgres', "SELECT count(rl_consume(name(i), 3, 0)) FROM generate_series(1, $buckets / 3) i");
my $all = q{SELECT count(*), sum(tokens), md5(string_agg(key || ' ' || tokens, ',' ORDER BY key)) FROM rate_limit_status};
my $before = $node->safe_psql('postgres', $all);
$node->restart;
is($node->safe_psql('postgres', $all), $before, 'after a restart all buckets are there');
is(spilled($node), 0, 'and none had to go to the table');

$node->stop;
done_testing();
