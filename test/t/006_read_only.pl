# In a read-only transaction rl_consume() decides wherever the bucket is: in shared
# memory, in the table, and without shared memory.  A parallel worker cannot make a row:
# there a bucket that has none is made in memory, and another gives way.
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
is(store_of($node, 'in table'), 'table', '... is in the table');
is($node->safe_psql('postgres', <<'SQL'), "t\nt\nt\nf\nf", 'read-only: 3 are left, not 5');
BEGIN READ ONLY;
SELECT rl_consume('in table', 5, 0);
SELECT rl_consume('in table', 5, 0);
SELECT rl_consume('in table', 5, 0);
SELECT rl_consume('in table', 5, 0);
COMMIT;
SELECT rl_consume('in table', 5, 0);
SQL
is(twice_living($node), '', 'the bucket is in one store');
is($node->safe_psql('postgres', <<'SQL'), "t\nf\nf", 'a key without bucket: one that is full');
BEGIN READ ONLY;
SELECT rl_consume('no row', 1, 0);
SELECT rl_consume('no row', 1, 0);
COMMIT;
SELECT rl_consume('no row', 1, 0);
SQL
is(store_of($node, 'no row'), 'table', '... gets a row');
is($node->safe_psql('postgres', 'SELECT sum(evicted) FROM rl_partitions()'),
	0, '... and no bucket gives way for it');

# Parallel workers, on buckets with a row and on one without
$node->safe_psql('postgres', <<'SQL');
ALTER FUNCTION rl_consume(text, float8, float8, float8, text) PARALLEL SAFE;
ALTER FUNCTION rl_consume_all(text[], float8[], float8[], float8[], text[]) PARALLEL SAFE;
CREATE TABLE many AS SELECT i FROM generate_series(1, 5000) i;
ALTER TABLE many SET (parallel_workers = 2);
ALTER DATABASE postgres SET min_parallel_table_scan_size = 0;
ALTER DATABASE postgres SET parallel_setup_cost = 0;
ALTER DATABASE postgres SET parallel_tuple_cost = 0;
SELECT rl_consume('parallel row', 1000, 0);
SQL
like($node->safe_psql('postgres', "EXPLAIN SELECT count(*) FROM many WHERE rl_consume('parallel row', 1000, 0)"), qr/Parallel Seq Scan/, 'a parallel query');
is($node->safe_psql('postgres', "SELECT count(*) FROM many WHERE rl_consume('parallel row', 1000, 0)"), 999, '... takes from a row what is left');
is(store_of($node, 'parallel row'), 'table', '... which stays one');
is($node->safe_psql('postgres', "SELECT count(*) FROM many WHERE rl_consume('parallel new', 1000, 0)"), 1000, '... and from a bucket that has none');
is(store_of($node, 'parallel new'), 'memory', '... in memory');
is($node->safe_psql('postgres', "SELECT count(*) FROM many WHERE rl_consume_all(ARRAY['parallel all', 'parallel both'], ARRAY[700, 800], ARRAY[0, 0])"), 700, '... all or nothing');
is($node->safe_psql('postgres', "SELECT rl_consume('parallel new', 1000, 0), rl_consume('parallel row', 1000, 0), rl_consume('parallel all', 700, 0), (rl_peek('parallel both', 800, 0, 0)).remaining"), 'f|f|f|100', '... as everybody finds');
cmp_ok($node->safe_psql('postgres', 'SELECT sum(evicted) FROM rl_partitions()'),
	'>=', 1, 'what gave way is counted');
is(twice_living($node), '', 'no bucket is in two places');

# A row that a transaction has changed or made, and is still open
foreach my $what ('an old row', 'a new row')
{
	my $writer = in_session($node);

	$node->safe_psql('postgres', "SELECT rl_consume('$what', 4, 0)")
	  if $what eq 'an old row';
	my $left = $what eq 'an old row' ? 3 : 4;
	$writer->query_safe('BEGIN');
	is($writer->query_safe("SELECT rl_consume('$what', 4, 0, $left)"), 't', "$what: a transaction takes all that is left");
	is($node->safe_psql('postgres', "SET statement_timeout = '10s'; BEGIN READ ONLY; SELECT rl_consume('$what', 4, 0); COMMIT"), 'f', "$what: a read-only caller does not wait, and gets none");
	$writer->query_safe('ROLLBACK');
	is($node->safe_psql('postgres', "SELECT rl_consume('$what', 4, 0)"), 'f', "$what: nor does anybody else");
	finish_session($writer);
}

# Half of the calls read-only, half not, on one bucket that began as a row
is($node->safe_psql('postgres', "SELECT rl_consume('mixed', 300, 0)"), 't', 'a bucket of 300, 1 taken');
is(store_of($node, 'mixed'), 'table', '... is in the table');
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
is($node->safe_psql('postgres', "SELECT rl_consume('row', 5, 0, 2)"), 't', 'a bucket of 5, 2 taken');
is($node->safe_psql('postgres', <<'SQL'), "(t,5,2,00:00:00,,default,f,)\nt\nt\nt\nf\nt\nt\nf", 'without shared memory: read-only calls take from rows, and make them');
BEGIN READ ONLY;
SELECT rl_peek('row', 5, 0);
SELECT rl_consume('row', 5, 0);
SELECT rl_consume('row', 5, 0);
SELECT rl_consume('row', 5, 0);
SELECT rl_consume('row', 5, 0);
SELECT rl_consume('new row', 2, 0);
SELECT rl_consume('new row', 2, 0);
ROLLBACK;
SELECT rl_consume('new row', 2, 0);
SQL

$node->stop;
done_testing();
