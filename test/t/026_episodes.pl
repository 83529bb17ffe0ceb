# The recent window of violations: at most max_episodes, the most recently throttled
# ones, each kept for episode_retention after its last violation.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('episodes');

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

sub wait_for
{
	return $node->poll_query_until('postgres', $_[0]);
}

is(query('SHOW ratelimit.max_episodes'), 200, '200 episodes');

#
# One episode
#
my $before = query('SELECT clock_timestamp()');
query("SELECT rl_consume('one', 1, 0), rl_consume('one', 1, 0)");
my $between = query('SELECT clock_timestamp()');
is(query("SELECT count(*), sum(rejected), bool_and(first_seen BETWEEN '$before' AND '$between' AND last_seen = first_seen) FROM rate_limit_episodes WHERE key = 'one'"),
	'1|1|t', 'the first violation: an episode');
query("SELECT rl_consume('one', 1, 0) FROM generate_series(1, 3)");
query("SELECT rl_report('one', 'default', 10)");
is(query("SELECT count(*), sum(rejected), bool_and(first_seen BETWEEN '$before' AND '$between'), bool_and(last_seen BETWEEN '$between' AND clock_timestamp()) FROM rate_limit_episodes WHERE key = 'one'"),
	'1|14|t|t', 'more of them: first_seen stays, last_seen and rejected grow');
query("SET ratelimit.gateway_name = 'another'; SELECT rl_report('one', 'default', 6), rl_report('one', 'other', 7)");
is(query("SELECT limiter, rejected FROM rate_limit_episodes WHERE key = 'one' ORDER BY 1"), "default|20\nother|7", 'a limiter has its own, a gateway has not');
query('SELECT rl_flush()');
is(query("SELECT limiter, rejected FROM rate_limit_episodes WHERE key = 'one' ORDER BY 1"), "default|20\nother|7", 'a flush changes nothing');
is(query("SELECT rl_consume('allowed', 1, 0)"), 't', 'an allowed call');
is(query("SELECT count(*) FROM rate_limit_episodes WHERE key = 'allowed'"), 0, '... is no episode');

#
# 10,000 sprayed keys; every statement is later than the one before
#
my $spray = '';
foreach my $n (1 .. 10_000)
{
	my $rejected = $n % 7 + 1;

	$spray .= "SELECT rl_report('key $n', 'spray', $rejected) \\g /dev/null\n";
}
query($spray);
is(query('SELECT count(*) FROM rate_limit_episodes'), 200, '10,000 sprayed keys: 200 remain');
is(query("SELECT string_agg(key, ',') FROM (SELECT key FROM rate_limit_episodes LIMIT 200) e"), join(',', map { "key $_" } reverse 9801 .. 10_000),
	'... the most recently throttled ones, the latest first');
is(query(q{SELECT count(*) FROM rate_limit_episodes WHERE rejected <> substring(key FROM '\d+')::int % 7 + 1 OR first_seen <> last_seen}), 0, '... each as it was');

# the oldest of them throttled once more stays, the next ones go
query("SELECT rl_report('key 9801', 'spray', 1) \\g /dev/null\nSELECT rl_report('new ' || i, 'spray', 1) FROM generate_series(1, 150) i");
is(query("SELECT key FROM rate_limit_episodes ORDER BY last_seen LIMIT 1 OFFSET 49"), 'key 9801', 'throttled again: later than those not throttled again');
is(query(q{SELECT count(*), count(*) FILTER (WHERE key LIKE 'new %'), min(key) FILTER (WHERE key LIKE 'key %' AND key > 'key 9801') FROM rate_limit_episodes}), '200|150|key 9952', '... others give way');
is(query("SELECT rejected, last_seen > first_seen FROM rate_limit_episodes WHERE key = 'key 9801'"), (9801 % 7 + 2) . '|t', '... and it is continued');

# many at once
run_clients(
	$node, 'many clients spray',
	clients => 16,
	transactions => 50,
	script => "SELECT rl_report('key ' || :client_id || ' ' || i, 'many', 1) FROM generate_series(1, 100) i;");
is(query('SELECT count(*), count(DISTINCT key) FROM rate_limit_episodes'), '200|200', 'many clients: 200 remain, each once');

#
# Retention
#
query("ALTER SYSTEM SET ratelimit.flag_window = '1s'");
query("ALTER SYSTEM SET ratelimit.episode_retention = '3s'");
query("ALTER SYSTEM SET ratelimit.flush_interval = '1s'");
$node->reload;
wait_for("SELECT current_setting('ratelimit.episode_retention') = '3s'");
ok(wait_for('SELECT count(*) = 0 FROM rate_limit_episodes'), 'after episode_retention they are gone');
my $last = query("SELECT rl_report('short', 'default', 4) \\g /dev/null\nSELECT extract(epoch FROM last_seen) FROM rate_limit_episodes WHERE key = 'short'");
ok(wait_for("SELECT clock_timestamp() >= to_timestamp($last) + interval '1.5 s'"), 'half its time');
is(query("SELECT CASE WHEN clock_timestamp() > to_timestamp($last) + interval '2.9 s' THEN 4 ELSE (SELECT sum(rejected) FROM rate_limit_episodes WHERE key = 'short') END"), 4, '... still there');
ok(wait_for("SELECT count(*) = 0 FROM rate_limit_episodes"), '... then gone');
is(query("SELECT clock_timestamp() >= to_timestamp($last) + interval '3 s'"), 't', '... not before its time');
is(query("SELECT rl_report('short', 'default', 2) \\g /dev/null\nSELECT rejected, first_seen = last_seen FROM rate_limit_episodes WHERE key = 'short'"), '2|t', 'after that a new one begins');

# never shorter than the flag window
query("ALTER SYSTEM SET ratelimit.flag_window = '1h'");
$node->reload;
wait_for("SELECT current_setting('ratelimit.flag_window') = '1h'");
is(query("SELECT rl_report('kept', 'default', 2) \\g /dev/null\nSELECT rejected FROM rate_limit_episodes WHERE key = 'kept'"), 2, 'kept for the flag window');
wait_for(q{SELECT clock_timestamp() >= last_seen + interval '3.5 s' FROM rate_limit_episodes WHERE key = 'kept'});
is(query("SELECT rejected FROM rate_limit_episodes WHERE key = 'kept'"), 2, '... though that is longer than the retention');

$node->stop;
done_testing();
