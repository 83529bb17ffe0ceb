# The table of functions in docs/ is that of the catalog: arguments, defaults, results and
# who may call them.  When it is not, the test prints the lines that it should have.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $node = start_server('functions');

# As it is written in the table.
my @functions = split /\n/, $node->safe_psql('postgres', <<'SQL');
SELECT format('| `%s(%s)` | `%s` | %s |', p.proname,
	regexp_replace(replace(replace(pg_get_function_arguments(p.oid), 'double precision', 'float8'), 'timestamp with time zone', 'timestamptz'), '::[a-z0-9]+(\[\])?', '', 'g'),
	replace(pg_get_function_result(p.oid), 'double precision', 'float8'),
	CASE WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN 'everybody'
		WHEN has_function_privilege('pg_monitor', p.oid, 'EXECUTE') THEN '`pg_monitor`' ELSE 'the owner' END)
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
WHERE p.proname ~ '^rl_' ORDER BY p.proname
SQL
cmp_ok(scalar @functions, '>', 25, scalar @functions . ' functions');

my @documented = map { grep { /^\| `rl_\w+\(/ } split /\n/, slurp_file($_) } glob "$top/docs/*.md";
is_deeply(\@documented, \@functions, '... are in the table, and no others') or diag(join "\n", @functions);

# They mean what they say about the order: a key is named before its limiter, which is
# "default" wherever a single one can be left out.
foreach (@functions)
{
	next unless /\bkeys? text.*\blimiters? text/ || /\blimiters? text.*\bkeys? text/;
	my ($name) = /(rl_\w+)/;
	next if $name eq 'rl_status_policy';    # its limiter is a result

	like($_, qr/`\w+\(keys? text/, "$name: the key comes first");
	like($_, qr/limiter text DEFAULT 'default'|limiters text\[\] DEFAULT NULL/, '... and the limiter has its default');
}

$node->stop;
done_testing();
