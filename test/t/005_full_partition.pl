# The last key of a full partition: its bucket goes to the table, none is forgotten
# and none is in both stores; the mark that says so stays as long as a row is left
# or may still come, and goes afterwards.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('full_partition', conf => 'ratelimit.max_buckets = 16');

# Wait until the worker has had an occasion to clear a mark that it should not: it
# has deleted a row that is there from now on.
my $expired_row =
  "INSERT INTO rate_limit_buckets VALUES ('default', 'expired', 1, 1e9, 1, now() - interval '1 hour')";

sub wait_until_cleaned
{
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM rate_limit_buckets WHERE key = 'expired')")
	  or die 'the worker does not clean';
	return;
}

sub wait_for_round
{
	$node->safe_psql('postgres', $expired_row);
	wait_until_cleaned();
	return;
}

#
# Filling up to the last key
#
my $slots = $node->safe_psql('postgres', 'SELECT sum(slots) FROM rl_partitions()');
is($slots, 16, 'one partition of 16 slots');
my $living = 0;
foreach my $n (1 .. 16)
{
	$living += $node->safe_psql('postgres', "SELECT rl_consume('key$n', 2, 0)") eq 't';
}
is($living, 16, '16 keys are allowed');
is($node->safe_psql('postgres', "SELECT count(*), min(store), max(store) FROM rate_limit_status"),
	'16|memory|memory', 'the partition is full, all in shared memory');
is(spilled($node), 0, 'nothing has spilled');

is($node->safe_psql('postgres', "SELECT rl_peek('last', 2, 0)"),
	'(t,2,1,00:00:00,,default,f,)', 'a key that is only looked at ...');
is(spilled($node), 0, '... makes nothing spill');
is($node->safe_psql('postgres', "SELECT rl_consume('last', 2, 0, 3), rl_consume('last', 2, 0, 0)"),
	'f|t', 'nor does one that leaves its bucket full');
is(store_of($node, 'last'), '', '... which makes no bucket');

is($node->safe_psql('postgres', "SELECT rl_consume('last', 2, 0)"), 't', 'one key more');
is(store_of($node, 'last'), 'table', '... lives in the table');
is(spilled($node), 1, '... and its partition has spilled');
is($node->safe_psql('postgres', "SELECT count(*) FROM rate_limit_status"), 17, 'no bucket is forgotten');
is(twice_living($node), '', 'no bucket is in both stores');
is( $node->safe_psql('postgres',
		q{SELECT string_agg(rl_consume(k, 2, 0)::text || rl_consume(k, 2, 0), ' ') FROM (SELECT 'key' || n FROM generate_series(1, 16) n UNION ALL SELECT 'last') _(k)}),
	join(' ', ('truefalse') x 17),
	'every one of the 17 has the one token that is left of 2');

# A slot becomes free, but the bucket is in the table and stays there until the worker
# comes, which the lock keeps from the table.
my $in_store = 'SELECT store FROM rate_limit_status WHERE key =';
is($node->safe_psql('postgres', <<"SQL"), "t\nf\ntable\nt\ntable", 'a slot is free: the last key stays empty, in the table, and a new one goes there');
BEGIN;
LOCK TABLE rate_limit_buckets IN SHARE ROW EXCLUSIVE MODE;
SELECT FROM rl_reset('last'), rl_consume('last', 2, 0, 2);
SELECT rl_reset('key1');
SELECT rl_consume('last', 2, 0);
$in_store 'last';
SELECT rl_consume('another', 2, 0);
$in_store 'another';
COMMIT;
SQL
wait_for_round();
is(spilled($node), 1, 'rows that never expire keep the mark');

is($node->safe_psql('postgres', "SELECT rl_reset('last'), rl_reset('another')"), 't|t', 'the rows go');
ok(wait_until_nothing_spilled($node), '... and the mark');
is($node->safe_psql('postgres', "SELECT rl_consume('last', 2, 0)"), 't', 'the last key is back');
is(store_of($node, 'last'), 'memory', '... in the slot that is free');

#
# Rows expire by themselves
#
# in one session: the worker may come soon afterwards
is($node->safe_psql('postgres', "SELECT rl_consume('brief', 1, 2); SELECT count(*) FROM rl_partitions() WHERE spilled"),
	"t\n1", 'a bucket that is full again in half a second spills');
ok(wait_until_nothing_spilled($node), '... and is cleaned away');
is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_buckets'), 0, '... row and all');

#
# A row is there at once, and stays, whatever becomes of the transaction that made it
#
my $writer = in_session($node);
my $left_of_2 = sub {
	my ($key, $what) = @_;

	is(store_of($node, $key), 'table', "$what: the row is there");
	is($node->safe_psql('postgres', "SELECT rl_consume('$key', 2, 0), rl_consume('$key', 2, 0)"), 't|f', "$what: ... with one token left");
	$node->safe_psql('postgres', "SELECT rl_reset('$key')");
	ok(wait_until_nothing_spilled($node), "$what: reset, and the mark goes");
};
my $take = sub {
	my ($key, $sql) = @_;

	is($writer->query_safe("$sql; SELECT rl_consume('$key', 2, 0)"), 't', "$key: a transaction makes a row");
	is(spilled($node), 1, "$key: the mark is there");
	wait_for_round();
	is(spilled($node), 1, "$key: ... and stays");
};
$take->('open', 'BEGIN');
$left_of_2->('open', 'a transaction that is open');
$writer->query_safe('COMMIT');
$take->('rolled back', 'BEGIN');
$writer->query_safe('ROLLBACK');
$left_of_2->('rolled back', 'a transaction that is rolled back');
$take->('in savepoint', 'BEGIN; SAVEPOINT s');
$writer->query_safe('ROLLBACK TO s');
$left_of_2->('in savepoint', 'a savepoint that is rolled back to');
$writer->query_safe('COMMIT');
$take->('failed', 'BEGIN');
$writer->query('SELECT 1 / 0');
$left_of_2->('failed', 'a transaction that fails');
$writer->query('ROLLBACK');
$writer->{stderr} = '';
$take->('prepared', 'BEGIN');
$writer->query_safe("PREPARE TRANSACTION 'p'");
$left_of_2->('prepared', 'a prepared transaction');
$writer->query_safe("ROLLBACK PREPARED 'p'");
$take->('terminated', 'BEGIN');
my $pid = $writer->query_safe('SELECT pg_backend_pid()');
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)"), 't', 'terminated: its session is ended');
$left_of_2->('terminated', 'a transaction whose session is ended');
$writer->{run}->finish;

# A row that a person has inserted and not committed keeps the mark, too
$writer = in_session($node);
$writer->query_safe("BEGIN; INSERT INTO rate_limit_buckets VALUES ('default', 'by hand', 2, 0, 100000000000000000, now())");
is($node->safe_psql('postgres', "SELECT rl_consume('brief', 1, 2); SELECT count(*) FROM rl_partitions() WHERE spilled"), "t\n1", 'by hand: spilled');
wait_for_round();
is(spilled($node), 1, 'by hand: the mark stays');
$writer->query_safe('COMMIT');
$left_of_2->('by hand', 'by hand');
finish_session($writer);

# An idle transaction that saw the mark and has not written yet
my $old = in_session($node);
$old->query_safe('BEGIN');
is($old->query_safe("SELECT rl_consume('key2', 2, 0)"), 'f', 'a transaction uses a bucket in memory');
is($node->safe_psql('postgres', "SELECT rl_consume('brief', 1, 2)"), 't', 'meanwhile the partition spills');
ok(wait_until_nothing_spilled($node), '... and recovers: it is no writer');
finish_session($old);

#
# Many keys at once race for the last slots, again and again
#
my $forgotten = '';
foreach my $round (1 .. 10)
{
	$node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)');
	wait_until_nothing_spilled($node) or die 'still spilled';
	run_clients(
		$node, "race $round",
		clients => 16,
		transactions => 20,
		script => <<"SCRIPT");
\\set key random(1, 20)
SELECT rl_consume('race' || :key, 1e6, 0);
SCRIPT
	$forgotten .= $node->safe_psql('postgres',
		"SELECT 'round $round: ' || sum(capacity - tokens) || ' taken' FROM rate_limit_status HAVING sum(capacity - tokens) <> 320");
	$forgotten .= twice_living($node);
}
is($forgotten, '', 'none of 10 races for the last slots lost a token or made a bucket twice');

$node->stop;
done_testing();
