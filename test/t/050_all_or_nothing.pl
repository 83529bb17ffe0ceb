# rl_consume_all() takes from all of its buckets or from none, whatever many
# connections do at once, in whatever order they name the keys, in shared memory,
# in the table and with buckets in both; nobody deadlocks.
#
# RATELIMIT_FULL=1 for the whole load: 1 million calls in memory, 400,000 in the
# table and as many between the two.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};
my $clients = 16;

# The load.  Costs are multiples of 1/4, so sums are exact.  Every bucket has
# another capacity, so that they run dry one after the other.  Each call is a
# transaction; what it took is noted by who made it.
my $load = <<'SQL';
CREATE UNLOGGED TABLE taken (n int, tokens numeric, allowed bigint, denied bigint);
CREATE PROCEDURE make_calls(calls int, load float8) LANGUAGE plpgsql AS $$
DECLARE
	ns int[];
	costs float8[];
	keys text[];
	capacities float8[];
	refills float8[];
	allowed boolean;
	taken numeric[] := array_fill(0, ARRAY[20]);
	n_allowed int := 0;
BEGIN
	FOR i IN 1 .. calls LOOP
		-- up to 8 of 20, in any order, some of them twice
		SELECT array_agg(n), array_agg('bucket ' || n), array_agg(load * (0.02 + 0.02 * n)), array_agg(0), array_agg(cost)
		INTO ns, keys, capacities, refills, costs
		FROM (SELECT 1 + floor(random() * 20)::int AS n, ceil(random() * 8) / 4 AS cost
			FROM generate_series(1, 1 + floor(random() * 8)::int)) s;
		IF i % 4 = 0 THEN
			allowed := rl_consume(keys[1], capacities[1], 0, costs[1]);
			IF allowed THEN
				taken[ns[1]] := taken[ns[1]] + costs[1];
			END IF;
		ELSE
			allowed := rl_consume_all(keys, capacities, refills, costs);
			FOR j IN 1 .. cardinality(ns) LOOP
				EXIT WHEN NOT allowed;
				taken[ns[j]] := taken[ns[j]] + costs[j];
			END LOOP;
		END IF;
		n_allowed := n_allowed + allowed::int;
		COMMIT;
	END LOOP;
	INSERT INTO taken SELECT n, taken[n] FROM generate_series(1, 20) n;
	INSERT INTO taken VALUES (0, 0, n_allowed, calls - n_allowed);
END $$;
SQL

# What buckets and callers disagree about.
my $difference = <<'SQL';
SELECT key, s.capacity - s.tokens AS by_bucket, t.tokens AS by_callers
FROM (SELECT 'bucket ' || n AS key, sum(tokens) AS tokens FROM taken WHERE n > 0 GROUP BY n) t
LEFT JOIN rate_limit_status s USING (key)
WHERE (s.capacity - s.tokens)::numeric <> t.tokens OR s.key IS NULL;
SQL

sub check_load
{
	my ($node, $name, $calls, $seconds) = @_;
	my ($allowed, $denied) = split /\|/,
	  $node->safe_psql('postgres', 'SELECT sum(allowed), sum(denied) FROM taken');

	is($allowed + $denied, $calls, "$name: every call was made");
	cmp_ok($allowed, '>', $calls / 20, "$name: $allowed were allowed");
	cmp_ok($denied, '>', $calls / 20, "$name: $denied were denied");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM taken WHERE n > 0 GROUP BY n) t'), 20, "$name: of 20 buckets");
	is($node->safe_psql('postgres', $difference), '', "$name: what each bucket gave is the sum of the allowed calls' costs");
	is($node->safe_psql('postgres', 'SELECT key FROM rate_limit_status WHERE tokens < 0'), '', "$name: no bucket gave more than it had");
	is(twice_living($node), '', "$name: no bucket is in both stores");
	my $log = slurp_file($node->logfile);
	unlike($log, qr/deadlock detected/, "$name: nobody deadlocked");
	note sprintf '%s: %d calls, %d allowed, %d denied, %.1f s', $name, $calls, $allowed, $denied, $seconds;
	$node->safe_psql('postgres', 'TRUNCATE taken');
	return;
}

sub run_load
{
	my ($node, $name, $calls) = @_;

	return run_clients(
		$node, $name,
		clients => $clients,
		transactions => 1,
		script => 'CALL make_calls(' . $calls / $clients . ", $calls)");
}

# As text: all there is to know of all buckets.
my $state = q{SELECT limiter, key, tokens, capacity, refill, blocked_until IS NOT NULL, store FROM rate_limit_status WHERE key !~ '^fill' ORDER BY limiter, key};

sub violations
{
	my ($node) = @_;
	my $violations = $node->safe_psql('postgres', <<'SQL');
SELECT string_agg(limiter || '/' || key || '=' || n, ' ' ORDER BY limiter, key)
FROM (SELECT limiter, key, sum(count) AS n
	FROM (SELECT limiter, key, count FROM rate_limit_violation_details
		UNION ALL SELECT limiter, key, count FROM rate_limit_pending) v
	GROUP BY limiter, key) s
SQL
	$node->safe_psql('postgres', 'SELECT rl_flush(); TRUNCATE rate_limit_violations');
	return $violations;
}

# One call after the other.  memory1 and memory2 are in shared memory if there is
# any, table1 and table2 in the table, unless all are in shared memory.
sub check_calls
{
	my ($node, $name) = @_;
	my $sql = sub { return $node->safe_psql('postgres', $_[0]); };
	my $all = sub {
		my ($keys, $capacities, $costs, $more) = @_;
		my $n = () = $keys =~ /,/g;
		my $zeros = join ',', (0) x ($n + 1);

		return $sql->("SELECT rl_consume_all('{$keys}', '{$capacities}', '{$zeros}', '{$costs}'" . ($more // '') . ')');
	};
	my $before;

	violations($node);
	is($sql->(q{SELECT string_agg(key || ' ' || tokens, ', ' ORDER BY key) FROM rate_limit_status WHERE key ~ '^(memory|table)'}),
		'memory1 9, memory2 9, table1 9, table2 9', "$name: four buckets");

	is($all->('memory1,table1,table2,memory2', '10,10,10,10', '1,2,3,4'), 't', "$name: all have what it costs");
	is($sql->(q{SELECT string_agg(key || ' ' || tokens, ', ' ORDER BY key) FROM rate_limit_status WHERE key ~ '^(memory|table)'}),
		'memory1 8, memory2 5, table1 7, table2 6', "$name: ... and pay");
	is(violations($node), '', "$name: ... without a violation");

	# denied: nothing changes, only those that refused have a violation
	$before = $sql->($state);
	foreach (
		[ 'memory1,table1,table2,memory2', '1,1,1,5.25', 'memory2' ],
		[ 'memory2,table2,table1,memory1', '1,6.25,1,1', 'table2' ],
		[ 'table1,memory1', '7.25,8.25', 'memory1 table1' ],
		[ 'table2,table1,new', '7,1,1', 'table2' ],
		[ 'memory1,new,table1', '1,11,1', 'new' ],
		[ 'table1,new,another', '1,11,12', 'another new' ])
	{
		my ($keys, $costs, $refused) = @$_;
		my $n = () = $keys =~ /,/g;

		is($all->($keys, join(',', (10) x ($n + 1)), $costs), 'f', "$name: {$keys} do not have {$costs}");
		is($sql->($state), $before, "$name: ... and stay as they were");
		is(violations($node), join(' ', map { "default/$_=1" } split / /, $refused), "$name: ... of which $refused refused");
	}
	# also its parameters
	is($all->('memory1,table1', '20,30', '10,1'), 'f', "$name: denied with other capacities");
	is($sql->($state), $before, "$name: ... changes nothing either");
	violations($node);
	is($all->('memory1,table1', '12,3', '1,1'), 't', "$name: allowed with other capacities");
	is($sql->("SELECT tokens, capacity FROM rate_limit_status WHERE key IN ('memory1', 'table1') ORDER BY key"), "7|12\n2|3", "$name: ... takes them");

	# twice
	is($all->('memory1,table1,memory1', '12,3,12', '4,1,4'), 'f', "$name: a key named twice has to pay both");
	is(violations($node), 'default/memory1=1', "$name: ... which is one refusal");
	is($all->('table1,memory1,table1', '3,12,3', '1,1,2'), 'f', "$name: likewise");
	is(violations($node), 'default/table1=1', "$name: ... one refusal");
	is($all->('memory1,table1,memory1,table1,table1', '12,3,12,3,3', '3,1,4,0.5,0.5'), 't', "$name: as it can");
	is($sql->("SELECT tokens FROM rate_limit_status WHERE key IN ('memory1', 'table1') ORDER BY key"), "0\n0", "$name: ... it pays both");
	is($all->('decimal,decimal', '0.3,0.3', '0.1,0.2'), 't', "$name: 0.1 and 0.2 are 0.3");
	is($sql->("SELECT rl_consume_all('{k,k,k}', '{1,2,3}', '{0,0,0}', NULL, '{x,y,z}'), rl_consume_all('{k,k,k}', '{1,2,3}', '{0,0,0}', NULL, '{x,y,z}')"),
		't|f', "$name: one key of three limiters is three buckets");
	is($sql->("SELECT string_agg(limiter || tokens, ' ' ORDER BY limiter) FROM rate_limit_status WHERE key = 'k'"), 'x0 y1 z2', "$name: ... as can be seen");
	is(violations($node), 'x/k=1', "$name: ... and the one that refused");

	# how many
	is($sql->("SELECT rl_consume_all('{}', '{}', '{}')"), 't', "$name: none have all");
	is($sql->("SELECT rl_consume_all(array_agg('of64 ' || i), array_agg(2), array_agg(0)) FROM generate_series(1, 64) i"), 't', "$name: 64 at once");
	is($sql->("SELECT count(*), min(tokens), max(tokens) FROM rate_limit_status WHERE key ~ '^of64'"), '64|1|1', "$name: ... each has paid");
	$before = $sql->($state);
	foreach (
		[ q{SELECT rl_consume_all(array_agg('of65 ' || i), array_agg(2), array_agg(0)) FROM generate_series(1, 65) i}, qr/keys must not have more than 64 elements, not 65/ ],
		[ q{SELECT rl_consume_all('{memory2,table2}', '{10,NaN}', '{0,0}')}, qr/capacity must be a finite number not below 0, not NaN/ ],
		[ q{SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,-1}')}, qr/cost must be a finite number not below 0, not -1/ ],
		[ q{SELECT rl_consume_all('{memory2,NULL}', '{10,10}', '{0,0}')}, qr/keys\[2\] must not be null/ ],
		[ q{SELECT rl_consume_all('{memory2,table2}', '{10}', '{0,0}')}, qr/capacities must have an element for each of 2 keys, not 1/ ],
		[ q{SELECT rl_consume_all('{memory2,memory2}', '{10,11}', '{0,0}')}, qr/must not be given twice with different capacities/ ],
		[ q{SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', NULL, '{a,b:c}')}, qr/limiter must not contain ":"/ ])
	{
		my ($rc, $out, $err) = $node->psql('postgres', $_->[0]);

		like($err, $_->[1], "$name: an error: $_->[0]");
		is($sql->($state), $before, "$name: ... changes nothing");
	}
	is(violations($node), '', "$name: errors are no violations");

	# blocked
	$sql->("SELECT rl_block('table2', '1 hour')");
	$before = $sql->($state);
	is($all->('memory2,table2', '10,10', '1,0'), 'f', "$name: one key is blocked, so all are denied");
	is($all->('table2,memory2', '10,10', '1,9'), 'f', "$name: likewise");
	is($sql->($state), $before, "$name: ... and nothing is taken");
	is(violations($node), 'default/memory2=1 default/table2=2', "$name: ... violations of those that refused");
	$sql->("SELECT rl_unblock('table2')");

	# settings
	is($sql->("SET ratelimit.shadow = on; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{99,1}')"), 't', "$name: in shadow mode ...");
	is($sql->("SELECT key, tokens FROM rate_limit_status WHERE key IN ('memory2', 'table2') ORDER BY key"), "memory2|5\ntable2|6", "$name: ... a denied call takes nothing");
	is(violations($node), 'default/memory2=1', "$name: ... but is recorded");
	is($sql->("SET ratelimit.enabled = off; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{99,1}')"), 't', "$name: disabled ...");
	is($sql->("SELECT key, tokens FROM rate_limit_status WHERE key IN ('memory2', 'table2') ORDER BY key"), "memory2|5\ntable2|6", "$name: ... takes nothing");
	is(violations($node), '', "$name: ... and records nothing");
	return;
}

#
# In shared memory
#
# violations stay where they are until we look
my $node = start_server('memory', conf => "ratelimit.flush_interval = '1h'");
my $sql = sub { return $node->safe_psql('postgres', $_[0]); };
$sql->("SELECT rl_consume(k, 10, 0) FROM unnest('{memory1,memory2,table1,table2}'::text[]) k");
check_calls($node, 'memory');
is($sql->("SELECT count(*) FROM rate_limit_status WHERE store <> 'memory'"), 0, 'memory: no bucket anywhere else');
is($sql->("BEGIN READ ONLY; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,1}'), rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,6}'); COMMIT"),
	't|f', 'memory: in a read-only transaction, too');
is($sql->("SELECT tokens FROM rate_limit_status WHERE key IN ('memory2', 'table2') ORDER BY key"), "4\n5", 'memory: ... with the same result');
is($sql->("BEGIN; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,1}'); ROLLBACK; SELECT string_agg(tokens::text, ' ' ORDER BY key) FROM rate_limit_status WHERE key IN ('memory2', 'table2')"),
	"t\n3 4", 'memory: not undone by a rollback') or diag $sql->($state);
$sql->('SELECT rl_reset_all(NULL)');

$sql->($load);
my $calls = $full ? 1_000_000 : 80_000;
my $seconds = run_load($node, 'memory', $calls);
is($sql->("SELECT count(*) FROM rate_limit_status WHERE store <> 'memory'"), 0, 'memory: no bucket anywhere else');
check_load($node, 'memory', $calls, $seconds);

# First use by many at once: about 16 calls on buckets that do not exist yet, with
# long keys among them, each call on all buckets of its round.
my $first = <<'SQL';
CREATE SEQUENCE calls;
CREATE UNLOGGED TABLE rounds (round int, allowed boolean);
CREATE FUNCTION first_use(buckets int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO rounds
	SELECT round, rl_consume_all(array_agg(key ORDER BY random()), array_agg(7), array_agg(0))
	FROM (SELECT round, 'round ' || round || ' ' || CASE WHEN i % 3 = 0 THEN rpad(i::text, 242, 'x') ELSE i::text END AS key
		FROM (SELECT nextval('calls')::int / 16 AS round OFFSET 0) r, generate_series(1, buckets) i OFFSET 0) k
	GROUP BY round
$$;
SQL
my $first_difference = <<'SQL';
SELECT round, least(7, n), allowed, given FROM
	(SELECT round, count(*) AS n, count(*) FILTER (WHERE allowed) AS allowed FROM rounds GROUP BY round) r
	JOIN LATERAL (SELECT string_agg(DISTINCT (capacity - tokens)::text, ' ') AS given, count(*) AS n_given
		FROM rate_limit_status WHERE key ~ ('^round ' || round || ' ')) b ON true
WHERE allowed <> least(7, n) OR given <> allowed::text OR n_given <> 12 LIMIT 5
SQL
$sql->($first);
run_clients($node, 'memory: first use', clients => $clients,
	transactions => $full ? 600 : 60, script => 'SELECT first_use(12);');
is($sql->($first_difference), '', 'memory: all of those who use a bucket first have what it has, no more');
is($sql->(q{SELECT max(octet_length(key)) BETWEEN 250 AND 255 FROM rate_limit_status}), 't', '... long keys among them');
$node->stop;

#
# Little shared memory, where others give way
#
$node = start_server('evict', conf => "ratelimit.max_buckets = 64\nratelimit.overflow = evict");
$sql->($first);
run_clients($node, 'evict: first use', clients => $clients,
	transactions => $full ? 600 : 60, script => 'SELECT first_use(6);');
is($sql->('SELECT count(*) FROM rounds WHERE allowed') > 0, 1, 'evict: calls are allowed');
is( $sql->('SELECT count(*) FROM (SELECT FROM rounds GROUP BY round HAVING count(*) FILTER (WHERE allowed) < least(7, count(*))) r'), 0,
	'evict: nobody has less than his due');
is($sql->("SELECT count(*) FROM rate_limit_status WHERE store = 'table'"), 0, 'evict: no bucket in the table');
cmp_ok($sql->('SELECT sum(evicted) FROM rl_partitions()'), '>', 0, 'evict: buckets gave way');
is($sql->("SELECT rl_consume_all('{a,b}', '{2,2}', '{0,0}', '{2,1}'), rl_consume_all('{a,b}', '{2,2}', '{0,0}', '{1,1}')"), 't|f', 'evict: decisions are as ever');
my ($rc, $out, $err) = $node->psql('postgres',
	"SELECT rl_consume_all(array_agg(rpad(i::text, 255, 'x')), array_agg(1), array_agg(0)) FROM generate_series(1, 64) i");
like($err, qr/shared memory has no room for 64 buckets at once/, 'evict: more at once than there is room for is an error');
is($sql->("SELECT count(*) FROM rate_limit_status WHERE key ~ 'xxx' AND limiter = 'default' AND key !~ 'round'"), 0, 'evict: ... that makes no bucket');
is($sql->("SELECT rl_consume_all('{c,d}', '{2,2}', '{0,0}')"), 't', 'evict: ... and leaves nothing locked');
$node->stop;

#
# In the table
#
$node = start_server('table', preload => 0);
$sql->("SELECT rl_consume(k, 10, 0) FROM unnest('{memory1,memory2,table1,table2}'::text[]) k");
check_calls($node, 'table');
is($sql->("BEGIN; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,1}'); ROLLBACK; SELECT string_agg(tokens::text, ' ' ORDER BY key) FROM rate_limit_status WHERE key IN ('memory2', 'table2')"),
	"t\n4 5", 'table: not undone by a rollback');
is($sql->("BEGIN READ ONLY; SELECT rl_consume_all('{memory2,table2,new}', '{10,10,1}', '{0,0,0}'), rl_consume_all('{memory2,new}', '{10,1}', '{0,0}'); ROLLBACK; SELECT string_agg(tokens::text, ' ' ORDER BY key) FROM rate_limit_status WHERE key IN ('memory2', 'table2', 'new')"),
	"t|f\n3 0 4", 'table: in a read-only transaction');
$sql->('SELECT rl_reset_all(NULL)');
$sql->($load);
$calls = $full ? 400_000 : 12_800;
$seconds = run_load($node, 'table', $calls);
check_load($node, 'table', $calls, $seconds);
$sql->($first);
run_clients($node, 'table: first use', clients => $clients,
	transactions => $full ? 300 : 20, script => 'SELECT first_use(12);');
is($sql->($first_difference), '', 'table: all of those who use a bucket first have what it has, no more');
$node->stop;

#
# In both
#
$node = start_server('both', conf => "ratelimit.max_buckets = 16\nratelimit.flush_interval = '1h'");
$sql->("SELECT rl_consume(k, 10, 0) FROM unnest('{memory1,memory2}'::text[]) k; SELECT rl_consume('filling' || i, 1000, 0) FROM generate_series(1, 14) i");
is($sql->("SELECT count(*), min(store), max(store) FROM rate_limit_status"), '16|memory|memory', 'both: memory is full');
is($sql->("SELECT rl_consume_all('{filling1,overflowing}', '{1000,10}', '{0,0}')"), 't', 'both: one more bucket, together with one that is there');
is(join(' ', map { store_of($node, $_) } 'filling1', 'overflowing'), 'memory table', 'both: ... in both stores');
fill_until_spilled($node, 'filling', 1000, 0);
$sql->("SELECT rl_consume(k, 10, 0) FROM unnest('{table1,table2}'::text[]) k");
is($sql->("SELECT string_agg(key, ' ' ORDER BY key) FROM rate_limit_status WHERE store = 'memory' AND key !~ '^fill'"), 'memory1 memory2', 'both: two in memory');
check_calls($node, 'both');
is($sql->("SELECT store, count(*) > 0 FROM rate_limit_status GROUP BY store ORDER BY store"), "memory|t\ntable|t", 'both: buckets in both stores');
is($sql->("BEGIN; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,1}'); ROLLBACK; SELECT string_agg(tokens::text, ' ' ORDER BY key) FROM rate_limit_status WHERE key IN ('memory2', 'table2')"),
	"t\n4 5", 'both: not undone by a rollback');

# an error while waiting for a row leaves shared memory as it was
my $locker = in_session($node);
my $before = $sql->($state);
$locker->query_safe("BEGIN; UPDATE rate_limit_buckets SET owed = owed + 100000000000000000 WHERE key = 'table2'");
($rc, $out, $err) = $node->psql('postgres', "SET lock_timeout = 100; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}')");
like($err, qr/canceling statement due to lock timeout/, 'both: a lock timeout');
($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = 100; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}')");
like($err, qr/canceling statement due to statement timeout/, 'both: a statement timeout');
my $in_table = q{SELECT decided_in_table FROM rate_limit_stats WHERE limiter = 'default'};
my $decided = $sql->($in_table);
is($sql->("SET ratelimit.on_error = allow; SET client_min_messages = error; SET lock_timeout = 100; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}')"), 't', 'both: a lock timeout with ratelimit.on_error');
is($sql->($in_table), $decided, 'both: ... is no decision in the table');
is(violations($node), '', 'both: ... are no violations');
$locker->query_safe('ROLLBACK');
is($sql->($state), $before, 'both: ... and take nothing');
# a snapshot, a savepoint, a rollback: none of them matters
$locker->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
is($sql->("SELECT rl_consume('table2', 10, 0)"), 't', 'both: a row changes');
is($locker->query_safe("SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,5}')"), 'f', 'both: ... as a transaction with an older snapshot finds');
$locker->query_safe('SAVEPOINT s');
is($locker->query_safe("SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,1}')"), 't', 'both: in a savepoint');
$locker->query_safe('ROLLBACK TO s; ROLLBACK');
is($sql->("SELECT key, tokens, store FROM rate_limit_status WHERE key IN ('memory2', 'table2') ORDER BY key"), "memory2|3|memory\ntable2|3|table", 'both: ... nothing is undone');
is(violations($node), 'default/table2=1', 'both: ... and a violation');
finish_session($locker);

is($sql->("BEGIN READ ONLY; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,5}'), rl_consume_all('{table2,memory2}', '{10,10}', '{0,0}', '{1,1}'); COMMIT"),
	'f|t', 'both: in a read-only transaction');
is($sql->("SELECT key, tokens, store FROM rate_limit_status WHERE key IN ('memory2', 'table2') ORDER BY key"), "memory2|2|memory\ntable2|2|table", 'both: ... where they are');
is(violations($node), 'default/table2=1', 'both: ... and a violation');

# ... but not those of the call, even if they are nearer to full than all others
$sql->("SELECT rl_reset_all(NULL); ALTER SYSTEM SET ratelimit.flush_interval = '1s'");
$node->reload;
ok(wait_until_nothing_spilled($node), 'both: empty');
$sql->("ALTER SYSTEM SET ratelimit.flush_interval = '1h'");
$node->reload;
$sql->("SELECT rl_consume('memory2', 10, 0, 8)");
fill_until_spilled($node, 'filling', 1, 0);
$sql->("SELECT rl_consume('table2', 10, 0, 6)");
is($sql->("BEGIN READ ONLY; SELECT rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{1,5}'), rl_consume_all('{table2,memory2}', '{10,10}', '{0,0}', '{4,3}'), rl_consume_all('{memory2,table2}', '{10,10}', '{0,0}', '{2,4}'); COMMIT"),
	'f|f|t', 'both: in a read-only transaction with memory full of buckets that are empty');
is($sql->("SELECT key, tokens FROM rate_limit_status WHERE key IN ('memory2', 'table2') ORDER BY key"), "memory2|0\ntable2|0", 'both: ... of which neither gives way to the other');

# The load, on buckets of which some are in memory; meanwhile room is made there,
# so that the worker moves others.
$sql->("ALTER SYSTEM SET ratelimit.flush_interval = '1s'");
$node->reload;
$sql->('SELECT rl_reset_all(NULL)');
ok(wait_until_nothing_spilled($node), 'both: empty');
$calls = $full ? 400_000 : 12_800;
$sql->($load);
$sql->("SELECT rl_consume('bucket ' || n, $calls * (0.02 + 0.02 * n), 0, 0.25) FROM generate_series(1, 5) n");
fill_until_spilled($node, 'filling', 1, 0);
$sql->('INSERT INTO taken SELECT n, 0.25 FROM generate_series(1, 5) n');
my $run = start_clients($node, clients => $clients, transactions => 1,
	script => 'CALL make_calls(' . $calls / $clients . ", $calls)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 20 FROM rate_limit_status WHERE key ~ '^bucket'"), 'both: the load begins');
is($sql->("SELECT count(*) FILTER (WHERE store = 'memory'), count(*) FILTER (WHERE store = 'table') FROM rate_limit_status WHERE key ~ '^bucket'"), '5|15', 'both: five buckets in memory');
foreach my $n (1 .. 5)
{
	is($sql->("SELECT rl_reset(key) FROM rate_limit_status WHERE key ~ '^fill' AND store = 'memory' LIMIT 1"), 't', 'both: room for a bucket');
	$node->poll_query_until('postgres', "SELECT count(*) >= 16 FROM rate_limit_status WHERE store = 'memory'") or die 'nothing is moved';
}
$seconds = finish_clients($run, 'both');
is($sql->("SELECT count(*) FILTER (WHERE store = 'memory') > 5 FROM rate_limit_status WHERE key ~ '^bucket'"), 't', 'both: buckets were moved to memory');
check_load($node, 'both', $calls, $seconds);

$sql->('SELECT rl_reset_all(NULL)');
$sql->($first);
run_clients($node, 'both: first use', clients => $clients,
	transactions => $full ? 300 : 20, script => 'SELECT first_use(12);');
is($sql->($first_difference), '', 'both: all of those who use a bucket first have what it has, no more');
is(twice_living($node), '', 'both: no bucket is in both stores');
$node->stop;
done_testing();
