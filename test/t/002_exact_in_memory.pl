# 32 connections share buckets in shared memory: a quota of C admits exactly C,
# and a refilling bucket C + refill x time, never more and hardly less.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('exact_in_memory');

$node->safe_psql('postgres', <<'SQL');
CREATE UNLOGGED TABLE hits (name text, key text, allowed bigint, calls bigint,
	began timestamptz, ended timestamptz);
SQL

# One statement of 1,000 calls, going round the keys from wherever.
sub calls
{
	my ($name, $keys, $capacity, $refill) = @_;

	return <<"SCRIPT";
\\set first random(0, $keys)
INSERT INTO hits SELECT '$name', key, count(*) FILTER (WHERE ok), count(*), statement_timestamp(), clock_timestamp()
FROM (SELECT i % $keys AS key, rl_consume('k' || i % $keys, $capacity, $refill, 1, '$name') AS ok
	FROM generate_series(:first + 1, :first + 1000) i OFFSET 0) s
GROUP BY key;
SCRIPT
}

#
# Quotas.  1,600,000 calls; a third of them are allowed, so that many contend.
#
foreach my $keys (1, 10, 1000)
{
	my $name = "quota$keys";
	my $capacity = 500_000 / $keys;

	run_clients(
		$node, "quota, $keys keys",
		clients => 32,
		transactions => 50,
		script => calls($name, $keys, $capacity, 0));
	is( $node->safe_psql('postgres',
			"SELECT sum(calls), count(DISTINCT key) FROM hits WHERE name = '$name'"),
		"1600000|$keys",
		"quota, $keys keys: 32 connections decided 50,000 calls each");
	is( $node->safe_psql('postgres',
			"SELECT key, sum(allowed) FROM hits WHERE name = '$name' GROUP BY key HAVING sum(allowed) <> $capacity LIMIT 5"),
		'',
		"quota, $keys keys: exactly $capacity allowed for every key");
	is( $node->safe_psql('postgres',
			"SELECT count(*) FROM rate_limit_status WHERE limiter = '$name' AND tokens = 0 AND store = 'memory'"),
		$keys, "quota, $keys keys: all empty, all in shared memory");
}

#
# Refilling.  The capacity lasts three seconds, so that no pause on a loaded machine
# lets a bucket become full and tokens go to waste.
#
foreach my $keys (1, 10, 1000)
{
	my $name = "refill$keys";
	my $refill = 20_000 / $keys;
	my $capacity = 3 * $refill;

	$node->safe_psql('postgres', 'TRUNCATE hits');
	my $run = start_clients(
		$node,
		clients => 32,
		until_told => 1,
		script => calls($name, $keys, $capacity, $refill));
	$node->poll_query_until('postgres', 'SELECT EXISTS (SELECT FROM hits)');
	my $end = $node->safe_psql('postgres', "SELECT clock_timestamp() + interval '2.5 s'");
	$node->poll_query_until('postgres', "SELECT clock_timestamp() > '$end'");
	my $seconds = tell_clients_to_end($node, $run, "refill, $keys keys");
	# rounding may add less than a nanosecond of refill an allowed call
	is( $node->safe_psql('postgres', <<"SQL"), '', "refill, $keys keys: never above C + R x T");
SELECT key, sum(allowed) AS allowed, $capacity + $refill * $seconds AS bound FROM hits WHERE name = '$name' GROUP BY key
HAVING sum(allowed) * (1 - $refill * 1e-9) > $capacity + $refill * $seconds LIMIT 5
SQL
	# no less than the time from the bucket's first call to its last
	is( $node->safe_psql('postgres', <<"SQL"), '', "refill, $keys keys: at least 99% of C + R x T");
SELECT key, allowed, $capacity + $refill * t AS bound
FROM (SELECT key, sum(allowed) AS allowed, sum(calls) AS calls, extract(epoch FROM max(began) - min(ended)) AS t FROM hits WHERE name = '$name' GROUP BY key) s
WHERE allowed < floor(0.99 * ($capacity + $refill * t)) OR calls <= allowed LIMIT 5
SQL
	is( $node->safe_psql('postgres',
			"SELECT count(DISTINCT key), extract(epoch FROM max(began) - min(ended)) > 1.5 FROM hits WHERE name = '$name'"),
		"$keys|t", "refill, $keys keys: and that was long enough to tell");
}
is(spilled($node), 0, 'nothing went to the table');

$node->stop;
done_testing();
