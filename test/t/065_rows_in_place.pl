# Calls in the table keep nobody waiting, and leave the table as PostgreSQL wants it:
# no lock stays with the caller's transaction, a read-only caller waits for no writer,
# the first call after a start does not read the whole table, and whatever vacuum,
# pruning and checkpoints make of the rows meanwhile, heap and index agree.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

foreach my $preload (1, 0)
{
	my $here = $preload ? 'spilled' : 'not preloaded';
	my $node = start_server("in_place_$preload", preload => $preload, conf => <<'CONF');
ratelimit.max_buckets = 16
ratelimit.flush_interval = 1h
autovacuum = off
CONF
	my $query = sub { return $node->safe_psql('postgres', $_[0]) };
	my $amcheck = $query->("SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'");

	$query->('CREATE EXTENSION amcheck') if $amcheck;
	fill_until_spilled($node, 'filling', 1000, 0) if $preload;

	#
	# Nothing stays locked
	#
	my $idle = in_session($node);
	$query->("SELECT rl_consume('key', 10, 0)");
	is($idle->query_safe(<<'SQL'), "t\nt\nt\nt\nt\nt", "$here: a transaction that has called everything");
BEGIN;
SELECT rl_consume('key', 10, 0);
SELECT rl_consume('new key', 10, 0);
SELECT rl_consume_all(ARRAY['key', 'newer key'], ARRAY[10, 10], ARRAY[0, 0]);
SELECT (rl_peek('key', 10, 0)).allowed;
SELECT rl_wait('key', 10, 0);
SELECT rl_reset('newer key');
SQL
	is($query->("SELECT count(*) FROM pg_locks WHERE relation IN ('rate_limit_buckets'::regclass, 'rate_limit_buckets_pkey'::regclass) OR locktype = 'advisory'"),
		0, "$here: ... holds no lock on the table or on a key");
	is($query->("SET lock_timeout = '10s'; BEGIN; LOCK rate_limit_buckets; COMMIT; REINDEX TABLE rate_limit_buckets; VACUUM FULL rate_limit_buckets; SELECT rl_consume('key', 10, 0)"),
		't', "$here: ... and is in nobody's way");
	# a fresh key, while others have written every key lock there could be
	$idle->query_safe("SELECT count(rl_consume('of writer ' || i, 10, 0)) FROM generate_series(1, 100) i");
	is($query->("SET statement_timeout = '10s'; BEGIN READ ONLY; SELECT count(*) FILTER (WHERE rl_consume('fresh ' || i, 10, 0)) FROM generate_series(1, 100) i"),
		100, "$here: ... nor in that of fresh keys in a read-only transaction");
	$idle->query_safe('ROLLBACK');
	finish_session($idle);

	#
	# The first call of a session, after a start, with very many rows
	#
	$query->("SELECT count(rl_consume('row ' || i, 10, 0, 1 + i % 9)) FROM generate_series(1, 60000) i");
	my $pages = $query->("SELECT pg_relation_size('rate_limit_buckets') / current_setting('block_size')::int");
	cmp_ok($pages, '>', 500, "$here: very many rows");
	$node->restart;
	# catalogs are read, too
	my ($first) = $query->("EXPLAIN (ANALYZE, BUFFERS) SELECT rl_consume('row 7', 10, 0), rl_consume('first of all', 10, 0), rl_peek('row 8', 10, 0)") =~ /Buffers: shared (.*)/;
	my $touched = 0;
	$touched += $_ foreach $first =~ /(?:hit|read)=(\d+)/g;
	cmp_ok($touched, '<', $pages / 2, "$here: the first calls after a start do not go through them ($touched of $pages pages)");
	is($query->("SELECT count(*) FILTER (WHERE remaining <> 9 - i % 9 - CASE i WHEN 7 THEN 1 ELSE 0 END) FROM generate_series(1, 60000) i, LATERAL (SELECT (rl_peek('row ' || i, 10, 0, 0)).remaining) p"),
		0, "$here: ... and every bucket is what it was");

	#
	# Heap and index agree
	#
	my $check = sub {
		my ($what) = @_;

		if ($amcheck)
		{
			is($query->("SELECT msg FROM verify_heapam('rate_limit_buckets')"), '', "$here: $what: the heap is sound");
			is($query->("SELECT bt_index_check('rate_limit_buckets_pkey', true)"), '', "$here: $what: ... and so is the index");
		}
		is($query->("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*), count(DISTINCT key) FROM rate_limit_buckets WHERE limiter >= ''"),
			$query->("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; SELECT count(*), count(DISTINCT key) FROM rate_limit_buckets"),
			"$here: $what: both have the same rows");
	};
	$check->('after calls');
	foreach my $maintenance ('VACUUM (FREEZE, ANALYZE) rate_limit_buckets', 'CHECKPOINT', 'ALTER TABLE rate_limit_buckets SET LOGGED; VACUUM rate_limit_buckets', 'CREATE INDEX more ON rate_limit_buckets (key)')
	{
		$query->($_) foreach split /; /, $maintenance;
		# rows on pages that are all-visible by now are changed, deleted and made
		is($query->("SELECT count(*) FILTER (WHERE rl_consume('row ' || i, 10, 0, 0)), rl_reset_all('other') FROM generate_series(1, 60000, 97) i GROUP BY 2"),
			int(59999 / 97) + 1 . '|0', "$here: $maintenance, then calls");
		$query->("SELECT count(rl_consume('brief ' || i, 1, 1e9, 1, 'brief')) FROM generate_series(1, 300) i");
		cmp_ok($query->("SELECT rl_reset_all('brief'); SELECT count(*) FROM rate_limit_buckets WHERE limiter = 'brief'"), 'eq', "0\n0", "$here: ... and rows are deleted");
		$check->($maintenance);
	}
	$query->('VACUUM rate_limit_buckets');
	cmp_ok($query->("SELECT rl_reset_all(NULL)"), '>', 59990, "$here: all are deleted from pages that are all-visible");
	is($query->("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM rate_limit_buckets WHERE limiter >= ''"), 0, "$here: ... an index-only scan finds none");
	$check->('after that');
	$query->('VACUUM rate_limit_buckets');
	cmp_ok($query->("SELECT pg_relation_size('rate_limit_buckets')"), '<', 1e6, "$here: ... and vacuum gives the room back");
	$node->stop;
}
done_testing();
