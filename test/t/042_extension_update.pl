# A fresh install of the default version and one that ALTER EXTENSION UPDATE made
# of an older one are the same, on every update path there is; an update under
# load loses no bucket, violation or flag; and the comparison notices differences.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('update');
my $databases = 0;

sub create_database
{
	my $database = 'd' . ++$databases;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	return $database;
}

# All that PostgreSQL knows of the extension's objects, as text: pg_dump for
# pg_upgrade writes each of them with definition, owner, rights and comment.
sub describe
{
	my ($database) = @_;
	my ($text, $errors) = run_command(
		[ 'pg_dump', '--binary-upgrade', '--schema-only', '--dbname' => $node->connstr($database) ]);

	die $errors if $errors =~ /error:/;
	# what counts from installation to installation: OIDs, files, transactions
	$text =~ s/^SELECT pg_catalog\.binary_upgrade_set_(next|missing)_.*\n//mg;
	$text =~ s/'\{[0-9,]*\}', '\{[^\n]*?\}', (?=ARRAY)//;
	$text =~ s/^SET relfrozenxid = .*\nWHERE oid = .*\n//mg;
	$text =~ s/^\\(un)?restrict .*\n//mg;
	$text =~ s/^--.*\n//mg;
	$text =~ s/^\n+//mg;
	return $text
	  . $node->safe_psql($database, q{SELECT 'dumped: ', c::regclass, w FROM pg_extension, unnest(extconfig, extcondition) u (c, w) WHERE extname = 'ratelimit' ORDER BY c::regclass::text})
	  . "\n";
}

# The lines that only one of two descriptions has.
sub differences
{
	my ($one, $other) = @_;
	my %count;

	$count{$_}++ foreach split /\n/, $one;
	$count{$_}-- foreach split /\n/, $other;
	return join("\n", map { ($count{$_} > 0 ? '+ ' : '- ') . $_ } grep { $count{$_} } sort keys %count)
	  || ($one eq $other ? '' : 'the same lines in another order');
}

my $default = $node->safe_psql('postgres', q{SELECT default_version FROM pg_available_extensions WHERE name = 'ratelimit'});
my $fresh = create_database();
$node->safe_psql($fresh, 'CREATE EXTENSION ratelimit');
my $described = describe($fresh);

like($described, qr/ALTER EXTENSION ratelimit ADD $_ /, "the description has each $_")
  foreach ('TYPE', 'FUNCTION', 'TABLE', 'VIEW', 'SEQUENCE');
is(() = $described =~ /^ALTER EXTENSION ratelimit ADD /mg,
	$node->safe_psql($fresh, <<'SQL'), '... that there is');
SELECT count(*) FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ratelimit')
	-- not those that come with a table or another type, members since 17
	AND NOT (classid = 'pg_type'::regclass AND objid NOT IN (SELECT reltype FROM pg_class WHERE relkind = 'c'))
SQL
my $again = create_database();
$node->safe_psql($again, 'CREATE EXTENSION ratelimit');
is(differences(describe($again), $described), '', 'two fresh installs are the same');

#
# The real versions: bites from the second one on
#
my @paths = split /\n/, $node->safe_psql('postgres', <<"SQL");
SELECT source FROM pg_extension_update_paths('ratelimit')
WHERE target = '$default' AND path IS NOT NULL ORDER BY source
SQL
foreach my $source (@paths)
{
	my $database = create_database();

	$node->safe_psql($database, "CREATE EXTENSION ratelimit VERSION '$source'");
	$node->safe_psql($database, 'ALTER EXTENSION ratelimit UPDATE');
	is(differences(describe($database), $described), '', "updated from $source: as fresh");
}
is( $node->safe_psql('postgres', <<"SQL"), '', 'every version leads to the default one');
SELECT version FROM pg_available_extension_versions v
WHERE name = 'ratelimit' AND version <> '$default'
	AND NOT EXISTS (SELECT FROM pg_extension_update_paths('ratelimit')
		WHERE source = v.version AND target = '$default' AND path IS NOT NULL)
SQL

#
# Each kind of difference shows
#
my $n_differences = 0;
foreach my $change (
	'ALTER FUNCTION rl_consume(text, float8, float8, float8, text) PARALLEL SAFE',
	'ALTER FUNCTION rl_peek(text, float8, float8, float8, text) STABLE',
	'ALTER FUNCTION rl_flush() COST 7',
	'ALTER FUNCTION rl_flush() SECURITY DEFINER',
	"ALTER FUNCTION rl_flush() SET work_mem = '1MB'",
	'GRANT EXECUTE ON FUNCTION rl_flush() TO PUBLIC',
	'REVOKE SELECT ON rate_limit_status FROM pg_monitor',
	"COMMENT ON FUNCTION rl_flush() IS 'another'",
	'COMMENT ON COLUMN rate_limit_buckets.owed IS NULL',
	'ALTER TABLE rate_limit_flags ADD COLUMN more int',
	'ALTER TABLE rate_limit_flags ALTER COLUMN reason DROP NOT NULL',
	"ALTER TABLE rate_limit_flags ALTER COLUMN rejected SET DEFAULT 1",
	'ALTER TABLE rate_limit_buckets SET (fillfactor = 60)',
	'ALTER TABLE rate_limit_buckets SET LOGGED',
	'ALTER TABLE rate_limit_flags ADD CHECK (rejected >= 0)',
	'DROP INDEX idx_rlv_gateway_created',
	'CREATE INDEX ON rate_limit_flags (flagged_at)',
	'ALTER SEQUENCE rate_limit_violations_id_seq CACHE 10',
	'CREATE OR REPLACE VIEW rate_limit_flagged AS SELECT limiter, key, flagged_at, rejected, reason FROM rate_limit_flags WHERE cleared_at IS NULL',
	'ALTER TABLE rate_limit_policies ENABLE TRIGGER rate_limit_policies_changed',
	'DROP TRIGGER rate_limit_policies_changed ON rate_limit_policies',
	'ALTER EXTENSION ratelimit DROP FUNCTION rl_flush()',
	q{UPDATE pg_extension SET extconfig[1] = 'rate_limit_buckets'::regclass WHERE extname = 'ratelimit'},
	q{UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'ratelimit'},
	q{UPDATE pg_extension SET extversion = '0' WHERE extname = 'ratelimit'})
{
	my $database = create_database();

	$node->safe_psql($database, "CREATE EXTENSION ratelimit; $change");
	isnt(differences(describe($database), $described), '', "noticed: $change");
}

#
# A made-up next version, in test/run's own copy of PostgreSQL only
#
my ($share) = run_command([ 'pg_config', '--sharedir' ]);
my $scripts = "$share/extension";
my $private = $ENV{RATELIMIT_WORK} && index($scripts, "$ENV{RATELIMIT_WORK}/") == 0;
my @made_up;

sub make_script
{
	my ($versions, $text) = @_;
	my $file = "$scripts/ratelimit--$versions.sql";

	die "$file is there" if -e $file;
	push @made_up, $file;
	append_to_file($file, $text);
	return;
}

END
{
	unlink @made_up if @made_up;
}

SKIP:
{
	skip 'not in a private copy of PostgreSQL', 1 unless $private;

	my $new = <<'SQL';
CREATE FUNCTION rl_new() RETURNS int LANGUAGE sql AS 'SELECT 1';
COMMENT ON FUNCTION rl_new() IS 'new';
REVOKE ALL ON FUNCTION rl_new() FROM PUBLIC;
ALTER TABLE rate_limit_flags ADD COLUMN more int DEFAULT 7;
ALTER TABLE rate_limit_buckets ADD COLUMN more int;
DROP VIEW rate_limit_flagged;
CREATE VIEW rate_limit_flagged AS
SELECT limiter, key, flagged_at, rejected, reason, more FROM rate_limit_flags WHERE cleared_at IS NULL;
GRANT SELECT ON rate_limit_flagged TO pg_monitor;
CREATE TABLE rate_limit_new (i int);
SELECT pg_catalog.pg_extension_config_dump('rate_limit_new', '');
SQL
	my $left_out = $new =~ s/^REVOKE.*\n//mr;

	make_script('next', slurp_file("$scripts/ratelimit--$default.sql") . $new);
	make_script("$default--next", $new);
	make_script("$default--other", $left_out);
	make_script('other', slurp_file("$scripts/ratelimit--$default.sql") . $new);

	my %described;
	foreach my $version ('next', 'other')
	{
		my $database = create_database();
		my $updated = create_database();

		$node->safe_psql($database, "CREATE EXTENSION ratelimit VERSION '$version'");
		$described{$version} = describe($database);
		$node->safe_psql($updated, "CREATE EXTENSION ratelimit; ALTER EXTENSION ratelimit UPDATE TO '$version'");
		my $differences = differences(describe($updated), $described{$version});
		is($differences, '', 'a made-up next version: updated as fresh') if $version eq 'next';
		like($differences, qr/^- REVOKE ALL ON FUNCTION public\.rl_new\(\) FROM PUBLIC;$/m, 'a made-up next version that forgets a REVOKE is found out')
		  if $version eq 'other';
	}

	#
	# Under load, in both stores
	#
	$node->append_conf('postgresql.conf', 'ratelimit.max_buckets = 16');
	$node->restart;
	foreach my $store ('memory', 'table')
	{
		my $database = create_database();
		my $capacity = 600;

		$node->safe_psql($database, <<'SQL');
CREATE EXTENSION ratelimit;
CREATE TABLE allowed (key text);
SELECT rl_flag('flagged', 'user', 'by hand');
SQL
		$node->safe_psql($database, "SELECT rl_consume('hot', $capacity, 0, 0.5)") if $store eq 'memory';
		$node->safe_psql($database, 'SELECT count(rl_consume(i::text, 1, 0)) FROM generate_series(1, 100) i') if $store eq 'table';
		$node->safe_psql($database, "SELECT rl_consume('hot', $capacity, 0, 0.5)") if $store eq 'table';
		is(store_of($node, 'hot', $database), $store, "a bucket in $store");

		my $clients = start_clients(
			$node,
			clients => 4,
			transactions => 200,
			database => $database,
			script => "INSERT INTO allowed SELECT 'hot' WHERE rl_consume('hot', $capacity, 0);\n");
		$node->poll_query_until($database, 'SELECT EXISTS (SELECT FROM allowed)');
		$node->safe_psql($database, "ALTER EXTENSION ratelimit UPDATE TO 'next'");
		finish_clients($clients, "updated while calls run, $store");
		is($node->safe_psql($database, 'SELECT count(*) FROM allowed'), $capacity - 1, "... exact");
		is($node->safe_psql($database, 'SELECT key, more FROM rate_limit_flagged'), 'flagged|7', '... the flag is there');
		is($node->safe_psql($database, "SELECT rl_consume('hot', $capacity, 0)"), 'f', '... and the bucket');
		ok( $node->poll_query_until($database, q{SELECT sum(count) = 202 FROM (SELECT count FROM rate_limit_violation_details WHERE key = 'hot' UNION ALL SELECT count FROM rate_limit_pending WHERE key = 'hot') v}),
			'... and every violation');
		ok( $node->poll_query_until($database, q{SELECT sum(total_count) >= 202 FROM rate_limit_violations}), '... which the worker writes');
		$node->safe_psql('postgres', "DROP DATABASE $database");
	}
}

#
# Which library is it?
#
SKIP:
{
	skip 'PostgreSQL does not say so before 18', 1
	  if $node->safe_psql('postgres', q{SELECT to_regproc('pg_get_loaded_modules') IS NULL}) eq 't';

	my ($release) = slurp_file('META.json') =~ /^  "version": "(.*)",$/m;
	is($node->safe_psql('postgres', q{SELECT version FROM pg_get_loaded_modules() WHERE module_name = 'ratelimit'}), $release, 'the server says which library it has loaded');
}

$node->stop;
done_testing();
