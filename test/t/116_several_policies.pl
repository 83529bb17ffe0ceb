# rl_consume_policies() takes from all tiers of all its policies or from none, whatever 32
# connections do at once, in whatever order they name policies and keys, in shared memory,
# in the table and with buckets in both; nobody deadlocks.  Its answers say who refused, and
# only these are violated.  Buckets that begin with fewer tokens than their capacity give
# no more than these.  rl_throttle_each() gives each bucket's tokens once.
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
my $clients = 32;

# Policies p1 to p4, of which p2 has three tiers, one in shadow, and each has another
# capacity.  Costs are multiples of 1/4, so sums are exact.  Each call is a transaction;
# what it took is noted by its caller, as are the refusals that it was told.
my $load = <<'SQL';
CREATE UNLOGGED TABLE taken (policy text, key text, tokens numeric);
CREATE UNLOGGED TABLE told (allowed bigint, denied bigint, odd bigint);
CREATE PROCEDURE make_calls(calls int) LANGUAGE plpgsql AS $$
DECLARE
	policies text[];
	keys text[];
	costs float8[];
	answers rl_result[];
	allowed boolean;
	taken jsonb := '{}';
	name text;
	n_allowed int := 0;
	n_odd int := 0;
BEGIN
	FOR i IN 1 .. calls LOOP
		-- up to 5 of 4 policies and 3 keys, in any order, some of them twice
		SELECT array_agg('p' || 1 + floor(random() * 4)), array_agg('key ' || 1 + floor(random() * 3)), array_agg(ceil(random() * 8) / 4)
		INTO policies, keys, costs FROM generate_series(1, 1 + floor(random() * 5)::int);
		IF i % 4 = 0 THEN
			answers := ARRAY[rl_throttle_policy(policies[1], keys[1], costs[1])];
		ELSE
			answers := rl_consume_policies(policies, keys, costs);
			n_odd := n_odd + (cardinality(answers) <> cardinality(keys))::int;
		END IF;
		allowed := (SELECT bool_and(a.allowed) FROM unnest(answers) a);
		n_odd := n_odd + (SELECT count(*) FROM unnest(answers) a WHERE a.remaining < 0 OR a.allowed <> coalesce(a.retry_after = '0', false) OR a.limiter !~ '^p[1-4]');
		FOR j IN 1 .. cardinality(answers) LOOP
			EXIT WHEN NOT allowed;
			name := policies[j] || ' ' || keys[j];
			taken := jsonb_set(taken, ARRAY[name], to_jsonb(coalesce((taken ->> name)::float8, 0) + costs[j]));
		END LOOP;
		n_allowed := n_allowed + allowed::int;
		COMMIT;
	END LOOP;
	INSERT INTO taken SELECT split_part(t.key, ' ', 1), split_part(t.key, ' ', 2) || ' ' || split_part(t.key, ' ', 3), t.value::numeric FROM jsonb_each_text(taken) t;
	INSERT INTO told VALUES (n_allowed, calls - n_allowed, n_odd);
END $$;
SQL

# What buckets and callers disagree about; tiers in shadow give what they have.
my $difference = <<'SQL';
SELECT s.limiter, s.key, s.capacity - s.tokens AS by_bucket, t.tokens AS by_callers
FROM (SELECT policy, key, sum(tokens) AS tokens FROM taken GROUP BY policy, key) t
JOIN rate_limit_policies p USING (policy)
LEFT JOIN rate_limit_status s ON s.key = t.key AND s.limiter = p.policy || CASE WHEN p.tier <> 'default' THEN '/' || p.tier ELSE '' END
WHERE s.key IS NULL OR CASE WHEN p.shadow THEN s.tokens NOT BETWEEN 0 AND 1.75 ELSE (s.capacity - s.tokens)::numeric <> t.tokens END;
SQL

foreach my $name ('memory', 'table', 'both')
{
	my $calls = ($full ? 20 : 1) * ($name eq 'table' ? 3200 : 9600);
	my $node = start_server($name, preload => $name ne 'table', conf => $name eq 'both' ? 'ratelimit.max_buckets = 16' : '');
	my $sql = sub { return $node->safe_psql('postgres', $_[0]); };

	$sql->($load);
	$sql->("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, shadow) SELECT 'p' || n, t, $calls * (0.1 + 0.05 * n), 0, true, false FROM generate_series(1, 4) n, unnest('{default,more}'::text[]) t WHERE t = 'default' OR n = 2");
	$sql->("UPDATE rate_limit_policies SET capacity = capacity * 2 WHERE tier = 'more'; INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, shadow) VALUES ('p2', 'soft', 30, 0, true, true)");
	if ($name eq 'both')
	{
		$sql->("INSERT INTO taken SELECT 'p' || n, 'key 1', 0.25 FROM generate_series(1, 4) n; SELECT rl_consume_policies('{p1,p2,p3,p4}', '{key 1,key 1,key 1,key 1}', '{0.25,0.25,0.25,0.25}')");
		fill_until_spilled($node, 'fill ', 1, 0);
	}
	my $seconds = run_clients($node, $name, clients => $clients, transactions => 1, script => 'CALL make_calls(' . $calls / $clients . ')');
	my ($allowed, $denied, $odd) = split /\|/, $sql->('SELECT sum(allowed), sum(denied), sum(odd) FROM told');

	note sprintf '%s: %d calls, %d allowed, %d denied, %.1f s', $name, $calls, $allowed, $denied, $seconds;
	is($allowed + $denied, $calls, "$name: every call was made");
	cmp_ok($allowed, '>', $calls / 20, "$name: $allowed were allowed");
	cmp_ok($denied, '>', $calls / 20, "$name: $denied were denied");
	is($odd, 0, "$name: every answer makes sense");
	is($sql->('SELECT count(DISTINCT policy || key) FROM taken'), 12, "$name: of four policies and three keys");
	is($sql->($difference), '', "$name: what each tier gave is the sum of the allowed calls' costs");
	is($sql->('SELECT key FROM rate_limit_status WHERE tokens < 0'), '', "$name: no bucket gave more than it had");
	is(twice_living($node), '', "$name: no bucket is in both stores");
	unlike(slurp_file($node->logfile), qr/deadlock detected/, "$name: nobody deadlocked");
	is($sql->("SELECT string_agg(DISTINCT store, ' ' ORDER BY store) FROM rate_limit_status WHERE key ~ '^key'"),
		$name eq 'both' ? 'memory table' : $name, "$name: that is where the buckets are");

	# First use by many at once: about 32 calls on buckets that nobody has made yet
	$sql->("CREATE SEQUENCE calls; INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, initial) VALUES ('first', 'default', 7, 0, true, NULL), ('first', 'also', 19, 0, true, 5), ('second', 'default', 20, 0, true, 15)");
	$sql->(<<'SQL');
CREATE UNLOGGED TABLE rounds (round int, allowed boolean);
CREATE FUNCTION first_use() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	round int := nextval('calls') / 32;
	allowed boolean;
BEGIN
	SELECT bool_and(a.allowed) INTO allowed FROM unnest(CASE WHEN random() < 0.5
		THEN rl_consume_policies(ARRAY['first', 'second', 'first'], ARRAY['round ' || round, 'round ' || round, rpad('round ' || round, 250, 'x')])
		ELSE rl_consume_policies(ARRAY['first', 'first', 'second'], ARRAY[rpad('round ' || round, 250, 'x'), 'round ' || round, 'round ' || round]) END) a;
	INSERT INTO rounds VALUES (round, allowed);
END $$;
SQL
	run_clients($node, "$name: first use", clients => $clients, transactions => $full ? 300 : 20, script => 'SELECT first_use();');
	is( $sql->('SELECT round, count(*), count(*) FILTER (WHERE allowed) FROM rounds GROUP BY round HAVING count(*) FILTER (WHERE allowed) <> least(5, count(*))'),
		'', "$name: those who use buckets first get what these have, no more and no less");

	# Each bucket's tokens once, by a rule a key
	$sql->('CREATE UNLOGGED TABLE each (n int, allowed boolean)');
	run_clients($node, "$name: rl_throttle_each()", clients => $clients, transactions => 5, script => <<'SQL');
INSERT INTO each SELECT a.n, a.allowed FROM unnest(rl_throttle_each('{each 1,each 2,each 3,each 4}', '{20,40,60,80}', '{0,0,0,0}', '{0.5,1,1,1}', '{x,x,y,x}'))
	WITH ORDINALITY a (allowed, capacity, remaining, retry_after, reset_after, limiter, shadowed, period, n);
SQL
	is($sql->('SELECT n, count(*), count(*) FILTER (WHERE allowed) FROM each GROUP BY n ORDER BY n'),
		"1|160|40\n2|160|40\n3|160|60\n4|160|80", "$name: rl_throttle_each() gives each bucket's tokens once");

	# A bucket that began lives on; one that is new begins, also if it is denied
	my $look = "SELECT remaining FROM unnest('{old,denied,new}'::text[]) WITH ORDINALITY k (key, n), rl_throttle_policy('second', key, 0) ORDER BY n";

	$sql->("SELECT rl_consume_policy('second', 'old', 4), rl_consume_policy('second', 'denied', 16)");
	$node->restart if $name ne 'table';
	is($sql->($look), "11\n15\n15", "$name: buckets that begin with some tokens, saved and restored");

	# Without a worker, calls of several tiers delete the rows of full buckets, too
	if ($name eq 'table')
	{
		$sql->("INSERT INTO rate_limit_policies (policy, tier, capacity, refill) VALUES ('quick', 'default', 1, 1e9), ('quick', 'more', 1, 1e9)");
		$sql->("SELECT count(rl_consume_policy('quick', 'full again ' || i)) FROM generate_series(1, 1000) i");
		cmp_ok($sql->("SELECT count(*) FROM rate_limit_buckets WHERE key ~ '^full'"), '<', 500, 'rows of full buckets are deleted');
	}
	$node->stop;
}
done_testing();
