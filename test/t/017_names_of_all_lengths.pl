# A name stands in its slot, the slot's tail, and further slots and tails: names that
# differ in one byte, wherever it stands, have buckets of their own, which move, are
# shown, saved and reset as those of short names are.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('names', conf => 'ratelimit.max_buckets = 65536');
my $sql = sub { return $node->safe_psql('postgres', $_[0]); };

# Lengths of limiter and key on both sides of where a part ends (src/memory/slots.h),
# each with a key of one letter, and those that differ from it where a part ends or
# begins.
$sql->(<<'SQL');
CREATE TABLE ends AS SELECT unnest('{22,78,122,178,222,278}'::int[]) AS at;
CREATE TABLE names AS
	WITH limiters AS (SELECT repeat('l', n - 1) || l AS limiter, n FROM unnest('{1,21,22,23,63}'::int[]) n, unnest('{l,m}'::text[]) l),
	totals AS (SELECT DISTINCT at + d AS total FROM ends, generate_series(-1, 1) d UNION VALUES (64), (256)),
	plain AS (SELECT limiter, n, repeat('k', total - n) AS key FROM limiters, totals WHERE total - n BETWEEN 1 AND 255),
	keys AS (SELECT limiter, key FROM plain UNION
		SELECT limiter, overlay(key PLACING 'x' FROM at + d - n FOR 1)
		FROM plain, ends, generate_series(0, 1) d WHERE at + d - n BETWEEN 1 AND length(key))
	SELECT limiter, key, row_number() OVER () AS n FROM keys;
SQL
my $n = $sql->('SELECT count(*) FROM names');
cmp_ok($n, '>', 400, "$n names");

# Each has been taken from as often as its number says.
my $check = sub {
	my ($when, $limiters) = @_;
	my $names = $limiters // 'names';

	is( $sql->("SELECT count(*) FROM $names n, rl_peek(key, 1000, 0, 0, limiter) p WHERE p.remaining = 1000 - n.n"),
		$sql->("SELECT count(*) FROM $names n"), "$when: each has its own bucket");
	is( $sql->("SELECT count(*) FROM $names n JOIN rate_limit_status s USING (limiter, key) WHERE s.tokens = 1000 - n.n"),
		$sql->("SELECT count(*) FROM $names n"), "$when: ... as the view shows");
	return;
};
is($sql->('SELECT count(*) FROM names WHERE rl_consume(key, 1000, 0, n, limiter)'), $n, 'all are taken from');
$check->('made');
is($sql->('SELECT count(*) FROM names WHERE rl_consume(key, 1000, 0, 1000 - n + 1, limiter)'), 0, 'none holds more');

$sql->("SELECT count(rl_consume('more ' || i, 1, 0)) FROM generate_series(1, 9000) i");
$check->('moved');
is(spilled($node), 0, '... within memory');

$node->restart;
$check->('restarted');

# limiters that begin alike
my $two = "limiter IN (repeat('l', 22), repeat('l', 62) || 'm')";
is( $sql->("SELECT rl_reset_all(repeat('l', 22)) + rl_reset_all(repeat('l', 62) || 'm'), rl_reset_all(repeat('l', 62))"),
	$sql->("SELECT count(*), 0 FROM names WHERE $two"), 'two limiters are reset');
$check->('the others', "(SELECT * FROM names WHERE NOT $two)");
is($sql->("SELECT count(*) FROM names JOIN rate_limit_status USING (limiter, key) WHERE $two"), 0, '... are all that is left');
is($sql->('SELECT count(*) FROM names WHERE rl_reset(key, limiter)'),
	$sql->("SELECT count(*) FROM names WHERE NOT $two"), 'and are reset one by one');

# Short names, each byte of which is told apart: keys of one limiter, and limiters that
# follow each other in a session, as what is known of the last one is kept.
$sql->('SELECT rl_reset_all(NULL)');
$sql->(<<'SQL');
CREATE TABLE short AS
	WITH plain AS (SELECT repeat('s', n) AS name, n FROM generate_series(1, 30) n),
	one_off AS (SELECT name, overlay(name PLACING 'x' FROM i FOR 1) AS other, n, i FROM plain, generate_series(1, n) i)
	SELECT name, other FROM one_off;
SQL
is( $sql->("SELECT count(*) FROM short WHERE rl_consume(name, 1000, 0) AND rl_consume(other, 1000, 0, 2)"),
	465, 'keys that differ in a byte are taken from');
is( $sql->("SELECT count(*), count(DISTINCT s.key) FROM rate_limit_status s JOIN short ON key = other WHERE limiter = 'default' AND tokens = 998"),
	'465|465', '... each from its own bucket');
is( $sql->("SELECT count(*) FROM rate_limit_status s WHERE limiter = 'default' AND tokens = 1000 - length(key) AND key = repeat('s', length(key))"),
	30, '... and so are those that they differ from');
is( $sql->("SELECT count(*) FROM short WHERE rl_consume('k', 1000, 0, 1, name) AND rl_consume('k', 1000, 0, 2, other)"),
	465, 'limiters that differ in a byte, in turn');
is( $sql->("SELECT count(*), count(DISTINCT limiter) FROM rate_limit_status JOIN short ON limiter = other WHERE key = 'k' AND tokens = 998"),
	'465|465', '... each has its own bucket');
is( $sql->("SELECT count(*) FROM rate_limit_status WHERE key = 'k' AND limiter = repeat('s', length(limiter)) AND tokens = 1000 - length(limiter)"),
	30, '... and so have those that they differ from');
is($sql->("SELECT sum(allowed) FROM rate_limit_stats JOIN short ON limiter = other"), 465, '... and counts of its own');

$node->stop;
done_testing();
