# Without preloading, on PostgreSQL 17 and later, the workers may find no slot: calls are
# decided in memory all the same, one warning says what waits, and the workers start by
# themselves once there are slots.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('late');
plan skip_all => 'before PostgreSQL 17, shared memory needs preloading' unless can_be_late($node);

# Both slots are taken by logical replication, whose launcher and worker come first
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', <<'CONF');
max_worker_processes = 2
max_logical_replication_workers = 2
ratelimit.flush_interval = 1s
CONF
$node->start;

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

query('CREATE TABLE empty (); CREATE PUBLICATION p FOR TABLE empty; CREATE DATABASE other');
query(q{SELECT pg_create_logical_replication_slot('s', 'pgoutput')});
my $connection = $node->connstr . ' dbname=postgres';
$node->safe_psql('other', "CREATE TABLE empty (); CREATE SUBSCRIPTION s CONNECTION '$connection'"
  . q{ PUBLICATION p WITH (create_slot = false, slot_name = 's', copy_data = false)});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'logical replication apply worker'}), 'both slots are taken');

my $session = in_session($node);
$session->query_safe('SET client_min_messages = error');
is($session->query_safe("CREATE EXTENSION ratelimit; SELECT rl_consume('k', 1, 0), rl_consume('k', 1, 0)"), 't|f', 'calls are decided');
is(store_of($node, 'k'), 'memory', '... in memory');
my $new = 0;
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$session->query_safe("SELECT rl_consume('new" . ++$new . "', 1, 0)");
	last if slurp_file($node->logfile) =~ /no background worker slot/;
	Time::HiRes::usleep(100_000);
}
like(slurp_file($node->logfile), qr/WARNING:  ratelimit: no background worker slot is free.*\n.*HINT:  Increase max_worker_processes/, 'a warning says what is missing');
is(query("SELECT sum(count) FROM rate_limit_pending WHERE key = 'k'"), 1, 'violations wait');

$node->safe_psql('other', 'ALTER SUBSCRIPTION s DISABLE');
$node->append_conf('postgresql.conf', 'max_logical_replication_workers = 0');
# the slot of the apply worker is free; that of its launcher only after a restart
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$session->query_safe("SELECT rl_consume('new" . ++$new . "', 1, 0)");
	last if saver_pid($node, 1);
	Time::HiRes::usleep(100_000);
}
ok(saver_pid($node, 1), 'a slot is free: the saver starts');
my $warnings = () = slurp_file($node->logfile) =~ /WARNING:  ratelimit: no background worker slot is free, violations wait/g;
is($warnings, 1, 'there was one warning');
finish_session($session);
$node->safe_psql('other', 'ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s');

# Both slots are for the saver and the launcher, and its workers wait
$node->restart;
is(query("SELECT rl_consume('saved', 1, 0)"), 't', 'restarted with both slots free');
ok(saver_pid($node), '... the saver starts, before the launcher can give its slot to others');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), '... and so does the launcher');
$node->restart;
is(query("SELECT rl_consume('saved', 1, 0)"), 'f', '... and state is saved');
$node->stop;
done_testing();
