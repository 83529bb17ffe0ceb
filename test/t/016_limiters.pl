# Counts per limiter: of many sessions, of more limiters than have entries, after DROP EXTENSION.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('limiters', conf => 'ratelimit.flush_interval = 1h');
my $shown = q{SELECT count(*), sum(allowed), sum(allowed) FILTER (WHERE limiter = '(other)') FROM rate_limit_stats WHERE limiter IS NOT NULL};

# More limiters than a session counts at once, in many sessions that come and go
run_clients($node, 'calls', clients => 8, transactions => 50, script => <<'SQL');
\set n random(1, 20)
SELECT count(rl_consume('k', 1e9, 0, 1, 'limiter ' || i)) FROM generate_series(1, :n) i;
SELECT count(rl_consume('all', 1e9, 0, 1, 'all')) FROM generate_series(1, 100 - :n) i;
SQL
is($node->safe_psql('postgres', $shown), '21|40000|', 'every call of 21 limiters is counted, none twice');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM rate_limit_stats s JOIN rate_limit_status b USING (limiter) WHERE s.allowed <> 1e9 - b.tokens}),
	0, '... for the limiter that it called');
$node->restart;
is($node->safe_psql('postgres', $shown), '21|40000|', '... and still after a restart');

# Counts start anew while sessions go on
my $session = in_session($node);
$session->query_safe("SELECT rl_consume('k', 1e9, 0, 1, 'limiter ' || i) FROM generate_series(1, 3) i");
$node->safe_psql('postgres', 'SELECT rl_stats_reset()');
is($node->safe_psql('postgres', $shown), '21|0|', 'rl_stats_reset(): all from 0');
$session->query_safe("SELECT rl_consume('k', 1e9, 0, 1, 'limiter ' || i) FROM generate_series(1, 3) i");
is($node->safe_psql('postgres', $shown), '21|3|', '... and what a session counts from then on');

# The extension comes and goes with other limiters each time; a session lives on
foreach my $round (1 .. 5)
{
	$node->safe_psql('postgres', 'DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit');
	is($node->safe_psql('postgres', $shown), '0||', "extension $round: nothing is counted");
	$session->query_safe("SELECT rl_consume('k', 1e9, 0, 1, 'limiter ' || i) FROM generate_series(1, 3) i");
	$node->safe_psql('postgres', "SELECT count(rl_consume('k', 1e9, 0, 1, 'of $round, ' || i)) FROM generate_series(1, 400) i");
	is($node->safe_psql('postgres', $shown), '403|403|', "extension $round: 403 limiters, each with an entry");
}
finish_session($session);

# Too many at once
$node->safe_psql('postgres', "SELECT count(rl_consume('k', 1e9, 0, 1, 'many ' || i)) FROM generate_series(1, 2000) i");
is( $node->safe_psql('postgres', q{SELECT count(*) > 900, sum(allowed), sum(allowed) FILTER (WHERE limiter = '(other)') > 1000 FROM rate_limit_stats WHERE limiter IS NOT NULL AND allowed > 0}),
	't|2403|t', 'more limiters than there are entries: the rest are counted together');

$node->stop;
done_testing();
