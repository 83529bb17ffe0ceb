# Hostile.pm: a schema in which an unprivileged role has created, beforehand, whatever
# might be taken for something that the extension, or a function of its user, names.
#
# Each of these objects, when it is executed, writes "captured" to the server's log and
# makes the role "attacker" a superuser if it can.
package Hostile;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(as_role named_in_trees let_create lay_traps lay_traps_of_types set_traps_for captured);

# Types that a better or an equal match might have.
my @types = (
	qw(text varchar name bpchar "char" smallint integer bigint real float8 numeric),
	qw(boolean timestamp timestamptz interval json jsonb anyelement anynonarray anycompatible));

# What an argument of a function might be instead.
my %instead = (
	'double precision' => [qw(float8 integer numeric)],
	'double precision[]' => [qw(float8[] integer[] numeric[])],
	'text' => [qw(text varchar)],
	'text[]' => [qw(text[] varchar[])],
	'bigint' => [qw(bigint integer)],
	'interval' => [qw(interval text)],
	'timestamp with time zone' => [qw(timestamptz timestamp)],
	'jsonb' => [qw(jsonb json text)],
	'rl_result' => [qw(rl_result anyelement)]);

# The objects that the expressions of the extension in $database name: "KIND", name,
# schema, the number of arguments, the type of the result, and whether they belong to
# the extension, a line each, separated by tabs.  The expressions are those of views,
# checks, defaults, indexes, triggers and the defaults of functions.
sub named_in_trees
{
	my ($node, $database) = @_;

	return $node->safe_psql($database, <<'SQL', extra_params => [ '-F', "\t" ]);
SET search_path = pg_catalog;
WITH member AS (
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'ratelimit'),
relation AS (SELECT objid AS oid FROM member WHERE classid = 'pg_class'::regclass),
function AS (SELECT objid AS oid FROM member WHERE classid = 'pg_proc'::regclass),
tree AS (
	SELECT concat(ev_qual, ev_action) AS tree FROM pg_rewrite WHERE ev_class IN (TABLE relation)
	UNION ALL SELECT conbin::text FROM pg_constraint WHERE conrelid IN (TABLE relation)
	UNION ALL SELECT adbin::text FROM pg_attrdef WHERE adrelid IN (TABLE relation)
	UNION ALL SELECT concat(indexprs, indpred) FROM pg_index WHERE indrelid IN (TABLE relation)
	UNION ALL SELECT tgqual::text FROM pg_trigger WHERE tgrelid IN (TABLE relation)
	UNION ALL SELECT concat(proargdefaults, prosqlbody) FROM pg_proc WHERE oid IN (TABLE function)),
named AS (
	SELECT DISTINCT m[1] AS field, m[2]::oid AS oid
	FROM tree, regexp_matches(tree, ':(\w+) (\d+)\M', 'g') m WHERE m[2] <> '0'),
object AS (
	SELECT 'operator' AS kind, o.oprname AS name, o.oprnamespace AS namespace, 'pg_operator'::regclass AS class,
		o.oid, CASE WHEN o.oprleft = 0 THEN 1 ELSE 2 END AS arguments, o.oprresult AS result
	FROM named n JOIN pg_operator o ON n.field IN ('opno', 'eqop', 'sortop') AND o.oid = n.oid
	UNION ALL
	SELECT 'function', p.proname, p.pronamespace, 'pg_proc'::regclass, p.oid, p.pronargs, p.prorettype
	FROM named n JOIN pg_proc p ON n.field IN ('funcid', 'opfuncid', 'aggfnoid', 'winfnoid') AND p.oid = n.oid
	UNION ALL
	SELECT 'type', t.typname, t.typnamespace, 'pg_type'::regclass, t.oid, 0, t.oid
	FROM named n JOIN pg_type t ON n.field IN ('consttype', 'vartype', 'paramtype', 'resulttype', 'opresulttype',
		'funcresulttype', 'aggtype', 'wintype', 'casetype', 'coalescetype', 'array_typeid') AND t.oid = n.oid
	UNION ALL
	SELECT 'collation', c.collname, c.collnamespace, 'pg_collation'::regclass, c.oid, 0, 0
	FROM named n JOIN pg_collation c ON n.field ~ '(colls?|collid|collation)$' AND c.oid = n.oid)
SELECT DISTINCT kind, name, nspname, arguments, result::regtype,
	EXISTS (SELECT FROM member m WHERE m.classid = object.class AND m.objid = object.oid)
FROM object JOIN pg_namespace n ON n.oid = object.namespace ORDER BY 1, 2;
SQL
}

# As a role, whatever its search_path: what psql says, output and errors.
sub as_role
{
	my ($node, $database, $role, $sql) = @_;
	my ($rc, $out, $err) =
	  $node->psql($database, $sql, extra_params => [ '-U', $role ], on_error_stop => 0);

	return join "\n", grep { $_ ne '' } $out, $err;
}

# A database in which the attacker may create objects in schema public, with what all
# traps do.
sub let_create
{
	my ($node, $database) = @_;

	$node->safe_psql('postgres', <<"SQL");
SELECT 'CREATE ROLE attacker LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'attacker') \\gexec
CREATE DATABASE $database;
GRANT CREATE ON DATABASE $database TO attacker;
SQL
	$node->safe_psql($database, 'GRANT CREATE ON SCHEMA public TO PUBLIC');
	must_be_silent(as_role($node, $database, 'attacker', <<'SQL'));
CREATE SCHEMA trap;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE FUNCTION trap.spring(what text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	RAISE WARNING 'captured: % as %', what, current_user;
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		ALTER ROLE attacker SUPERUSER;
	END IF;
END
$$;
SQL
	return;
}

# Operators and functions as named_in_trees() found them, with all combinations of
# types that there are for up to two arguments, and many for three.
sub lay_traps
{
	my ($node, $database, $named) = @_;
	my (%operators, %functions, %results, @sql);

	foreach (split /\n/, $named)
	{
		my ($kind, $name, $schema, $arguments, $result, $own) = split /\t/;

		next if $kind ne 'operator' || $operators{$name}++;
		my $function = 'trap."result ' . $result . '"';
		if (!$results{$function}++)
		{
			push @sql, for_types(2, $function, $result);
		}
		push @sql, <<"SQL";
DO \$do\$
DECLARE
	l text;
	r text;
	types text[] := @{[ array(@types) ]};
BEGIN
	FOREACH l IN ARRAY types LOOP
		FOREACH r IN ARRAY types LOOP
			EXECUTE format('CREATE OPERATOR public.$name (LEFTARG = %s, RIGHTARG = %s, FUNCTION = %s)', l, r, '$function');
		END LOOP;
	END LOOP;
END
\$do\$;
SQL
	}
	foreach (split /\n/, $named)
	{
		my ($kind, $name, $schema, $arguments, $result, $own) = split /\t/;

		next if $kind ne 'function' || $own eq 't' || $arguments > 3 || $functions{"$name $arguments"}++;
		$result = 'boolean' if $result =~ /^(any|record|trigger|void|internal)/;
		push @sql, for_types($arguments, qq(public."$name"), $result);
	}
	must_be_silent(as_role($node, $database, 'attacker', join '', "SET search_path = pg_catalog;\n", @sql));
	return;
}

# Types, domains and collations of names that mean PostgreSQL's, and a type to which
# everything can be cast, with an operator and functions.
sub lay_traps_of_types
{
	my ($node, $database, @functions) = @_;
	my @sql = <<'SQL';
SET search_path = pg_catalog;
CREATE TYPE public.bait AS (x text);
CREATE COLLATION public."C" (lc_collate = 'POSIX', lc_ctype = 'POSIX');
SQL

	foreach my $type (qw(text varchar bigint integer float8 numeric timestamptz interval boolean jsonb))
	{
		push @sql, create_functions('trap.to_bait', 'public.bait', $type),
		  "CREATE CAST ($type AS public.bait) WITH FUNCTION trap.to_bait($type) AS IMPLICIT;\n",
		  create_functions('trap.allowed', 'boolean', $type),
		  qq(CREATE DOMAIN public."$type" AS $type CHECK (trap.allowed(VALUE));\n);
	}
	foreach my $operator ('=', '<>', '<', '>', '<=', '>=', '~', '!~', '||', '-')
	{
		push @sql, create_functions('trap.compare', 'boolean', 'public.bait, public.bait'),
		  "CREATE OPERATOR public.$operator (LEFTARG = public.bait, RIGHTARG = public.bait, FUNCTION = trap.compare);\n";
	}
	push @sql, create_functions("public.$_", 'boolean', 'public.bait', 'public.bait, public.bait') foreach @functions;
	must_be_silent(as_role($node, $database, 'attacker', join '', @sql));
	return;
}

sub array
{
	return 'ARRAY[' . join(', ', map { "'$_'" } @_) . ']::text[]';
}

# Functions of the name with so many arguments of all types; with a further one that
# has a default; and variadic ones.
sub for_types
{
	my ($arguments, $name, $result) = @_;
	my @choice = $arguments > 2 ? qw(text varchar name integer float8 anyelement) : @types;
	my @lists = ('');

	@lists = map { my $list = $_; map { $list eq '' ? $_ : "$list, $_" } @choice } @lists for 1 .. $arguments;
	if ($name !~ /^trap/)
	{
		push @lists, map { $_ eq '' ? 'integer DEFAULT 0' : "$_, integer DEFAULT 0" } @lists;
		push @lists, 'VARIADIC text[]', 'VARIADIC integer[]', 'VARIADIC anyarray';
	}
	return create_functions($name, $result, @lists);
}

# Functions of the name with these lists of arguments, but for those that there are.
sub create_functions
{
	my ($name, $result, @lists) = @_;
	my $quoted = array(@lists);
	my $answer = $result eq 'boolean' ? 'true' : 'NULL';

	return <<"SQL";
DO \$do\$
DECLARE
	list text;
BEGIN
	FOREACH list IN ARRAY $quoted LOOP
		BEGIN
			EXECUTE format('CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql AS %L', '$name', list, '$result',
				format('BEGIN PERFORM trap.spring(%L); RETURN $answer; END', format('%s(%s)', '$name', list)));
		EXCEPTION WHEN duplicate_function THEN
			NULL;
		END;
	END LOOP;
END
\$do\$;
SQL
}

# Overloads, in schema public, of each function of the extension in $clean that are not
# the same but may match a call better: the same names of arguments, other types, and
# some of those that have defaults left out.
sub set_traps_for
{
	my ($node, $database, $clean, $namespace) = @_;
	my @sql;

	foreach (split /\n/, $node->safe_psql($clean, <<'SQL', extra_params => [ '-F', "\t" ]))
SET search_path = pg_catalog;
SELECT p.proname, p.pronargs - p.pronargdefaults,
	(SELECT string_agg(concat(p.proargnames[n], ':', format_type(p.proargtypes[n - 1], NULL)), ',' ORDER BY n) FROM generate_series(1, p.pronargs) n)
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
WHERE p.pronargs > 0 ORDER BY 1
SQL
	{
		my ($name, $required, $arguments) = split /\t/;
		my @arguments = map { [ split /:/ ] } split /,/, $arguments;
		my @lists = ([]);

		foreach my $i (0 .. $#arguments)
		{
			my ($argument, $type) = @{ $arguments[$i] };
			my @more;

			$type =~ s/^.*\.//;

			foreach my $list (@lists)
			{
				push @more, [ @$list, "$argument $_" ] foreach @{ $instead{$type} // [$type] };
				push @more, $list if $i >= $required;
			}
			@lists = @more;
		}
		shift @lists;    # the extension's own
		push @sql, create_functions("public.$name", 'boolean',
			grep { !/ rl_result/ } map { join ', ', @$_ } @lists);
	}
	must_be_silent(as_role($node, $database, 'attacker', join '', "SET search_path = pg_catalog;\n", @sql));
	return;
}

sub must_be_silent
{
	my ($said) = @_;

	die "setting traps: $said" if $said ne '';
	return;
}

# What was captured so far, from the log; and whether the attacker got what he wanted.
sub captured
{
	my ($node) = @_;
	my %captured = map { $_ => 1 } slurp_file($node->logfile) =~ /WARNING:  (captured: [^\n]*)/g;

	$captured{'the attacker is a superuser'} = 1
	  if $node->safe_psql('postgres', q(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = 'attacker')) eq 't';
	return join "\n", sort keys %captured;
}

1;
