# What has been used in a period is kept over a restart, a crash and a move between the
# stores, and forgotten when the period is over, also while the server is down.  A clock
# that is set back does not bring an allowance back, and one that was wrong by years does
# not withhold it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;

use constant HOUR => 3600 * 1_000_000;

my $node = start_server('kept', conf => <<'CONF');
ratelimit.max_buckets = 1024
ratelimit.save_interval = 0
CONF
my ($seam, %seam) = preload_seam($node);
my $offset = 0;
$node->stop;
start();

sub start
{
	local %ENV = (%ENV, %seam);

	$node->start;
	return;
}

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

sub move_clock
{
	$offset += int($_[0] * HOUR);
	set_seam($seam, clock_us => $offset);
	return;
}

sub used
{
	my ($key, $period) = @_;

	return query("SELECT hits FROM rl_count('$key', '" . ($period // 'hour') . "', 0)");
}

# half past the hour
move_clock((1800 - query('SELECT extract(epoch FROM clock_timestamp())') % 3600) / 3600);

#
# Restarts
#
query("SELECT rl_consume_period('a', 10, 'hour', 7), rl_count('b', '2 hours', 2.5), rl_consume_period('long' || repeat('k', 250), 10, 'hour America/Argentina/Buenos_Aires', 3)");
$node->stop;
start();
is(used('a') . ' ' . used('b', '2 hours'), '7 2.5', 'a restart');
is(used('long'), '0', 'a name that is not there');
is(used('long' . 'k' x 250, 'hour America/Argentina/Buenos_Aires'), '3', 'a long name');
query("SELECT rl_consume_period('a', 10, 'hour', 2)");
$node->stop('immediate');
start();
is(used('a'), '7', 'a crash: as it was saved last');
$node->stop;
move_clock(1);
start();
is(used('a'), '0', 'the hour ends while the server is down');
is(query("SELECT rl_consume_period('a', 10, 'hour', 10)"), 't', '... and all is there');

#
# The clock is set back over the beginning of an hour
#
move_clock(-1);
is(query("SELECT rl_consume_period('a', 10, 'hour')"), 'f', 'an hour back: not again');
is(query("SELECT reset_after BETWEEN '80 min' AND '95 min', retry_after = reset_after FROM rl_throttle_period('a', 10, 'hour')"), 't|t', '... until the later hour ends');
is(query("SELECT resets_at - clock_timestamp() BETWEEN '80 min' AND '95 min', hits FROM rl_count('a', 'hour')"), 't|11', '... in which rl_count() counts');
$node->stop;
start();
is(used('a'), '11', '... also after a restart');
move_clock(1);
is(used('a'), '11', 'and right again');
move_clock(1);
is(used('a'), '0', 'the next hour');

#
# The clock was wrong by years
#
foreach my $years (1, 20)
{
	move_clock(24 * 365 * $years);
	query("SELECT rl_consume_period('wrong', 10, 'hour', 10), rl_consume_period('wrong', 10, 'day', 4)");
	move_clock(-24 * 365 * $years);
	is(query("SELECT rl_consume_period('wrong', 10, 'hour')"), 'f', "$years years ahead, and right again: what was used counts now");
	is(query("SELECT reset_after < '1 h' FROM rl_throttle_period('wrong', 10, 'hour')"), 't', '... in this hour');
	is(query("SELECT rl_consume_period('wrong', 10, 'day', 6), rl_consume_period('wrong', 10, 'day')"), 't|f', '... and this day');
	move_clock(24);
	is(query("SELECT rl_consume_period('wrong', 10, 'hour', 10), rl_consume_period('wrong', 10, 'day', 10)"), 't|t', '... and not in the next');
	move_clock(24);
}

#
# Slots are free again when the period is over
#
foreach my $hour (1 .. 8)
{
	query("SELECT count(rl_consume_period('key' || i, 5, 'hour')) FROM generate_series(1, 400) i");
	query("SELECT count(rl_consume_period('hour $hour, key' || i, 5, 'hour')) FROM generate_series(1, 400) i");
	move_clock(1);
}
is(query('SELECT count(*) FILTER (WHERE spilled), sum(evicted), sum(living) FROM rl_partitions()'), '0|0|0', '6,400 buckets had room in 1,024 slots, one hour after the other');
is(query("SELECT count(*) FROM rate_limit_status WHERE period = 'hour'"), '0', 'what is over is not shown');

#
# A rollback gives back to the period from which it took
#
query("ALTER SYSTEM SET ratelimit.refund_on_rollback = on");
query("SELECT pg_reload_conf()");
$node->poll_query_until('postgres', "SELECT current_setting('ratelimit.refund_on_rollback')::bool");
{
	my $session = in_session($node);

	$session->query_safe("BEGIN; SELECT rl_consume_period('refund', 10, 'hour', 3)");
	is(used('refund'), '3', 'taken, and not yet given back');
	move_clock(1);
	query("SELECT rl_consume_period('refund', 10, 'hour', 2)");
	$session->query_safe("SELECT rl_consume_period('refund', 10, 'hour', 4); ROLLBACK");
	is(used('refund'), '2', 'what was taken in the hour before is not given back to this one');
	finish_session($session);
}
query("ALTER SYSTEM RESET ratelimit.refund_on_rollback");
query("SELECT pg_reload_conf()");

#
# A policy of both kinds
#
query("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, period) VALUES ('p', 'default', 100, 1e-9, NULL), ('p', 'hour', 3, NULL, 'hour'), ('p', 'day', 4, NULL, '24 hours')");
is(query("SELECT string_agg(rl_consume_policy('p', 'u')::text, ' ') FROM generate_series(1, 4)"), 'true true true false', 'a policy: the hour is used up');
is(query("SELECT round((rl_peek('u', 100, 1e-9, 0, 'p')).remaining), (rl_count('u', '24 hours', 0, 'p/day')).hits"), '97|3', '... and denied, nothing is taken from the others');
is(query("SELECT limiter, period, retry_after BETWEEN '20 min' AND '1 h' FROM rl_throttle_policy('p', 'u')"), 'p/hour|01:00:00|t', '... until the hour ends');
move_clock(1);
is(query("SELECT string_agg(rl_consume_policy('p', 'u')::text, ' ') FROM generate_series(1, 2)"), query("SELECT CASE WHEN extract(hour FROM clock_timestamp() AT TIME ZONE 'UTC') = 0 THEN 'true true' ELSE 'true false' END"), 'the next hour, until the day is used up');

#
# A reservation is one of its period, in both stores
#
query("INSERT INTO rate_limit_policies (policy, tier, capacity, period) VALUES ('budget', 'default', 10, 'hour')");
foreach my $store ('memory', 'table')
{
	$node->append_conf('postgresql.conf', "shared_preload_libraries = " . ($store eq 'memory' ? 'ratelimit' : "''") . "\nratelimit.shared_memory = " . ($store eq 'memory' ? 'on' : 'off'));
	$node->stop;
	start();
	my ($number, $later, $other) = split /\|/, query("SELECT rl_reserve_policy('budget', '$store', 6, '1 day'), rl_reserve_policy('budget', '$store', 2, '1 day'), rl_reserve_policy('budget', '$store', 1, '1 day')");
	is(query('SELECT DISTINCT limiter, period, store FROM rate_limit_reservations'), "budget|hour|$store", "$store: reserved in a period");
	$node->stop;
	start();
	is(query("SELECT rl_settle($number, 4), (rl_count('$store', 'hour', 0, 'budget')).hits"), '3|7', "$store: settled in the same period, after a restart");
	move_clock(1);
	is(query("SELECT rl_settle($later, 0), rl_consume_period('$store', 10, 'hour', 3, 'budget'), rl_settle($other, 100)"), '10|t|7', "$store: the period is over: nothing is given back to the next one, nor taken from it");
	is(query("SELECT (rl_count('$store', 'hour', 0, 'budget')).hits"), '3', "$store: ... in which only what was used in it counts");
}
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ratelimit'\nratelimit.shared_memory = on");
$node->stop;
start();

#
# From the table to memory, and back
#
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nratelimit.shared_memory = off");
$node->stop;
start();
query("SELECT rl_consume_period('moves', 10, 'hour', 4), rl_count('moves', '3 hours', 6)");
is(query("SELECT store, tokens, period FROM rate_limit_status WHERE key = 'moves' ORDER BY period"), "table||3 hours\ntable|6|hour", 'in the table');
move_clock(-1);
is(query("SELECT rl_consume_period('moves', 10, 'hour', 7)"), 'f', '... an hour back: not again');
move_clock(1);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ratelimit'\nratelimit.shared_memory = on");
$node->stop;
start();
is(query("SELECT rl_consume_period('moves', 10, 'hour', 7), rl_consume_period('moves', 10, 'hour', 6)"), 'f|t', 'in memory: what was used has come along');
is(used('moves', '3 hours'), '6', '... of both periods');
is(twice_living($node), '', '... and is in one store');

#
# Rows are deleted when the period is over, with and without a worker
#
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nratelimit.shared_memory = off");
$node->stop;
start();
query("SELECT count(rl_consume_period('row' || i, 10, 'hour')) FROM generate_series(1, 1000) i");
move_clock(1);
query("SELECT count(rl_consume_period('next' || i, 10, 'hour')) FROM generate_series(1, 5000) i");
cmp_ok(query("SELECT count(*) FROM rate_limit_buckets WHERE key ~ '^row'"), '<', 1000, 'without a worker, sessions delete rows');
move_clock(1);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ratelimit'\nratelimit.shared_memory = on");
$node->stop;
start();
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_buckets)'), 'the worker deletes them all');

$node->stop;

#
# A standby counts for itself
#
my $primary = start_server('primary', streaming => 1);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
is($standby->safe_psql('postgres', "SELECT rl_consume_period('k', 2, 'year', 2), rl_consume_period('k', 2, 'year'), (rl_peek_period('k', 3, 'year')).remaining, (rl_count('k', 'year', -1)).hits"), 't|f|0|1', 'a standby decides and counts');
is($primary->safe_psql('postgres', "BEGIN READ ONLY; SELECT rl_consume_period('k', 2, 'year', 2), (rl_count('k', 'year')).hits; COMMIT"), 't|3', 'so does the primary, read-only');

done_testing();
