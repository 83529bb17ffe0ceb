# What a role that is not trusted can and cannot do, as docs/security.md has it: after
# the statements there, it can read nothing of anybody else and change nothing; and what
# a role can do that is trusted with all of it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DocTest;
use Hostile;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('untrusted', conf => 'ratelimit.flush_interval = 1h');
my ($section) = grep { $_->{title} eq 'Roles that do not trust each other' }
  doc_sections(slurp_file("$FindBin::RealBin/../../docs/security.md"));
my ($roles, $revoke, $grant, $function) = map { $_->{sql} } @{ $section->{blocks} };
like($revoke, qr/REVOKE EXECUTE ON ALL FUNCTIONS/, 'the document has the statements');
like($function, qr/SECURITY DEFINER/, '... and the function');

$node->safe_psql('postgres', <<"SQL");
DROP EXTENSION ratelimit;
CREATE SCHEMA ratelimit;
CREATE EXTENSION ratelimit SCHEMA ratelimit;
ALTER DATABASE postgres SET search_path = public, ratelimit;
CREATE ROLE stranger LOGIN;
CREATE ROLE guest LOGIN;
GRANT USAGE ON SCHEMA ratelimit TO guest;
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA ratelimit TO pg_monitor;
$roles
SQL

sub as
{
	my ($role, $sql) = @_;

	return as_role($node, 'postgres', $role, $sql);
}

#
# Before the REVOKE: a role with USAGE is trusted with all buckets
#
is(as('stranger', "SELECT ratelimit.rl_peek('a', 1, 1)") =~ /permission denied for schema ratelimit/, 1,
	'no role has USAGE of itself');
$node->safe_psql('postgres', "SELECT rl_consume('victim', 100, 0.1, 30)");
like(as('guest', "SELECT round(remaining) FROM ratelimit.rl_peek('victim', 100, 0, 0)"), qr/^7\d$/, 'trusted: sees the tokens of any key');
is(as('guest', "SELECT ratelimit.rl_consume('victim', 1, 0)"), 't', '... and empties any bucket');
like($node->safe_psql('postgres', "SELECT tokens FROM rate_limit_status WHERE key = 'victim'"), qr/^0/, '... which is empty for all');

# Tokens reserved at one rate are owed at the next caller's
is($node->safe_psql('postgres', "SELECT rl_reset('victim')"), 't', 'a reset fills it');
my $waiting = in_session($node);
$waiting->query_until(qr/waits/, <<'SQL');
SET SESSION AUTHORIZATION guest;
SELECT ratelimit.rl_consume('victim', 1e12, 1e9, 0);
\echo waits
SELECT ratelimit.rl_consume('victim', 1e12, 1e9, 1e12), ratelimit.rl_wait('victim', 1e12, 1e9, 1e12, '1 h');
SQL
ok($node->poll_query_until('postgres', "SELECT tokens < -1e11 FROM rate_limit_status WHERE key = 'victim'"), 'trusted: puts any bucket into debt');
is($node->safe_psql('postgres', "SELECT retry_after > '1000 years' FROM rl_throttle('victim', 100, 10)"), 't', '... that takes millennia at 10 a second');
is($node->safe_psql('postgres', "SELECT rl_reset('victim'), rl_consume('victim', 100, 10)"), 't|t', '... and ends with a reset');
is($node->safe_psql('postgres', q{SET SESSION AUTHORIZATION guest; SELECT ratelimit.rl_settle(ratelimit.rl_reserve('victim', 100, 10, 1), 1e12) < -1e11}), 't', '... likewise by a reservation');
is($node->safe_psql('postgres', "SELECT rl_reset('victim')"), 't', '... which ends with a reset');
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%rl_wait%' AND pid <> pg_backend_pid()});
finish_session($waiting);

#
# After it
#
$node->safe_psql('postgres', $revoke);

# Every privilege on an object of the extension that one of them has.
sub privileges
{
	my ($database) = @_;

	return $node->safe_psql($database, <<'SQL');
SET search_path = pg_catalog;
WITH member AS (
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'ratelimit'),
untrusted (role) AS (VALUES ('stranger'), ('guest'), ('tenant_a')),
kind (privilege) AS (SELECT unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
	UNION ALL SELECT 'MAINTAIN' WHERE current_setting('server_version_num')::int >= 170000)
SELECT role, 'EXECUTE', p.oid::regprocedure::text FROM untrusted, pg_proc p JOIN member ON classid = 'pg_proc'::regclass AND objid = p.oid
WHERE has_function_privilege(role, p.oid, 'EXECUTE')
UNION ALL
SELECT role, privilege, c.relname FROM untrusted, kind, pg_class c JOIN member ON classid = 'pg_class'::regclass AND objid = c.oid
WHERE c.relkind IN ('r', 'v') AND (has_table_privilege(role, c.oid, privilege)
	OR privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege(role, c.oid, privilege))
UNION ALL
SELECT role, privilege, c.relname FROM untrusted, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) privilege, pg_class c JOIN member ON classid = 'pg_class'::regclass AND objid = c.oid
WHERE c.relkind = 'S' AND has_sequence_privilege(role, c.oid, privilege)
UNION ALL
SELECT role, 'CREATE', 'schema' FROM untrusted WHERE has_schema_privilege(role, 'ratelimit', 'CREATE')
UNION ALL
SELECT role, 'USAGE', 'schema' FROM untrusted WHERE has_schema_privilege(role, 'ratelimit', 'USAGE') AND role <> 'guest'
SQL
}

is(privileges('postgres'), '', 'after the REVOKE: no privilege on any object is left');

my @attempts = split /\n/, $node->safe_psql('postgres', <<'SQL');
SET search_path = pg_catalog;
WITH member AS (
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'ratelimit')
SELECT format('SELECT ratelimit.%I(%s)%s', proname,
	(SELECT string_agg(format('NULL::%s', format_type(t, NULL)), ', ') FROM unnest(proargtypes) t),
	CASE WHEN prokind = 'w' THEN ' OVER ()' END)
FROM pg_proc p JOIN member ON classid = 'pg_proc'::regclass AND objid = p.oid
UNION ALL
SELECT format(attempt, relname) FROM pg_class c JOIN member ON classid = 'pg_class'::regclass AND objid = c.oid,
	unnest(ARRAY['TABLE ratelimit.%I', 'INSERT INTO ratelimit.%I DEFAULT VALUES', 'DELETE FROM ratelimit.%I', 'TRUNCATE ratelimit.%I']) attempt
WHERE relkind = 'r' OR relkind = 'v' AND attempt ~ '^TABLE'
UNION ALL
SELECT attempt FROM unnest(ARRAY['SELECT nextval(''ratelimit.rate_limit_violations_id_seq'')', 'TABLE ratelimit.rate_limit_violations_id_seq']) attempt
SQL
cmp_ok(scalar @attempts, '>', 50, 'so many attempts');
foreach my $role ('stranger', 'guest')
{
	my ($rc, $out, $err) = $node->psql('postgres', join('', map { "$_;\n" } @attempts), extra_params => [ '-U', $role ], on_error_stop => 0);
	my @denied = $err =~ /ERROR:  permission denied for/g;

	is(scalar @denied, scalar @attempts, "$role: each is denied") or diag($err);
	is($out, '', "$role: none returns anything");
}
like(as('stranger', "SELECT ratelimit.rl_peek('victim', 100, 10)"), qr/permission denied for schema/, 'without USAGE not even the name is found');
$node->safe_psql('postgres', "SELECT rl_consume('used', 2, 0)");
like(as('monitor', "SELECT key FROM ratelimit.rate_limit_status"), qr/used/, 'pg_monitor reads on');
like(as('monitor', "SELECT ratelimit.rl_reset('victim', 'default')"), qr/permission denied for function rl_reset/, '... and changes nothing');

# what another version adds
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION ratelimit.rl_later() RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER EXTENSION ratelimit ADD FUNCTION ratelimit.rl_later();
SQL
like(as('stranger', 'SELECT ratelimit.rl_later()'), qr/permission denied for schema/, 'a function that is added later is not theirs');
$node->safe_psql('postgres', 'ALTER EXTENSION ratelimit DROP FUNCTION ratelimit.rl_later(); DROP FUNCTION ratelimit.rl_later()');

# after a dump and restore
my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '--file' => $dump, '--dbname' => $node->connstr('postgres') ], 'dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'psql', '-X', '-q', '--set' => 'ON_ERROR_STOP=1', '--file' => $dump, '--dbname' => $node->connstr('restored') ], 'restored');
is(privileges('restored'), '', '... and no privilege is there');

#
# The function
#
$node->safe_psql('postgres', "$grant\n$function");
like(as('app', "SELECT ratelimit.rl_headers(ratelimit.rl_throttle('k', 2, 1, 1, 'default'))"), qr/RateLimit/, 'a trusted role has what it was granted');
is(as('tenant_a', <<'SQL'), "t\nt\nt\nf", 'a tenant has the tokens of the rule');
SET ratelimit.gateway_name = 'another';
SET application_name = 'another';
SET search_path = pg_temp, public;
SELECT limits.take() FROM generate_series(1, 4);
SQL
is($node->safe_psql('postgres', "SELECT gateway_name, limiter, key, count FROM rate_limit_pending WHERE limiter = 'tenant'"), 'tenants|tenant|tenant_a|1',
	'... and chooses neither the gateway, nor the limiter, nor the key that it is counted for');
is(as('tenant_b', 'BEGIN; SELECT limits.take(); ROLLBACK; BEGIN; SELECT limits.take(); ROLLBACK; SELECT limits.take(); SELECT limits.take();'), "t\nt\nt\nf",
	'another tenant has its own, and a rollback gives none back');
like(as('tenant_b', 'SET ROLE tenant_a'), qr/permission denied to set role|must be member of role/, '... and cannot be the first');
foreach my $setting ('enabled = off', 'shadow = on', 'on_error = allow')
{
	like(as('tenant_a', "SELECT limits.take(); SET ratelimit.$setting"), qr/permission denied to set parameter/, "a tenant cannot SET ratelimit.$setting");
}
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION limits.take_for(who text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT ratelimit.rl_consume(who, 3, 0.01, limiter => 'tenant') $$;
SELECT rl_reset('tenant_b', 'tenant');
SQL
is(as('tenant_a', "SELECT limits.take_for('tenant_b') FROM generate_series(1, 3)"), "t\nt\nt", 'with a key for an argument');
is(as('tenant_b', 'SELECT limits.take()'), 'f', '... a tenant can use up the tokens of another');

#
# What everybody sees
#
$node->safe_psql('postgres', "SELECT rl_flag('secret', 'user', 'r'); ANALYZE rate_limit_flags");
like(as('stranger', q{SELECT relname, n_live_tup FROM pg_stat_user_tables WHERE relname = 'rate_limit_flags'}), qr/^rate_limit_flags\|\d+$/, 'anybody sees how many rows a table has');
is(as('stranger', q{SELECT * FROM pg_stats WHERE schemaname = 'ratelimit'; SELECT last_value FROM pg_sequences WHERE schemaname = 'ratelimit' AND last_value IS NOT NULL}), '', '... and nothing of what is in them');

#
# Locks: PREPARE takes them and asks for no privilege on the table
#
my $prepare = 'BEGIN; PREPARE p AS DELETE FROM ratelimit.rate_limit_buckets';
my $locks = q{SELECT count(*) FROM pg_locks WHERE relation = 'ratelimit.rate_limit_buckets'::regclass AND mode = 'RowExclusiveLock'};
foreach (['guest', 1, 'with USAGE, a role can hold a lock on the table'], ['stranger', 0, 'without, it cannot'])
{
	my ($role, $held, $what) = @$_;
	my $session = in_session($node);

	$session->query("SET SESSION AUTHORIZATION $role; $prepare");
	is($node->safe_psql('postgres', $locks), $held, $what);
	is($node->safe_psql('postgres', "SET lock_timeout = '1s'; SELECT rl_consume('other', 5, 1)"), 't', '... and calls go on');
	$session->query('ROLLBACK; CREATE TEMP VIEW v AS SELECT * FROM ratelimit.rate_limit_flagged');
	my ($rc, $out, $err) = $node->psql('postgres', 'BEGIN; DROP EXTENSION ratelimit; ROLLBACK');
	is($err =~ /because other objects depend on it/ ? 1 : 0, $held, '... likewise an object that depends on the extension');
	finish_session($session);
}

#
# Memory: any role can make as many buckets of a key as it can think of limiters
#
$node->safe_psql('postgres', q{INSERT INTO ratelimit.rate_limit_buckets SELECT 'l' || i, 'victim', 10, 0, 1, now() FROM generate_series(1, 40000) i});
$node->safe_psql('postgres', q{SELECT rl_block('victim', '1 hour', limiter) FROM unnest('{l7,none}'::text[]) limiter});
my $peak = q{SELECT (regexp_match(pg_read_file('/proc/self/status'), 'VmHWM:\s+(\d+)'))[1]};
my @lines = split /\n/, $node->safe_psql('postgres', "SET work_mem = '64kB'; SELECT count(*) FROM rl_status('nobody'); $peak; SELECT count(*), count(tokens), count(blocked_until), count(DISTINCT limiter) FROM rl_status('victim'); $peak");
is($lines[2], '40001|40000|2|40001', 'all buckets of a key are shown, and its blocks');
SKIP:
{
	skip 'a sanitizer keeps memory that was freed', 1 if ($ENV{LD_PRELOAD} // '') =~ /asan/;
	cmp_ok($lines[3] - $lines[1], '<', 8 * 1024, '... with little memory: ' . ($lines[3] - $lines[1]) . ' kB');
}

$node->stop;
done_testing();
