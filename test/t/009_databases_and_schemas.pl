# The extension works in any schema of any database; databases share no bucket;
# dropping it, or the database, leaves nothing behind.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# With shared memory, without, and with so little that buckets are in the table
foreach my $kind (
	[ 'memory', 1, '', 'memory' ],
	[ 'table', 0, '', 'table' ],
	[ 'spilled', 1, 'ratelimit.max_buckets = 16', 'table' ])
{
	my ($name, $preload, $conf, $store) = @$kind;
	my $node = start_server("databases_$name", preload => $preload, conf => $conf);

	# Make the database's next new bucket go to the table, where that is wanted.
	my $fill = sub {
		my ($database, $schema) = @_;

		$node->safe_psql($database,
			qq{SELECT count(*) FILTER (WHERE $schema.rl_consume('fill' || i, 1, 0)) FROM generate_series(1, 40) i})
		  if $name eq 'spilled';
	};

	#
	# Any schema, two databases
	#
	my %schema = (one => 'public', two => q{"Odd ""name"", 'quoted'; \\ $1 %s"});
	foreach my $database ('one', 'two')
	{
		my $schema = $schema{$database};

		$node->safe_psql('postgres', "CREATE DATABASE $database");
		$node->safe_psql($database, "CREATE SCHEMA IF NOT EXISTS $schema");
		$node->safe_psql($database, "CREATE EXTENSION ratelimit SCHEMA $schema");
		$fill->($database, $schema);
		is( $node->safe_psql($database,
				"SELECT $schema.rl_consume('k', 2, 0), $schema.rl_consume('k', 2, 0), $schema.rl_consume('k', 2, 0)"),
			't|t|f', "$name: database $database has a bucket of its own");
		is( $node->safe_psql($database,
				"SELECT store, tokens FROM $schema.rate_limit_status WHERE key = 'k'"),
			"$store|0", "$name: ... in $store");
	}
	is($node->safe_psql('one', "SELECT rl_reset('k'), rl_reset_all(NULL) >= 0"), 't|t', "$name: reset in one");
	is($node->safe_psql('one', "SELECT count(*) FROM rate_limit_status"), 0, "$name: ... empties one");
	is($node->safe_psql('two', "SELECT $schema{two}.rl_consume('k', 2, 0)"), 'f', "$name: ... and not two");

	#
	# Moving it to another schema under a session's feet
	#
	$fill->('one', 'public');
	my $session = in_session($node, 'one');
	$node->safe_psql('one', 'CREATE SCHEMA "New one"');
	is($session->query_safe("SELECT public.rl_consume('moved', 4, 0)"), 't', "$name: a call");
	$node->safe_psql('one', 'ALTER EXTENSION ratelimit SET SCHEMA "New one"');
	is($session->query_safe(q{SELECT "New one".rl_consume('moved', 4, 0)}), 't', "$name: moved by another session: a call");
	is($session->query_safe(q{ALTER EXTENSION ratelimit SET SCHEMA public; SELECT public.rl_consume('moved', 4, 0)}), 't', "$name: moved back by the same: a call");
	is( $session->query_safe(<<'SQL'), 't', "$name: moved in the same transaction: a call");
BEGIN;
ALTER EXTENSION ratelimit SET SCHEMA "New one";
SELECT "New one".rl_consume('moved', 4, 0);
COMMIT
SQL
	is($session->query_safe(q{SELECT "New one".rl_consume('moved', 4, 0)}), 'f', "$name: it was one bucket all along");
	is($session->query_safe(q{SELECT key, store FROM "New one".rate_limit_status WHERE key = 'moved'}), "moved|$store", "$name: ... in $store");
	is( $session->query_safe(<<'SQL'), 'f', "$name: a schema renamed: the same bucket");
ALTER SCHEMA "New one" RENAME TO newer;
SELECT newer.rl_consume('moved', 4, 0)
SQL
	$session->query_safe('ALTER EXTENSION ratelimit SET SCHEMA public');

	#
	# Dropping it
	#
	is($session->query_safe("SELECT rl_consume('dropped', 1, 0)"), 't', "$name: a bucket");
	$session->query_safe('BEGIN; DROP EXTENSION ratelimit; ROLLBACK');
	is($session->query_safe("SELECT rl_consume('dropped', 1, 0)"), 'f', "$name: a drop rolled back leaves it");
	$session->query_safe('BEGIN; SAVEPOINT s; DROP EXTENSION ratelimit; ROLLBACK TO s; COMMIT');
	is($session->query_safe("SELECT rl_consume('dropped', 1, 0)"), 'f', "$name: also to a savepoint");
	$node->safe_psql('one', 'DROP EXTENSION ratelimit');
	is($node->safe_psql('one', "SELECT count(*) FROM pg_class WHERE relname LIKE 'rate\\_limit%'"), 0, "$name: no relation is left");
	is($node->safe_psql('one', "SELECT count(*) FROM pg_proc WHERE proname LIKE 'rl\\_%'"), 0, "$name: no function is left");
	$node->safe_psql('one', 'CREATE EXTENSION ratelimit');
	is($session->query_safe("SELECT count(*) FROM rate_limit_status"), 0, "$name: dropped and created: no bucket, whatever store");
	is($session->query_safe("SELECT rl_consume('dropped', 1, 0), rl_consume('dropped', 1, 0)"), 't|f', "$name: ... so it starts full");
	is( $session->query_safe(<<'SQL'), 't', "$name: dropped and created in one transaction: likewise");
SET client_min_messages = warning;
BEGIN;
DROP EXTENSION ratelimit;
CREATE EXTENSION ratelimit;
COMMIT;
SELECT rl_consume('dropped', 1, 0)
SQL
	is($node->safe_psql('two', "SELECT $schema{two}.rl_consume('k', 2, 0)"), 'f', "$name: the other database keeps its buckets");
	$node->safe_psql('one', 'DROP EXTENSION ratelimit');
	my ($rc, $out, $err) = $node->psql('one', "SELECT rl_consume('x', 1, 0)");
	like($err, qr/function rl_consume\(unknown, integer, integer\) does not exist/, "$name: ... there is nothing to call");
	finish_session($session);

	#
	# Databases come and go
	#
	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE two');
	is($node->safe_psql('copy', "SELECT $schema{two}.rl_consume('new', 1, 0), $schema{two}.rl_consume('new', 1, 0)"),
		't|f', "$name: a copy of a database decides");
	is($node->safe_psql('two', "SELECT $schema{two}.rl_consume('new', 1, 0)"), 't', "$name: ... on buckets of its own");
	# rows are copied with their database; what is in memory is not
	is($node->safe_psql('copy', "SELECT $schema{two}.rl_consume('k', 2, 0)"), $store eq 'table' ? 'f' : 't', "$name: it has the rows it was copied with");
	is($node->safe_psql('copy', "SELECT count(*), count(DISTINCT key) FROM $schema{two}.rate_limit_status WHERE key IN ('k', 'new')"), '2|2', "$name: ... no bucket twice");

	$node->safe_psql('postgres', 'DROP DATABASE copy');
	$node->safe_psql('postgres', 'DROP DATABASE two WITH (FORCE)');
	if ($preload)
	{
		# 16 or more slots that belonged to them are free for all
		is($node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE rl_consume(i::text, 1, 0)) FROM generate_series(1, 12) i'), 12, "$name: buckets of another database");
		is($node->safe_psql('postgres', 'SELECT min(store), max(store) FROM rate_limit_status'), 'memory|memory', "$name: ... find the slots that the dropped ones had");
	}
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'ratelimit worker'}), "$name: no worker stays");

	#
	# Where settings say what new tables are made of and how strings are read
	#
	$node->safe_psql('postgres', 'CREATE DATABASE settings');
	# which PostgreSQL 19 has not any more
	my $strings = $node->pg_version->major < 19 ? 'SET standard_conforming_strings = off; SET escape_string_warning = off;' : '';
	($rc, $out, $err) = $node->psql('settings', <<"SQL");
CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;
SET default_table_access_method = other;
$strings
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
SHOW default_table_access_method;
SQL
	is("$out$err", 'other', "$name: such settings do not matter");
	$fill->('settings', 'public');
	is($node->safe_psql('settings', q{SELECT rl_consume('k', 1, 0), rl_consume('k', 1, 0), rl_acquire('k', 1, hold => '1 min') IS NOT NULL, rl_reserve('r', 9, 0, 1) IS NOT NULL}),
		't|f|t|t', "$name: ... all stores work");
	$node->stop;
}

done_testing();
