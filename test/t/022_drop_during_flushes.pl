# Dropping, renaming and copying a database, and dropping the extension, at any
# moment of a storm of flushes: never blocked for longer than a flush, no hang, no
# error loop.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $rounds = $ENV{RATELIMIT_FULL} ? 30 : 4;

# A flush takes milliseconds.  A hang lasts for ever; a wait for a worker that
# should have gone, five seconds (CountOtherDBBackends).  Now and then a machine that is
# busy with other things is as slow.
my $bound = 4;
my $slow = 0;

my $node = start_server('storm', conf => 'log_statement = none');

my $longest = 0;

# Run it; it must succeed, and nearly always within the bound.
sub quickly
{
	my ($what, $sql, $database) = @_;
	my $began = monotonic_seconds();
	my ($rc, $out, $err) = $node->psql($database // 'postgres', $sql, timeout => 60, timed_out => \my $timed_out);
	my $seconds = monotonic_seconds() - $began;

	$longest = $seconds if $seconds > $longest;
	$slow++ if $seconds >= $bound;
	ok(!$timed_out && $rc == 0, sprintf('%s: %.2f s', $what, $seconds)) or diag($err);
	return;
}

# A database whose flushes take a while.
sub make_database
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, <<'SQL');
CREATE EXTENSION ratelimit;
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END$$;
SQL
	dawdle($database);
	return;
}

sub dawdle
{
	my ($database) = @_;

	$node->safe_psql($database, 'CREATE TRIGGER dawdle BEFORE INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION dawdle()');
	return;
}

# Violations there; with probability a half, until its worker has begun to write.
sub violate
{
	my ($database) = @_;

	$node->safe_psql($database, "SELECT count(rl_report('key ' || i, 'user', 1)) FROM generate_series(1, 2000) i");
	return if rand() < 0.5;
	# or has been and gone before we looked
	$node->poll_query_until($database, "SELECT NOT EXISTS (SELECT FROM rate_limit_pending) OR EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ratelimit worker' AND datname = '$database')");
	return;
}

# Another database is busy all the while, so that the launcher never rests.
$node->safe_psql('postgres', 'CREATE DATABASE busy');
$node->safe_psql('busy', 'CREATE EXTENSION ratelimit');
my $storm = start_clients($node, clients => 2, database => 'busy', seconds => 600,
	rate => 50, script => "SELECT rl_report('key ' || i % 100, 'user', 1) FROM generate_series(1, 20) i;");

my $from = -s $node->logfile;
foreach my $round (1 .. $rounds)
{
	my $database = "victim$round";

	make_database($database);
	violate($database);
	quickly("round $round: DROP EXTENSION", 'DROP EXTENSION ratelimit CASCADE', $database);
	$node->safe_psql($database, 'CREATE EXTENSION ratelimit');
	dawdle($database);

	violate($database);
	quickly("round $round: CREATE DATABASE TEMPLATE", "CREATE DATABASE copy$round TEMPLATE $database");
	is($node->safe_psql("copy$round", "SELECT count(*) FROM rate_limit_pending"), 0, '... the copy has no violations pending');

	violate($database);
	quickly("round $round: ALTER DATABASE RENAME", "ALTER DATABASE $database RENAME TO renamed$round");
	# the lock keeps the worker from moving them from one sum to the other
	is($node->safe_psql("renamed$round", "BEGIN; LOCK TABLE rate_limit_violations IN SHARE ROW EXCLUSIVE MODE; SELECT sum(count) FROM (SELECT count FROM rate_limit_pending UNION ALL SELECT count FROM rate_limit_violation_details) c; COMMIT"),
	  4000, '... keeps its violations');

	violate("copy$round");
	quickly("round $round: DROP DATABASE", "DROP DATABASE copy$round");
	violate("renamed$round");
	quickly("round $round: DROP DATABASE WITH (FORCE)", "DROP DATABASE renamed$round WITH (FORCE)");
}
cmp_ok($slow, '<=', $rounds, sprintf('%d rounds: one in five may take more than %d s; the longest took %.2f s', $rounds, $bound, $longest));

# A worker may be too late for a database, or in the middle of writing, once each.
# Whatever would be complained about again and again would be so in three more
# rounds of the launcher.
sub complaints
{
	return grep { !/terminating background worker|terminating connection/ }
	  log_since($node, $from) =~ /^.*(?:ERROR|FATAL|WARNING|PANIC|ratelimit: failed).*$/mg;
}

my @complaints = complaints();
cmp_ok(scalar(@complaints), '<=', 5 * $rounds, 'at most a line in the log for each time') or diag(join("\n", @complaints));
$node->safe_psql('postgres', 'CREATE EXTENSION IF NOT EXISTS ratelimit');
foreach my $more (0 .. 3)
{
	# not before a worker that was too late for the last database has said so
	$from = -s $node->logfile if $more == 1;
	$node->safe_psql('postgres', "SELECT rl_report('more', 'user', 1)");
	ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'the launcher goes on');
}
is(join("\n", complaints()), '', '... without an error loop in the log');

# not INT: pgbench ignores it if the tests were started in the background
$storm->{handle}->signal('TERM');
$storm->{handle}->finish;
unlike($storm->{output}, qr/aborted|error:/, 'the storm blew all the while');
$node->stop;
done_testing();
