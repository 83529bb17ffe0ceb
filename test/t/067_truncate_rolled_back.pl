# A transaction that truncates the table before anybody has gone through it, makes calls
# and is rolled back: the rows that come back are still the buckets.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('truncate', preload => 0);
my $query = sub { return $node->safe_psql('postgres', $_[0]) };

$query->("SELECT rl_consume('key', 10, 0, 7)");
# the launcher takes the only slot, so no worker comes
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'ratelimit'
ratelimit.shared_memory = on
max_worker_processes = 1
CONF
$node->restart;
is($query->("BEGIN; TRUNCATE rate_limit_buckets; SELECT rl_consume('other', 10, 0); ROLLBACK"),
	't', 'a call in a transaction that has truncated the table');
is($query->("SELECT remaining FROM rl_peek('key', 10, 0, 0)"), 3, 'rolled back: the bucket is what it was');
is($query->("SELECT rl_consume('key', 10, 0, 4), rl_consume('key', 10, 0, 3)"), 'f|t', '... for calls, too');
is(twice_living($node), '', '... and in one place');
$node->stop;
done_testing();
