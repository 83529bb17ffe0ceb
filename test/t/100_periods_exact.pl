# 32 connections use up the allowances of hours while the clock goes from hour to hour, and
# back: each hour has its allowance exactly once, and a policy whose tiers have periods and
# a refill takes from all of them or from none.  In shared memory, in the table, and between
# them.
#
# RATELIMIT_FULL=1 for ten times as long.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;
use Time::HiRes;

use constant HOUR => 3600 * 1_000_000;

my $seconds = $ENV{RATELIMIT_FULL} ? 40 : 4;

# A statement of 100 calls on 5 keys; those of the last key cost a tenth.  Another one of
# calls by a policy, which are noted as key 9.
my $calls = <<'SQL';
INSERT INTO hits SELECT i % 5, count(*) FILTER (WHERE ok), count(*)
FROM (SELECT i, rl_consume_period('k' || i % 5, 300, 'hour', CASE i % 5 WHEN 4 THEN 0.1 ELSE 1 END) AS ok
	FROM generate_series(1, 100) i OFFSET 0) s GROUP BY i % 5;
INSERT INTO hits SELECT 9, count(*) FILTER (WHERE ok), count(*)
FROM (SELECT rl_consume_policy('p', 'u') AS ok FROM generate_series(1, 10) OFFSET 0) s;
SQL

sub run_in
{
	my ($store, %options) = @_;
	my $node = start_server($store =~ s/ /_/gr, %options);
	my ($seam, %seam) = preload_seam($node);
	my ($hours, $offset, $back) = (1, 0, 0);

	$node->stop;
	{
		local %ENV = (%ENV, %seam);
		$node->start;
	}
	my $query = sub { return $node->safe_psql('postgres', $_[0]) };
	my $set_clock = sub { set_seam($seam, clock_us => $offset) };

	# half past the hour, so that no hour ends by itself
	my $now = $query->('SELECT extract(epoch FROM clock_timestamp())');
	$offset = int((1800 - $now % 3600) * 1_000_000);
	$set_clock->();
	$query->('CREATE UNLOGGED TABLE hits (key int, allowed int, calls int)');
	$query->("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, period) VALUES"
		  . " ('p', 'default', 200, NULL, 'hour'), ('p', 'long', 1e9, NULL, '100 years'), ('p', 'bucket', 1e9, 1e-12, NULL)");
	if ($store eq 'between the stores')
	{
		# as these hours end, too, buckets come back from the table
		$query->("SELECT rl_consume_period('filling' || i, 100, 'hour') FROM generate_series(1, 20000) i");
		is($query->("SELECT bool_or(store = 'table') FROM rate_limit_status"), 't', "$store: some buckets are in the table");
	}

	my $clients = start_clients($node, clients => 32, until_told => 1, script => $calls);
	my $end = monotonic_seconds() + $seconds - 1;
	my $exhausted = "SELECT count(*) = 5 AND (SELECT remaining = 0 FROM rl_peek_period('u', 200, 'hour', 0, 'p'))"
	  . " FROM generate_series(0, 4) i, rl_peek_period('k' || i, 300, 'hour') p WHERE p.remaining = 0";

	# for so long, and on a slow machine until the clock was set back
	while (monotonic_seconds() < $end || !$back)
	{
		die "$store: the hour's allowances are not used up" if monotonic_seconds() > $end + $PostgreSQL::Test::Utils::timeout_default;
		next unless $query->($exhausted) eq 't';
		if ($hours % 3 == 0)
		{
			# back over the beginning of the hour: nothing is there again
			my $before = $query->('SELECT sum(calls) FROM hits');
			$offset -= HOUR;
			$set_clock->();
			$node->poll_query_until('postgres', "SELECT sum(calls) > $before + 3200 FROM hits");
			is($query->($exhausted), 't', "$store: the clock an hour back") unless $back++;
			$offset += HOUR;
		}
		$offset += HOUR;
		$hours++;
		$set_clock->();
	}
	tell_clients_to_end($node, $clients, $store);
	cmp_ok($hours, '>=', 3, "$store: $hours hours") and cmp_ok($back, '>', 0, "$store: back $back times");
	is($query->(<<"SQL"), '', "$store: each hour's allowance has been taken exactly once");
SELECT key, sum(allowed), used FROM hits, LATERAL (SELECT hits AS used FROM rl_count('k' || key, 'hour', 0)) n
WHERE key < 5 GROUP BY key, used
HAVING sum(allowed) * CASE key WHEN 4 THEN 0.1 ELSE 1 END <> 300 * ($hours - 1) + used
SQL
	my $allowed = $query->('SELECT sum(allowed) FROM hits WHERE key = 9');
	is($query->("SELECT 200 * ($hours - 1) + hits FROM rl_count('u', 'hour', 0, 'p')"), $allowed, "$store: so have the hours of the policy");
	is($query->("SELECT hits FROM rl_count('u', '100 years', 0, 'p/long')"), $allowed, "$store: ... which has taken as much from its other period");
	is($query->("SELECT 1e9 - tokens FROM rl_status_policy('p', 'u') WHERE tier = 'bucket'"), $allowed, "$store: ... and from its bucket");
	is(twice_living($node), '', "$store: no bucket is in two stores");
	$node->stop;
	return;
}

run_in('memory');
run_in('table', preload => 0);
run_in('between the stores', conf => 'ratelimit.max_buckets = 16');

done_testing();
