# Without preloading, on PostgreSQL 17 and later: the first session makes shared memory
# of the configured size, whichever it is, and all decide there, as ever.  No session can
# choose the size, and what is configured later waits for a restart.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('late');
plan skip_all => 'before PostgreSQL 17, shared memory needs preloading' unless can_be_late($node);

$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
max_connections = 60
ratelimit.max_buckets = 1024
ratelimit.flush_interval = 1s
CONF
$node->start;

sub query
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

sub slots
{
	return query('SELECT sum(slots) FROM rl_partitions()');
}

# The first call of all
is(query("CREATE EXTENSION ratelimit; SELECT rl_consume('first', 1, 0), rl_consume('first', 1, 0)"),
	't|f', 'CREATE EXTENSION and two calls');
is(store_of($node, 'first'), 'memory', '... are decided in memory');
is(query("SELECT rl_consume('first', 1, 0)"), 'f', '... that another session sees');
is(query('SELECT count(*) FROM rate_limit_buckets'), 0, '... and not in the table');
is(query("SELECT count(*) FROM rate_limit_pending WHERE key = 'first'") +
	query("SELECT count(*) FROM rate_limit_violation_details WHERE key = 'first'") > 0,
	1, 'denied calls are counted');
ok($node->poll_query_until('postgres', "SELECT sum(count) = 2 FROM rate_limit_violation_details WHERE key = 'first'"), '... and written');
is(query("SELECT allowed, denied FROM rate_limit_stats WHERE limiter = 'default'"), '1|2', 'so are decisions');
is(slots(), 1024, 'memory has the configured size');
query('CREATE DATABASE at_once');
is(query("BEGIN; CREATE EXTENSION ratelimit; SELECT rl_consume('k', 1, 0); COMMIT; SELECT rl_consume('k', 1, 0)", 'at_once'),
	"t\nf", 'what the transaction takes that creates the extension stays taken');
is(query("BEGIN; DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit; ROLLBACK; SELECT rl_consume('k', 1, 0)", 'at_once'),
	'f', '... also when another one is dropped and created in vain');
is(query("BEGIN; DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit; COMMIT; SELECT rl_consume('k', 1, 0)", 'at_once'),
	't', '... but not when that is committed');

# While a transaction creates the extension, a worker does not take it for dropped
{
	my $from = -s $node->logfile;
	query('CREATE DATABASE creating');
	my $creator = in_session($node, 'creating');
	$creator->query_safe("BEGIN; CREATE EXTENSION ratelimit; SELECT rl_report('reported', 'user', 3)");
	is($creator->query_safe("SELECT rl_consume('k', 1, 0)"), 't', 'a transaction that creates the extension, and goes on');
	ok($node->wait_for_log(qr/does not exist in this database/, $from), '... while a worker finds no extension');
	$creator->query_safe('COMMIT');
	is($creator->query_safe("SELECT rl_consume('k', 1, 0)"), 'f', '... and takes nothing back');
	finish_session($creator);
	ok($node->poll_query_until('creating', "SELECT sum(count) = 3 FROM rate_limit_violation_details WHERE key = 'reported'"), '... nor loses violations');
}

#
# Many that come first at once: each round is another start, and nobody is first by
# plan.  They find one memory, one launcher and one saver.
#
foreach my $round (1 .. 3)
{
	$node->stop('immediate');
	$node->start;
	query("CREATE SEQUENCE allowed$round");
	run_clients(
		$node, "round $round: 30 first calls",
		clients => 30,
		transactions => 20,
		script => <<"SCRIPT");
SELECT rl_consume('shared', 100, 0) AS ok \\gset
\\if :ok
SELECT nextval('allowed$round');
\\endif
SCRIPT
	is(query("SELECT last_value FROM allowed$round"), 100, '... get the 100 tokens');
	is(store_of($node, 'shared'), 'memory', '... in memory');
	is(query("SELECT allowed, denied FROM rate_limit_stats WHERE limiter = 'default'"), '100|500', '... which counts them');
}
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), 'one launcher');

#
# The size is the administrator's
#
$node->restart;
query("CREATE ROLE somebody LOGIN; ALTER ROLE somebody SET ratelimit.max_buckets = 16;");
{
	local $ENV{PGOPTIONS} = '-c ratelimit.max_buckets=32';
	local $ENV{PGUSER} = 'somebody';
	my ($rc, $out, $err) = $node->psql('postgres', "SET ratelimit.max_buckets = 100000000; SET ratelimit.shared_memory = off; SELECT rl_consume('mine', 1, 0)");

	is($out, 't', 'somebody sets another size and calls first');
	like($err, qr/parameter "ratelimit.max_buckets" cannot be changed now/, '... which is refused');
	like($err, qr/parameter "ratelimit.shared_memory" cannot be changed now/, '... like doing without');
}
is(slots(), 1024, '... memory has the configured size');
is(store_of($node, 'mine'), 'memory', '... and the bucket');

# A size that is configured meanwhile does not move the memory under those who use it
my $session = in_session($node);
is($session->query_safe("SELECT rl_consume('stays', 1, 0)"), 't', 'a session');
$node->append_conf('postgresql.conf', "ratelimit.max_buckets = 4096\nratelimit.max_violations = 100\nratelimit.max_episodes = 1000\nratelimit.shared_memory = off");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT current_setting('ratelimit.max_buckets') = '4096'}), 'other sizes are configured');
is($session->query_safe("SELECT sum(slots) FROM rl_partitions()"), 1024, '... the session has the same memory');
is($session->query_safe("SELECT rl_consume('stays', 1, 0)"), 'f', '... and the same bucket');
is($session->query_safe("SELECT count(rl_report('reported ' || i, 'user', 1)) FROM generate_series(1, 500) i"), 500, '... counts violations');
is($session->query_safe("SELECT count(*) FROM rate_limit_episodes"), 200, '... and episodes');
is(slots(), 1024, '... so does a new session');
is(query("SELECT rl_consume('stays', 1, 0)"), 'f', '... with the same bucket');
is(query("SELECT count(*) FROM rate_limit_episodes"), 200, '... and episodes');
finish_session($session);

$node->append_conf('postgresql.conf', 'ratelimit.shared_memory = on');
$node->restart;
is(slots(), 4096, 'restarted: the new size');

#
# Where a call may come from
#
is(query("BEGIN READ ONLY; SELECT rl_consume('read only', 1, 0); COMMIT"), 't', 'a read-only transaction');
$node->restart;
is(query(<<'SQL'), '8', 'a parallel query that loads the library');
CREATE TABLE rows AS SELECT i FROM generate_series(1, 8) i;
CREATE FUNCTION called(i int) RETURNS bool LANGUAGE plpgsql PARALLEL SAFE AS
  $$ BEGIN RETURN rl_consume('parallel', 8, 0); END $$;
SET debug_parallel_query = on;
SELECT count(*) FILTER (WHERE called(i)) FROM rows;
SQL
is(store_of($node, 'parallel'), 'memory', '... is decided in memory');
$node->append_conf('postgresql.conf', "session_preload_libraries = 'ratelimit'");
$node->restart;
is(query("SELECT rl_consume('session', 1, 0)"), 't', 'with session_preload_libraries');
is(store_of($node, 'session'), 'memory', '... too');

#
# Sessions that drop something have not always loaded the library
#
$node->append_conf('postgresql.conf', "session_preload_libraries = ''");
$node->reload;
query('CREATE DATABASE dropped');
query('CREATE EXTENSION ratelimit', 'dropped');
query("SELECT rl_report('k', 'user', 5), rl_consume('k', 1, 0)", 'dropped');
query('DROP DATABASE dropped');
query('CREATE DATABASE other');
query('CREATE EXTENSION ratelimit', 'other');
query("SELECT rl_consume('k', 1, 0)", 'other');
query('DROP EXTENSION ratelimit', 'other');
is(query("CREATE EXTENSION ratelimit; SELECT rl_consume('k', 1, 0)", 'other'), 't', 'another extension begins with full buckets');
is(query("SELECT rl_consume('k', 1, 0)", 'other'), 'f', '... which it keeps');
is(query("BEGIN; DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit; ROLLBACK; SELECT rl_consume('k', 1, 0)", 'other'),
	'f', '... also when that is rolled back');

# the extension dropped with violations pending: the worker forgets them
$node->append_conf('postgresql.conf', 'ratelimit.flush_interval = 1h');
$node->reload;
query("SELECT rl_report('pending', 'user', 5)", 'other');
query('DROP EXTENSION ratelimit', 'other');
$node->append_conf('postgresql.conf', 'ratelimit.flush_interval = 1s');
$node->reload;
query('CREATE EXTENSION ratelimit', 'other');
is(query("SELECT count(*) FROM rate_limit_pending", 'other'), 0, 'violations of a dropped extension are not those of the next');

$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|no background worker slot/, 'the log is quiet');
done_testing();
