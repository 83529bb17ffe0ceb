# Without preloading, on PostgreSQL 17 and later: a standby makes shared memory of its own
# and decides there.  Promoted under a session's feet it goes on, with its launcher.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
plan skip_all => 'before PostgreSQL 17, shared memory needs preloading' unless can_be_late($primary);
$primary = start_server('late', late => 1, streaming => 1, conf => 'ratelimit.max_buckets = 16');

is($primary->safe_psql('postgres', "SELECT rl_consume('k', 2, 0), rl_report('k', 'user', 3)"), 't|t', 'the primary decides');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));

sub query
{
	return $standby->safe_psql('postgres', $_[0]);
}

run_clients(
	$standby, 'many first calls on the standby',
	clients => 20,
	transactions => 10,
	script => "SELECT rl_consume('shared', 1e6, 0);");
is(query("SELECT 1e6 - tokens, store FROM rate_limit_status WHERE key = 'shared'"), '200|memory', '... are decided in its memory');
is(query("SELECT rl_consume('k', 2, 0), rl_consume('k', 2, 0), rl_consume('k', 2, 0)"), 't|t|f', 'its buckets are its own');
is(query("SELECT count(*) FILTER (WHERE rl_consume('many' || i, 1, 0)) FROM generate_series(1, 100) i"), 100, 'more keys than slots are decided');
is(query("SELECT rl_reset_all(NULL) > 0, rl_consume('shared', 1e6, 0, 200)"), 't|t', 'make room');
is(query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), 0, 'the launcher does not run');

# State is saved at a clean stop of a standby, too
$standby->restart;
my $session = in_session($standby);
is($session->query_safe("SELECT rl_consume('shared', 1e6, 0)"), 't', 'restarted: a session on the standby');
is(query("SELECT 1e6 - tokens FROM rate_limit_status WHERE key = 'shared'"), 201, '... finds the bucket');

$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'promoted');
is($session->query_safe("SELECT rl_consume('shared', 1e6, 0)"), 't', 'the session goes on');
is(query("SELECT 1e6 - tokens, store FROM rate_limit_status WHERE key = 'shared'"), '202|memory', '... with the same bucket');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), 'the launcher has started, once');
fill_until_spilled($standby, 'after', 1, 0);
is($session->query_safe("SELECT rl_consume('row', 2, 0), rl_consume('row', 2, 0), rl_consume('row', 2, 0)"), 't|t|f', 'a key that does not fit');
is(store_of($standby, 'row'), 'table', '... goes to the table');
finish_session($session);
query("SELECT rl_report('promoted', 'user', 2)");
ok($standby->poll_query_until('postgres', "SELECT sum(count) = 2 FROM rate_limit_violation_details WHERE key = 'promoted'"), 'violations are written');
is(twice_living($standby), '', 'no bucket is in both stores');
$standby->restart;
is(query("SELECT 1e6 - tokens FROM rate_limit_status WHERE key = 'shared'"), 202, 'restarted as a primary: the same state');
$standby->stop;

# A session that is there before the promotion, but calls only after it
$standby = PostgreSQL::Test::Cluster->new('unused');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'another one is promoted before any call');
is(query("SELECT rl_consume('k', 2, 0)"), 't', '... and decides');
is(store_of($standby, 'k'), 'memory', '... in memory');
$standby->stop;
$primary->stop;
done_testing();
