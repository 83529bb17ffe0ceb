# The functions that the documents show, where anybody may create objects in public: as
# documented they call what they mean, whatever others have created there, and whatever
# search_path their caller has.  Likewise documented triggers and policies.
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

# How to call each.  A function that is not here fails the test: write down how it is
# called, with all types named, so that the call itself is never captured.
my %calls = (
	'public.login_allowed(text, inet)' => q{SELECT public.login_allowed('a'::text, '::1'::inet)},
	'public.cl_throttle(text, integer, integer, integer, integer)' => q{SELECT public.cl_throttle('a'::text, 15, 30, 60, 1)},
	'public.consume_or_drain(text, double precision)' => q{SELECT public.consume_or_drain('a'::text, 8::float8); SELECT public.consume_or_drain('a'::text, 8::float8)},
	'public.api_call(text)' => q{SELECT public.api_call('a'::text)},
	'public.limit_request()' => <<'SQL',
SELECT public.limit_request();
SELECT pg_catalog.set_config('request.jwt.claims'::text, '{"sub":"alice","role":"web_user"}'::text, false);
SELECT public.limit_request();
SELECT pg_catalog.set_config('request.jwt.claims'::text, ''::text, false), pg_catalog.set_config('request.headers'::text, '{"x-forwarded-for":"203.0.113.7"}'::text, false);
SELECT public.limit_request();
SQL
	'public.give_back(text, double precision)' => q{SELECT public.give_back('a'::text, 3::float8)},
	'public.login_limits(text, inet)' => q{SELECT public.login_limits('a'::text, '::1'::inet)},
	'public.login_attempt(text, inet)' => q{SELECT public.login_attempt('a'::text, '::1'::inet) FROM pg_catalog.generate_series(1, 11)},
	'public.login_failed(text, inet)' => q{SELECT public.login_failed('a'::text, '::1'::inet)},
	'public.login_succeeded(text, inet)' => q{SELECT public.login_succeeded('a'::text, '::1'::inet)},
	'public.api_call(bigint, double precision)' => q{SELECT public.api_call(1::bigint, 1::float8), public.api_call(3::bigint, 1::float8)},
	'public.limit_posts()' => q{INSERT INTO public.posts (author, body) VALUES ('a'::text, 'b'::text)},
	'public.take_jobs()' => q{SELECT public.take_jobs()},
	'public.request_allowed(text, inet)' => q{SELECT public.request_allowed('a'::text, '::1'::inet)},
	'limits.take()' => q{SELECT limits.take()},
	'policy own_and_limited on table public.orders' => q{SELECT pg_catalog.set_config('app.account'::text, 'alice'::text, false); TABLE public.orders});

my $top = "$FindBin::RealBin/../..";
my $node = start_server('documented', conf => 'ratelimit.flush_interval = 1h');

#
# The functions, with what else of their section they need
#

# The statements that create something or grant rights, in order, and rows that they
# need.  What a superuser computes in a statement of his own is captured by any operator
# that matches better: so policies are inserted with a search_path without public.
sub definitions
{
	my ($section) = @_;
	my @statements = map { $_->{sql} =~ /((?:\$\$.*?\$\$|[^;])+;)\n/gs } @{ $section->{blocks} };

	s/^(\s|--[^\n]*\n)+// foreach @statements;
	s/^INSERT INTO rate_limit_policies\b/SET search_path = ratelimit;\n$&/ && s/$/\nRESET search_path;/ foreach @statements;
	return grep { /^(CREATE|ALTER|DROP|GRANT|REVOKE|INSERT INTO \w+ VALUES|SET search_path = ratelimit;)/ && !/^CREATE (SCHEMA ratelimit|EXTENSION)\b/ && !/\bRESET rate/ } @statements;
}

my @sections;
my $text = '';
foreach my $file ("$top/README.md", sort glob "$top/docs/*.md")
{
	foreach my $section (doc_sections(slurp_file($file)))
	{
		my @definitions = definitions($section);
		my @code = grep { /^CREATE (OR REPLACE )?(FUNCTION|POLICY|TRIGGER|VIEW)/ } @definitions;

		next unless @code;
		push @sections, [ $file =~ s{^\Q$top\E/}{}r . ', ' . $section->{title}, join "\n", @definitions ];
		$text .= join "\n", @code;
	}
}
ok(@sections >= 10, scalar @sections . ' sections have functions') or diag(join "\n", map { $_->[0] } @sections);

#
# Traps for whatever they may name
#
let_create($node, 'template_traps');
my $words = join ', ', map { "'$_'" } keys %{ { map { $_ => 1 } $text =~ /\b([a-z][a-z_]+)\(/g } };
my $named = $node->safe_psql('postgres', <<"SQL", extra_params => [ '-F', "\t" ]);
SELECT DISTINCT 'function', proname, 'pg_catalog', pronargs, 'boolean', false
FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ($words)
UNION ALL
SELECT DISTINCT 'operator', oprname, 'pg_catalog', 2,
	CASE WHEN oprname IN ('||', '->>') THEN 'text' WHEN oprname = '->' THEN 'json' WHEN oprname IN ('+', '-', '*', '/') THEN 'float8' ELSE 'boolean' END, false
FROM pg_operator WHERE oprname IN ('+', '-', '*', '/', '||', '=', '<>', '<', '>', '<=', '>=', '->', '->>')
UNION ALL
VALUES ('function', 'login_limits', 'public', 2::smallint, 'boolean', false)
SQL
like($named, qr/^function\t$_\t/m, "traps for $_") foreach ('lower', 'count');
lay_traps($node, 'template_traps', $named);
set_traps_for($node, 'template_traps', 'postgres');

sub create_database
{
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS app WITH (FORCE)');
	$node->safe_psql('postgres',
		q(SELECT pg_catalog.format('DROP ROLE %I', rolname) FROM pg_roles)
		  . q( WHERE rolname !~ '^pg_' AND rolname NOT IN (current_user, 'attacker') \gexec));
	$node->safe_psql('postgres', 'CREATE DATABASE app TEMPLATE template_traps');
	$node->safe_psql('app', <<'SQL');
CREATE SCHEMA ratelimit;
CREATE EXTENSION ratelimit SCHEMA ratelimit;
ALTER DATABASE app SET search_path = "$user", public, ratelimit;
CREATE ROLE caller LOGIN;
SQL
	return;
}

# They would spring: the function that was documented once, and one that does not fix
# search_path.
create_database();
$node->safe_psql('app', <<'SQL');
CREATE FUNCTION public.by_name(who text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = public, ratelimit, pg_temp
AS $$ SELECT rl_consume(who, 100, 10, limiter => 'api') $$;
CREATE FUNCTION public.without_path(who text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER
AS $$ SELECT ratelimit.rl_consume(who, 10 / 2.0, 10, limiter => 'api') $$;
SQL
as_role($node, 'app', 'caller', q{SELECT public.by_name('a'::text)});
like(captured($node), qr/captured: public\.rl_consume\([^\n]* as postgres.*superuser/s, 'a function that trusts search_path is captured');
$node->safe_psql('postgres', 'ALTER ROLE attacker NOSUPERUSER');
as_role($node, 'app', 'caller', q{SELECT public.without_path('a'::text)});
like(captured($node), qr/captured: trap\.[^\n]*\(integer, numeric\) as postgres/, '... and one that has none');
$node->rotate_logfile;
$node->restart;

#
# Each section, in a database of its own
#
my %called;
foreach (@sections)
{
	my ($name, $sql) = @$_;

	create_database();
	unlike(as_role($node, 'app', 'postgres', $sql), qr/ERROR|WARNING/, "$name: defined among traps");
	$node->safe_psql('app', q(SELECT pg_catalog.format('GRANT %I TO caller', rolname) FROM pg_catalog.pg_roles)
		  . q( WHERE rolname OPERATOR(pg_catalog.!~) '^pg_' AND rolname OPERATOR(pg_catalog.<>) ALL (ARRAY[current_user, 'attacker', 'caller']::name[]) \gexec));

	$node->safe_psql('app', 'GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO caller');

	my @objects = split /\n/, $node->safe_psql('app', <<'SQL', extra_params => [ '-F', "\t" ]);
SET search_path = pg_catalog;
SELECT format('%s.%s(%s)', pronamespace::regnamespace, proname, (SELECT string_agg(format_type(t, NULL), ', ' ORDER BY n) FROM unnest(proargtypes) WITH ORDINALITY a (t, n))),
	prosecdef, coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)
FROM pg_proc WHERE proowner = 'postgres'::regrole AND pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'ratelimit')
UNION ALL
SELECT pg_describe_object('pg_policy'::regclass, oid, 0), false, true FROM pg_policy
SQL
	foreach (@objects)
	{
		my ($object, $definer, $path) = split /\t/;
		my $call = $calls{$object};

		ok($call, "$name: it is known how to call $object") or next;
		$called{$object} = 1;
		is($path, 't', "... it fixes search_path");
		my $said = as_role($node, 'app', 'caller', $call);
		unlike($said, qr/ERROR:  (?!rate limit exceeded|\{)/, '... called') if $definer eq 't';
		as_role($node, 'app', 'caller', "SET search_path = trap, public, pg_temp, pg_catalog;\nCREATE TEMP TABLE jobs (id int); CREATE TEMP TABLE accounts (id int, plan text);\n$call");
		$said = as_role($node, 'app', 'postgres', $call);
		unlike($said, qr/ERROR:  (?!rate limit exceeded|\{)/, '... called by a superuser');
	}
	is(captured($node), '', "$name: nothing is captured");
}
is(join("\n", grep { !$called{$_} } sort keys %calls), '', 'each function is in a document');

$node->stop;
done_testing();
