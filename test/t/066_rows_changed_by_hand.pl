# What a person does to the table by hand, and calls beside it: a table that has been
# altered is refused every time, what a rollback brings back has no double, no call
# spins, and nobody's end waits for a statement that is changing a row.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('by_hand', preload => 0, conf => 'autovacuum = off');
my $query = sub { return $node->safe_psql('postgres', $_[0]) };

#
# A table that has been altered is refused, however often a session asks
#
$query->(<<'SQL');
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
SELECT rl_consume('altered', 10, 0);
SQL
foreach my $change (
	[ 'CREATE TRIGGER t BEFORE INSERT ON rate_limit_buckets FOR EACH ROW EXECUTE FUNCTION nothing()', 'DROP TRIGGER t ON rate_limit_buckets', 'triggers' ],
	[ 'ALTER TABLE rate_limit_buckets ALTER owed_high TYPE smallint', 'ALTER TABLE rate_limit_buckets ALTER owed_high TYPE bigint', 'other types' ],
	[ 'CREATE INDEX i ON rate_limit_buckets (owed)', 'DROP INDEX i', 'an index on' ],
	[ 'ALTER TABLE rate_limit_buckets ALTER key TYPE text COLLATE "POSIX"', 'ALTER TABLE rate_limit_buckets ALTER key TYPE text COLLATE "C"', 'another collation' ])
{
	my ($alter, $undo, $why) = @$change;
	my $session = in_session($node);

	is($session->query_safe("SELECT rl_consume('altered', 10, 0)"), 't', "$why: before");
	$query->($alter);
	foreach my $time (1 .. 3)
	{
		my ($out) = $session->query("SELECT rl_consume('altered', 10, 0)");

		is($out, '', "$why: call $time fails");
		like($session->{stderr}, qr/has been altered: .*\Q$why\E/, "$why: ... and says why");
		$session->{stderr} = '';
	}
	$query->($undo);
	is($session->query_safe("SELECT rl_consume('altered', 10, 0)"), 't', "$why: after it was undone");
	finish_session($session);
}

#
# A row that is deleted, or renamed, and comes back with a rollback
#
my $owed = sub { return $query->("SELECT string_agg((owed / 1e16)::int::text, ' ') FROM rate_limit_buckets WHERE key = '$_[0]'") };
my $n = 0;

foreach my $by_hand ("DELETE FROM rate_limit_buckets WHERE key = 'KEY'", "UPDATE rate_limit_buckets SET key = 'other' WHERE key = 'KEY'", "UPDATE rate_limit_buckets SET capacity = capacity; DELETE FROM rate_limit_buckets WHERE key = 'KEY'")
{
	my $key = 'twice ' . ++$n;
	my $statement = $by_hand =~ s/KEY/$key/r;

	$query->("SELECT rl_consume('$key', 10, 0, 4)");
	is($query->("BEGIN; $statement; SELECT rl_consume('$key', 10, 0), rl_consume('$key', 10, 0); ROLLBACK"),
		't|t', "$statement: calls in the same transaction");
	is($owed->($key), '4', "$statement: rolled back, the bucket is what it was, once");
	is($query->("BEGIN; SAVEPOINT s; $statement; ROLLBACK TO s; SELECT rl_consume('$key', 10, 0); COMMIT"),
		't', "$statement: it came back before the call");
	is($owed->($key), '5', "$statement: ... which took from it");
	$query->("BEGIN; $statement; SELECT rl_consume('$key', 10, 0, 2); COMMIT; DELETE FROM rate_limit_buckets WHERE key = 'other'");
	is($owed->($key), '2', "$statement: committed, the new one is there, once");
	is($query->("BEGIN; SELECT rl_consume('$key', 10, 0); ROLLBACK"), 't', "$statement: it is everybody's again");
	is($owed->($key), '3', "$statement: ... whatever becomes of a transaction");
}
$query->('REINDEX TABLE rate_limit_buckets');

#
# A call does not wait busily
#
my $locker = in_session($node);
$query->("SELECT rl_consume('locked', 10, 0)");
$locker->query_safe("BEGIN; SELECT FROM rate_limit_buckets WHERE key = 'locked' FOR KEY SHARE");
$query->("BEGIN; UPDATE rate_limit_buckets SET capacity = capacity WHERE key = 'locked'; ROLLBACK");
is($query->("SET statement_timeout = '20s'; SELECT rl_consume('locked', 10, 0)"), 't', 'a row that is only locked, after a change that was rolled back');
$locker->query_safe('ROLLBACK');

$query->(<<'SQL');
ALTER TABLE rate_limit_buckets ADD COLUMN note text;
ALTER TABLE rate_limit_buckets ALTER COLUMN note SET STORAGE PLAIN;
INSERT INTO rate_limit_buckets (limiter, key, capacity, refill, owed, updated_at, note) VALUES ('default', repeat('a', 250), 10, 0, 0, now(), repeat('x', 3000));
SQL
my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '20s'; SELECT rl_consume(repeat('a', 250), 10, 0)");
like($err, qr/the row of key "a+", limiter "default" in rate_limit_buckets cannot be used/, 'a row whose names are compressed');
is($query->("DELETE FROM rate_limit_buckets WHERE note IS NOT NULL; SELECT rl_consume(repeat('a', 250), 10, 0)"), 't', '... is deleted, and all is well');

#
# What a session ends with does not wait for somebody's statement
#
$query->("SELECT rl_consume('wait', 1, 0.01), rl_consume('refund', 10, 0)");
my $caller = in_session($node);
my $pid = $caller->query_safe('SELECT pg_backend_pid()');
$caller->query_until(qr/begun/, "\\echo begun\nSELECT rl_wait('wait', 1, 0.01, 1, '1000 s');\n");
$node->poll_query_until('postgres', "SELECT wait_event IN ('RateLimitWait', 'Extension') FROM pg_stat_activity WHERE pid = $pid");
$locker->query_safe("BEGIN; UPDATE rate_limit_buckets SET refill = refill WHERE key = 'wait'");
$query->("SELECT pg_terminate_backend($pid)");
ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"), 'rl_wait() is terminated while its row is being changed');
$locker->query_safe('ROLLBACK');
eval { $caller->quit };

$caller = in_session($node);
$pid = $caller->query_safe("SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_consume('refund', 10, 0); ROLLBACK; SELECT pg_backend_pid()");
$pid =~ s/.*\n//s;
$locker->query_safe("BEGIN; UPDATE rate_limit_buckets SET refill = refill WHERE key = 'refund'");
$caller->quit;
ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"), 'a session that has tokens to give back ends while their row is being changed');
$locker->query_safe('ROLLBACK');
finish_session($locker);

$node->stop;
done_testing();
