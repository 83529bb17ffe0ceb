# Past max_violations, violations count for the key (other) of their gateway and
# limiter, and the totals stay exact.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('bound', conf => "ratelimit.max_violations = 16384\nratelimit.flush_interval = 1h");

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# 20,000 violators of 2 gateways and 2 limiters, the i-th with i % 3 + 1
# violations, twice: some are counted before and some after the room is full.
foreach my $gateway (0, 1)
{
	query(<<"SQL");
SET ratelimit.gateway_name = 'gateway $gateway';
SELECT count(rl_report('key ' || i, 'limiter ' || i / 2 % 2, i % 3 + 1))
FROM generate_series($gateway, 19999, 2) i, generate_series(1, 2);
SQL
}
my $expected = query(<<'SQL');
SELECT 'gateway ' || i % 2, 'limiter ' || i / 2 % 2, sum(2 * (i % 3 + 1)) FROM generate_series(0, 19999) i GROUP BY 1, 2 ORDER BY 1, 2
SQL
my $room = query("SELECT count(*) FROM rate_limit_pending WHERE key <> '(other)'");

cmp_ok($room, '<=', 16384, "pending: no more than max_violations keys ($room)");
cmp_ok($room, '>', 15000, '... and not many fewer');
is(query('SELECT gateway_name, limiter, sum(count) FROM rate_limit_pending GROUP BY 1, 2 ORDER BY 1, 2'), $expected, 'the totals are exact');
is(query('SELECT sum(violations_pending), sum(violations_lost) FROM rate_limit_stats WHERE limiter IS NULL'), query('SELECT sum(2 * (i % 3 + 1)) FROM generate_series(0, 19999) i') . '|0', '... none is lost');
is(query(q{SELECT count(*) FROM rate_limit_pending p WHERE key <> '(other)' AND count <> 2 * (substring(key FROM '\d+')::int % 3 + 1) AND count <> substring(key FROM '\d+')::int % 3 + 1}),
	0, 'those with a place of their own are counted there');

is(query('SELECT rl_flush()'), 2, 'flushed: a row per gateway');
is(query('SELECT gateway_name, limiter, sum(count) FROM rate_limit_violation_details GROUP BY 1, 2 ORDER BY 1, 2'), $expected, '... the totals are exact');
is(query("SELECT count(*) FROM rate_limit_violation_details WHERE key <> '(other)'"), $room, '... with as many keys');
is(query("SELECT count(*), bool_and(count > 0) FROM rate_limit_violation_details WHERE key = '(other)' AND gateway_name = 'gateway 1'"), '2|t', '... and (other) for the rest, per limiter');
is(query('SELECT count(*) FROM rate_limit_pending'), 0, '... none pending');

# the room is free again
query("SELECT count(rl_report('key ' || i, 'again', 1)) FROM generate_series(1, 10000) i");
is(query("SELECT count(*), sum(count) FROM rate_limit_pending WHERE key <> '(other)'"), '10000|10000', 'the room is free for others');
query('SELECT rl_flush()');

# Many at once, over and over, with flushes in between
query('TRUNCATE rate_limit_violations');
query("ALTER SYSTEM SET ratelimit.flush_interval = '1s'");
$node->reload;
my $transactions = $ENV{RATELIMIT_FULL} ? 400 : 60;
run_clients(
	$node, 'many violators',
	clients => 8,
	transactions => $transactions,
	rate => $transactions * 8 / 4,
	script => <<'SCRIPT');
SELECT set_config('ratelimit.gateway_name', 'gateway ' || :client_id % 2, false);
SELECT count(rl_report('key ' || (random() * 40000)::int, 'limiter ' || i % 2, 1)) FROM generate_series(1, 1000) i;
SCRIPT
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'flushed');
my $each = $transactions * 8 * 1000 / 4;
# When the places near that of a gateway's and limiter's (other) are all in use, which is
# rare, its violations count for (other) of (other)
is(query('SELECT sum(count) FROM rate_limit_violation_details'), 4 * $each, '... every one');
is(query("SELECT count(*), bool_and(n <= $each) FROM (SELECT sum(count) AS n FROM rate_limit_violation_details WHERE gateway_name <> '(other)' GROUP BY gateway_name, limiter) g"), '4|t', '... per gateway and limiter');
cmp_ok(query("SELECT sum(count) FROM rate_limit_violation_details WHERE key = '(other)'"), '>', 0, '... with some among (other)');
is(query('SELECT violations_lost FROM rate_limit_stats WHERE limiter IS NULL'), 0, '... none lost');
cmp_ok(query("SELECT max(n) FROM (SELECT count(*) AS n FROM rate_limit_violation_details WHERE key <> '(other)' GROUP BY created_at) f"), '<=', 16384, '... and never more keys than max_violations');

$node->stop;
done_testing();
