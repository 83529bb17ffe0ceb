# pg_dump and restore keep what a person entered or may want to read again:
# policies, flags, written violations, changed grants.  Buckets and what is pending stay out.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('dump', conf => "ratelimit.max_buckets = 16\nratelimit.flush_interval = 1h");

# What there is of each table that is dumped, and how to put it there.  A table
# that is not here fails the test: write down what a restore is to keep of it.
my %dumped = (
	rate_limit_policies => q{INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, shadow, enabled, comment) VALUES ('p', 'default', 3, 0, true, false, true, E'a\tcomment'), ('p', 'day', 1000, 0.01, false, true, true, NULL), ('off', 'default', 1, 0, true, false, false, NULL), ('nobody', 'default', 0, 1, false, false, true, NULL)},
	rate_limit_exceptions => q{INSERT INTO rate_limit_exceptions (policy, tier, key, network, action, capacity, refill, quota, factor, expires_at, comment) VALUES ('p', 'day', E'a\tkey', NULL, 'rule', 5, 0, true, NULL, NULL, E'a\tcomment'), (NULL, NULL, NULL, '192.0.2.0/24', 'deny', NULL, NULL, false, NULL, '2100-01-01', NULL), ('p', NULL, NULL, '2001:db8::/32', 'factor', NULL, NULL, false, 2.5, NULL, '')},
	rate_limit_violations => q{SELECT rl_report('k', 'user', 3), rl_report('::1', 'ip', 4), rl_flush(); SELECT rl_report('k', 'user', 5), rl_flush()},
	rate_limit_postgrest_rules => q{INSERT INTO rate_limit_postgrest_rules VALUES (1, true, 'web', 'a.b', E'c\td', '{GET,HEAD}', '/it*', 'p', 'header', 'x-key', 2, 'why'), (2, false, NULL, NULL, NULL, NULL, NULL, NULL, 'address', NULL, 1, NULL)},
	rate_limit_flags => q{SELECT rl_flag('open', 'user', E'a "reason"\n\\\\'), rl_flag('cleared', 'user', 'b'), rl_unflag('cleared', 'user'), rl_flag('cleared', 'user', 'again')});
my %order = (rate_limit_policies => 'policy, tier', rate_limit_exceptions => 'id', rate_limit_postgrest_rules => 'position', rate_limit_violations => 'id', rate_limit_flags => 'limiter, key, cleared_at');

sub query
{
	my ($database, $sql) = @_;

	return $node->safe_psql($database, $sql);
}

sub contents
{
	my ($database) = @_;

	return join("\n--\n", map { query($database, "TABLE rate_limit.$_ ORDER BY $order{$_}") } sort keys %dumped);
}

sub create_database
{
	my ($database, $options) = @_;

	query('postgres', "CREATE DATABASE $database " . ($options // ''));
	return;
}

# pg_dump, into a file
sub dump_to
{
	my ($file, $database, @options) = @_;

	command_ok([ 'pg_dump', @options, '--file' => $file, '--dbname' => $node->connstr($database) ],
		"pg_dump @options");
	return;
}

# What psql says when it restores that.
sub restore
{
	my ($file, $database, $user) = @_;
	my ($rc, $out, $err) = $node->psql($database, '', on_error_stop => 0,
		extra_params => [ '--file' => $file, '--quiet', $user ? ('--username' => $user) : () ]);

	return $err;
}

my $dir = $node->basedir;

#
# The original: buckets in both stores, something pending
#
create_database('original');
query('postgres', 'CREATE ROLE support LOGIN; CREATE ROLE owner LOGIN');
query('original', 'CREATE SCHEMA rate_limit; CREATE EXTENSION ratelimit SCHEMA rate_limit');
query('original', "SET search_path = rate_limit; $dumped{$_}") foreach sort keys %dumped;
query('original', <<'SQL');
SET search_path = rate_limit;
GRANT EXECUTE ON FUNCTION rl_unflag(text, text) TO support;
REVOKE EXECUTE ON FUNCTION rl_peek(text, float8, float8, float8, text) FROM PUBLIC;
GRANT SELECT ON rate_limit_flagged TO support;
SELECT count(rl_consume('k' || i, 1, 0)) FROM generate_series(1, 100) i;
SELECT rl_report('pending', 'user', 1);
SQL
is(query('original', 'SELECT count(DISTINCT store) FROM rate_limit.rate_limit_status'), 2, 'buckets in both stores');
is( query('original', q{SELECT string_agg(c::regclass::text, ' ' ORDER BY c::regclass::text) FROM pg_extension, unnest(extconfig) c WHERE extname = 'ratelimit' AND c::regclass::text !~ '_seq$'}),
	join(' ', map { "rate_limit.$_" } sort keys %dumped), 'these tables are dumped');
my $contents = contents('original');
like($contents, qr/^1\|.*^2\|/ms, 'they have something');

#
# All of it, as text and as an archive
#
dump_to("$dir/all.sql", 'original');
my $dump = slurp_file("$dir/all.sql");
unlike($dump, qr/rate_limit_buckets/, 'no word of the table of buckets');
unlike($dump, qr/\bk100\b|pending/, 'nor of a bucket, nor of what is pending');
unlike($dump, qr/CREATE (TABLE|FUNCTION|VIEW|INDEX|SEQUENCE|TYPE)/, 'nothing but the extension is created');
create_database('restored');
is(restore("$dir/all.sql", 'restored'), '', 'restored without a word');

dump_to("$dir/all.dump", 'original', '--format=custom');
create_database('from_archive');
command_ok([ 'pg_restore', '--exit-on-error', '--jobs' => 2, '--dbname' => $node->connstr('from_archive'), "$dir/all.dump" ], 'pg_restore, in parallel');
# a restore in one transaction, as superuser, owners and grants left out
dump_to("$dir/bare.dump", 'original', '--format=custom', '--no-owner', '--no-privileges');
create_database('bare');
command_ok([ 'pg_restore', '--single-transaction', '--no-owner', '--dbname' => $node->connstr('bare'), "$dir/bare.dump" ], 'pg_restore --no-owner in one transaction');

foreach my $database ('restored', 'from_archive', 'bare')
{
	is(contents($database), $contents, "$database: the tables are as they were");
	is(query($database, 'SELECT count(*) FROM rate_limit.rate_limit_status'), 0, "$database: no bucket is there");
	is(query($database, 'SELECT count(*) FROM rate_limit.rate_limit_pending'), 0, "$database: nothing is pending");
	is(query($database, q{SELECT rate_limit.rl_consume('k1', 1, 0), rate_limit.rl_consume('k1', 1, 0)}), 't|f', "$database: buckets start full");
	is(query($database, q{SELECT rate_limit.rl_flush(); SELECT id FROM rate_limit.rate_limit_violations ORDER BY id DESC LIMIT 1}), "1\n3", "$database: numbers of violations go on");
	is(query($database, q{SELECT rate_limit.rl_flag('open', 'user', 'again')}), 'f', "$database: what is flagged is flagged");
	is(query($database, q{SELECT rate_limit.rl_unflag('open', 'user')}), 't', "$database: ... and can be cleared");
	is(query($database, q{SELECT rate_limit.rl_consume_policy('p', 'k', 2), rate_limit.rl_consume_policy('p', 'k', 2), rate_limit.rl_consume_policy('off', 'k', 2), rate_limit.rl_consume_policy('nobody', 'k', 0)}), 't|f|t|f', "$database: policies decide");
	my $kept = $database eq 'bare' ? 'f|f|t' : 't|t|f';
	is(query($database, q{SELECT has_function_privilege('support', 'rate_limit.rl_unflag(text, text)', 'EXECUTE'), has_table_privilege('support', 'rate_limit.rate_limit_flagged', 'SELECT'), has_function_privilege('support', 'rate_limit.rl_peek(text, float8, float8, float8, text)', 'EXECUTE')}),
		$kept, "$database: grants are " . ($database eq 'bare' ? 'those of a fresh install' : 'as they were'));
	is(query($database, q{SELECT has_table_privilege('pg_monitor', 'rate_limit.rate_limit_status', 'SELECT'), has_table_privilege('support', 'rate_limit.rate_limit_violations', 'SELECT')}), 't|f', "$database: ... those not changed too");
}

#
# Parts
#
dump_to("$dir/schema.sql", 'original', '--schema-only');
create_database('schema_only');
is(restore("$dir/schema.sql", 'schema_only'), '', '--schema-only');
is(query('schema_only', join(' UNION ALL ', map { "SELECT count(*) FROM rate_limit.$_" } sort keys %dumped)), join("\n", (0) x keys %dumped), '... has no rows');

my $session = in_session($node, 'schema_only');
is($session->query_safe("INSERT INTO rate_limit.rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 10, 0, true); SELECT rate_limit.rl_consume_policy('p', 'k', 4)"), 't', '... takes policies');
query('schema_only', 'DELETE FROM rate_limit.rate_limit_policies');
dump_to("$dir/data.sql", 'original', '--data-only');
is(restore("$dir/data.sql", 'schema_only'), '', '--data-only, where there are no rows');
is(contents('schema_only'), $contents, '... makes the tables as they were');
is($session->query_safe("SELECT rate_limit.rl_consume_policy('p', 'k', 4)"), 'f', '... in a session that had another policy');
finish_session($session);
# Once more: it is the rows that are there already that stay
like(restore("$dir/data.sql", 'schema_only'), qr/duplicate key value violates unique constraint "rate_limit_flags_not_cleared"/, '--data-only, where there are: refused');
is(contents('schema_only'), $contents, '... and nothing changes');
like(restore("$dir/all.sql", 'schema_only'), qr/violates unique constraint "rate_limit_violations_pkey"/, 'a whole dump onto it likewise');
is(contents('schema_only'), $contents, '... and nothing changes');
is(query('schema_only', q{SELECT rate_limit.rl_report('k', 'user', 1); SELECT rate_limit.rl_flush(); SELECT max(id) FROM rate_limit.rate_limit_violations}), "t\n1\n3", '... and numbers go on');

#
# By the database's owner, who is no superuser
#
create_database('owned', 'OWNER owner');
dump_to("$dir/bare.sql", 'original', '--no-owner');
like(restore("$dir/bare.sql", 'owned', 'owner'), qr/permission denied to create extension "ratelimit"/, 'without a superuser: refused');
is(query('owned', q{SELECT count(*) FROM pg_extension WHERE extname = 'ratelimit'}), 0, '... and nothing is created');
# a superuser goes first
query('owned', 'CREATE EXTENSION ratelimit SCHEMA rate_limit');
query('owned', join(';', map { "GRANT SELECT, INSERT ON rate_limit.$_ TO owner" } sort keys %dumped));
query('owned', 'GRANT ALL ON SEQUENCE rate_limit.rate_limit_violations_id_seq, rate_limit.rate_limit_exceptions_id_seq TO owner');
is( join("\n", restore("$dir/bare.sql", 'owned', 'owner') =~ /ERROR:  (.*)/g),
	<<'ERRORS' =~ s/\n$//r, 'a superuser creates it first and grants INSERT: the owner restores all but grants');
schema "rate_limit" already exists
must be owner of extension ratelimit
permission denied for function rl_unflag
permission denied for table rate_limit_flagged
ERRORS
is(contents('owned'), $contents, '... as they were');

#
# Single tables
#
foreach my $table (sort keys %dumped)
{
	dump_to("$dir/table.sql", 'original', '--data-only', "--table=rate_limit.$table");
	query('schema_only', "TRUNCATE rate_limit.$table");
	is(restore("$dir/table.sql", 'schema_only'), '', "--table=$table");
	is(query('schema_only', "TABLE rate_limit.$table ORDER BY $order{$table}"), query('original', "TABLE rate_limit.$table ORDER BY $order{$table}"), '... has its rows');
}

$node->stop;
done_testing();
