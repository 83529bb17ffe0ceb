# ratelimit.refund_on_rollback: the tokens of what is rolled back come back, once,
# and never above the capacity; those of what is committed or prepared do not, nor
# does a denied call bring any.
#
# RATELIMIT_FULL=1 for a longer load.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};
my $node = start_server('memory');

# Until other sessions have ended, which psql does not wait for: with it they give back what
# is in the table.
my $when_alone = <<'SQL';
DO $$
BEGIN
	WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) LOOP
		PERFORM pg_stat_clear_snapshot(), pg_sleep(0.005);
	END LOOP;
END
$$;
SQL

# What is left of 100 in bucket "k" once a script, which may have errors in it, has
# run in a session of its own; and what it says.
sub left_after
{
	my ($script, $setting) = @_;
	my ($rc, $out, $err) = $node->psql('postgres',
		'SET ratelimit.refund_on_rollback = ' . ($setting // 'on') . ";\n$script",
		on_error_stop => 0);

	my $left = $node->safe_psql('postgres', "$when_alone SELECT (rl_peek('k', 100, 0, 0)).remaining");
	$node->safe_psql('postgres', "SELECT rl_reset('k')");
	$out =~ s/\n/ /g;
	$err =~ s/^psql:<stdin>:\d+: //mg;
	return ("$left: $out", $err);
}

# Each call takes a number of tokens of its own, so that what is left tells which of
# them came back.
sub take
{
	my ($tokens) = @_;

	return "SELECT rl_consume('k', 100, 0, $tokens);";
}

my ($t1, $t2, $t4, $t8) = map { take($_) } 1, 2, 4, 8;

foreach (
	[ 'off', "BEGIN; $t1 ROLLBACK;", '99: t', 'nothing comes back by default' ],
	[ 'on', "BEGIN; $t1 ROLLBACK;", '100: t', 'a transaction that is rolled back' ],
	[ 'on', "BEGIN; $t1 COMMIT;", '99: t', 'one that is committed' ],
	[ 'on', $t1, '99: t', 'a statement by itself' ],
	[ 'on', "BEGIN; $t1 $t2 $t4 ROLLBACK; $t8", '92: t t t t', 'what comes after it' ],
	[ 'on', "BEGIN; $t1 ROLLBACK; BEGIN; $t2 ROLLBACK; BEGIN; $t4 COMMIT; BEGIN; $t8 ROLLBACK;", '96: t t t t', 'one transaction after the other' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 ROLLBACK TO a; $t4 COMMIT;", '95: t t t', 'a savepoint' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 ROLLBACK TO a; $t4 ROLLBACK TO a; $t8 COMMIT;", '91: t t t t', 'a savepoint, twice' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 RELEASE a; $t4 COMMIT;", '93: t t t', 'a savepoint that is released' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 RELEASE a; $t4 ROLLBACK;", '100: t t t', '... in a transaction that is rolled back' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 SAVEPOINT b; $t4 RELEASE b; $t8 ROLLBACK TO a; COMMIT;", '99: t t t t', 'one released in one that is rolled back' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 SAVEPOINT b; $t4 ROLLBACK TO b; $t8 RELEASE a; COMMIT;", '89: t t t t', 'one rolled back in one that is released' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 SAVEPOINT b; $t4 SAVEPOINT c; $t8 ROLLBACK TO a; COMMIT;", '99: t t t t', 'three, of which the outermost is rolled back' ],
	[ 'on', "BEGIN; SAVEPOINT a; $t1 ROLLBACK TO a; $t2 ROLLBACK;", '100: t t', 'nothing comes back twice' ],
	[ 'on', "BEGIN; SAVEPOINT a; $t1 RELEASE a; SAVEPOINT a; $t2 ROLLBACK TO a; SAVEPOINT b; $t4 RELEASE b; COMMIT;", '95: t t t', 'savepoints one after the other' ],
	[ 'on', "BEGIN; $t1 SELECT 1 / 0; $t2 COMMIT;", '100: t', 'a transaction that fails' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; $t2 SELECT 1 / 0; ROLLBACK TO a; $t4 COMMIT;", '95: t t t', 'a savepoint that fails' ],
	[ 'on', "SELECT rl_consume('k', 100, 0, i), 1 / (3 - i) FROM generate_series(1, 5) i;", '100: ', 'a statement that fails' ],
	[ 'on', "DO \$\$ BEGIN PERFORM rl_consume('k', 100, 0, 1); BEGIN PERFORM rl_consume('k', 100, 0, 2); RAISE 'x'; EXCEPTION WHEN raise_exception THEN PERFORM rl_consume('k', 100, 0, 4); END; END \$\$;", '95: ', 'an exception block' ],
	[ 'on', "DO \$\$ BEGIN FOR i IN 1 .. 10 LOOP BEGIN PERFORM rl_consume('k', 100, 0, i); IF i % 2 = 0 THEN PERFORM 1 / 0; END IF; EXCEPTION WHEN division_by_zero THEN END; END LOOP; END \$\$;", '75: ', 'exception blocks in a loop' ],
	[ 'on', "DO \$\$ BEGIN PERFORM rl_consume('k', 100, 0, 1); COMMIT; PERFORM rl_consume('k', 100, 0, 2); ROLLBACK; PERFORM rl_consume('k', 100, 0, 4); END \$\$;", '95: ', 'transactions in a procedure' ],
	[ 'on', "BEGIN; $t1 SAVEPOINT a; DECLARE c CURSOR FOR SELECT rl_consume('k', 100, 0, 2) FROM generate_series(1, 10); FETCH 2 c; ROLLBACK TO a; COMMIT;", '99: t t t', 'a cursor of a savepoint' ],
	[ 'on', "BEGIN; DECLARE c CURSOR FOR SELECT rl_consume('k', 100, 0, 2) FROM generate_series(1, 10); FETCH 1 c; SAVEPOINT a; FETCH 3 c; ROLLBACK TO a; FETCH 1 c; COMMIT;", '96: t t t t t', 'a cursor that is read in a savepoint' ],
	[ 'on', "BEGIN; DECLARE c CURSOR FOR SELECT rl_consume('k', 100, 0, 2) FROM generate_series(1, 10); FETCH 1 c; CLOSE c; ROLLBACK;", '100: t', 'a cursor that is closed' ],
	[ 'on', "BEGIN; $t1 SET LOCAL ratelimit.refund_on_rollback = off; $t2 ROLLBACK;", '98: t t', 'what is taken while it is off' ],
	[ 'off', "BEGIN; $t1 SET LOCAL ratelimit.refund_on_rollback = on; $t2 ROLLBACK; BEGIN; $t4 ROLLBACK;", '95: t t t', '... or on, for a transaction' ],
	[ 'on', "BEGIN; SELECT rl_consume('k', 100, 0, 101); ROLLBACK;", '100: f', 'a denied call' ],
	[ 'on', take(99) . "BEGIN; SELECT rl_consume('k', 100, 0, 2); SELECT rl_consume('k', 100, 0, 0); ROLLBACK;", '1: t f t', '... on a bucket that is not full' ],
	[ 'on', "BEGIN; SET LOCAL ratelimit.shadow = on; SELECT rl_consume('k', 100, 0, 60); SELECT rl_consume('k', 100, 0, 60); ROLLBACK;", '100: t t', '... in shadow mode' ],
	[ 'on', take(50) . "BEGIN; SET LOCAL ratelimit.enabled = off; SELECT rl_consume('k', 100, 0, 10); ROLLBACK;", '50: t t', 'a call that is not decided' ],
	[ 'on', "BEGIN; $t8 SELECT rl_reset('k'); ROLLBACK;", '100: t t', 'a bucket that was reset' ],
	[ 'on', "BEGIN; $t8 SELECT rl_reset('k'); $t1 ROLLBACK;", '100: t t t', '... and used again' ],
	[ 'on', "BEGIN; $t8 SELECT rl_reward('k', 6); ROLLBACK;", '100: t 6', 'a bucket with a reward' ],
	[ 'on', "BEGIN; $t8 SELECT rl_penalize('k', 100, 0, 200); ROLLBACK;", '-100: t -108', 'a bucket in debt; which is not undone' ],
	[ 'on', "BEGIN; $t8 SELECT rl_consume('k', 50, 0, 1); ROLLBACK;", '100: t t', 'a bucket that has been made smaller is full before all is back' ],
	[ 'on', "BEGIN; $t8 SELECT rl_block('k', '1 hour'); ROLLBACK; $t1 SELECT rl_unblock('k');", '100: t  f t', 'a bucket whose key is blocked; which is not undone' ],
	# every function
	[ 'on', "BEGIN; SELECT (rl_throttle('k', 100, 0, 3)).remaining; ROLLBACK;", '100: 97', 'rl_throttle()' ],
	[ 'on', "BEGIN; SELECT rl_consume_upto('k', 100, 0, 30), rl_consume_upto('k', 100, 0, 90); ROLLBACK;", '100: 30|70', 'rl_consume_upto()' ],
	[ 'on', "BEGIN; SELECT rl_consume_upto('k', 100, 0, 30); SAVEPOINT a; SELECT rl_consume_upto('k', 100, 0, 90), rl_consume_upto('k', 100, 0, 1); ROLLBACK TO a; COMMIT;", '70: 30 70|0', '... what it got' ],
	[ 'on', "BEGIN; SELECT rl_consume_each('{k,k,x,k}', 100, 0, 40); ROLLBACK; SELECT (rl_peek('x', 100, 0)).remaining;", '100: {t,t,t,f} 99', 'rl_consume_each()' ],
	[ 'on', "BEGIN; SELECT rl_consume_all('{k,x,k}', '{100,100,100}', '{0,0,0}', '{10,20,30}'), rl_consume_all('{k,x,k}', '{100,100,100}', '{0,0,0}', '{10,90,30}'); ROLLBACK; SELECT (rl_peek('x', 100, 0)).remaining;", '100: t|f 99', 'rl_consume_all()' ],
	[ 'on', "BEGIN; SELECT rl_wait('k', 100, 0, 3), rl_wait('k', 100, 0, 98); ROLLBACK;", '100: t|f', 'rl_wait()' ],
	[ 'on', "BEGIN; SELECT rl_enforce('k', 100, 0, 60); SELECT rl_enforce('k', 100, 0, 60); ROLLBACK;", '100: ', 'rl_enforce(), by its own error' ],
	[ 'on', "BEGIN; SELECT rl_peek('k', 100, 0, 60); ROLLBACK;", '100: (t,100,40,00:00:00,,default,f,)', 'rl_peek() takes nothing' ],
	[ 'on', "BEGIN READ ONLY; $t1 ROLLBACK;", '100: t', 'a read-only transaction' ],
	[ 'on', "BEGIN ISOLATION LEVEL SERIALIZABLE; $t1 SAVEPOINT a; $t2 ROLLBACK TO a; COMMIT;", '99: t t', 'a serializable one' ])
{
	my ($setting, $script, $expected, $what) = @$_;
	my ($result, $err) = left_after($script, $setting);

	is($result, $expected, "$setting: $what") or diag($err);
}

# policies
$node->safe_psql('postgres', "INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, shadow) VALUES ('p', 'default', 100, 0, true, false), ('p', 'more', 50, 0, true, false), ('p', 'shadow', 10, 0, true, true)");
my $remaining = q{SELECT string_agg(limiter || ' ' || tokens, ', ' ORDER BY limiter) FROM rate_limit_status WHERE key = 'by policy'};
is( $node->safe_psql('postgres', "SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_consume_policy('p', 'by policy', 7), (rl_throttle_policy('p', 'by policy', 45)).allowed; $remaining; ROLLBACK; $remaining"),
	"t|f\np 93, p/more 43, p/shadow 3\n", 'on: rl_consume_policy(), all of its tiers');

#
# Bucket that has been refilled, or evicted meanwhile: never above the capacity
#
is( $node->safe_psql('postgres', <<'SQL'), "t\n10\n10|0", 'a bucket that has refilled meanwhile is no more than full');
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT rl_consume('refilled', 10, 1000, 10);
DO $$ BEGIN WHILE (rl_peek('refilled', 10, 1000)).reset_after > '0' AND EXISTS (SELECT FROM _rl_buckets() WHERE key = 'refilled') LOOP END LOOP; END $$;
SELECT (rl_peek('refilled', 10, 1000, 0)).remaining;
ROLLBACK;
SELECT (rl_peek('refilled', 10, 1000, 0)).remaining, (SELECT count(*) FROM rate_limit_status WHERE key = 'refilled');
SQL
is($node->safe_psql('postgres', "SELECT (rl_throttle('other', 10, 0.000001, 4)).remaining::int"), 6, 'others take what is left');
my $session = in_session($node);
$session->query_safe('SET ratelimit.refund_on_rollback = on; BEGIN');
is($session->query_safe("SELECT (rl_throttle('other', 10, 0.000001, 5)).remaining::int"), 1, '... and a transaction');
is($node->safe_psql('postgres', "SELECT rl_consume('other', 10, 0.000001, 2)"), 'f', 'meanwhile it is gone');
$session->query_safe('ROLLBACK');
is($node->safe_psql('postgres', "SELECT round((rl_peek('other', 10, 0.000001, 0)).remaining::numeric, 2)"), '6.00', '... then it is back, and no more');

#
# A backend that is terminated
#
$session->query_safe('BEGIN');
is($session->query_safe("SELECT count(*) FILTER (WHERE rl_consume('terminated ' || i % 7, 100, 0)) FROM generate_series(1, 70) i"), 70, 'a transaction');
is($node->safe_psql('postgres', "SELECT count(*), sum(tokens) FROM rate_limit_status WHERE key ~ '^terminated'"), '7|630', '... took from seven buckets');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)"), 't', '... and is terminated');
ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"), '... and gone');
is($node->safe_psql('postgres', "SELECT count(*) FROM rate_limit_status WHERE key ~ '^terminated'"), 0, '... all of them are full again');
$session->{run}->finish;

#
# Prepared: from then on kept, whoever rolls it back
#
foreach my $end ('COMMIT', 'ROLLBACK')
{
	is( $node->safe_psql('postgres', "SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_consume('prepared', 10, 0, 4); PREPARE TRANSACTION 'p'; BEGIN; SELECT (rl_peek('prepared', 10, 0, 0)).remaining; ROLLBACK; SELECT (rl_peek('prepared', 10, 0, 0)).remaining; $end PREPARED 'p'; SELECT (rl_peek('prepared', 10, 0, 0)).remaining; SELECT rl_reset('prepared')"),
		"t\n6\n6\n6\nt", "a prepared transaction keeps them: $end PREPARED");
}
is( $node->safe_psql('postgres', "SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_consume('prepared', 10, 0, 4); SAVEPOINT a; SELECT rl_consume('prepared', 10, 0, 3); ROLLBACK TO a; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'; SELECT (rl_peek('prepared', 10, 0, 0)).remaining"),
	"t\nt\n6", '... but not those of a savepoint that it had rolled back');

#
# Many buckets, long names, nested deep
#
is( $node->safe_psql('postgres', <<'SQL'), "20000\n20000|10000\n0", '20,000 buckets in one transaction');
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT count(*) FILTER (WHERE rl_consume(rpad('many ' || i % 10000, 20 + i % 200, 'x'), 10, 0, 0.5, 'l' || i % 3)) FROM generate_series(1, 20000) i;
SELECT count(*), sum(capacity - tokens) FROM rate_limit_status WHERE key ~ '^many';
ROLLBACK;
SELECT count(*) FROM rate_limit_status WHERE key ~ '^many';
SQL
is( $node->safe_psql('postgres', <<'SQL'), "40\n960|2400|26", 'blocks nested 50 deep, of which 26 fail');
SET ratelimit.refund_on_rollback = on;
CREATE FUNCTION nest(depth int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM rl_consume('nested ' || depth, 5, 0, 2.5);
	IF depth % 50 > 0 THEN
		PERFORM nest(depth - 1);
	END IF;
	IF depth % 50 = 25 THEN
		RAISE 'x';
	END IF;
EXCEPTION WHEN raise_exception THEN
	NULL;
END $$;
SELECT count(nest(50 * i + 49)) FROM generate_series(1, 40) i;
SELECT count(*), sum(tokens), min(split_part(key, ' ', 2)::int % 50) FROM rate_limit_status WHERE key ~ '^nested';
SQL

#
# Under load: what is left is what was committed
#
$node->safe_psql('postgres', <<'SQL');
CREATE UNLOGGED TABLE kept (key int, tokens float8);
CREATE FUNCTION take_some() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	n int;
BEGIN
	FOR i IN 1 .. 10 LOOP
		n := 1 + floor(random() * 10);
		BEGIN
			IF rl_consume('load ' || n, 1e6, 0, 0.25) THEN
				INSERT INTO kept VALUES (n, 0.25);
			END IF;
			IF rl_consume_all(ARRAY['load ' || n, 'load ' || n % 10 + 1], '{1e6,1e6}', '{0,0}') THEN
				INSERT INTO kept VALUES (n, 1), (n % 10 + 1, 1);
			END IF;
			IF random() < 0.3 THEN
				RAISE 'x';
			END IF;
		EXCEPTION WHEN raise_exception THEN
		END;
	END LOOP;
END $$;
ALTER DATABASE postgres SET ratelimit.refund_on_rollback = on;
SQL
run_clients($node, 'load', clients => 16, transactions => $full ? 2000 : 50, script => <<'SCRIPT');
\set fails random(1, 3)
BEGIN;
SELECT take_some();
\if :fails = 1
ROLLBACK;
\else
COMMIT;
\endif
SCRIPT
is( $node->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE s.capacity - s.tokens = k.tokens) FROM (SELECT 'load ' || key AS key, sum(tokens) AS tokens FROM kept GROUP BY key) k LEFT JOIN rate_limit_status s USING (key)}),
	'10|10', 'load: the buckets gave what was committed, to the unit');
$node->stop;

#
# In the table: tokens come back if the setting is on, as in memory
#
foreach my $preload (0, 1)
{
	my $name = $preload ? 'spilled' : 'table';

	$node = start_server($name, preload => $preload, conf => 'ratelimit.max_buckets = 16');
	$node->safe_psql('postgres', "SELECT rl_consume('in memory', 100, 0, 10)");
	fill_until_spilled($node, 'filling', 2, 0) if $preload;
	foreach (
		[ "BEGIN; $t1 ROLLBACK;", '98: t', '97: t', 'a transaction that is rolled back, and the session ends' ],
		[ "BEGIN; $t1 ROLLBACK; SELECT (rl_peek('k', 100, 0, 0)).remaining;", '98: t 98', '97: t 97', '... or goes on' ],
		[ "BEGIN; $t1 COMMIT;", '97: t', '97: t', 'one that is committed' ],
		[ "BEGIN; $t1 SAVEPOINT a; $t2 ROLLBACK TO a; $t4 COMMIT;", '93: t t t', '91: t t t', 'a savepoint' ],
		[ "BEGIN; $t1 SAVEPOINT a; $t2 RELEASE a; $t4 ROLLBACK;", '98: t t t', '91: t t t', 'one that is released, rolled back with all' ],
		[ "BEGIN; SELECT rl_consume_all('{k,x}', '{100,100}', '{0,0}', '{10,20}'); ROLLBACK;", '98: t', '88: t', 'several buckets' ],
		[ "BEGIN; SELECT rl_consume_upto('k', 100, 0, 30), rl_consume_each('{k,k}', 100, 0, 10), rl_wait('k', 100, 0, 3), rl_enforce('k', 100, 0, 2); ROLLBACK;", '98: 30|{t,t}|t|', '43: 30|{t,t}|t|', 'every function' ],
		[ "BEGIN; $t1 PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p';", '97: t', '97: t', 'a prepared transaction that is rolled back' ],
		[ "BEGIN; $t1 PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p';", '97: t', '97: t', 'one that is committed' ])
	{
		my ($script, $on, $off, $what) = @$_;

		foreach my $setting ('on', 'off')
		{
			$node->safe_psql('postgres', "SELECT rl_consume('k', 100, 0, 2)");
			my ($result, $err) = left_after($script, $setting);
			is($result, $setting eq 'on' ? $on : $off, "$name, $setting: $what") or diag($err);
		}
	}

	# a session that is ended in the middle of its transaction
	$node->safe_psql('postgres', "SELECT rl_consume('k', 100, 0, 2)");
	my $cut = in_session($node);
	$cut->query_safe("SET ratelimit.refund_on_rollback = on; BEGIN; $t1 SAVEPOINT a; $t2");
	$cut->query_safe("SELECT rl_reserve('k', 100, 0, 30)");
	my $cut_pid = $cut->query_safe('SELECT pg_backend_pid()');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($cut_pid)");
	ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $cut_pid)"), "$name: a session is ended in its transaction");
	is($node->safe_psql('postgres', "SELECT (rl_peek('k', 100, 0, 0)).remaining"), 98, "$name: ... what it took comes back");
	is($node->safe_psql('postgres', "SELECT count(*) FROM rate_limit_reservations"), 0, "$name: ... also what it reserved");
	$cut->{run}->finish;
	$node->safe_psql('postgres', "SELECT rl_reset('k')");
	next if !$preload;

	# both stores in one call
	is(store_of($node, 'in memory'), 'memory', 'spilled: a bucket in memory');
	my $both = q{SELECT string_agg(key || ' ' || tokens, ', ' ORDER BY key) FROM rate_limit_status WHERE key IN ('in memory', 'k')};
	$node->safe_psql('postgres', "SELECT rl_consume('k', 100, 0, 2)");
	is( $node->safe_psql('postgres', "SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_consume_all('{in memory,k}', '{100,100}', '{0,0}', '{5,7}'); SAVEPOINT a; SELECT rl_consume_all('{k,in memory}', '{100,100}', '{0,0}', '{9,11}'); $both; ROLLBACK TO a; $both; ROLLBACK; $both"),
		"t\nt\nin memory 74, k 82\nin memory 85, k 91\nin memory 90, k 98", 'spilled: a call on both stores comes back from both, once');
}
continue
{
	$node->stop;
}
done_testing();
