# What a transaction remembers for its refunds grows with the buckets that it takes
# from, not with its calls; and is exact, however deep savepoints are nested.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};
my $node = start_server('refunds');

sub query
{
	return $node->safe_psql('postgres', "SET ratelimit.refund_on_rollback = on; $_[0]");
}

query(<<'SQL');
-- of what belongs to the transaction, or is ours
CREATE FUNCTION held() RETURNS bigint LANGUAGE sql AS $$
	SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts
	WHERE name IN ('TopTransactionContext', 'ratelimit refunds') $$;
SQL

#
# Memory
#
my $taken = q{SELECT count(*) || ' ' || coalesce(sum(capacity - tokens), 0) FROM rate_limit_status WHERE key ~ '^m'};
my %held;
my ($few, $many) = (2000, $full ? 3000000 : 200000);
foreach my $calls ($few, $many)
{
	my @lines = split /\n/, query(<<"SQL");
BEGIN;
SELECT count(*) FILTER (WHERE rl_consume('m' || i % 1000, 1e9, 0, 0.5)) FROM generate_series(1, $calls) i;
$taken;
SELECT held();
ROLLBACK;
$taken;
SELECT held();
SQL

	is("@lines[0, 1]", "$calls 1000 " . $calls / 2, "$calls calls on a thousand buckets take from them");
	is($lines[3], '0 0', '... and all of it comes back');
	cmp_ok($lines[4], '<', 64 * 1024, "... and the memory is free: $lines[4] bytes");
	$held{$calls} = $lines[2];
}
cmp_ok($held{$many}, '<', 1.5 * $held{$few}, "memory does not grow with calls: $held{$few} and $held{$many} bytes");
cmp_ok($held{$many}, '<', 1000 * 1024, '... and is less than a kilobyte for a bucket');

# likewise with savepoints that come and go
foreach (
	[ '', 'that commit' ],
	[ "IF i % 2 = 0 THEN RAISE 'x'; END IF;", 'half of which fail' ])
{
	my ($fails, $what) = @$_;
	my $script = sub {
		return <<"SQL";
DO \$\$
BEGIN
	FOR i IN 1 .. $_[0] LOOP
		BEGIN
			PERFORM rl_consume('m' || i % 100, 1e9, 0, 0.5);
			$fails
		EXCEPTION WHEN raise_exception THEN
		END;
	END LOOP;
	RAISE NOTICE 'held %', held();
END \$\$;
SQL
	};
	my %held;

	foreach my $n (1000, $full ? 300000 : 20000)
	{
		my ($rc, $out, $err) = $node->psql('postgres', 'SET ratelimit.refund_on_rollback = on; BEGIN; ' . $script->($n) . " $taken; ROLLBACK; SELECT count(*) FROM rate_limit_status WHERE key ~ '^m'");

		is($out, ($fails ? '50 ' . $n / 4 : '100 ' . $n / 2) . "\n0", "$n savepoints $what: all comes back that is rolled back");
		($held{$n}) = $err =~ /held (\d+)/ or diag($err);
	}
	my ($small, $large) = @held{ sort { $a <=> $b } keys %held };
	# PostgreSQL itself holds a little for each savepoint of a transaction that has an xid
	cmp_ok($large, '<', 2 * $small + 65536, "... and memory does not grow with them: $small to $large bytes");
}

#
# Exact: savepoints nested at random, against the same sums kept by hand
#
query(<<'SQL');
CREATE TABLE kept (key int, tokens int);
CREATE TABLE seeds (seed int);
CREATE PROCEDURE walk(depth int) LANGUAGE plpgsql AS $$
DECLARE
	n int;
	t int;
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			FOR j IN 1 .. 1 + floor(random() * 4) LOOP
				n := floor(random() * 6);
				t := 1 + floor(random() * 1000);
				PERFORM rl_consume('walk' || n, 1e9, 0, t);
				INSERT INTO kept VALUES (n, t);
				IF depth > 0 AND random() < 0.6 THEN
					CALL walk(depth - 1);
				END IF;
			END LOOP;
			IF random() < 0.4 THEN
				RAISE 'x';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
SQL
my $compare = q{SELECT count(*) FILTER (WHERE s.capacity - s.tokens = k.tokens) || '/' || count(*) FROM (SELECT 'walk' || key AS key, sum(tokens) AS tokens FROM kept GROUP BY key) k FULL JOIN (SELECT * FROM rate_limit_status WHERE key ~ '^walk') s USING (key)};
my $wrong = '';
foreach my $round (1 .. ($full ? 200 : 25))
{
	my $seed = $round / 1000;
	my $result = query("SELECT setseed($seed); BEGIN; CALL walk(4); $compare; SAVEPOINT a; CALL walk(3); ROLLBACK TO a; $compare; COMMIT; $compare; TRUNCATE kept; SELECT rl_reset_all(NULL) >= 0");

	$wrong .= "seed $seed: $result\n" if $result !~ /^\n(\d)\/\1\n(\d)\/\2\n(\d)\/\3\nt$/;
}
is($wrong, '', 'savepoints at random: what is taken is what was not rolled back, to the token');

# Names of all lengths that hardly differ
my $call = q{SELECT count(*) FILTER (WHERE rl_consume(rpad('l' || i, 6 + i % 200, 'x'), 10, 0, 0.5, 'lim' || i % 2)) FROM generate_series(1, 10000) i};
my $left = q{SELECT count(*) || ' ' || coalesce(sum(capacity - tokens), 0) FROM rate_limit_status WHERE key ~ '^l'};
is( query("BEGIN; $call; SAVEPOINT a; $call; $call; $left; ROLLBACK TO a; $left; ROLLBACK; $left"),
	"10000\n10000\n10000\n10000 15000\n10000 5000\n0 0", 'ten thousand buckets with long names, on two levels');

#
# To the table, which cannot be written while a transaction aborts: before the next
# commit of a transaction that calls
#
$node->append_conf('postgresql.conf', "ratelimit.max_buckets = 16");
$node->restart;
my $session = in_session($node);
$session->query_safe('SET ratelimit.refund_on_rollback = on');
foreach (
	[ 'BEGIN', 'ROLLBACK', q{SELECT (rl_throttle('k3', 100, 0, 0)).allowed}, 'a transaction' ],
	[ 'BEGIN; SAVEPOINT a', 'ROLLBACK TO a', 'COMMIT', 'a savepoint' ])
{
	my ($begin, $end, $commit, $what) = @$_;
	my $tokens = q{SELECT store, tokens FROM rate_limit_status WHERE key = 'k'};

	query('SELECT rl_reset_all(NULL)');
	wait_until_nothing_spilled($node);
	$session->query_safe("$begin; SELECT rl_consume('k', 100, 0, 10), rl_consume('k2', 100, 0, 10)");
	# it starts anew elsewhere
	query("SELECT rl_reset('k')");
	fill_until_spilled($node, 'filling', 2, 0);
	query("SELECT rl_consume('k', 100, 0, 50)");
	is(query($tokens), 'table|50', "$what: a bucket is in the table by now");
	$session->query_safe($end);
	is(query($tokens), 'table|50', '... rolled back: the table is as it was');
	if ($end eq 'ROLLBACK')
	{
		$session->query_safe($_) foreach ('SELECT 1', 'VACUUM pg_catalog.pg_am', 'BEGIN; CREATE TEMP TABLE t (); DROP TABLE t; COMMIT');
		is(query($tokens), 'table|50', '... and as it was after transactions that make no call');
	}
	$session->query_safe($commit);
	is(query($tokens), 'table|60', '... after the next commit tokens are back');
	$session->query_safe('SELECT 1');
	is(query($tokens), 'table|60', '... once');
	is(query(q{SELECT count(*) FROM rate_limit_status WHERE key = 'k2'}), 0, '... and those of a bucket in memory');
	is($session->query_safe("SELECT coalesce(sum(total_bytes), 0) < 16384 FROM pg_backend_memory_contexts WHERE name = 'ratelimit refunds'"), 't', '... and nothing is remembered');
}
finish_session($session);

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing broke');
$node->stop;
done_testing();
