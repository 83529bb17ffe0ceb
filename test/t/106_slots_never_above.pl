# Never more slots are held than there are, and none is lost, while 32 connections
# acquire and release them, for a transaction, a session or an interval, and are
# cancelled and terminated at random; in shared memory and without it.
#
# Who holds slots for its session also holds as many advisory locks, which it takes
# afterwards and releases before.  So the server's list of locks says, whatever the
# extension believes, how many are held.
#
# RATELIMIT_FULL=1 for a million slots acquired and released.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};

my $schema = <<'SQL';
CREATE VIEW locks AS
SELECT classid::bigint AS k, count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND classid IN (1, 2, 3) GROUP BY 1;

-- key number k has 2 * k slots
CREATE FUNCTION work(k int, weight int, hold text, wait interval) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	ticket bigint;
	above bigint;
	got int := 0;
BEGIN
	ticket := rl_acquire('key' || k, 2 * k, weight, hold, wait);
	IF ticket IS NULL THEN
		RETURN 0;
	END IF;
	got := 1;
	IF hold = 'session' THEN
		PERFORM pg_advisory_lock_shared(k, u) FROM generate_series(1, weight) u;
	END IF;
	IF random() < 0.1 THEN
		SELECT n INTO above FROM locks WHERE locks.k = work.k AND n > 2 * locks.k;
		IF above > 0 THEN
			RAISE LOG 'ABOVE: % of key %', above, k;
		END IF;
	END IF;
	IF hold = 'session' THEN
		PERFORM pg_advisory_unlock_shared(k, u) FROM generate_series(1, weight) u;
	END IF;
	-- some are left to the end of their transaction or interval
	IF hold = 'session' OR random() < 0.5 THEN
		PERFORM rl_release(ticket);
	END IF;
	RETURN got;
EXCEPTION
	WHEN query_canceled THEN
		PERFORM pg_advisory_unlock_all();
		PERFORM rl_release(ticket) WHERE ticket IS NOT NULL;
		RETURN got;
END $$;
CREATE FUNCTION work_quickly(n int) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(nullif(ticket, 0))
	FROM generate_series(1, n) i, LATERAL (SELECT coalesce(rl_acquire('key' || 1 + i % 3, 2 * (1 + i % 3), 1, 'session'), 0) AS ticket OFFSET 0) a
	WHERE rl_release(ticket);
$$;
CREATE SEQUENCE acquired;

-- cancel some of the clients, terminate others, and look how many slots are held
CREATE FUNCTION disturb(times int, terminate float8, OUT disturbed int, OUT above int, OUT terminated int) LANGUAGE plpgsql AS $$
DECLARE
	kill boolean;
	victim int;
BEGIN
	disturbed := 0;
	above := 0;
	terminated := 0;
	FOR i IN 1 .. times LOOP
		PERFORM pg_stat_clear_snapshot();
		SELECT pid INTO victim FROM pg_stat_activity
		WHERE query ~ 'acquired' AND pid <> pg_backend_pid() AND state = 'active' ORDER BY random() LIMIT 1;
		IF victim IS NOT NULL THEN
			kill := random() < terminate;
			PERFORM CASE WHEN kill THEN pg_terminate_backend(victim) ELSE pg_cancel_backend(victim) END;
			disturbed := disturbed + 1;
			terminated := terminated + kill::int;
		END IF;
		above := above + (SELECT count(*) FROM locks WHERE n > 2 * k);
		above := above + (SELECT count(*) FROM rate_limit_slots WHERE state = 'held' AND held > slots);
		PERFORM pg_sleep(0.002);
	END LOOP;
END $$;
SQL

my $script = <<'SCRIPT';
\set k random(1, 3)
\set weight random(1, 2)
\set hold random(1, 4)
\set ms random(0, 20)
\set quickly random(1, :pairs)
SELECT setval('acquired', nextval('acquired') + work(:k, :weight, (ARRAY['session', 'session', 'transaction', '5 ms'])[:hold], (:ms || ' ms')::interval));
SELECT setval('acquired', nextval('acquired') + work_quickly(:quickly)::int);
SCRIPT

# How many tickets one role can have.
sub room
{
	my ($node) = @_;

	return $node->safe_psql('postgres', q{SET ratelimit.on_error = deny; SET client_min_messages = error; SELECT count(rl_acquire('room' || i, 1)) FROM generate_series(1, 400) i});
}

foreach my $preload (1, 0)
{
	my $name = $preload ? 'memory' : 'table';
	my $node = start_server($name, preload => $preload, conf => $preload ? 'ratelimit.max_tickets = 100' : '');
	my $room = $preload ? room($node) : 0;
	my $rounds = $preload ? ($full ? 6 : 3) : ($full ? 4 : 1);
	my $above = 0;
	my $disturbed = 0;
	my $looks = 0;

	cmp_ok($room, '>=', 100, 'memory: one role may have as many tickets as the setting says') if $preload;
	$node->safe_psql('postgres', $schema);
	foreach my $round (1 .. $rounds)
	{
		my $run = start_clients(
			$node,
			clients => 32,
			transactions => $preload ? ($full ? 150 : 60) : ($full ? 100 : 20),
			define => { pairs => $preload ? ($full ? 200 : 100) : 1 },
			script => $script);
		my $terminated = 0;

		while ($run->{handle}->pumpable)
		{
			# of 32 clients, half or a few more come to a bad end in a round
			my $rate = $terminated < 16 ? 0.2 : 0;
			my ($some, $more, $gone) = split /\|/, $node->safe_psql('postgres', "SELECT * FROM disturb(10, $rate)");

			$disturbed += $some;
			$above += $more;
			$terminated += $gone;
			$looks += 10;
			$run->{handle}->pump_nb;
		}
		$run->{handle}->finish;
		unlike($run->{output}, qr/PANIC|terminated by signal|server closed the connection unexpectedly(?s:.*)crash/, "$name, round $round: no crash");
	}
	cmp_ok($disturbed, '>', 10, "$name: calls were cancelled and terminated");
	is($above, 0, "$name: never more than there are, in $looks looks");
	unlike(slurp_file($node->logfile), qr/LOG:  ABOVE/, "$name: ... nor seen by those that hold some");
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'}) or die 'clients do not end';
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM rate_limit_slots'), "$name: none is left");
	is($node->safe_psql('postgres', q{SELECT count(rl_acquire('key' || k, 2 * k)) FROM generate_series(1, 3) k, generate_series(1, 7)}), 12, "$name: and all can be acquired");
	is(room($node), $room, 'memory: as many tickets as before') if $preload;
	note "$name: " . $node->safe_psql('postgres', 'SELECT last_value FROM acquired') . " acquired, $disturbed disturbed";
	$node->stop;
}
done_testing();
