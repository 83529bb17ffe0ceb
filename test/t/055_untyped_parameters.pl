# Whatever a driver sends, all parameters of unknown type, or literals, the functions
# resolve, and their results have the types that they should have: libpq in simple
# and extended protocol and with prepared statements, pgbench, psql, node-postgres.
#
# node-postgres is left out where it is not installed.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use File::Temp;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('drivers');
$node->safe_psql('postgres', "INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('api', 10, 0, true)");
$node->safe_psql('postgres', "INSERT INTO rate_limit_policies (policy, capacity, slots) VALUES ('slots', 2, true)");

# Statement, parameters, their types, type of the result, its text.  KEY becomes a
# key of its own in each use.
sub result
{
	my ($limiter) = @_;

	return "(t,10,9,00:00:00,,$limiter,f,)";
}

my @calls = (
	[ 'SELECT rl_consume($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'bool', 't' ],
	[ 'SELECT rl_consume($1, $2, $3, $4)', [ 'KEY', 10, 0, 0.5 ], 'text float8 float8 float8', 'bool', 't' ],
	[ 'SELECT rl_consume($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 11, 'login' ], 'text float8 float8 float8 text', 'bool', 'f' ],
	[ 'SELECT rl_consume(key => $1, capacity => $2, refill => $3, limiter => $4)', [ 'KEY', 10, 0, 'login' ], 'text float8 float8 text', 'bool', 't' ],
	[ 'SELECT rl_throttle($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'rl_result', result('default') ],
	[ 'SELECT rl_throttle($1, $2, $3, $4)', [ 'KEY', 10, 0, 1 ], 'text float8 float8 float8', 'rl_result', result('default') ],
	[ 'SELECT rl_throttle($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 1, 'login' ], 'text float8 float8 float8 text', 'rl_result', result('login') ],
	[ 'SELECT remaining FROM rl_throttle($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'float8', '9' ],
	[ 'SELECT retry_after FROM rl_throttle($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'interval', '00:00:00' ],
	[ 'SELECT rl_peek($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'rl_result', result('default') ],
	[ 'SELECT rl_peek($1, $2, $3, $4)', [ 'KEY', 10, 0, 1 ], 'text float8 float8 float8', 'rl_result', result('default') ],
	[ 'SELECT rl_peek($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 1, 'login' ], 'text float8 float8 float8 text', 'rl_result', result('login') ],
	[ 'SELECT rl_consume_upto($1, $2, $3, $4)', [ 'KEY', 10, 0, 12 ], 'text float8 float8 float8', 'float8', '10' ],
	[ 'SELECT rl_consume_upto($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 4, 'login' ], 'text float8 float8 float8 text', 'float8', '4' ],
	[ 'SELECT rl_consume_period($1, $2, $3)', [ 'KEY', 10, '100 years' ], 'text float8 text', 'bool', 't' ],
	[ 'SELECT rl_consume_period($1, $2, $3, $4)', [ 'KEY', 10, '100 years', 11 ], 'text float8 text float8', 'bool', 'f' ],
	[ 'SELECT rl_consume_period($1, $2, $3, $4, $5)', [ 'KEY', 10, '100 years', 0.5, 'login' ], 'text float8 text float8 text', 'bool', 't' ],
	[ 'SELECT remaining FROM rl_throttle_period($1, $2, $3)', [ 'KEY', 10, '100 years' ], 'text float8 text', 'float8', '9' ],
	[ 'SELECT remaining FROM rl_throttle_period($1, $2, $3, $4)', [ 'KEY', 10, '100 years', 2 ], 'text float8 text float8', 'float8', '8' ],
	[ 'SELECT limiter FROM rl_throttle_period($1, $2, $3, $4, $5)', [ 'KEY', 10, '100 years', 2, 'login' ], 'text float8 text float8 text', 'text', 'login' ],
	[ 'SELECT remaining FROM rl_peek_period($1, $2, $3)', [ 'KEY', 10, '100 years' ], 'text float8 text', 'float8', '9' ],
	[ 'SELECT remaining FROM rl_peek_period($1, $2, $3, $4)', [ 'KEY', 10, '100 years', 2 ], 'text float8 text float8', 'float8', '8' ],
	[ 'SELECT period FROM rl_peek_period($1, $2, $3, $4, $5)', [ 'KEY', 10, '24 hours', 2, 'login' ], 'text float8 text float8 text', 'interval', '1 day' ],
	[ 'SELECT hits FROM rl_count($1, $2)', [ 'KEY', '100 years' ], 'text text', 'float8', '1' ],
	[ 'SELECT hits FROM rl_count($1, $2, $3)', [ 'KEY', '100 years', 2.5 ], 'text text float8', 'float8', '2.5' ],
	[ 'SELECT hits FROM rl_count($1, $2, $3, $4)', [ 'KEY', '100 years', -1, 'login' ], 'text text float8 text', 'float8', '0' ],
	[ 'SELECT rl_consume_each($1, $2, $3)', [ [ 'KEY', 'KEY', 'KEY' ], 2, 0 ], '_text float8 float8', '_bool', '{t,t,f}' ],
	[ 'SELECT rl_consume_each($1, $2, $3, $4)', [ [ 'KEY', 'KEY' ], 2, 0, 2 ], '_text float8 float8 float8', '_bool', '{t,f}' ],
	[ 'SELECT rl_consume_each($1, $2, $3, $4, $5)', [ ['KEY'], 2, 0, 2, 'login' ], '_text float8 float8 float8 text', '_bool', '{t}' ],
	[ 'SELECT rl_consume_all($1, $2, $3)', [ [ 'KEY', 'KEY 2' ], [ 2, 3 ], [ 0, 0.5 ] ], '_text _float8 _float8', 'bool', 't' ],
	[ 'SELECT rl_consume_all($1, $2, $3, $4)', [ [ 'KEY', 'KEY 2' ], [ 2, 3 ], [ 0, 0.5 ], [ 2, 4 ] ], '_text _float8 _float8 _float8', 'bool', 'f' ],
	[ 'SELECT rl_consume_all($1, $2, $3, $4, $5)', [ [ 'KEY', 'KEY' ], [ 2, 3 ], [ 0, 0.5 ], undef, [ 'x', 'y' ] ], '_text _float8 _float8 _float8 _text', 'bool', 't' ],
	[ 'SELECT (rl_throttle_each($1, $2, $3))[2].remaining', [ [ 'KEY', 'KEY' ], [ 10, 10 ], [ 0, 0 ] ], '_text _float8 _float8', 'float8', '8' ],
	[ 'SELECT (rl_throttle_each($1, $2, $3, $4))[1].remaining', [ ['KEY'], [10], [0.5], [0.5] ], '_text _float8 _float8 _float8', 'float8', '9.5' ],
	[ 'SELECT (rl_throttle_each($1, $2, $3, $4, $5))[1].limiter', [ ['KEY'], [2], [0], undef, ['login'] ], '_text _float8 _float8 _float8 _text', 'text', 'login' ],
	[ 'SELECT (rl_consume_policies($1, $2))[1].remaining', [ ['api'], ['KEY'] ], '_text _text', 'float8', '9' ],
	[ 'SELECT (rl_consume_policies($1, $2, $3))[2].allowed', [ [ 'api', 'api' ], [ 'KEY', 'KEY' ], [ 5, 6 ] ], '_text _text _float8', 'bool', 'f' ],
	[ 'SELECT rl_consume_policy($1, $2)', [ 'api', 'KEY' ], 'text text', 'bool', 't' ],
	[ 'SELECT rl_consume_policy($1, $2, $3)', [ 'api', 'KEY', 11 ], 'text text float8', 'bool', 'f' ],
	[ 'SELECT rl_throttle_policy($1, $2)', [ 'api', 'KEY' ], 'text text', 'rl_result', result('api') ],
	[ 'SELECT rl_throttle_policy($1, $2, $3)', [ 'api', 'KEY', 1 ], 'text text float8', 'rl_result', result('api') ],
	[ 'SELECT tokens FROM rl_status_policy($1, $2)', [ 'api', 'KEY' ], 'text text', 'float8', '10' ],
	[ 'SELECT rl_per($1, $2)', [ 6, '1 minute' ], 'float8 interval', 'float8', '0.1' ],
	[ 'SELECT (rl_period($1, $2)).name', [ '1 month', '2026-11-27 12:00' ], 'text timestamptz', 'text', 'month' ],
	[ 'SELECT rl_enforce($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'void', '' ],
	[ 'SELECT rl_enforce($1, $2, $3, $4)', [ 'KEY', 10, 0, 2 ], 'text float8 float8 float8', 'void', '' ],
	[ 'SELECT rl_enforce($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 11, 'login' ], 'text float8 float8 float8 text', 'error', 'PT429' ],
	[ 'SELECT rl_wait($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'bool', 't' ],
	[ 'SELECT rl_wait($1, $2, $3, $4)', [ 'KEY', 10, 0, 2 ], 'text float8 float8 float8', 'bool', 't' ],
	[ 'SELECT rl_wait($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 11, '10 ms' ], 'text float8 float8 float8 interval', 'bool', 'f' ],
	[ 'SELECT rl_wait($1, $2, $3, $4, $5, $6)', [ 'KEY', 10, 0, 2, '1 min', 'login' ], 'text float8 float8 float8 interval text', 'bool', 't' ],
	[ 'SELECT rl_book($1, $2, $3)', [ 'KEY', 10, 0 ], 'text float8 float8', 'interval', '00:00:00' ],
	[ 'SELECT rl_book($1, $2, $3, $4)', [ 'KEY', 10, 0, 2 ], 'text float8 float8 float8', 'interval', '00:00:00' ],
	[ 'SELECT rl_book($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 2, '10 ms' ], 'text float8 float8 float8 interval', 'interval', '00:00:00' ],
	[ 'SELECT rl_book($1, $2, $3, $4, $5, $6)', [ 'KEY', 10, 0, 2, '1 min', 'login' ], 'text float8 float8 float8 interval text', 'interval', '00:00:00' ],
	# numbers are random, so they are settled at once
	[ 'SELECT rl_settle(rl_reserve($1, $2, $3, $4), $5)', [ 'KEY', 10, 0, 6, 2 ], 'text float8 float8 float8 float8', 'float8', '8' ],
	[ 'SELECT rl_settle(rl_reserve($1, $2, $3, $4, $5), $6)', [ 'KEY', 10, 0, 6, '1 hour', 2 ], 'text float8 float8 float8 interval float8', 'float8', '8' ],
	[ 'SELECT rl_settle(rl_reserve($1, $2, $3, $4, $5, $6), $7)', [ 'KEY', 10, 0, 6, '1 hour', 'login', 2 ], 'text float8 float8 float8 interval text float8', 'float8', '8' ],
	[ 'SELECT rl_settle(rl_reserve_policy($1, $2, $3), $4)', [ 'api', 'KEY', 6, 2 ], 'text text float8 float8', 'float8', '8' ],
	[ 'SELECT rl_settle(rl_reserve_policy($1, $2, $3, $4), $5)', [ 'api', 'KEY', 6, '1 hour', 2 ], 'text text float8 interval float8', 'float8', '8' ],
	[ 'SELECT rl_reserve($1, $2, $3, $4) IS NULL', [ 'KEY', 10, 0, 11 ], 'text float8 float8 float8', 'bool', 't' ],
	[ 'SELECT rl_settle($1, $2) IS NULL', [ 12, 1 ], 'int8 float8', 'bool', 't' ],
	[ "SELECT rl_headers(rl_throttle(\$1, \$2, \$3), \$4) ->> 'RateLimit'", [ 'KEY', 10, 0, 'api' ], 'text float8 float8 text', 'text', '"api";r=9' ],
	[ "SELECT rl_headers(rl_throttle(\$1, \$2, \$3)) ->> 'RateLimit'", [ 'KEY', 10, 0 ], 'text float8 float8', 'text', '"default";r=9' ],
	[ 'SELECT rl_simulate($1, $2, $3, $4) OVER ()', [ '2026-01-01', 10, 0, 11 ], 'timestamptz float8 float8 float8', 'bool', 'f' ],
	[ 'SELECT rl_simulate_period($1, $2, $3) OVER ()', [ '2026-01-01', 10, 'day' ], 'timestamptz float8 text', 'bool', 't' ],
	[ 'SELECT rl_simulate_period($1, $2, $3, $4) OVER ()', [ '2026-01-01', 10, 'day', 11 ], 'timestamptz float8 text float8', 'bool', 'f' ],
	[ 'SELECT rl_reward($1, $2)', [ 'KEY', 1 ], 'text float8', 'float8', '0' ],
	[ 'SELECT rl_reward($1, $2, $3)', [ 'KEY', 1, 'login' ], 'text float8 text', 'float8', '0' ],
	[ 'SELECT rl_penalize($1, $2, $3, $4)', [ 'KEY', 10, 0, 12 ], 'text float8 float8 float8', 'float8', '-2' ],
	[ 'SELECT rl_penalize($1, $2, $3, $4, $5)', [ 'KEY', 10, 0, 12, 'login' ], 'text float8 float8 float8 text', 'float8', '-2' ],
	[ 'SELECT rl_block($1, $2)', [ 'KEY', '1 hour' ], 'text interval', 'void', '' ],
	[ 'SELECT rl_block($1, $2, $3)', [ 'KEY', '1 hour', 'login' ], 'text interval text', 'void', '' ],
	[ 'SELECT rl_unblock($1)', ['KEY'], 'text', 'bool', 'f' ],
	[ 'SELECT count(*) >= 0 FROM rl_status($1)', [ 'KEY' ], 'text', 'bool', 't' ],
	[ 'SELECT rl_acquire($1, $2) > 0', [ 'KEY', 2 ], 'text int4', 'bool', 't' ],
	[ 'SELECT rl_acquire_policy($1, $2) > 0', [ 'slots', 'KEY' ], 'text text', 'bool', 't' ],
	[ 'SELECT rl_acquire_policy($1, $2, $3) IS NULL', [ 'slots', 'KEY', 3 ], 'text text int4', 'bool', 't' ],
	[ 'SELECT rl_acquire_policy($1, $2, $3, $4) > 0', [ 'slots', 'KEY', 2, 'transaction' ], 'text text int4 text', 'bool', 't' ],
	[ 'SELECT rl_acquire_policy($1, $2, $3, $4, $5) > 0', [ 'slots', 'KEY', 2, '1 ms', '10 ms' ], 'text text int4 text interval', 'bool', 't' ],
	[ 'SELECT rl_acquire($1, $2, $3) > 0', [ 'KEY', 2, 2 ], 'text int4 int4', 'bool', 't' ],
	[ 'SELECT rl_acquire($1, $2, $3, $4) > 0', [ 'KEY', 2, 1, 'session' ], 'text int4 int4 text', 'bool', 't' ],
	[ 'SELECT rl_acquire($1, $2, $3, $4, $5)', [ 'KEY', 2, 3, '1 min', '10 ms' ], 'text int4 int4 text interval', 'int8', '' ],
	[ 'SELECT rl_acquire($1, $2, $3, $4, $5, $6) IS NULL', [ 'KEY', 2, 3, 'transaction', '0', 'login' ], 'text int4 int4 text interval text', 'bool', 't' ],
	[ 'SELECT rl_release($1)', [1], 'int8', 'bool', 'f' ],
	[ 'SELECT rl_renew($1, $2)', [ 1, '1 min' ], 'int8 interval', 'bool', 'f' ],
	[ 'SELECT rl_unblock($1, $2)', [ 'KEY', 'login' ], 'text text', 'bool', 'f' ],
	[ 'SELECT rl_reset($1)', ['KEY'], 'text', 'bool', 'f' ],
	[ 'SELECT rl_reset($1, $2)', [ 'KEY', 'login' ], 'text text', 'bool', 'f' ],
	[ 'SELECT rl_reset($1, $2, $3)', [ 'KEY', 'login', 'day' ], 'text text text', 'bool', 'f' ],
	[ 'SELECT rl_reset_all($1)', ['unused'], 'text', 'int8', '0' ],
	[ 'SELECT rl_report($1)', ['KEY'], 'text', 'bool', 't' ],
	[ 'SELECT rl_report($1, $2)', [ 'KEY', 'api' ], 'text text', 'bool', 't' ],
	[ 'SELECT rl_report($1, $2, $3)', [ 'KEY', 'api', 3 ], 'text text int8', 'bool', 't' ],
	[ 'SELECT accepted FROM rl_report_batch($1)', ['[{"limiter": "api", "key": "k", "rejected": 1}]'], 'jsonb', 'int8', '1' ],
	[ 'SELECT rl_flag($1)', ['KEY'], 'text', 'bool', 't' ],
	[ 'SELECT rl_flag($1, $2)', [ 'KEY', 'api' ], 'text text', 'bool', 't' ],
	[ 'SELECT rl_flag($1, $2, $3)', [ 'KEY', 'api', 'why' ], 'text text text', 'bool', 't' ],
	[ 'SELECT rl_unflag($1)', ['KEY'], 'text', 'bool', 'f' ],
	[ 'SELECT rl_unflag($1, $2)', [ 'KEY', 'api' ], 'text text', 'bool', 'f' ]);

# none is forgotten
my %called = map { $_ => 1 } map { $_->[0] =~ /(rl_\w+)\(/g } @calls;
is( join(' ', grep { !$called{$_} } split /\n/, $node->safe_psql('postgres', <<'SQL')), '', 'every public function with arguments is called');
SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit' WHERE p.pronargs > 0 AND p.proname !~ '^_' ORDER BY 1
SQL
is( $node->safe_psql('postgres', <<'SQL'), '', 'no function is overloaded');
SELECT proname FROM pg_proc WHERE proname ~ '^rl_' AND pronamespace = 'public'::regnamespace GROUP BY proname HAVING count(*) > 1
SQL

# With keys of their own
my $uses = 0;

sub arguments_of
{
	my ($arguments) = @_;
	my $key = 'key ' . ++$uses;
	my $own;

	$own = sub {
		return map { ref ? [ $own->(@$_) ] : defined ? s/KEY/$key/r : undef } @_;
	};
	return $own->(@$arguments);
}

# As text: arrays as PostgreSQL writes them.
sub as_text
{
	return map { ref ? '{' . join(',', map { "\"$_\"" } @$_) . '}' : $_ } @_;
}

my %type_names = map { split /\|/ } split /\n/,
  $node->safe_psql('postgres', 'SELECT oid, typname FROM pg_type');

#
# libpq, all types of parameters left to the server
#
my $build = File::Temp::tempdir(CLEANUP => 1);
append_to_file("$build/call.c", <<'C');
#include <stdio.h>
#include <string.h>
#include <libpq-fe.h>

/*
 * call CONNECTION MODE: for each line of standard input, fields separated by tabs,
 * the first a statement, the others its parameters ("\N" is null): types of the
 * parameters, where they are told, type of the result, result or SQLSTATE.
 */
int
main(int argc, char **argv)
{
	PGconn	   *conn = PQconnectdb(argv[1]);
	static char line[65536];

	if (PQstatus(conn) != CONNECTION_OK)
		return fprintf(stderr, "%s", PQerrorMessage(conn)), 1;
	while (fgets(line, sizeof(line), stdin))
	{
		const char *fields[20];
		int			n = 0;
		PGresult   *result;

		for (char *field = strtok(line, "\t\n"); field && n < 20; field = strtok(NULL, "\t\n"))
			fields[n++] = strcmp(field, "\\N") == 0 ? NULL : field;

		if (strcmp(argv[2], "simple") == 0)
		{
			static char sql[65536];
			char	   *end = sql;

			for (const char *s = fields[0]; *s; s++)
			{
				if (*s == '$')
				{
					const char *value = fields[*++s - '0'];
					char	   *literal = value ? PQescapeLiteral(conn, value, strlen(value)) : "NULL";

					end += sprintf(end, "%s", literal);
				}
				else
					*end++ = *s;
			}
			*end = '\0';
			result = PQexec(conn, sql);
		}
		else if (strcmp(argv[2], "extended") == 0)
			result = PQexecParams(conn, fields[0], n - 1, NULL, fields + 1, NULL, NULL, 0);
		else
		{
			result = PQprepare(conn, "", fields[0], 0, NULL);
			if (PQresultStatus(result) == PGRES_COMMAND_OK)
			{
				PGresult   *types = PQdescribePrepared(conn, "");

				for (int i = 0; i < PQnparams(types); i++)
					printf("%u ", PQparamtype(types, i));
				result = PQexecPrepared(conn, "", n - 1, fields + 1, NULL, NULL, 0);
			}
		}
		if (PQresultStatus(result) == PGRES_TUPLES_OK)
			printf("\t%u\t%s\n", PQftype(result, 0), PQgetvalue(result, 0, 0));
		else
			printf("\t\t%s\n", PQresultErrorField(result, PG_DIAG_SQLSTATE));
	}
	return 0;
}
C
my ($include, $lib) = map { chomp(my $folder = `pg_config --$_`); $folder } 'includedir', 'libdir';
my $compiled = system_log(($ENV{CC} || 'cc'), '-o', "$build/call", "$build/call.c", "-I$include", "-L$lib", "-Wl,-rpath,$lib", '-lpq');
is($compiled, 0, 'a client of libpq is compiled');

foreach my $mode ('simple', 'extended', 'prepared')
{
	my $input = '';
	my $output = '';

	foreach my $call (@calls)
	{
		my ($statement, $arguments) = @$call;

		$input .= join("\t", $statement, map { $_ // '\N' } as_text(arguments_of($arguments))) . "\n";
	}
	IPC::Run::run([ "$build/call", $node->connstr('postgres'), $mode ], '<', \$input, '>', \$output);
	my @lines = split /\n/, $output;
	foreach my $call (@calls)
	{
		my ($statement, $arguments, $parameter_types, $type, $text) = @$call;
		my ($types, $oid, $value) = split /\t/, shift(@lines) // '', -1;

		is(join(' ', map { $type_names{$_} } split / /, $types), $parameter_types, "libpq, $mode: $statement: types of the parameters")
		  if $mode eq 'prepared';
		is(($oid eq '' ? 'error' : $type_names{$oid}) . ' ' . $value, "$type $text", "libpq, $mode: $statement");
	}
}

#
# pgbench: literals in the simple protocol, unknown types in the others
#
my $script = File::Temp::tempdir(CLEANUP => 1) . '/calls.sql';
append_to_file($script, <<'SQL');
\set n random(1, 1000000)
\set capacity 10
\set refill 0.5
\set cost 2
SELECT 1 / rl_consume('pgbench ' || :n, :capacity, :refill, :cost)::int;
SELECT 1 / (rl_throttle('pgbench ' || :n, :capacity, :refill, :cost)).allowed::int;
SELECT 1 / (rl_consume_upto('pgbench ' || :n, :capacity, :refill, :cost) = 2)::int;
SELECT 1 / (rl_consume_each(ARRAY['pgbench each ' || :n], :capacity, :refill, :cost) = '{t}')::int;
SELECT 1 / rl_consume_all(ARRAY['pgbench all', 'pgbench all ' || :n], ARRAY[1e9, :capacity], ARRAY[0.0, :refill], ARRAY[1.0, :cost])::int;
SELECT 1 / rl_consume_policy('api', 'pgbench ' || :n, :cost)::int;
SELECT rl_enforce('pgbench enforce ' || :n, :capacity, :refill, :cost);
SELECT 1 / rl_wait('pgbench wait ' || :n, :capacity, :refill, :cost)::int;
SELECT rl_reset('pgbench ' || :n), rl_reset('pgbench ' || :n, 'api');
SQL
foreach my $protocol ('simple', 'extended', 'prepared')
{
	$node->command_checks_all(
		[ 'pgbench', '--no-vacuum', '--transactions' => 20, '--protocol' => $protocol, '--file' => $script, 'postgres' ],
		0, [qr/processed: 20\/20/], [qr/^(?!.*(ERROR|aborted))/s], "pgbench, $protocol: every call is allowed");
}

# psql, where it can bind parameters
SKIP:
{
	skip '\bind is there since 16', 1 if $node->pg_version < 16;
	is($node->safe_psql('postgres', q{SELECT rl_consume($1, $2, $3) \bind psql 1 0 \g
SELECT rl_consume($1, $2, $3, $4, $5) \bind psql 1 0 1 default \g
SELECT rl_consume_each($1, $2, $3) \bind '{psql,psql2}' 1 0 \g}), "t\nf\n{f,t}", 'psql: \bind');
}

#
# node-postgres: simple protocol, parameters, named statements
#
my $client = <<'JS';
const { Client } = require('pg');
const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));
(async () => {
	const client = new Client({ host: input.host, port: input.port, user: input.user, database: 'postgres' });
	await client.connect();
	const answers = [];
	for (const [i, [text, values]] of input.calls.entries()) {
		let query = { text, values, rowMode: 'array' };
		if (input.mode === 'simple')
			query = { text: text.replace(/\$(\d)/g, (_, n) => input.literals[i][n - 1]), rowMode: 'array' };
		if (input.mode === 'prepared')
			query.name = 'call ' + i;
		try {
			const result = await client.query(query);
			answers.push([result.fields[0].dataTypeID, result.rows[0][0]]);
		} catch (error) {
			answers.push([0, error.code]);
		}
	}
	console.log(JSON.stringify(answers));
	await client.end();
})().catch(error => { console.error(error); process.exit(1); });
JS

SKIP:
{
	my $there = eval { IPC::Run::run([ 'node', '-e', 'require("pg")' ], '<', \undef, '>&', \my $ignored) };

	skip 'node-postgres is not installed', 1 if !$there;
	# the text of what node-postgres makes values of
	my $json = JSON::PP->new->canonical->allow_nonref;
	my %value_of = (
		t => 'true', f => 'false', 10 => '10', 4 => '4', 9 => '9', 8 => '8', '9.5' => '9.5', 0 => '0', -2 => '-2', '0.1' => '0.1', 1 => '1', '2.5' => '2.5',
		'{t,t,f}' => '[true,true,false]', '{t,f}' => '[true,false]', '{t}' => '[true]');

	foreach my $mode ('simple', 'parameters', 'prepared')
	{
		my (@sent, @literals);

		foreach my $call (@calls)
		{
			my ($statement, $arguments) = @$call;
			my @own = arguments_of($arguments);

			push @sent, [ $statement, \@own ];
			push @literals, [ map { defined ? "'" . s/'/''/gr . "'" : 'NULL' } as_text(@own) ];
		}
		my $input = $json->encode({
			host => $node->host, port => $node->port, user => getpwuid($<) . '', mode => $mode,
			calls => \@sent, literals => \@literals });
		my ($output, $errors) = ('', '');
		ok(IPC::Run::run([ 'node', '-e', $client ], '<', \$input, '>', \$output, '2>', \$errors), "node-postgres, $mode: runs") or diag($errors);
		my $answers = $json->decode($output || '[]');
		foreach my $call (@calls)
		{
			my ($statement, $arguments, $parameter_types, $type, $text) = @$call;
			my ($oid, $value) = @{ shift(@$answers) // [ 0, undef ] };

			is($oid ? $type_names{$oid} : 'error', $type, "node-postgres, $mode: $statement: type");
			# interval is an object there, int8 a string
			next if $type eq 'interval' || $type eq 'int8';
			$value = $json->encode($value);
			is($value, $type =~ /bool|float8/ ? $value_of{$text} : $json->encode($text), "node-postgres, $mode: $statement: value");
		}
	}
}
$node->stop;
done_testing();
