# The last key of a full partition: its bucket goes to the table, none is forgotten
# and none is in both tiers; the mark that says so stays as long as a row is left
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
is($node->safe_psql('postgres', "SELECT count(*), min(tier), max(tier) FROM rate_limit_status"),
	'16|memory|memory', 'the partition is full, all in shared memory');
is(spilled($node), 0, 'nothing has spilled');

is($node->safe_psql('postgres', "SELECT rl_peek('last', 2, 0)"),
	'(t,2,1,00:00:00,)', 'a key that is only looked at ...');
is(spilled($node), 0, '... makes nothing spill');
is($node->safe_psql('postgres', "SELECT rl_consume('last', 2, 0, 3), rl_consume('last', 2, 0, 0)"),
	'f|t', 'nor does one that leaves its bucket full');
is(tier_of($node, 'last'), '', '... which makes no bucket');

is($node->safe_psql('postgres', "SELECT rl_consume('last', 2, 0)"), 't', 'one key more');
is(tier_of($node, 'last'), 'table', '... lives in the table');
is(spilled($node), 1, '... and its partition has spilled');
is($node->safe_psql('postgres', "SELECT count(*) FROM rate_limit_status"), 17, 'no bucket is forgotten');
is(twice_living($node), '', 'no bucket is in both tiers');
is( $node->safe_psql('postgres',
		q{SELECT string_agg(rl_consume(k, 2, 0)::text || rl_consume(k, 2, 0), ' ') FROM (SELECT 'key' || n FROM generate_series(1, 16) n UNION ALL SELECT 'last') _(k)}),
	join(' ', ('truefalse') x 17),
	'every one of the 17 has the one token that is left of 2');

# A slot becomes free, but the bucket is in the table and stays there.
is($node->safe_psql('postgres', "SELECT rl_reset('key1')"), 't', 'a slot becomes free');
is($node->safe_psql('postgres', "SELECT rl_consume('last', 2, 0)"), 'f', 'the last key stays empty');
is(tier_of($node, 'last'), 'table', '... in the table');
is($node->safe_psql('postgres', "SELECT rl_consume('another', 2, 0)"), 't', 'a new key');
is(tier_of($node, 'another'), 'table', '... goes to the table while there are rows, free slot or not');
wait_for_round();
is(spilled($node), 1, 'rows that never expire keep the mark');

is($node->safe_psql('postgres', "SELECT rl_reset('last'), rl_reset('another')"), 't|t', 'the rows go');
ok(wait_until_nothing_spilled($node), '... and the mark');
is($node->safe_psql('postgres', "SELECT rl_consume('last', 2, 0)"), 't', 'the last key is back');
is(tier_of($node, 'last'), 'memory', '... in the slot that is free');

#
# Rows expire by themselves
#
# in one session: the worker may come soon afterwards
is($node->safe_psql('postgres', "SELECT rl_consume('brief', 1, 2); SELECT count(*) FROM rl_partitions() WHERE spilled"),
	"t\n1", 'a bucket that is full again in half a second spills');
ok(wait_until_nothing_spilled($node), '... and is cleaned away');
is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_buckets'), 0, '... row and all');

#
# A writer in flight: its row is not seen yet, or has expired before it is
#
my $writer = in_session($node);
$writer->query_safe('BEGIN');
is($writer->query_safe("SELECT rl_consume('in flight', 2, 0)"), 't', 'a transaction writes a row');
is(spilled($node), 1, 'the mark is there before the row can be seen');
wait_for_round();
is(spilled($node), 1, '... and stays while the transaction is open');
$writer->query_safe('COMMIT');
is(tier_of($node, 'in flight'), 'table', 'committed: the row is there');
is($node->safe_psql('postgres', "SELECT rl_consume('in flight', 2, 0), rl_consume('in flight', 2, 0)"), 't|f', '... with one token left');
$node->safe_psql('postgres', "SELECT rl_reset('in flight')");
ok(wait_until_nothing_spilled($node), 'reset: the mark goes');

$writer->query_safe('BEGIN');
is($writer->query_safe("SELECT rl_consume('rolled back', 2, 0)"), 't', 'a transaction writes a row');
wait_for_round();
is(spilled($node), 1, 'the mark stays');
$writer->query_safe('ROLLBACK');
ok(wait_until_nothing_spilled($node), 'rolled back: the mark goes');

# A savepoint's row is gone, but the transaction may write another.
$writer->query_safe("BEGIN; SAVEPOINT s");
is($writer->query_safe("SELECT rl_consume('in savepoint', 2, 0)"), 't', 'a subtransaction writes a row');
$node->safe_psql('postgres', $expired_row);
$writer->query_safe('ROLLBACK TO s');
wait_until_cleaned();
is($node->safe_psql('postgres', "SELECT rl_consume('in savepoint', 2, 0)"), 't', 'rolled back to the savepoint: another session takes one of 2');
is($writer->query_safe("SELECT rl_consume('in savepoint', 2, 0)"), 't', '... this one, still in its transaction, the other one');
is($writer->query_safe("SELECT rl_consume('in savepoint', 2, 0)"), 'f', '... and there are no more');
$writer->query_safe('COMMIT');
is(twice_living($node), '', '... as the bucket is in one tier');
$node->safe_psql('postgres', "SELECT rl_reset('in savepoint')");
ok(wait_until_nothing_spilled($node), 'reset: the mark goes');

# A writer whose session ends, or that fails
$writer->query_safe('BEGIN');
is($writer->query_safe("SELECT rl_consume('failed', 2, 0)"), 't', 'a transaction writes a row');
$writer->query('SELECT 1 / 0');
ok(wait_until_nothing_spilled($node), 'it fails: the mark goes');
$writer->query('ROLLBACK');
$writer->{stderr} = '';
$writer->query_safe('BEGIN');
is($writer->query_safe("SELECT rl_consume('terminated', 2, 0)"), 't', 'a transaction writes a row');
my $pid = $writer->query_safe('SELECT pg_backend_pid()');
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)"), 't', 'its session is terminated');
ok(wait_until_nothing_spilled($node), '... and the mark goes');
$writer->{run}->finish;

# A prepared transaction, for as long as it takes
$node->safe_psql('postgres', <<'SQL');
BEGIN; SELECT rl_consume('prepared', 2, 0); PREPARE TRANSACTION 'p'
SQL
wait_for_round();
is(spilled($node), 1, 'the mark stays while a transaction is prepared');
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
is(tier_of($node, 'prepared'), 'table', 'its row is there once committed');
is($node->safe_psql('postgres', "SELECT rl_consume('prepared', 2, 0), rl_consume('prepared', 2, 0)"), 't|f', '... with one token left');
$node->safe_psql('postgres', "SELECT rl_reset('prepared')");
ok(wait_until_nothing_spilled($node), 'reset: the mark goes');
$node->safe_psql('postgres', <<'SQL');
BEGIN; SELECT rl_consume('prepared', 2, 0); PREPARE TRANSACTION 'p'
SQL
wait_for_round();
is(spilled($node), 1, 'the mark stays while a transaction is prepared');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'p'");
ok(wait_until_nothing_spilled($node), 'rolled back: the mark goes');

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
	$node->safe_psql('postgres', 'SELECT rl_reset_all()');
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
