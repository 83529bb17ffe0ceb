# A database in which a worker hangs, or to which none can connect, keeps no other one
# from having its violations written, and fills no log.  A standby that is away keeps
# none from it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('turns', streaming => 1, conf => 'autovacuum = off');

# Whatever this test commits is not to wait for a standby.
$ENV{PGOPTIONS} = '-c synchronous_commit=local';

sub query
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

sub make_database
{
	my ($database) = @_;

	query("CREATE DATABASE $database");
	query('CREATE EXTENSION ratelimit', $database);
	return;
}

sub violate
{
	my ($database) = @_;

	query("SELECT rl_report('k', 'user', 1)", $database);
	return;
}

sub flushed
{
	my ($database, $what) = @_;

	return ok($node->poll_query_until($database, 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), $what);
}

# So many rounds of the launcher, seen in a database of its own.
sub let_rounds_pass
{
	my ($rounds) = @_;

	foreach (1 .. $rounds)
	{
		violate('rounds');
		$node->poll_query_until('rounds', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)') or return 0;
	}
	return 1;
}

make_database($_) foreach qw(rounds free stuck1 stuck2 closed invalid missing);

#
# A standby that is away
#
query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = 'nobody'});
violate($_) foreach qw(free stuck1);
flushed($_, "a standby that is away: $_ is flushed") foreach qw(free stuck1);
is(query('SELECT sum(total_count) FROM rate_limit_violations', $_), 1, '... to its table') foreach qw(free stuck1);
ok(let_rounds_pass(2), '... round after round');
is(query(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}), 0, '... and nobody waits');
query('ALTER SYSTEM RESET synchronous_standby_names');
$node->reload;

#
# Workers that hang
#
foreach my $database (qw(stuck1 stuck2))
{
	query(<<'SQL', $database);
CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(3600); RETURN NEW; END$$;
CREATE TRIGGER hang BEFORE INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION hang();
SQL
	violate($database);
}
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'ratelimit worker' AND datname LIKE 'stuck%' AND wait_event = 'PgSleep'}),
	'two workers hang');
my $hanging = q{SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type = 'ratelimit worker' AND datname LIKE 'stuck%'};
my $pids = query($hanging);
violate('free');
flushed('free', '... another database is flushed');
ok(let_rounds_pass(3), '... round after round');
is(query($hanging), $pids, '... and those that hang get no other worker');
query('CREATE DATABASE passing; DROP DATABASE passing');
my ($rc, $out, $err) = $node->psql('postgres', 'DROP DATABASE stuck2 WITH (FORCE)');
is($rc, 0, 'a database whose worker hangs can be dropped by force') or diag($err);
# the drop is the next in the queue, so that no further worker hangs
my $dropper = in_session($node, 'stuck1');
$dropper->query_until(qr/begun/, "\\echo begun\nDROP TRIGGER hang ON rate_limit_violations;\n");
$node->poll_query_until('stuck1', q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'rate_limit_violations'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted)}) or die 'nobody waits';
query(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ratelimit worker' AND datname = 'stuck1'});
$dropper->query_safe('SELECT 1');
finish_session($dropper);
flushed('stuck1', 'a worker that hung and was ended: the next one writes what it was to write');
is(query('SELECT sum(total_count) FROM rate_limit_violations', 'stuck1'), 2, '... once');

#
# Databases that cannot be connected to
#
my $from = -s $node->logfile;
violate($_) foreach qw(closed invalid);
query(q{UPDATE pg_database SET datallowconn = false WHERE datname = 'closed'; UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'invalid'});
ok(let_rounds_pass(4), 'databases that take no connections: other ones are flushed');

# a worker may have been on its way
cmp_ok(scalar(() = slurp_file($node->logfile, $from) =~ /FATAL/g), '<=', 2, '... with no complaint') or diag(slurp_file($node->logfile, $from));
$from = -s $node->logfile;
ok(let_rounds_pass(3), '... nor later');
unlike(slurp_file($node->logfile, $from), qr/FATAL/, '... round after round');
query(q{UPDATE pg_database SET datallowconn = true WHERE datname = 'closed'});
flushed('closed', 'one that takes connections again: what waited is written');
is(query('SELECT sum(total_count) FROM rate_limit_violations', 'closed'), 1, '... once');
query(q{UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'invalid'});
is(query('SELECT count(*) FROM rate_limit_pending', 'invalid'), 0, 'one that was left half dropped is forgotten');

# A connection limit is not for workers
query('ALTER DATABASE free CONNECTION LIMIT 0');
violate('free');
flushed('free', 'a database that has no connection left is flushed');

# Connecting fails for a reason that the catalog does not show
my $oid = query(q{SELECT oid FROM pg_database WHERE datname = 'missing'});
my $folder = $node->data_dir . "/base/$oid";
# not flushed before it is broken
end_rounds($node);
violate('missing');
$from = -s $node->logfile;
rename($folder, "$folder.aside") or die "rename: $!";
my $began = monotonic_seconds();
query('ALTER SYSTEM RESET ratelimit.flush_interval');
$node->reload;
ok(let_rounds_pass(10), 'a database that is broken: other ones are flushed');
my $complaints = () = slurp_file($node->logfile, $from) =~ /FATAL/g;
# the fifth comes after half a minute, the sixth after a minute
my $most = 5 + (monotonic_seconds() - $began) / 60;
ok($complaints >= 1 && $complaints <= $most, "... and there are $complaints complaints in ten rounds");
rename("$folder.aside", $folder) or die "rename: $!";
flushed('missing', 'one that is whole again: what waited is written');
is(query('SELECT sum(total_count) FROM rate_limit_violations', 'missing'), 1, '... once');
$from = -s $node->logfile;
violate('missing');
flushed('missing', '... and it has its turns as before');

#
# One slot for all
#
$node->append_conf('postgresql.conf', "max_worker_processes = 3\nmax_logical_replication_workers = 0");
$node->restart;
violate($_) foreach qw(free stuck1 closed missing);
flushed($_, "one slot for workers: $_ is flushed") foreach qw(free stuck1 closed missing);

$node->stop;
done_testing();
