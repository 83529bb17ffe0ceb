# In a read-only transaction rl_consume() decides from shared memory, also when
# the bucket was in the table: what was taken there stays taken.  Without shared
# memory it cannot decide: an error, or what ratelimit.on_error says.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('read_only', conf => 'ratelimit.max_buckets = 16');

is($node->safe_psql('postgres', <<'SQL'), "t\nt\nt\nf", 'decides from shared memory');
BEGIN READ ONLY;
SELECT rl_consume('quota', 3, 0);
SELECT rl_consume('quota', 3, 0);
SELECT rl_consume('quota', 3, 0);
SELECT rl_consume('quota', 3, 0);
COMMIT;
SQL
is($node->safe_psql('postgres', <<'SQL'), "f\nf", 'the same bucket in a read-write transaction, and read-only by default');
SELECT rl_consume('quota', 3, 0);
SET default_transaction_read_only = on;
SELECT rl_consume('quota', 3, 0);
SQL
is($node->safe_psql('postgres', <<'SQL'), "t\nf", 'and in a serializable, read-only, deferrable one');
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT rl_consume('another quota', 1, 0);
SELECT rl_consume('another quota', 1, 0);
COMMIT;
SQL

#
# The partition has spilled
#
fill_until_spilled($node, 'filling', 1000, 0);
is($node->safe_psql('postgres', "SELECT rl_consume('in table', 5, 0, 2)"), 't', 'a bucket of 5, 2 taken');
is(tier_of($node, 'in table'), 'table', '... is in the table');
is($node->safe_psql('postgres', <<'SQL'), "t\nt\nt\nf\nf", 'read-only: 3 are left, not 5');
BEGIN READ ONLY;
SELECT rl_consume('in table', 5, 0);
SELECT rl_consume('in table', 5, 0);
SELECT rl_consume('in table', 5, 0);
SELECT rl_consume('in table', 5, 0);
COMMIT;
SELECT rl_consume('in table', 5, 0);
SQL
is(twice_living($node), '', 'the bucket is in one tier');
is($node->safe_psql('postgres', <<'SQL'), "t\nf\nf", 'a key without bucket: one that is full');
BEGIN READ ONLY;
SELECT rl_consume('no row', 1, 0);
SELECT rl_consume('no row', 1, 0);
COMMIT;
SELECT rl_consume('no row', 1, 0);
SQL
cmp_ok($node->safe_psql('postgres', 'SELECT sum(evicted) FROM rl_partitions()'),
	'>=', 1, 'what gave way is counted');

# A row that another transaction is just changing.  Whether the read-only caller
# waits or not, the tokens are taken once.
foreach my $what ('an old row', 'a new row')
{
	my $writer = in_session($node);
	my $reader = in_session($node);

	$node->safe_psql('postgres', "SELECT rl_consume('$what', 4, 0)")
	  if $what eq 'an old row';
	my $left = $what eq 'an old row' ? 3 : 4;
	$writer->query_safe('BEGIN');
	is($writer->query_safe("SELECT rl_consume('$what', 4, 0, $left)"), 't', "$what: a transaction takes all that is left");
	$reader->query_until(qr/begun/, "\\echo begun\nBEGIN READ ONLY;\nSELECT 'answer ' || rl_consume('$what', 4, 0);\nCOMMIT;\n\\echo ended\n");
	# until the reader has its answer, or waits for the writer
	my $pid = $writer->query_safe('SELECT pg_backend_pid()');
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%answer%' AND pid <> pg_backend_pid() AND cardinality(pg_blocking_pids(pid)) = 0)");
	$writer->query_safe('COMMIT');
	like($reader->query_until(qr/ended/, ''), qr/answer false/, "$what: a read-only caller gets none");
	is($node->safe_psql('postgres', "SELECT rl_consume('$what', 4, 0)"), 'f', "$what: nor does anybody else");
	finish_session($writer);
	finish_session($reader);
}

# Half of the calls read-only, half not, on one bucket that began as a row
is($node->safe_psql('postgres', "SELECT rl_consume('mixed', 300, 0)"), 't', 'a bucket of 300, 1 taken');
is(tier_of($node, 'mixed'), 'table', '... is in the table');
$node->safe_psql('postgres', 'CREATE SEQUENCE allowed');
run_clients(
	$node, 'read-only and read-write callers',
	clients => 16,
	transactions => 50,
	script => <<'SCRIPT');
\if :client_id % 2
BEGIN READ ONLY;
\else
BEGIN;
\endif
SELECT rl_consume('mixed', 300, 0) AS ok \gset
COMMIT;
\if :ok
SELECT nextval('allowed');
\endif
SCRIPT
is($node->safe_psql('postgres', 'SELECT last_value FROM allowed'),
	299, '299 are left, whoever asks');
$node->stop;

#
# Without shared memory
#
$node = start_server('read_only_table', preload => 0);
my $session = in_session($node);

is($session->query_safe("SELECT rl_consume('row', 5, 0, 2)"), 't', 'a bucket of 5, 2 taken');
$session->query_safe('\set VERBOSITY verbose');
$session->query_safe('BEGIN READ ONLY');
is($session->query_safe("SELECT rl_peek('row', 5, 0)"), '(t,5,2,00:00:00,)', 'can look');
is($session->query("SELECT rl_consume('row', 5, 0)"), '', 'cannot decide');
like($session->{stderr}, qr/ERROR:  25006: cannot decide on key "row", limiter "default" in a read-only transaction/, '... and says so');
$session->{stderr} = '';
$session->query_safe('ROLLBACK');
foreach my $setting ([ 'allow', 't' ], [ 'deny', 'f' ])
{
	my ($on_error, $answer) = @$setting;

	$session->query_safe("SET ratelimit.on_error = $on_error; BEGIN READ ONLY");
	is($session->query("SELECT rl_consume('row', 5, 0)"), $answer, "on_error = $on_error: as it says");
	is($session->query("SELECT rl_consume('row', 5, 0, 100)"), $answer, '... whatever the bucket holds');
	is($session->query("SELECT rl_throttle('row', 5, 0)"), "($answer,5,,,)", '... which is not known');
	$session->{stderr} = '';
	is($session->query_safe('SELECT 1'), 1, '... and the transaction goes on');
	$session->query_safe('COMMIT');
}
is($session->query_safe("SELECT rl_throttle('row', 5, 0)"), '(t,5,2,00:00:00,)', 'nothing was taken meanwhile');
finish_session($session);

$node->stop;
done_testing();
