# REINDEX, VACUUM FULL, CLUSTER, ALTER TABLE, SET SCHEMA and so on while calls run:
# no call fails, no bucket admits more or less than it holds, no violation is lost.
# TRUNCATE and DELETE make buckets full, and nothing worse.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my @tables = map { "rate_limit_$_" } qw(buckets policies violations flags);
my $capacity = 60;
my $keys = 8;

# What an operator may do to each table, one command after the other.
my @work = (
	[ 'REINDEX TABLE', map { "REINDEX TABLE $_" } @tables ],
	[ 'REINDEX TABLE CONCURRENTLY', map { "REINDEX TABLE CONCURRENTLY $_" } @tables ],
	[ 'VACUUM FULL', map { "VACUUM FULL $_" } @tables ],
	[ 'VACUUM FREEZE', map { "VACUUM (FREEZE, ANALYZE) $_" } @tables ],
	[ 'CLUSTER', map { "CLUSTER $_ USING ${_}_pkey" } grep { !/flags/ } @tables ],
	[ 'SET LOGGED and back', map { ("ALTER TABLE $_ SET LOGGED", "ALTER TABLE $_ SET UNLOGGED") } @tables ],
	[ 'SET LOGGED', map { "ALTER TABLE $_ SET LOGGED" } @tables[ 1 .. 3 ] ],
	[ 'SET (fillfactor)', map { "ALTER TABLE $_ SET (fillfactor = 60)" } @tables ],
	[ 'CREATE INDEX', map { ("CREATE INDEX more ON rate_limit_$_", 'DROP INDEX more') } 'buckets (key)', 'policies (comment)', 'violations (total_count)', 'flags (rejected)' ],
	[ 'SET SCHEMA', 'ALTER EXTENSION ratelimit SET SCHEMA other', 'ALTER EXTENSION ratelimit SET SCHEMA public' ]);

# Buckets in the table: of which memory holds no more, and without preloading
foreach my $preload (1, 0)
{
	my $here = $preload ? 'spilled' : 'not preloaded';
	my $node = start_server("work_$preload", preload => $preload, conf => 'ratelimit.max_buckets = 16');
	my $query = sub { return $node->safe_psql('postgres', $_[0]) };
	my $denied = 0;

	$query->(<<"SQL");
CREATE SCHEMA other;
ALTER DATABASE postgres SET search_path = public, other;
CREATE TABLE allowed (work text, n int);
-- who gives way in a deadlock is the worker, however slow it is
ALTER DATABASE postgres SET deadlock_timeout = '1 min';
INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 1e6, 0, true);
SELECT count(rl_consume('fill' || i, 1, 0)) FROM generate_series(1, 40) i;
SELECT count(rl_flag('k' || i, 'user', 'x')) FROM generate_series(1, 10) i;
SQL
	# who reads a policy and then a bucket may deadlock with a move of both
	my $script = sub {
		my ($work) = @_;
		my $policy = $work eq 'SET SCHEMA' ? '' : "SELECT rl_consume_policy('p', 'k');\n";
		# who deletes all rows, in any order, may deadlock with who takes from two
		my ($begin, $commit) = $work =~ /DELETE/ ? ('', '') : ('BEGIN;', 'COMMIT;');

		return <<"SCRIPT";
\\set n random(1, $keys / 2)
$begin
INSERT INTO allowed SELECT '$work', :n WHERE rl_consume('$work' || :n, $capacity, 0);
INSERT INTO allowed SELECT '$work', :n + $keys / 2 WHERE rl_consume('$work' || :n + $keys / 2, $capacity, 0);
$commit
$policy
SCRIPT
	};
	my $run = sub {
		my ($work, @commands) = @_;
		my $clients = start_clients($node, clients => 4, transactions => 150, script => $script->($work));

		$node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM allowed WHERE work = '$work')");
		foreach my $command (@commands)
		{
			my ($rc, $out, $err) = $node->psql('postgres', $command);
			is($rc, 0, "$here: $command") or diag($err);
		}
		finish_clients($clients, "$here: $work while calls run");
		$denied += 4 * 150 * 2 - $query->("SELECT count(*) FROM allowed WHERE work = '$work'");
		return;
	};

	#
	# While calls run
	#
	foreach my $work (@work)
	{
		my ($name, @commands) = @$work;

		$run->($name, @commands);
		is($query->("SELECT n, count(*) FROM allowed WHERE work = '$name' GROUP BY n ORDER BY n"),
			join("\n", map { "$_|$capacity" } 1 .. $keys), "$here: $name: exact");
	}
	is(twice_living($node), '', "$here: no bucket is in two places");

	#
	# Whoever waits for the work decides as if it had come before or afterwards
	#
	my $operator = in_session($node);
	my $caller = in_session($node);
	my $someone_waits = <<'SQL';
SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
	WHERE NOT granted AND relation::regclass::text ~ 'rate_limit_buckets$' AND backend_type = 'client backend')
SQL
	my $begin = sub {
		my ($session, $sql) = @_;

		$session->query_until(qr/begun/, "\\echo begun\n$sql;\n");
		ok($node->poll_query_until('postgres', $someone_waits), "$here: waits: $sql");
	};
	my $finish = sub {
		my ($session) = @_;
		my ($out) = $session->query('');

		$out =~ s/^\s+|\s+$//g;
		return $session->{stderr} . $out;
	};
	my %turn;
	my $in_turn = sub { return $_[ $turn{ $_[0] }++ % @_ ] };
	my $key = 0;
	foreach my $work (
		sub { 'ALTER TABLE rate_limit_buckets SET ' . $in_turn->('LOGGED', 'UNLOGGED') },
		sub { 'ALTER TABLE rate_limit_buckets ALTER owed TYPE bigint USING owed + 0' },
		sub { 'LOCK rate_limit_buckets' },
		sub { 'ALTER EXTENSION ratelimit SET SCHEMA ' . $in_turn->('other', 'public') })
	{
		foreach my $transaction ('', $preload ? 'READ ONLY' : ())
		{
			my $call = "SELECT rl_consume('waiting" . ++$key . "', 1, 0)";

			$query->($call);
			foreach my $sql ("SELECT (rl_peek('waiting$key', 1, 0)).allowed", $call)
			{
				my $now = $work->();

				$operator->query_safe("BEGIN; $now");
				$caller->query_safe("BEGIN $transaction");
				$begin->($caller, $sql);
				$operator->query_safe('COMMIT');
				is($finish->($caller), 'f', "$here: ... for $now: exact" . ($transaction && ', read-only'));
				$caller->query_safe('COMMIT');
			}
			$denied++;
		}
	}

	# The worker writes a violation: its table, then the sequence.  SET SCHEMA locks
	# the sequence first.  (Unless the worker gives up before: then there is no wait.)
	if ($preload)
	{
		$query->(<<'SQL');
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(1); RETURN NULL; END$$;
CREATE TRIGGER hold BEFORE INSERT ON rate_limit_violations FOR EACH STATEMENT EXECUTE FUNCTION hold();
SQL
		$caller->query_safe('SELECT pg_advisory_lock(1)');
		$query->("SELECT rl_report('k', 'user', 1)");
		ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND NOT granted AND backend_type = 'ratelimit worker'}), "$here: the worker is writing violations");
		$operator->query_until(qr/begun/, "\\echo begun\nALTER EXTENSION ratelimit SET SCHEMA other;\n");
		$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass('public.rate_limit_violations') AND NOT granted) OR to_regclass('other.rate_limit_violations') IS NOT NULL});
		$caller->query_safe('SELECT pg_advisory_unlock(1)');
		is($finish->($operator), '', "$here: ... and gives way to ALTER EXTENSION SET SCHEMA");
		$query->('ALTER EXTENSION ratelimit SET SCHEMA public; DROP FUNCTION hold CASCADE');
	}

	# a transaction that has looked at its bucket, and then writes it, locks nothing
	foreach my $look ("SELECT (rl_peek('looked at', 1, 0)).allowed", "SELECT rl_consume('not taken', 1, 0, 0)")
	{
		my $call = $look =~ s/.*\('([^']*)'.*/SELECT rl_consume('$1', 1, 0)/r;

		is($caller->query_safe("BEGIN; $look"), 't', "$here: $look");
		$operator->query_safe('REINDEX TABLE rate_limit_buckets');
		is($caller->query("$call; COMMIT"), 't', "$here: ... then a REINDEX does not wait for it, and the transaction goes on");
	}

	#
	# TRUNCATE and DELETE
	#
	foreach my $work ('TRUNCATE rate_limit_buckets', 'DELETE FROM rate_limit_buckets')
	{
		my $call = "SELECT rl_consume('by $work', 2, 0)";

		is($query->("$call; $call; $call; $work; $call; $call; $call"), "t\nt\nf\nt\nt\nf", "$here: $work: the bucket is full, once");
		$denied += 2;

		# two commands: no bucket is full more than three times
		$run->($work, $work, $work);
		is($query->("SELECT count(*) FROM (SELECT FROM allowed WHERE work = '$work' GROUP BY n HAVING count(*) BETWEEN $capacity AND 3 * $capacity) n"),
			$keys, "$here: $work: every bucket admits what it holds, at most once more for each");
		is(twice_living($node), '', "$here: $work: no bucket is in two places");
	}

	#
	# All tables have gone through all that
	#
	is($query->("SELECT count(*) FROM rate_limit_flagged"), 10, "$here: flags are there");
	is($query->("SELECT rl_flag('k1', 'user', 'again'), rl_flag('new', 'user', 'x'), rl_unflag('new', 'user')"), 'f|t|t', "$here: ... and work");
	is($query->("SELECT rl_consume_policy('p', 'k')"), 't', "$here: policies are there");
	# Without shared memory, a transaction that commits waits a second for the table, and
	# then loses its violations, two at most, with a warning.
	my $lost = () = slurp_file($node->logfile) =~ /could not write the transaction's rate limit violations/g;
	$lost *= 2;
	ok( $node->poll_query_until('postgres', "SELECT sum(count) BETWEEN $denied - $lost AND $denied FROM rate_limit_violation_details WHERE limiter = 'default'"),
		"$here: every violation is written, once")
	  or diag("$denied denied, written: " . $query->("SELECT sum(count) FROM rate_limit_violation_details WHERE limiter = 'default'"));
	$query->('TRUNCATE rate_limit_violations');
	$query->("SELECT rl_report('new', 'user', 3)");
	ok( $node->poll_query_until('postgres', q{SELECT string_agg(details::text, '') = '{"new:user": 3}' FROM rate_limit_violations}),
		"$here: emptied, the table of violations is written again");

	finish_session($operator);
	finish_session($caller);

	#
	# A logged table survives a crash
	#
	foreach my $kind ('LOGGED', 'UNLOGGED')
	{
		$query->("ALTER TABLE rate_limit_buckets SET $kind");
		$query->("SELECT count(rl_consume('$kind' || i, 1, 0)) FROM generate_series(1, 40) i");
		is($query->("SELECT rl_consume('crash', 1, 0), rl_consume('crash', 1, 0)"), 't|f', "$here: a bucket in the table, $kind");
		is(store_of($node, 'crash'), 'table', "$here: ... really");
		$node->stop('immediate');
		$node->start;
		is($query->("SELECT rl_consume('crash', 1, 0)"), $kind eq 'LOGGED' ? 'f' : 't', "$here: ... after a crash");
		$query->("SELECT rl_reset('crash')");
	}

	$node->stop;
}

done_testing();
