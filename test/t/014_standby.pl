# A hot standby decides on its own buckets, in shared memory, and writes nothing.
# Promoted, it has rows in the table like any server.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $primary = start_server('primary', streaming => 1, conf => 'ratelimit.max_buckets = 16');

# a row of the unlogged table, which no standby has
fill_until_spilled($primary, 'filling', 1, 0);
is($primary->safe_psql('postgres', "SELECT rl_consume('k', 2, 0), rl_consume('k', 2, 0), rl_consume('k', 2, 0)"),
	't|t|f', 'the primary decides');
is(store_of($primary, 'k'), 'table', '... in its table');

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));

is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'a standby');
is($standby->safe_psql('postgres', "SELECT rl_consume('k', 2, 0), rl_consume('k', 2, 0), rl_consume('k', 2, 0)"),
	't|t|f', 'the standby decides on its own bucket');
is($standby->safe_psql('postgres', "SELECT (rl_throttle('k', 2, 0)).allowed, (rl_peek('k', 2, 0)).remaining"), 'f|0', '... throttles and peeks');
is($standby->safe_psql('postgres', "SELECT key, tokens, store FROM rate_limit_status"), 'k|0|memory', '... and shows it');
is($standby->safe_psql('postgres', "SELECT (rl_peek('unknown', 2, 0)).remaining"), 1, 'a key without bucket can be looked at');
is($standby->safe_psql('postgres', "SELECT rl_reset('k'), rl_reset('k'), rl_reset_all(NULL)"), 't|f|0', 'resetting works');
is($standby->safe_psql('postgres', "SELECT rl_consume('k', 2, 0)"), 't', '... and makes it full');
is($standby->safe_psql('postgres', "SELECT count(*), bool_or(spilled) FROM rl_partitions()"), '1|f', 'nothing has spilled');

# more keys than slots: there is no table to go to
is($standby->safe_psql('postgres', "SELECT count(*) FILTER (WHERE rl_consume('many' || i, 1, 0)) FROM generate_series(1, 100) i"),
	100, 'more keys than slots are decided');
is($standby->safe_psql('postgres', "SELECT count(*) <= 16, min(store), max(store) FROM rate_limit_status"),
	't|memory|memory', '... in memory');
is($standby->safe_psql('postgres', "SELECT sum(evicted) > 80, bool_or(spilled) FROM rl_partitions()"), 't|f', '... what gave way is counted');
my $seconds = run_clients(
	$standby, 'many clients on the standby',
	clients => 16,
	transactions => 50,
	script => "SELECT rl_consume('shared', 1e6, 0) FROM generate_series(1, 10);");
is($standby->safe_psql('postgres', "SELECT 1e6 - tokens FROM rate_limit_status WHERE key = 'shared'"), 8000, '... take every token once');
is($primary->safe_psql('postgres', "SELECT count(*) FROM rate_limit_status WHERE key = 'shared'"), 0, '... none of them from the primary');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ratelimit%'}), 0, 'no worker runs');

# the extension dropped and created on the primary is another one on the standby,
# but the buckets of the standby are no worse for it
my $session = in_session($standby);
is($session->query_safe("SELECT rl_consume('shared', 1e6, 0)"), 't', 'a session on the standby');

#
# Promotion, under its feet
#
$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'promoted');
is($session->query_safe("SELECT rl_consume('shared', 1e6, 0)"), 't', 'the session goes on');
is($standby->safe_psql('postgres', "SELECT 1e6 - tokens, store FROM rate_limit_status WHERE key = 'shared'"), '8002|memory', 'the bucket is the one it had');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_buckets'), 0, 'the table is there, and empty');
fill_until_spilled($standby, 'after', 1, 0);
is($session->query_safe("SELECT rl_consume('row', 2, 0)"), 't', 'now a key that does not fit');
is(store_of($standby, 'row'), 'table', '... goes to the table');
is($session->query_safe("SELECT rl_consume('row', 2, 0)"), 't', '... and is decided');
is($session->query_safe("SELECT rl_consume('row', 2, 0)"), 'f', '... there');
finish_session($session);
is(twice_living($standby), '', 'no bucket is in both stores');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), 'the launcher has started');
$standby->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
ok(wait_until_nothing_spilled($standby), '... and does its work');

$standby->stop;

#
# A standby without shared memory cannot decide, and says what is missing
#
my $bare = PostgreSQL::Test::Cluster->new('bare');
$bare->init_from_backup($primary, 'backup', has_streaming => 1);
$bare->append_conf('postgresql.conf', "shared_preload_libraries = ''\nratelimit.shared_memory = off");
$bare->start;
my ($rc, $out, $err) = $bare->psql('postgres', "SELECT rl_consume('k', 2, 0)");
like($err, qr/cannot decide on key "k".*HINT:  .*"ratelimit" in shared_preload_libraries/s, 'not preloaded: says what is missing');
is($bare->safe_psql('postgres', "SET ratelimit.on_error = allow; SET client_min_messages = error; SELECT rl_consume('k', 2, 0)"), 't', '... or does as ratelimit.on_error says');
is($bare->safe_psql('postgres', "SELECT count(*) FROM rate_limit_status"), 0, '... and has nothing to show');
$bare->stop;
$primary->stop;
done_testing();
