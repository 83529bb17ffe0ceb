# Without preloading, on PostgreSQL 17 and later, the system may refuse shared memory: one
# warning says so, and calls are decided in the table, by all sessions.  None fails.
# Memory is tried again when nobody uses the table any more.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('refused');
plan skip_all => 'before PostgreSQL 17, shared memory needs preloading' unless can_be_late($node);
plan skip_all => 'there is no /dev/shm to write to' unless -w '/dev/shm';

# 128 GB, which no /dev/shm of a machine that runs tests has; nothing is allocated for it
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
max_connections = 60
dynamic_shared_memory_type = posix
ratelimit.max_buckets = 1073741824
CONF
$node->start;

my $refused = qr/WARNING:  ratelimit keeps buckets in the table rate_limit_buckets, because the system refuses shared memory/;

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# What psql prints, and what the server says meanwhile
sub said
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);

	return ($out, $err);
}

my ($out, $err) = said("CREATE EXTENSION ratelimit; SELECT rl_consume('k', 2, 0)");
is($out, 't', 'more memory than there is: the call is decided');
like($err, qr/$refused\nDETAIL:  could not resize shared memory segment .*: [0-9]+ MB are needed\.\nHINT:  .*max_buckets/, '... with a warning');
my $holder = in_session($node);
is($holder->query_safe("SELECT rl_consume('k', 2, 0)"), 't', 'a session that stays');
is(query('SELECT count(*) FROM rl_partitions()'), 0, 'there is no shared memory');

# Many others, who have enough memory if they looked now
$node->append_conf('postgresql.conf', 'ratelimit.max_buckets = 1024');
$node->reload;
$node->poll_query_until('postgres', q{SELECT rl_consume('k', 2, 0) IS NOT NULL AND current_setting('ratelimit.max_buckets') = '1024'});
query('CREATE SEQUENCE allowed');
run_clients(
	$node, 'many sessions beside it',
	clients => 20,
	transactions => 10,
	script => <<'SCRIPT');
SELECT rl_consume('shared', 50, 0) AS ok \gset
\if :ok
SELECT nextval('allowed');
\endif
SCRIPT
is(query('SELECT last_value FROM allowed'), 50, '... decide in the same store as it does');
is(query("SELECT count(*) FROM rate_limit_buckets WHERE key = 'shared'"), 1, '... in the table');
is($holder->query_safe("SELECT rl_consume('shared', 50, 0)"), 'f', '... as it sees');
is(query("BEGIN READ ONLY; SELECT rl_consume('k', 2, 0); COMMIT"), 'f', 'a read-only transaction does, too');
my $warnings = () = slurp_file($node->logfile) =~ /$refused/g;
is($warnings, 1, 'one warning for all');
unlike(slurp_file($node->logfile), qr/^[^\n]*(ERROR|FATAL|PANIC)/m, 'no query has failed');
finish_session($holder);

# A restart is enough to try again
$node->restart;
is(query("SELECT rl_consume('shared', 50, 0)"), 'f', 'restarted with less: the row counts');
# not while the worker goes through the table for the first time
ok($node->poll_query_until('postgres', q{SELECT rl_consume('new' || random(), 50, 0) AND EXISTS (SELECT FROM rate_limit_status WHERE key LIKE 'new%' AND store = 'memory')}),
	'... and new keys are in memory');

#
# Asked not to
#
$node->append_conf('postgresql.conf', 'ratelimit.shared_memory = off');
$node->restart;
$holder = in_session($node);
is($holder->query_safe("SELECT rl_consume('off', 3, 0)"), 't', 'ratelimit.shared_memory = off');
is($holder->query_safe("SELECT count(*) FROM rate_limit_buckets WHERE key = 'off'"), 1, '... is the table');
$node->append_conf('postgresql.conf', 'ratelimit.shared_memory = on');
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT rl_consume('off', 3, 0, 0) AND current_setting('ratelimit.shared_memory') = 'on'}), 'on again');
is(query("SELECT rl_consume('off', 3, 0) FROM rate_limit_buckets WHERE key = 'off'"), 't', '... while a session uses the table, others do');
is(query('SELECT count(*) FROM rl_partitions()'), 0, '... without memory');
is($holder->query_safe("SELECT rl_consume('off', 3, 0), rl_consume('off', 3, 0)"), 't|f', '... and take from the same bucket');
finish_session($holder);
ok($node->poll_query_until('postgres', 'SELECT count(*) > 0 FROM rl_partitions()'), 'when it has ended, memory is made');
is(query("SELECT rl_consume('off', 3, 0)"), 'f', '... and has the bucket');
is(twice_living($node), '', '... in one store');
$node->stop;

# Preloaded, too
$node->append_conf('postgresql.conf', "ratelimit.shared_memory = off\nshared_preload_libraries = 'ratelimit'");
$node->start;
is(query("SELECT rl_consume('preloaded', 1, 0), rl_consume('preloaded', 1, 0)"), 't|f', 'preloaded, and off');
is(query("SELECT count(*) FROM rate_limit_buckets WHERE key = 'preloaded'"), 1, '... is the table');
is(query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ratelimit%'}), 0, '... and no worker');
$node->stop;

done_testing();
