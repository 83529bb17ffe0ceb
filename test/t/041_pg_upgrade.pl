# pg_upgrade brings policies, violations, flags, grants and buckets in the table along, and
# neither asks for anything nor starts workers.  From the PostgreSQL whose pg_config
# RATELIMIT_OLD_PG_CONFIG names; without one, from this version to itself.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# bin/pg_config's installation
my $old_pg_config = $ENV{RATELIMIT_OLD_PG_CONFIG} || '';
my @old_path = $old_pg_config ? (install_path => dirname(dirname($old_pg_config))) : ();

sub make_cluster
{
	my ($name, @path) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, @path);
	my @extra = ('--encoding=UTF8', '--locale=C');

	# the clusters have to agree, whatever the versions' defaults
	push @extra, '--no-data-checksums' if $node->pg_version->major >= 18;
	$node->init(extra => \@extra);
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'ratelimit'
ratelimit.max_buckets = 16
ratelimit.flush_interval = 1h
log_min_messages = debug1
CONF
	return $node;
}

my $old = make_cluster('old', @old_path);
my $new = make_cluster('new');
my ($bin) = run_command([ 'pg_config', '--bindir' ]);
my ($old_bin) = run_command([ $old_pg_config || 'pg_config', '--bindir' ]);
my $workdir = "$PostgreSQL::Test::Utils::tmp_check/upgrade";
note("from $old_bin to $bin");

#
# Two databases, another schema
#
$old->start;
$old->safe_psql('postgres', 'CREATE ROLE support LOGIN; CREATE DATABASE "Other one"');
my %schema = (postgres => 'public', 'Other one' => '"Limits"');
foreach my $database (sort keys %schema)
{
	my $schema = $schema{$database};

	$old->safe_psql($database, "CREATE SCHEMA IF NOT EXISTS $schema; CREATE EXTENSION ratelimit SCHEMA $schema");
	$old->safe_psql($database, <<"SQL");
SET search_path = $schema;
GRANT EXECUTE ON FUNCTION rl_unflag(text, text) TO support;
REVOKE EXECUTE ON FUNCTION rl_peek(text, float8, float8, float8, text) FROM PUBLIC;
ALTER FUNCTION rl_consume(text, float8, float8, float8, text) PARALLEL SAFE;
SET ratelimit.gateway_name = 'gw';
SELECT count(rl_consume('fill' || i, 1, 0)) FROM generate_series(1, 100) i;
SELECT rl_consume('row', 2, 0);
SELECT rl_consume('row', 2, 0, 5, 'denied') FROM generate_series(1, 3);
INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 2, 0, true);
SELECT rl_flag('k', 'user', 'flagged'), rl_flag('c', 'user', 'cleared'), rl_unflag('c', 'user');
SELECT rl_flush();
SELECT rl_report('pending', 'user', 7);
SQL
	is($old->safe_psql($database, "SELECT store FROM $schema.rate_limit_status WHERE key = 'row'"), 'table', "$database: a bucket in the table");
}

# What is to be the same.  The owner's rights on tables, and the types that are
# members, differ from version to version.
sub state_of
{
	my ($node, $database) = @_;

	return $node->safe_psql($database, <<"SQL");
SET search_path = $schema{$database};
TABLE rate_limit_violations ORDER BY id;
TABLE rate_limit_flags ORDER BY key;
TABLE rate_limit_policies ORDER BY policy, tier;
SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1;
SELECT limiter, key, capacity, refill, owed, updated_at FROM rate_limit_buckets ORDER BY 1, 2;
SELECT last_value FROM rate_limit_violations_id_seq;
SELECT proname, proparallel, array(SELECT a::text FROM unnest(proacl) a ORDER BY 1) FROM pg_proc WHERE proname ~ '^rl_' ORDER BY 1;
SELECT relname, relpersistence, array(SELECT a::text FROM unnest(relacl) a WHERE a::text !~ '^postgres=' ORDER BY 1) FROM pg_class WHERE relname ~ '^(rate_limit|idx_rlv)' ORDER BY 1;
SELECT extversion, extnamespace::regnamespace, (SELECT array_agg(c::regclass::text ORDER BY 1) FROM unnest(extconfig) c) FROM pg_extension WHERE extname = 'ratelimit';
SELECT count(*) FROM pg_depend WHERE classid <> 'pg_type'::regclass AND deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ratelimit');
SQL
}

my %before = map { $_ => state_of($old, $_) } keys %schema;
like($before{postgres}, qr/^default\|row\|2\|0\|/m, 'there is something to keep');
$old->stop;

#
# pg_upgrade
#
my @command = (
	'pg_upgrade', '--no-sync', '--retain',
	'--old-datadir' => $old->data_dir,
	'--new-datadir' => $new->data_dir,
	'--old-bindir' => $old_bin,
	'--new-bindir' => $bin,
	'--socketdir' => $new->host,
	'--old-port' => $old->port,
	'--new-port' => $new->port);
mkdir $workdir;
chdir $workdir or die $!;

command_like([ @command, '--check' ], qr/Clusters are compatible/, 'pg_upgrade --check is content');
command_like(\@command, qr/Upgrade Complete/, 'pg_upgrade is done');
my @logs = split /\n/, `find $workdir @{[$new->data_dir]}/pg_upgrade_output.d -name 'pg_upgrade_server*.log' 2>/dev/null`;
my $log = join('', map { slurp_file($_) } @logs);
like($log, qr/database system is ready/, 'its servers\' logs');
unlike($log, qr/ratelimit launcher/, '... tell of no launcher');
unlike($log, qr/ratelimit:/, '... nor anything else of ratelimit');

#
# Afterwards
#
$new->start;
foreach my $database (sort keys %schema)
{
	my $schema = $schema{$database};

	is(state_of($new, $database), $before{$database}, "$database: policies, violations, flags, rows, grants are as before");
	is($new->safe_psql($database, "SELECT $schema.rl_consume('row', 2, 0), $schema.rl_consume('row', 2, 0)"), 't|f', "$database: a bucket in the table goes on");
	is($new->safe_psql($database, "SELECT $schema.rl_consume_policy('p', 'k'), $schema.rl_consume_policy('p', 'k', 2)"), 't|f', "$database: policies decide");
	is($new->safe_psql($database, "SELECT $schema.rl_unflag('k', 'user')"), 't', "$database: so does a flag");
	$new->safe_psql($database, "SELECT $schema.rl_report('new', 'user', 3), $schema.rl_flush()");
	# the worker may have written some of them before, as calls that find rows have it come
	is($new->safe_psql($database, "SELECT min(total_count) FILTER (WHERE id = 1), min(id) FILTER (WHERE id > 1), sum(total_count) FILTER (WHERE id > 1) FROM $schema.rate_limit_violations"), '3|2|5', "$database: and the numbers of violations");
	is($new->safe_psql($database, "SELECT count(*) FROM $schema.rate_limit_violation_details WHERE key = 'pending'"), 0, "$database: what was pending stayed behind");
}
$new->stop;

# ... where it is not lost
$old->start;
ok( $old->poll_query_until('postgres', "SELECT count = 7 FROM rate_limit_violation_details WHERE key = 'pending'"),
	'in the old cluster it is written at the next start');
$old->stop;

done_testing();
