# After a clean restart the buckets in the table are found again, by a server that
# preloads and by one that does not.  After an immediate stop they start full, and
# all decide.  (What becomes of those in memory: 030 and 031.)
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('restart', conf => 'ratelimit.max_buckets = 16');

sub decide
{
	my ($key, $capacity) = @_;

	return $node->safe_psql('postgres', "SELECT rl_consume('$key', $capacity, 0)");
}

#
# Clean restart
#
is(decide('in memory', 1), 't', 'a bucket of 1');
is(store_of($node, 'in memory'), 'memory', '... in memory');
fill_until_spilled($node, 'filling', 1, 0);
is(decide('in table', 2), 't', 'a bucket of 2');
is(store_of($node, 'in table'), 'table', '... in the table');
$node->restart;
is(spilled($node), 1, 'restarted: the mark is back');
is($node->safe_psql('postgres', "SELECT (rl_peek('in table', 2, 0)).remaining"), 0, '... but whoever asks finds the row');
is(decide('in table', 2), 't', '... and takes what is left');
is(decide('in table', 2), 'f', '... and no more');
is(twice_living($node), '', 'no bucket is in both stores');
is(decide('new', 1), 't', 'a new key');
is(store_of($node, 'new'), 'table', '... goes to the table too');
is(decide('in memory', 1), 'f', 'what was in memory is there, too');
ok($node->safe_psql('postgres', "SELECT rl_reset_all(NULL)") > 0, 'reset');
ok(wait_until_nothing_spilled($node), 'the mark goes');

# The first caller after a restart may be one that cannot write, or many at once.
fill_until_spilled($node, 'filling', 1, 0);
is(decide('in table', 2), 't', 'a bucket of 2 again');
$node->restart;
is($node->safe_psql('postgres', "BEGIN READ ONLY; SELECT rl_consume('in table', 2, 0); SELECT rl_consume('in table', 2, 0); COMMIT"),
	"t\nf", 'a read-only caller finds the row');
$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
wait_until_nothing_spilled($node);
fill_until_spilled($node, 'filling', 1, 0);
is(decide('shared', 100), 't', 'a bucket of 100');
is(store_of($node, 'shared'), 'table', '... in the table');
$node->restart;
$node->safe_psql('postgres', 'CREATE SEQUENCE allowed');
run_clients(
	$node, 'many first callers',
	clients => 16,
	transactions => 20,
	script => <<'SCRIPT');
SELECT rl_consume('shared', 100, 0) AS ok \gset
\if :ok
SELECT nextval('allowed');
\endif
SCRIPT
is($node->safe_psql('postgres', 'SELECT last_value FROM allowed'), 99, '... get the 99 that are left');

# What a worker cleans includes rows from before the restart.
$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
wait_until_nothing_spilled($node);
fill_until_spilled($node, 'filling', 1000, 5);
$node->restart;
is(decide('first call', 1), 't', 'rows that expire, a restart, a call');
$node->safe_psql('postgres', "SELECT rl_reset('first call')");
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_buckets)'), 'the rows are cleaned away');

# A transaction prepared before the restart and committed after it
$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
wait_until_nothing_spilled($node);
fill_until_spilled($node, 'filling', 1, 0);
$node->safe_psql('postgres', "BEGIN; SELECT rl_consume('prepared', 1, 0); PREPARE TRANSACTION 'p'");
$node->restart;
is(decide('prepared', 1), 'f', 'prepared before a restart: the token is taken');
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
is(decide('prepared', 1), 'f', '... committed after it: likewise');
is(twice_living($node), '', '... and the bucket is in one store');
$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');

#
# With and without preloading by turns
#
wait_until_nothing_spilled($node);
fill_until_spilled($node, 'filling', 1, 0);
is(decide('turns', 4), 't', 'preloaded: a bucket of 4');
is(store_of($node, 'turns'), 'table', '... in the table');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nratelimit.shared_memory = off");
$node->restart;
is(decide('turns', 4), 't', 'not preloaded: the same bucket');
is(decide('without', 2), 't', '... and a new one');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ratelimit'\nratelimit.shared_memory = on");
$node->restart;
is(decide('turns', 4), 't', 'preloaded again: the same');
is(decide('without', 2), 't', '... and the one made without');
is(decide('without', 2), 'f', '... which is empty now');
is(decide('turns', 4), 't', '... and the other one a call later');
is(decide('turns', 4), 'f', '... too');
is(twice_living($node), '', 'no bucket is in both stores');

#
# Immediate stop
#
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_buckets'), 0, 'after an immediate stop the table is empty');
is($node->safe_psql('postgres', q{SELECT count(*) FROM rate_limit_status WHERE store = 'table'}), 0, '... and all its buckets are full');
is(decide('turns', 1), 't', '... and decide');
is(decide('turns', 1), 'f', '... as ever');
fill_until_spilled($node, 'after the crash', 1, 0);
is(decide('row', 1), 't', 'the table too');
is(decide('row', 1), 'f', '... decides');
is(store_of($node, 'row'), 'table', '... by rows');

$node->stop;
done_testing();
