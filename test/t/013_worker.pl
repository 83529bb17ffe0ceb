# The workers are in nobody's way: not when there is no slot for them, not when
# their database is being dropped, not when they have to wait for a lock.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('worker', conf => <<'CONF');
ratelimit.max_buckets = 16
log_min_messages = debug1
CONF

my $launchers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'};
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ratelimit worker'};

sub spill_with_expired_row
{
	my ($database) = @_;

	$node->safe_psql($database, "SELECT count(*) FILTER (WHERE rl_consume('fill' || i, 1, 1)) FROM generate_series(1, 40) i");
	return;
}

ok($node->poll_query_until('postgres', "SELECT ($launchers) = 1"), 'there is a launcher');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher' AND datid IS NOT NULL}),
	0, '... connected to no database');

#
# DROP DATABASE, again and again, while the workers are at it
#
foreach my $round (1 .. 8)
{
	my $database = "victim$round";

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION ratelimit');
	my $from = -s $node->logfile;
	spill_with_expired_row($database);
	# every other time when a worker has just begun
	$node->wait_for_log(qr/cleaning rate_limit_buckets/, $from)
	  if $round % 2;
	my ($rc, $out, $err) = $node->psql('postgres', "DROP DATABASE $database" . ($round % 4 == 0 ? ' WITH (FORCE)' : ''), timeout => 60, timed_out => \my $timed_out);
	ok(!$timed_out && $rc == 0, "DROP DATABASE $round neither fails nor hangs") or diag($err);
}
ok($node->poll_query_until('postgres', "SELECT ($workers) = 0"), 'no worker is left');
is($node->safe_psql('postgres', $launchers), 1, 'the launcher is there');

# A worker that waits for a lock in the database to be dropped
$node->safe_psql('postgres', 'CREATE DATABASE waiting');
$node->safe_psql('waiting', 'CREATE EXTENSION ratelimit');
# of rows that never expire, so that a worker comes again and again
$node->safe_psql('waiting', "SELECT count(rl_consume('stays' || i, 1, 0)) FROM generate_series(1, 40) i");
my $locker = in_session($node, 'waiting');
$locker->query_safe('BEGIN; LOCK rate_limit_buckets IN ACCESS EXCLUSIVE MODE');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE backend_type = 'ratelimit worker' AND NOT granted}),
	'a worker waits for a lock');
my $from = -s $node->logfile;
$node->safe_psql('postgres', 'SELECT 1');
$node->wait_for_log(qr/canceling statement due to lock timeout/, $from);
pass('... not for ever');
finish_session($locker);
$node->safe_psql('waiting', 'SELECT rl_reset_all(NULL)');
ok(wait_until_nothing_spilled($node, 'waiting'), '... and tries again');
$node->safe_psql('postgres', 'DROP DATABASE waiting');

# DROP EXTENSION and TRUNCATE meanwhile
$node->safe_psql('postgres', 'CREATE DATABASE busy');
foreach my $round (1 .. 5)
{
	$node->safe_psql('busy', 'CREATE EXTENSION ratelimit');
	my $from = -s $node->logfile;
	spill_with_expired_row('busy');
	$node->wait_for_log(qr/cleaning rate_limit_buckets/, $from)
	  if $round % 2;
	$node->safe_psql('busy', 'DROP EXTENSION ratelimit');
}
$node->safe_psql('busy', 'CREATE EXTENSION ratelimit');
spill_with_expired_row('busy');
ok(wait_until_nothing_spilled($node, 'busy'), 'the extension dropped and created: the worker works');

#
# Reload: a shorter interval takes effect during a long one
#
end_rounds($node);
$node->safe_psql('postgres', "SELECT count(rl_consume('fill' || i, 1, 1)) FROM generate_series(1, 40) i");
is(spilled($node), 1, 'spilled');
$node->safe_psql('postgres', q{ALTER SYSTEM RESET ratelimit.flush_interval});
$node->reload;
ok(wait_until_nothing_spilled($node), 'the launcher follows a reload');

#
# No slot for a worker: the launcher has the only one
#
$node->append_conf('postgresql.conf', "max_worker_processes = 1\nmax_logical_replication_workers = 0");
$from = -s $node->logfile;
$node->restart;
ok($node->poll_query_until('postgres', "SELECT ($launchers) = 1"), 'only the launcher fits');
spill_with_expired_row('postgres');
$node->wait_for_log(qr/no background worker slot/, $from);
pass('no slot: it goes on without');
is($node->safe_psql('postgres', "SELECT rl_consume('quota', 1, 0), rl_consume('quota', 1, 0)"), 't|f', '... and all decide');
is(spilled($node), 1, '... the mark stays');
$node->append_conf('postgresql.conf', "max_worker_processes = 8\nshared_preload_libraries = 'ratelimit'");
$node->restart;
is($node->safe_psql('postgres', "SELECT rl_consume('any', 1, 1)"), 't', 'slots again');
$node->safe_psql('postgres', "SELECT rl_reset('quota')");
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_buckets)'), '... and the rows are cleaned away');

# not even one: the server starts and decides
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
is($node->safe_psql('postgres', "SELECT rl_consume('no launcher', 1, 0), rl_consume('no launcher', 1, 0)"), 't|f', 'without a slot for the launcher all decide');

# and stops without waiting for anybody
$node->stop('fast');
done_testing();
