# Rates worked out by rl_per() are constants to SQL, and none of them is a quota by
# accident, whatever the span.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('rates');

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# A prepared call has the rate in its plan, and so works it out once.
like(query(q{PREPARE call (text) AS SELECT rl_consume($1, 100, rl_per(60, '1 minute')); SET plan_cache_mode = force_generic_plan; EXPLAIN (VERBOSE, COSTS OFF) EXECUTE call('k')}),
	qr/rl_consume\(\$1, '100'::double precision, '1'::double precision,/, 'folded to a constant');
like((query(q{CREATE TABLE plans (calls float8, per interval, refill float8 GENERATED ALWAYS AS (rl_per(calls, per)) STORED); INSERT INTO plans VALUES (100, '1 minute'), (5, '1 day'); SELECT string_agg(refill::text, ' ' ORDER BY refill) FROM plans})),
	qr/^5\.787037037037037e-05 1\.6666666666666667$/, 'a generated column');
like(query('EXPLAIN (COSTS OFF) SELECT sum(rl_per(calls, per)) FROM plans'), qr/Aggregate/, 'for rows');

# A span that never ends would be a quota that nobody has called one.
SKIP:
{
	skip 'intervals are finite', 3 if query('SHOW server_version_num') < 170000;

	foreach my $span ('infinity', '-infinity')
	{
		my ($rc, $out, $err) = $node->psql('postgres', "SELECT rl_per(1, '$span')");
		like($err, qr/ERROR:  per must be finite, not $span/, "$span is refused");
	}
	my ($rc, $out, $err) = $node->psql('postgres', q{SELECT rl_per(0, 'infinity')});
	like($err, qr/per must be finite/, '... also with no tokens');
}

# The longest and the shortest.  A microsecond more is infinity, on 17 and later.
is(query(q{SELECT rl_per(1, '178000000 years') > 0, rl_per(1e12, '1 us'), rl_per(1, '2147483647 months 2147483647 days 2562047788:00:54.775806') > 0}), 't|1e+18|t', 'the longest and the shortest spans');

$node->stop;
done_testing();
