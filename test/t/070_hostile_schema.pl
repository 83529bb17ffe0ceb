# Whatever others have created in the extension's schema before: each operator and
# function that the extension's objects name is PostgreSQL's or the extension's own,
# and nothing else is executed when a superuser creates it, uses it, dumps and restores
# it, and moves it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use Hostile;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# With so little memory, the statements on the table are executed as well.
my $node = start_server('hostile', conf => "ratelimit.max_buckets = 16\nratelimit.violation_retention = 1s");

sub elsewhere
{
	my ($named) = @_;

	return join "\n", grep { !/^\w+\t[^\t]*\tpg_catalog\t/ && !/\tt$/ } split /\n/, $named;
}

#
# What the extension's objects name where nobody else has created anything
#
my $named = named_in_trees($node, 'postgres');
is(elsewhere($named), '', 'a clean install names objects of PostgreSQL and its own');
like($named, qr/^$_/m, "... $_ among them")
  foreach ("operator\t>\tpg_catalog\t2\t", "operator\t<=\tpg_catalog\t2\t", "function\toctet_length\t", "function\t_rl_buckets\tpublic\t0\trecord\tt", "type\t", "collation\tC\t");

#
# A trap does spring
#
let_create($node, 'template_hostile');
lay_traps($node, 'template_hostile', $named);
lay_traps_of_types($node, 'template_hostile', qw(max sum octet_length regexp_replace rl_consume rl_reset));
set_traps_for($node, 'template_hostile', 'postgres');
note('objects of the attacker: ' . $node->safe_psql('template_hostile', q(SET search_path = pg_catalog; SELECT count(*) FROM pg_shdepend WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND refobjid = 'attacker'::regrole)));
$node->psql('template_hostile', q{SELECT 1::float8 > 2; SELECT public.rl_consume('k', 100, 10)});
like(captured($node), qr/captured: trap."result boolean"\([^\n]*\) as postgres/, 'an operator of the attacker is executed where it matches');
like(captured($node), qr/captured: public\.rl_consume\([^\n]*\) as postgres/, '... and a function');
like(captured($node), qr/the attacker is a superuser/, '... which makes him a superuser');

sub forget_captured
{
	$node->safe_psql('postgres', 'ALTER ROLE attacker NOSUPERUSER');
	$node->rotate_logfile;
	$node->restart;
	return;
}

forget_captured();
is(captured($node), '', '... and is none again');

#
# Create, use, dump, restore, move
#

# The calls name schemas and types in full, so that a trap that springs is not the
# test's own fault.  The superuser's search_path, with which the statements inside the
# functions run, has schema public.
my $use = <<'SQL';
INSERT INTO public.rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('plan', 'default', 5, 1, false), ('plan', 'day', 100, 0, true), ('other', 'x', 1, 0, true);
INSERT INTO public.rate_limit_policies (policy, tier, capacity, slots) VALUES ('plan', 'slots', 3, true);
UPDATE public.rate_limit_policies SET capacity = 6, refill = 2, quota = false WHERE NOT slots;
SELECT public.rl_consume('k'::text, 2::float8, 0::float8, 1::float8, 'default'::text) FROM generate_series(1, 3);
SELECT public.rl_consume('k' OPERATOR(pg_catalog.||) i::text, 1::float8, 0::float8, 1::float8, 'user'::text) FROM generate_series(1, 40) i;
SELECT public.rl_throttle('k'::text, 2::float8, 0::float8, 1::float8, 'default'::text), public.rl_peek('k'::text, 2::float8, 0::float8, 1::float8, 'default'::text);
SELECT public.rl_headers(public.rl_peek('k'::text, 2::float8, 0::float8, 1::float8, 'default'::text), 'default'::text);
SELECT public.rl_consume_upto('k'::text, 2::float8, 0::float8, 1::float8, 'default'::text);
SELECT public.rl_consume_each(ARRAY['k', 'l']::text[], 2::float8, 0::float8, 1::float8, 'default'::text);
SELECT public.rl_consume_all(ARRAY['k', 'l']::text[], ARRAY[2, 2]::float8[], ARRAY[0, 0]::float8[], ARRAY[1, 1]::float8[], ARRAY['a', 'b']::text[]);
SELECT public.rl_throttle_each(ARRAY['k', 'l']::text[], ARRAY[2, 2]::float8[], ARRAY[0, 0]::float8[], ARRAY[1, 1]::float8[], ARRAY['a', 'b']::text[]);
SELECT public.rl_consume_policies(ARRAY['plan', 'other']::text[], ARRAY['k', 'l']::text[], ARRAY[1, 1]::float8[]);
SELECT public.rl_per(100::float8, '1 minute'::interval), public.rl_status_policy('plan'::text, 'k'::text);
SELECT public.rl_period('day Europe/Berlin'::text, '2026-01-01'::timestamptz), public.rl_period('3 months from 2026-01-31'::text, '2026-01-01'::timestamptz);
SELECT public.rl_consume_period('k'::text, 2::float8, 'month Europe/Berlin'::text, 1::float8, 'default'::text), public.rl_throttle_period('k'::text, 2::float8, 'day'::text, 5::float8, 'user'::text), public.rl_peek_period('k'::text, 2::float8, 'day'::text, 1::float8, 'default'::text);
SELECT public.rl_count('k'::text, '15 minutes'::text, 1::float8, 'default'::text), public.rl_count('k'::text, '15 minutes'::text, -1::float8, 'default'::text);
SELECT public.rl_release(public.rl_acquire('k'::text, 2::integer, 1::integer, 'transaction'::text, '0'::interval, 'default'::text)), public.rl_acquire('k'::text, 2::integer, 1::integer, 'session'::text, '1 ms'::interval, 'default'::text);
SELECT public.rl_acquire_policy('plan'::text, 'k'::text, 1::integer, 'transaction'::text, '0'::interval);
SELECT public.rl_renew(public.rl_acquire('i'::text, 2::integer, 2::integer, '10 ms'::text, '0'::interval, 'default'::text), '20 ms'::interval), public.rl_acquire('i'::text, 2::integer, 1::integer, '10 ms'::text, '1 s'::interval, 'default'::text);
INSERT INTO public.rate_limit_exceptions (policy, tier, key, network, action, capacity, refill, factor, expires_at) VALUES ('plan', NULL, NULL, '10.0.0.0/8', 'factor', NULL, NULL, 2, NULL), (NULL, NULL, 'x', NULL, 'deny', NULL, NULL, NULL, '2999-01-01'), ('plan', 'day', 'y', NULL, 'rule', 7, 1, NULL, NULL);
SELECT public.rl_consume_policy('plan'::text, '10.1.2.3'::text, 1::float8), public.rl_consume_policy('plan'::text, 'x'::text, 1::float8), public.rl_throttle_policy('plan'::text, 'y'::text, 1::float8);
UPDATE public.rate_limit_exceptions SET key = 'z', network = NULL WHERE network IS NOT NULL;
DELETE FROM public.rate_limit_exceptions;
SELECT public.rl_consume_policy('plan'::text, 'k'::text, 1::float8), public.rl_throttle_policy('plan'::text, 'k'::text, 1000::float8);
SELECT public.rl_settle(public.rl_reserve('k'::text, 1000::float8, 0::float8, 1::float8, '1 s'::interval, 'reserve'::text), 2::float8), public.rl_settle(public.rl_reserve_policy('plan'::text, 'r'::text, 1::float8, '1 s'::interval), 0::float8), public.rl_settle(1::bigint, 1::float8) FROM generate_series(1, 100);
SELECT public.rl_book('w'::text, 1::float8, 1000::float8, 1::float8, '1 s'::interval, 'default'::text);
SELECT public.rl_wait('w'::text, 1::float8, 1000::float8, 1::float8, '1 s'::interval, 'default'::text) FROM generate_series(1, 3);
DO $$ BEGIN PERFORM public.rl_enforce('k'::text, 2::float8, 0::float8, 1::float8, 'default'::text); EXCEPTION WHEN SQLSTATE 'PT429' THEN NULL; END $$;
DELETE FROM public.rate_limit_postgrest_rules;
INSERT INTO public.rate_limit_postgrest_rules (position, role, claim, claim_value, methods, path, policy, key_from, key_name) VALUES (1, 'postgres', 'a.b', 'c', '{GET,HEAD}', '/it*', 'plan', 'claim', 'sub'), (2, NULL, NULL, NULL, NULL, NULL, 'plan', 'header', 'x-key'), (3, NULL, NULL, NULL, NULL, NULL, 'plan', 'address', NULL);
UPDATE public.rate_limit_postgrest_rules SET proxies = 2, path = '/*' WHERE position OPERATOR(pg_catalog.=) 1;
DO $$
BEGIN
	PERFORM pg_catalog.set_config('request.method', 'GET', false), pg_catalog.set_config('request.path', '/items', false),
		pg_catalog.set_config('request.jwt.claims', '{"a": {"b": ["c"]}, "sub": 7}', false), pg_catalog.set_config('request.headers', '{"x-key": "k", "x-forwarded-for": "192.0.2.1, 2001:db8::1"}', false);
	PERFORM public.rl_postgrest_check() FROM pg_catalog.generate_series(1, 50);
EXCEPTION WHEN SQLSTATE 'PGRST' THEN
	NULL;
END
$$;
SELECT public.rl_simulate('2026-01-01'::timestamptz, 1::float8, 1::float8, 1::float8) OVER (), public.rl_simulate_period('2026-01-01'::timestamptz, 1::float8, 'day'::text, 1::float8) OVER ();
SELECT public.rl_penalize('k'::text, 2::float8, 0::float8, 1::float8, 'default'::text), public.rl_reward('k'::text, 1::float8, 'default'::text);
SELECT public.rl_block('k'::text, '1 h'::interval, 'default'::text), public.rl_unblock('k'::text, 'default'::text);
SELECT public.rl_report('k'::text, 'user'::text, 2000::bigint), public.rl_report_batch('[{"limiter": "user", "key": "::1", "rejected": 3}]'::jsonb);
SELECT public.rl_flag('f'::text, 'user'::text, 'by hand'::text), public.rl_unflag('f'::text, 'user'::text), public.rl_flag('f'::text, 'user'::text, 'again'::text);
TABLE public.rate_limit_pending;
SELECT public.rl_flush();
SELECT public.rl_report('k'::text, 'user'::text, 2000::bigint);
INSERT INTO public.rate_limit_violations (gateway_name, total_count, created_at) VALUES ('old', 1, '2020-01-01');
SELECT public.rl_reset('k'::text, 'user'::text, NULL::text), public.rl_reset_all('a'::text);
SQL
my $read = join '', map { "TABLE public.$_;\n" } split /\n/,
  $node->safe_psql('postgres', q{SELECT relname FROM pg_class WHERE relname LIKE 'rate\_limit\_%' AND relkind IN ('r', 'v') ORDER BY 1});
like($read, qr/TABLE public.rate_limit_stats/, 'the views are read');

$node->safe_psql('postgres', 'CREATE ROLE monitor LOGIN IN ROLE pg_monitor');

sub create_database
{
	my ($database, $template) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE " . ($template // 'template_hostile'));
	return;
}

sub is_untouched
{
	my ($database, $what) = @_;

	is(captured($node), '', "$what: nothing is captured");
	is(elsewhere(named_in_trees($node, $database)), '', "$what: all that is named is PostgreSQL's or the extension's");
	is($node->safe_psql($database, <<'SQL'), '', "$what: nothing depends on the attacker's objects");
SET search_path = pg_catalog;
WITH his AS (
	SELECT classid, objid FROM pg_shdepend
	WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND deptype = 'o' AND refobjid = 'attacker'::regrole)
SELECT pg_describe_object(classid, objid, objsubid), pg_describe_object(refclassid, refobjid, refobjsubid)
FROM pg_depend d
WHERE (refclassid, refobjid) IN (TABLE his) AND (classid, objid) NOT IN (TABLE his)
	-- but for what has no owner or is part of a type of his
	AND classid <> 'pg_cast'::regclass
	AND NOT (classid = 'pg_type'::regclass AND refclassid = 'pg_type'::regclass)
	AND NOT (classid = 'pg_constraint'::regclass AND EXISTS (SELECT FROM pg_constraint WHERE oid = objid AND contypid <> 0))
	AND NOT (classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_type t WHERE t.oid = refobjid AND typrelid = objid))
SQL
	return;
}

# First conditions alone, so that nothing fails before it is too late.
let_create($node, 'template_conditions');
lay_traps($node, 'template_conditions', join "\n", grep { /^operator\t.*\tboolean\t/ } split /\n/, $named);

foreach my $traps ('conditions', 'hostile')
{
	my $database = "used_$traps";

	create_database($database, "template_$traps");
	is(as_role($node, $database, 'postgres', 'CREATE EXTENSION ratelimit'), '', "created among $traps");
	is_untouched($database, 'created');
	unlike(as_role($node, $database, 'postgres', $use), qr/^(ERROR|WARNING|psql)/m, 'used by a superuser');
	is_untouched($database, 'used');
	die 'there is no more to use' unless $node->safe_psql($database, q{SELECT pg_catalog.to_regclass('public.rate_limit_flags')});

	ok($node->poll_query_until($database, q{SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 1::bigint FROM public.rate_limit_flags WHERE key OPERATOR(pg_catalog.=) 'k'}),
		'the worker writes a flag');
	ok($node->poll_query_until($database, q{SELECT NOT EXISTS (SELECT FROM public.rate_limit_violations WHERE gateway_name::text OPERATOR(pg_catalog.=) 'old')}),
		'... and deletes old violations');
	foreach my $role ('postgres', 'monitor')
	{
		# the numbers of reservations are secret
		my $may_read = $role eq 'monitor' ? $read =~ s/TABLE public.rate_limit_reserved;\n//r : $read;

		unlike(as_role($node, $database, $role, $may_read), qr/^(ERROR|WARNING|psql)/m, "views and tables read by $role");
	}
	is_untouched($database, 'read');
}

# The extension and its rows alone, where the traps are already
my ($dump, $list) = map { $node->basedir . "/$_" } qw(dump list);
command_ok([ 'pg_dump', '-Fc', '--file' => $dump, '--dbname' => $node->connstr('used_hostile') ], 'dumped');
my ($contents) = run_command([ 'pg_restore', '--list', $dump ]);
append_to_file($list, join '', map { "$_\n" } grep { / (EXTENSION|TABLE DATA|SEQUENCE SET) / } split /\n/, $contents);
create_database('restored');
command_ok([ 'pg_restore', '--use-list' => $list, '--exit-on-error', '--dbname' => $node->connstr('restored'), $dump ], 'restored among traps');
is($node->safe_psql('restored', 'TABLE public.rate_limit_policies'), $node->safe_psql('used_hostile', 'TABLE public.rate_limit_policies'), '... with its policies');
unlike(as_role($node, 'restored', 'postgres', "DELETE FROM public.rate_limit_policies;\n$use$read"), qr/^(ERROR|WARNING|psql)/m, '... and used');
is_untouched('restored', 'restored');

create_database('moved');
is(as_role($node, 'moved', 'postgres', <<"SQL"), '', 'moved among traps');
CREATE SCHEMA ratelimit;
CREATE EXTENSION ratelimit SCHEMA ratelimit;
ALTER EXTENSION ratelimit SET SCHEMA public;
SQL
unlike(as_role($node, 'moved', 'postgres', $use . $read), qr/^(ERROR|WARNING|psql)/m, '... and used');
is_untouched('moved', 'moved');

# What others create later, on the extension's own types: no view means them.
is(as_role($node, 'moved', 'attacker', <<'SQL'), '', 'traps for the extension\'s types');
CREATE FUNCTION public.limiter(public.rate_limit_flags) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('limiter'); RETURN 'x'; END $$;
CREATE FUNCTION public.allowed(public.rl_result) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('allowed'); RETURN true; END $$;
CREATE FUNCTION trap.baited(public.rl_result) RETURNS public.bait LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('cast'); RETURN NULL; END $$;
CREATE CAST (public.rl_result AS public.bait) WITH FUNCTION trap.baited(public.rl_result) AS IMPLICIT;
SQL
unlike(as_role($node, 'moved', 'postgres', "DELETE FROM public.rate_limit_policies;\n$use$read"), qr/^(ERROR|WARNING|psql)/m, '... are used by none of it');
is_untouched('moved', 'types');

# Each update, from the second version on
foreach my $source (split /\n/, $node->safe_psql('postgres', <<'SQL'))
SELECT u.source FROM pg_available_extensions e, pg_extension_update_paths(e.name) u
WHERE e.name = 'ratelimit' AND u.target = e.default_version AND u.path IS NOT NULL ORDER BY 1
SQL
{
	create_database('updated');
	is(as_role($node, 'updated', 'postgres', "CREATE EXTENSION ratelimit VERSION '$source'; ALTER EXTENSION ratelimit UPDATE"), '', "updated from $source among traps");
	is_untouched('updated', "updated from $source");
	$node->safe_psql('postgres', 'DROP DATABASE updated WITH (FORCE)');
}

#
# Names of the extension's own that are taken
#
foreach my $taken (
	'CREATE TABLE public.rate_limit_policies (LIKE pg_class)',
	'CREATE VIEW public.rate_limit_pending AS SELECT 1',
	'CREATE SEQUENCE public.rate_limit_violations_id_seq',
	'CREATE TYPE public.rl_result AS (allowed int)',
	'CREATE FUNCTION public._rl_buckets() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$',
	# no better a match than the extension's own, and so in doubt
	'CREATE FUNCTION public._rl_buckets(i integer DEFAULT 0) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$',
	# the function that CREATE EXTENSION calls and drops
	'CREATE FUNCTION public._rl_creation() RETURNS void LANGUAGE sql AS $$ SELECT trap.spring(\'creation\') $$',
	'CREATE FUNCTION public._rl_creation(i integer DEFAULT 0) RETURNS void LANGUAGE sql AS $$ SELECT trap.spring(\'creation\') $$')
{
	create_database('taken');
	is(as_role($node, 'taken', 'attacker', $taken), '', "taken: $taken");
	like(as_role($node, 'taken', 'postgres', 'CREATE EXTENSION ratelimit'), qr/ERROR:  .*(already exists|not a member of|is not unique)/, '... the extension cannot be created');
	is(as_role($node, 'taken', 'postgres', <<'SQL'), '', '... and can in a schema of its own');
CREATE SCHEMA ratelimit;
CREATE EXTENSION ratelimit SCHEMA ratelimit;
SQL
	$node->safe_psql('postgres', 'DROP DATABASE taken WITH (FORCE)');
}
is(captured($node), '', 'nothing is captured until the end');

$node->stop;
done_testing();
