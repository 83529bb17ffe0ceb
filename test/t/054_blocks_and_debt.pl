# Blocks and debt hold wherever buckets are: in shared memory, in the table, moved
# between them, with many at once, on a standby; and what is blocked is exactly what
# was.  How single calls behave is in sql/blocks.sql.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node;
my $sql = sub { return $node->safe_psql('postgres', $_[0]); };

# The block of a key lives in which store?  (Its bucket may live in another.)
sub block_store
{
	my ($key) = @_;

	return $sql->("SELECT store FROM _rl_buckets() WHERE key = '$key' AND blocked_until IS NOT NULL");
}

# All ways to ask.
sub check_denied
{
	my ($name, $key) = @_;

	is($sql->("SELECT rl_consume('$key', 10, 1), rl_consume('$key', 10, 1, 0), (rl_throttle('$key', 10, 1)).allowed, (rl_peek('$key', 10, 1)).allowed, rl_consume_upto('$key', 10, 1, 5), rl_consume_each('{$key}', 10, 1), rl_consume_all('{$key,free}', '{10,10}', '{1,1}'), rl_wait('$key', 10, 1, 1, '1 day')"),
		'f|f|f|f|0|{f}|f|f', "$name: denied, however one asks");
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT rl_enforce('$key', 10, 1)");
	like($err, qr/ERROR:  rate limit exceeded.*HINT:  Wait \d{4,} s/s, "$name: ... and told to wait");
	is($sql->("SELECT retry_after > '59 min' AND retry_after <= '1 hour' FROM rl_peek('$key', 10, 1)"), 't', "$name: ... until the block ends");
	is($sql->("SELECT blocked_until > now() + '59 min' AND blocked_until <= now() + '1 hour' FROM rate_limit_status WHERE key = '$key'"), 't', "$name: ... as rate_limit_status shows");
	return;
}

# Fill memory, and have so many rows in the table that it stays full whatever goes:
# what is new then is made in the table, and stays there.  (What has been in memory
# may have a place there still.)
sub fill_up
{
	fill_until_spilled($node, 'filling', 1000, 0);
	$sql->("SELECT count(rl_consume('more filling ' || i, 1000, 0)) FROM generate_series(1, 100) i");
	# the worker moves rows to where there is room
	$node->poll_query_until('postgres', 'SELECT bool_and(spilled AND living = slots) FROM rl_partitions()') or die 'there is room';
	return;
}

# A short block ends by itself.
sub check_expiry
{
	my ($name, $key) = @_;

	# unless the statement has taken longer than the block
	is($sql->("SELECT rl_block('$key', '700 ms'), rl_consume('$key', 10, 0) AND clock_timestamp() < statement_timestamp() + '700 ms', rl_consume('$key', 10, 0) AND clock_timestamp() < statement_timestamp() + '700 ms'"), '|f|f', "$name: a short block");
	ok($node->poll_query_until('postgres', "SELECT rl_consume('$key', 10, 0)"), "$name: ... ends by itself");
	is($sql->("SELECT blocked_until FROM rate_limit_status WHERE key = '$key'"), '', "$name: ... without a trace");
	return;
}

# Nobody is denied but those that are blocked, and they all are.
sub check_many
{
	my ($name, $n) = @_;

	$sql->("SELECT count(rl_block('many ' || i, '1 hour', 'm')) FROM generate_series(2, $n, 2) i");
	is($sql->("SELECT count(*) FILTER (WHERE i % 2 = 0), count(*) FILTER (WHERE i % 2 = 1) FROM generate_series(1, $n) i WHERE NOT rl_consume('many ' || i, 10, 0, 0, 'm')"),
		$n / 2 . '|0', "$name: of $n keys those are denied that are blocked");
	is($sql->("SELECT count(*) FROM generate_series(1, $n) i WHERE NOT rl_consume('many ' || i, 10, 0, 0, 'other')"), 0, "$name: ... of that limiter only");
	is($sql->("SELECT count(*) FILTER (WHERE rl_unblock('many ' || i, 'm')) FROM generate_series(1, $n) i WHERE i % 3 = 0"), int($n / 6), "$name: some are unblocked");
	is($sql->("SELECT count(*) FILTER (WHERE i % 6 IN (2, 4)), count(*) FROM generate_series(1, $n) i WHERE NOT rl_consume('many ' || i, 10, 0, 0, 'm')"),
		join('|', ($n / 2 - int($n / 6)) x 2), "$name: ... then the others still are");
	is($sql->("SELECT rl_reset_all('m'), rl_reset_all(NULL), count(*) FROM generate_series(1, $n) i WHERE NOT rl_consume('many ' || i, 10, 0, 0, 'm')") =~ /\|(\d+)$/ && $1,
		$n / 2 - int($n / 6), "$name: ... resets or no resets");
	$sql->("SELECT count(rl_unblock('many ' || i, 'm')) FROM generate_series(1, $n) i");
	is($sql->("SELECT count(*) FROM generate_series(1, $n) i WHERE NOT rl_consume('many ' || i, 10, 0, 0, 'm')"), 0, "$name: all are unblocked");
	return;
}

# Calls, blocks and ends of blocks at once; a call is denied if the key was blocked
# from before it began to after it ended, and allowed if it was not.
sub check_concurrent
{
	my ($name, $transactions) = @_;

	$sql->(<<'SQL');
CREATE OR REPLACE FUNCTION turn(key text, me int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	mine text := key || ' ' || me;
BEGIN
	IF rl_unblock(mine, 'c') OR NOT rl_consume(mine, 10, 0, 0, 'c') THEN
		RAISE 'blocked by nobody';
	END IF;
	PERFORM rl_block(mine, '1 hour', 'c'), rl_block(key, '1 hour', 'c');
	IF rl_consume(mine, 10, 0, 0, 'c') THEN
		RAISE 'not blocked';
	END IF;
	PERFORM rl_consume(key, 1e6, 0, 1, 'c');
	IF NOT rl_unblock(mine, 'c') OR NOT rl_consume(mine, 10, 0, 0, 'c') THEN
		RAISE 'still blocked';
	END IF;
	PERFORM rl_unblock(key, 'c');
END $$;
SQL
	run_clients($node, "$name, concurrent", clients => 12, transactions => $transactions,
		script => "\\set n random(1, 3)\nSELECT turn('c' || :n, :client_id);");
	is($sql->("SELECT count(*) FILTER (WHERE rl_consume('c' || n, 1e6, 0, 0, 'c')), count(*) FILTER (WHERE rl_unblock('c' || n, 'c')) FROM generate_series(1, 3) n"), '3|0', "$name, concurrent: nothing is left blocked");
	return;
}

# Debt, to the unit.
sub check_debt
{
	my ($name) = @_;

	$sql->(<<'SQL');
CREATE OR REPLACE FUNCTION give_and_take() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	key text := 'debt ' || floor(random() * 3);
	n int := ceil(random() * 8);
BEGIN
	INSERT INTO moved VALUES (key, -n);
	PERFORM rl_penalize(key, 8, 0, n);
	IF n > 2 THEN
		-- it owes more than that by now, so there is room for it
		INSERT INTO moved VALUES (key, n - 2);
		IF rl_reward(key, n - 2) <> n - 2 THEN
			RAISE 'no room';
		END IF;
	END IF;
END $$;
CREATE UNLOGGED TABLE moved (key text, tokens float8);
SQL
	run_clients($node, "$name, debt", clients => 12, transactions => 40, script => 'SELECT give_and_take();');
	is($sql->("SELECT key, s.tokens - 8, m.tokens FROM (SELECT key, sum(tokens) AS tokens FROM moved GROUP BY key) m LEFT JOIN rate_limit_status s USING (key) WHERE s.tokens - 8 IS DISTINCT FROM m.tokens"),
		'', "$name, debt: what was taken and given back, to the unit");
	is($sql->("SELECT count(*) FILTER (WHERE tokens < 0) FROM rate_limit_status WHERE key ~ '^debt'"), 3, "$name, debt: all of them are in debt");
	is($sql->("SELECT count(*) FILTER (WHERE rl_consume('debt ' || n, 8, 0)), count(*) FILTER (WHERE rl_consume('debt ' || n, 8, 0, 0)) FROM generate_series(0, 2) n"), '0|3', "$name, debt: only what costs nothing is allowed");
	is($sql->("SELECT rl_consume_upto('debt 0', 8, 0, 3), rl_consume_all('{debt 0,free}', '{8,8}', '{0,0}'), rl_wait('debt 0', 8, 0), (rl_peek('debt 0', 8, 0)).remaining = (SELECT tokens FROM rate_limit_status WHERE key = 'debt 0')"), '0|f|f|t', "$name, debt: however one asks");
	is($sql->("SELECT rl_reward('debt 0', -s.tokens) = -s.tokens, rl_consume('debt 0', 8, 0), rl_reward('debt 0', 1), rl_consume('debt 0', 8, 0), rl_consume('debt 0', 8, 0) FROM (SELECT tokens FROM rate_limit_status WHERE key = 'debt 0') s"),
		't|f|1|t|f', "$name, debt: once paid off, the next token is one");

	# refilled first, and other parameters
	is($sql->("SELECT rl_penalize('refilling', 10, 50, 20) BETWEEN -10 AND -9, rl_consume('refilling', 10, 50) AND clock_timestamp() < statement_timestamp() + '220 ms'"), 't|f', "$name, debt: with a refill");
	ok($node->poll_query_until('postgres', "SELECT rl_consume('refilling', 10, 50)"), "$name, debt: ... paid off by it");
	# (a denied call has changed them for good, so the reward stops at 5)
	is($sql->("SELECT rl_penalize('changing', 10, 0, 16), (rl_peek('changing', 20, 0, 0)).remaining, (rl_peek('changing', 5, 0, 0)).remaining, rl_penalize('changing', 20, 0, 1), (rl_peek('changing', 5, 0, 0)).remaining, rl_consume('changing', 5, 0), rl_reward('changing', 100), (rl_peek('changing', 20, 0, 0)).remaining"),
		'-6|-6|-6|-7|-7|f|12|20', "$name, debt: other parameters keep it");
	return;
}

#
# In shared memory
#
$node = start_server('memory', streaming => 1);
is($sql->("SELECT rl_consume('b', 10, 1, 4), rl_block('b', '1 hour')"), 't|', 'memory: a key is blocked');
check_denied('memory', 'b');
is(block_store('b'), 'memory', 'memory: ... there');
is($sql->("SELECT rl_reset('b'), rl_consume('b', 10, 0), rl_unblock('b'), rl_consume('b', 10, 0)"), 't|f|t|t', 'memory: ended by rl_unblock() only');
is($sql->("BEGIN READ ONLY; SELECT rl_block('b', '1 hour'), rl_consume('b', 10, 0); COMMIT; SELECT rl_consume('b', 10, 0), rl_unblock('b'), rl_consume('b', 10, 0)"), "|f\nf|t|t", 'memory: in a read-only transaction');
foreach my $call ("rl_unblock('b')", "rl_reset('b')", 'rl_reset_all(NULL)')
{
	my ($rc, $out, $err) = $node->psql('postgres', "BEGIN READ ONLY; SELECT $call");
	is($err, '', "memory: ... where $call works, too");
}
is($sql->("BEGIN; SELECT rl_block('b', '1 hour'); ROLLBACK; SELECT rl_consume('b', 10, 0), rl_unblock('b')"), "\nf|t", 'memory: a rollback does not end it');
check_expiry('memory', 'b');
check_many('memory', 20000);
check_concurrent('memory', 100);
check_debt('memory');

# A standby has blocks of its own.
$sql->("SELECT rl_block('b', '1 hour')");
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT rl_consume('b', 10, 0), rl_block('b', '1 hour'), rl_consume('b', 10, 0), rl_consume('c', 10, 0), rl_unblock('b'), rl_consume('b', 10, 0), rl_block('b', '1 day')"),
	't||f|t|t|t|', 'standby: blocks keys of its own');
is($standby->safe_psql('postgres', "SELECT rl_penalize('d', 10, 0, 15), rl_consume('d', 10, 0), rl_reward('d', 6), rl_consume('d', 10, 0), rl_consume('d', 10, 0)"), '-5|f|6|t|f', 'standby: debt and rewards');
$standby->promote;
is($standby->safe_psql('postgres', "SELECT rl_consume('b', 10, 0), rl_consume('d', 10, 0), rl_unblock('b')"), 'f|f|t', '... which stay when it is promoted');
is($sql->("SELECT rl_consume('b', 10, 0), rl_unblock('b')"), 'f|t', '... and are none of the primary');
$standby->stop;
$node->stop;

#
# In the table
#
$node = start_server('table', preload => 0);
is($sql->("SELECT rl_consume('b', 10, 1, 4), rl_block('b', '1 hour')"), 't|', 'table: a key is blocked');
check_denied('table', 'b');
is(block_store('b'), 'table', 'table: ... there');
is($sql->("SELECT rl_unblock('b'), rl_consume('b', 10, 0), rl_unblock('b')"), 't|t|f', 'table: unblocked');
is($sql->("BEGIN; SELECT rl_block('b', '1 hour'), rl_consume('b', 10, 0); ROLLBACK; SELECT rl_consume('b', 10, 0), rl_unblock('b')"), "|f\nf|t", 'table: a rollback does not end it');
check_expiry('table', 'b');
check_many('table', 600);
check_concurrent('table', 20);
check_debt('table');
# rows in debt and blocks are not cleaned away
$sql->("SELECT rl_block('stays', '1 hour'), rl_penalize('stays', 10, 0.01, 100)");
$sql->("SELECT count(rl_consume('cleaning ' || i, 1, 1e6)) FROM generate_series(1, 1) i") foreach 1 .. 40;
is($sql->("SELECT rl_consume('stays', 10, 0.01, 0), round(tokens) BETWEEN -90 AND -80, blocked_until > now() FROM rate_limit_status WHERE key = 'stays'"), 'f|t|t', 'table: neither a block nor debt is cleaned away');
$node->restart;
is($sql->("SELECT rl_consume('stays', 10, 0.01, 0), round(tokens) BETWEEN -90 AND -80, blocked_until > now() FROM rate_limit_status WHERE key = 'stays'"), 'f|t|t', 'table: ... nor does a restart end them');

# The same server with shared memory from now on: rows from before are noticed.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ratelimit'\nratelimit.shared_memory = on\nratelimit.max_buckets = 16\nratelimit.flush_interval = 1s");
$node->restart;
is($sql->("SELECT rl_consume('stays', 10, 0.01, 0), rl_consume('stays2', 10, 0)"), 'f|t', 'preloaded: blocks in the table are found');
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM _rl_buckets() WHERE key = 'stays' AND blocked_until IS NOT NULL AND store = 'memory'}), 'preloaded: ... and are moved to memory by the worker');
is($sql->("SELECT rl_consume('stays', 10, 0.01, 0), rl_peek('stays', 10, 0.01, 0)::text ~ '^\\(f,10,-8', rl_unblock('stays'), rl_consume('stays', 10, 0.01), rl_consume('stays', 10, 0.01, 0)"), 'f|t|t|f|t', 'preloaded: ... where they hold, as does the debt');
$node->stop;

#
# Between the two: little memory, all full of buckets that never refill
#
$node = start_server('both', conf => 'ratelimit.max_buckets = 16');
$sql->("SELECT rl_block('in memory', '1 hour'), rl_penalize('owing in memory', 10, 0, 15)");
fill_up();
is($sql->("SELECT rl_consume('b', 10, 0.0001, 4), rl_block('b', '1 hour')"), 't|', 'spilled: a key is blocked');
check_denied('spilled', 'b');
is(block_store('b') . ' ' . block_store('in memory'), 'table memory', 'spilled: ... in the table, another in memory');
check_expiry('spilled', 'c');
check_many('spilled', 600);
$sql->("SELECT rl_penalize('owing in memory', 10, 0, 15)");
fill_up();
check_concurrent('spilled', 20);
check_debt('spilled');
is($sql->("SELECT rl_consume('in memory', 10, 0, 0), rl_consume('owing in memory', 10, 0), rl_unblock('nobody'), rl_consume('nobody', 10, 0)"), 'f|f|f|t', 'spilled: those in memory hold');

fill_up();
is($sql->("BEGIN; SELECT rl_block('undone', '1 hour'), rl_consume('undone', 10, 0, 0); ROLLBACK; SELECT rl_consume('undone', 10, 0, 0), rl_unblock('undone')"), "|f\nf|t", 'spilled: a rollback does not end it');

# a read-only transaction obeys blocks, and makes them
$sql->("SELECT rl_block('undone', '1 hour'), rl_penalize('owing', 10, 0, 15)");
is(block_store('undone'), 'table', 'spilled: a block in the table');
is($sql->("BEGIN READ ONLY; SELECT rl_consume('undone', 10, 0, 0), rl_consume('owing', 10, 0), rl_block('made', '1 hour'), rl_consume('made', 10, 0), rl_penalize('owing', 10, 0, 1); COMMIT"), 'f|f||f|-6', 'read only: blocks and debt hold, and are made');
is($sql->("SELECT rl_consume('undone', 10, 0, 0), rl_consume('owing', 10, 0), rl_consume('made', 10, 0), (rl_peek('owing', 10, 0, 0)).remaining"), 'f|f|f|-6', 'read only: ... and stay');

# the worker moves a block to memory once there is room, and it holds all the time
ok($node->poll_query_until('postgres', q{SELECT rl_block('moving', '1 hour') IS NOT NULL AND (SELECT count(*) > 0 FROM _rl_buckets() WHERE key = 'moving' AND blocked_until IS NOT NULL)}), 'a block to be moved');
my $watch = start_clients($node, clients => 4, seconds => 4, script => q{SELECT 1 / (NOT rl_consume('moving', 10, 0, 0))::int;});
$sql->('SELECT rl_reset_all(NULL)');
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM _rl_buckets() WHERE key = 'moving' AND store = 'memory'}), 'moving: to memory');
fill_up();
finish_clients($watch, 'moving: at no time allowed');
is($sql->("SELECT rl_unblock('moving'), rl_unblock('moving'), rl_consume('moving', 10, 0)"), 't|f|t', 'moving: unblocked, in one place only');

# a crash empties the table
$sql->("SELECT rl_reset_all(NULL)");
fill_up();
$sql->("SELECT rl_block('crash', '1 hour')");
is(block_store('crash'), 'table', 'a block in the table');
$node->stop('immediate');
$node->start;
is($sql->("SELECT rl_consume('crash', 10, 0)"), 't', '... ends with a crash');
$node->stop;

#
# Where others give way, blocks do so last
#
$node = start_server('evict', conf => "ratelimit.max_buckets = 256\nratelimit.overflow = evict");
$sql->("SELECT rl_block('blocked ' || i, '1 hour') FROM generate_series(1, 20) i");
is($sql->("SELECT count(*) FILTER (WHERE rl_consume('spray ' || i, 1e6, 0.0001, 9e5)) FROM generate_series(1, 20000) i"), 20000, 'evict: a spray of keys, all of them far from full');
is($sql->("SELECT count(*) FILTER (WHERE rl_consume('blocked ' || i, 10, 0)) FROM generate_series(1, 20) i"), 0, 'evict: ... does not end a block');
cmp_ok($sql->('SELECT sum(evicted) FROM rl_partitions()'), '>', 10000, 'evict: ... others give way');
$node->stop;
done_testing();
