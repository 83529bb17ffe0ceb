# Without preloading the buckets are rows, and 32 connections sharing them get
# exactly what they would get from shared memory.  So do callers in transactions
# that see an old snapshot.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('exact_in_table', preload => 0);

is($node->safe_psql('postgres', 'SELECT count(*) FROM rl_partitions()'),
	0, 'no shared memory here');
$node->safe_psql('postgres', <<'SQL');
CREATE UNLOGGED TABLE hits (name text, key text, ok bool, began timestamptz, ended timestamptz);
SQL

# One call a transaction: no two rows are locked at once, nothing can deadlock.
sub call
{
	my ($name, $keys, $capacity, $refill) = @_;

	return <<"SCRIPT";
\\set key random(1, $keys)
INSERT INTO hits SELECT '$name', :key, ok, statement_timestamp(), clock_timestamp()
FROM (SELECT rl_consume('k' || :key, $capacity, $refill, 1, '$name') AS ok OFFSET 0) s;
SCRIPT
}

foreach my $keys (1, 10, 1000)
{
	my $name = "quota$keys";
	my $capacity = $keys == 1000 ? 3 : 3200 / $keys;

	run_clients(
		$node, "quota, $keys keys",
		clients => 32,
		transactions => 300,
		script => call($name, $keys, $capacity, 0));
	is( $node->safe_psql('postgres',
			"SELECT count(*) FROM hits WHERE name = '$name'"),
		9600, "quota, $keys keys: 32 connections decided 300 calls each");
	is( $node->safe_psql('postgres',
			"SELECT key, count(*), count(*) FILTER (WHERE ok) FROM hits WHERE name = '$name' GROUP BY key HAVING count(*) FILTER (WHERE ok) <> least($capacity, count(*)) LIMIT 5"),
		'',
		"quota, $keys keys: exactly $capacity allowed for every key");
	is( $node->safe_psql('postgres',
			"SELECT count(*) FILTER (WHERE store <> 'table'), count(*) = (SELECT count(DISTINCT key) FROM hits WHERE name = '$name') FROM rate_limit_status WHERE limiter = '$name'"),
		'0|t', "quota, $keys keys: a row for each");
}

# Demand: at least some 500 calls a second, on any machine.  Supply: 40.  The capacity lasts
# four seconds, so that no pause lets a bucket become full.
foreach my $keys (1, 10)
{
	my $name = "refill$keys";
	my $refill = 40 / $keys;
	my $capacity = 4 * $refill;

	my $seconds = run_clients(
		$node, "refill, $keys keys",
		clients => 32,
		seconds => 3,
		script => call($name, $keys, $capacity, $refill));
	is( $node->safe_psql('postgres', <<"SQL"), '', "refill, $keys keys: never above C + R x T");
SELECT key, count(*), $capacity + $refill * $seconds FROM hits WHERE name = '$name' AND ok GROUP BY key
HAVING count(*) > $capacity + $refill * $seconds LIMIT 5
SQL
	# the last call allowed may wait for its token until after the last call
	is( $node->safe_psql('postgres', <<"SQL"), '', "refill, $keys keys: at least 99% of C + R x T");
SELECT key, allowed, $capacity + $refill * t
FROM (SELECT key, count(*) FILTER (WHERE ok) AS allowed, extract(epoch FROM max(began) - min(ended)) AS t FROM hits WHERE name = '$name' GROUP BY key) s
WHERE allowed < floor(0.99 * ($capacity + $refill * t)) - 1 LIMIT 5
SQL
}

#
# An old snapshot
#
my $old = in_session($node);
is($old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM hits WHERE false'),
	0, 'a snapshot is taken');
is( $node->safe_psql('postgres',
		"SELECT rl_consume('old', 1, 0), rl_consume('old', 1, 0)"),
	't|f', 'then a token is taken');
is($old->query_safe("SELECT rl_consume('old', 1, 0)"),
	'f', 'a caller whose snapshot is older finds it taken');
finish_session($old);

$node->stop;
done_testing();
