# ratelimit.overflow = evict: the bucket nearest to full gives way and is counted,
# quotas last of all, and nothing is ever written to the table.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('evict', conf => <<'CONF');
ratelimit.max_buckets = 16
ratelimit.overflow = evict
CONF

sub evicted
{
	return $node->safe_psql('postgres', 'SELECT sum(evicted) FROM rl_partitions()');
}

sub rows
{
	return $node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_buckets');
}

# 16 buckets that lack 3, 6 ... 48 of 100 tokens, at a token in 128 s: none becomes
# full, and their order does not change while the test lasts.
is( $node->safe_psql('postgres',
		"SELECT count(*) FILTER (WHERE rl_consume('lacks' || 3 * i, 100, 1.0 / 128, 3 * i)) FROM generate_series(1, 16) i"),
	16, '16 buckets');
is(evicted(), 0, 'all fit');
foreach my $n (1 .. 4)
{
	is($node->safe_psql('postgres', "SELECT rl_consume('new$n', 100, 1.0 / 128, 90)"), 't', "new key $n is allowed");
	is(store_of($node, "new$n"), 'memory', '... and lives in memory');
	is(store_of($node, 'lacks' . 3 * $n), '', '... and the one nearest to full gave way');
	is(store_of($node, 'lacks' . 3 * ($n + 1)), 'memory', '... not the next one');
	is(evicted(), $n, '... which is counted');
}
is($node->safe_psql('postgres', "SELECT (rl_peek('lacks3', 100, 1.0 / 128)).remaining"), 99, 'what gave way is full for its next call');
is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_status'), 16, '16 buckets live');

# nearest to full means soonest to be full, not fewest tokens lacking
$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
$node->safe_psql('postgres', <<'SQL');
SELECT rl_consume('soon', 1000, 10, 900);
SELECT rl_consume('quota', 1000, 0, 1);
SELECT rl_consume('late' || i, 1000, 0.001, 10) FROM generate_series(1, 14) i;
SQL
is($node->safe_psql('postgres', "SELECT rl_consume('new', 1000, 0.001, 900)"), 't', 'a new key');
is(store_of($node, 'soon'), '', 'the bucket that is full soonest gave way, though nearly empty');
$node->safe_psql('postgres', "SELECT rl_consume('newer' || i, 1000, 0.001, 900 - i) FROM generate_series(1, 100) i");
is(store_of($node, 'quota'), 'memory', 'a quota that is never full by itself gives way last');

# A key that takes several slots needs others to make room
my $before = evicted();
is($node->safe_psql('postgres', "SELECT rl_consume(repeat('x', 255), 1000, 0.001, 999)"), 't', 'a key of 255 bytes');
is($node->safe_psql('postgres', "SELECT count(*) FROM rate_limit_status WHERE key = repeat('x', 255)"), 1, '... finds room');
cmp_ok(evicted() - $before, '>=', 2, '... for all of it');

# Many at once
run_clients(
	$node, '500 keys in 16 slots',
	clients => 16,
	transactions => 50,
	script => <<'SCRIPT');
SELECT count(*) FILTER (WHERE rl_consume('many' || i % 500, 5, 0.1)) FROM generate_series(1, 100) i;
SCRIPT
is($node->safe_psql('postgres', "SELECT count(*) <= 16 FROM rate_limit_status"), 't', '500 keys: 16 slots');
is(twice_living($node), '', '500 keys: no bucket twice');
is(rows(), 0, 'nothing was written to the table');
is(spilled($node), 0, 'nothing is said to be there');

# A living key keeps its tokens count as long as it is not the one to give way
is($node->safe_psql('postgres', 'SELECT rl_reset_all(NULL) > 0'), 't', 'reset');
is( $node->safe_psql('postgres', <<'SQL'), '10', 'a quota of 10 admits 10 while others come and go');
SELECT count(*) FILTER (WHERE rl_consume('kept', 10, 0)) FROM generate_series(1, 200) i
WHERE rl_consume('passing' || i, 5, 0.1);
SQL

#
# Buckets that are in the table already stay where they are
#
$node->safe_psql('postgres', q{ALTER SYSTEM SET ratelimit.overflow = 'table'});
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('ratelimit.overflow') = 'table'}) or die;
$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
fill_until_spilled($node, 'filling', 3, 0);
is($node->safe_psql('postgres', "SELECT rl_consume('row', 2, 0)"), 't', 'overflow = table: a key');
is(store_of($node, 'row'), 'table', '... that goes to the table');
$node->safe_psql('postgres', q{ALTER SYSTEM SET ratelimit.overflow = 'evict'});
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('ratelimit.overflow') = 'evict'}) or die;
is($node->safe_psql('postgres', "SELECT rl_consume('row', 2, 0), rl_consume('row', 2, 0)"), 't|f', 'overflow = evict: what it holds is as before');
is(twice_living($node), '', 'and it is in one store');

$node->stop;
done_testing();
