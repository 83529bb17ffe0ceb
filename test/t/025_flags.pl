# A key is flagged, once, at flag_threshold violations within flag_window, of the
# limiters in flag_limiters only; again only by new violations after clearing.  A
# flag denies nothing.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('flags');

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

sub wait_for
{
	return $node->poll_query_until('postgres', $_[0]);
}

sub set_for_all
{
	my ($setting, $value) = @_;

	query("ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	wait_for("SELECT current_setting('$setting') = '$value'");
	return;
}

# What is flagged by now, of violations that were counted before: the launcher has
# been through a round after them, as the flag of a later key shows.
my $later = 0;

sub flagged
{
	my ($key, $limiter) = @_;

	$limiter //= 'user';
	$later++;
	query("SELECT rl_report('later $later', 'user', current_setting('ratelimit.flag_threshold')::bigint)");
	wait_for("SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'later $later'");
	return query("SELECT count(*) FROM rate_limit_flagged WHERE limiter = '$limiter' AND key = '$key'");
}

sub flag_lines
{
	my ($key) = @_;
	my $n = () = slurp_file($node->logfile) =~ /LOG:  ratelimit: flagged key "\Q$key\E"/g;

	return $n;
}

is(query("SHOW ratelimit.flag_threshold"), 1000, 'the threshold is 1000');
is(query("SHOW ratelimit.flag_window"), '10min', '... within 10 minutes');
is(query("SHOW ratelimit.flag_limiters"), 'user', '... of limiter user');

#
# The edge
#
is(query("SELECT count(*) FILTER (WHERE NOT rl_consume('edge', 1, 0, limiter => 'user')) FROM generate_series(1, 1000)"), 999, '999 denied');
is(flagged('edge'), 0, '999: no flag');
is(query("SELECT rl_consume('edge', 1, 0, limiter => 'user')"), 'f', 'one more');
is(flagged('edge'), 1, '1000: flagged');
is(query("SELECT rejected, reason, flagged_at > now() - interval '1 min', cleared_at, cleared_by FROM rate_limit_flags WHERE key = 'edge'"),
	'1000|1000 violations within 600 s|t||', '... with when and why');
is(flag_lines('edge'), 1, '... and said in the log');
query("SELECT count(rl_consume('edge', 1, 0, limiter => 'user')) FROM generate_series(1, 3000)");
is(flagged('edge'), 1, 'more of them: flagged once');
is(query("SELECT count(*) FROM rate_limit_flags WHERE key = 'edge'"), 1, '... in one row');
is(flag_lines('edge'), 1, '... and one line');

# it denies nothing
is(query("SELECT rl_consume('edge', 1e6, 1e6, limiter => 'another'), rl_reset('edge', 'user'), rl_consume('edge', 5, 0, limiter => 'user')"), 't|t|t', 'a flag denies nothing');

#
# Reports count, other limiters do not
#
query("SELECT rl_report('reported', 'user', 999)");
is(flagged('reported'), 0, 'reported 999: no flag');
query(q{SELECT rl_report_batch('[{"limiter": "user", "key": "reported", "rejected": 1}]')});
is(flagged('reported'), 1, '... and one more in a batch: flagged');
query("SELECT rl_report('k', 'other', 100000), rl_report('k', 'use', 100000), rl_report('k', 'users', 100000), rl_report('k', 'default', 100000)");
is(flagged('k'), 0, 'other limiters: no flag');
is(query("SELECT count(*) FROM rate_limit_flags WHERE limiter <> 'user'"), 0, '... whatsoever');
query("SELECT rl_report('(other)', 'user', 5000)");
query("SELECT set_config('ratelimit.gateway_name', 'gateway ' || i, false), rl_report('over gateways', 'user', 250) FROM generate_series(1, 4) i");
is(flagged('over gateways'), 1, 'violations seen by several gateways count together');

#
# Again after clearing
#
is(query("SELECT rl_unflag('edge', 'user')"), 't', 'cleared');
is(query("SELECT cleared_at > flagged_at, cleared_by = current_user FROM rate_limit_flags WHERE key = 'edge'"), 't|t', '... when and by whom is known');
query("SELECT rl_report('edge', 'user', 999)");
is(flagged('edge'), 0, '... 999 new ones: no flag');
query("SELECT rl_report('edge', 'user', 1)");
is(flagged('edge'), 1, '... 1000 new ones: flagged again');
is(query("SELECT count(*), count(cleared_at) FROM rate_limit_flags WHERE key = 'edge'"), '2|1', '... in a row of its own');

# by hand, and the rule meets it
is(query("SELECT rl_flag('by hand', 'user', 'looks bad'), rl_flag('by hand', 'user', 'again')"), 't|f', 'flagged by hand');
query("SELECT rl_report('by hand', 'user', 2000)");
is(flagged('by hand'), 1, '... stays one row');
is(query("SELECT reason FROM rate_limit_flagged WHERE key = 'by hand'"), 'looks bad', '... for that reason');

#
# 50 connections cross at once
#
foreach my $key ('at once 1', 'at once 2')
{
	run_clients(
		$node, $key,
		clients => 50,
		transactions => 2,
		script => "SELECT count(rl_report('$key', 'user', 1)) FROM generate_series(1, 1000);");
	is(flagged($key), 1, '50 connections cross at once: flagged');
	is(query("SELECT count(*) FROM rate_limit_flags WHERE key = '$key'"), 1, '... in one row');
	is(flag_lines($key), 1, '... and one line');
}

#
# A flag that cannot be written waits, and disturbs nothing else
#
my $from = -s $node->logfile;
query('ALTER TABLE rate_limit_flags RENAME TO hidden');
query("SELECT rl_report('waiting', 'user', 1000), rl_report('also waiting', 'user', 1000)");
$node->wait_for_log(qr/LOG:  ratelimit: failed writing flags: relation .*rate_limit_flags" does not exist/, $from);
pass('a failing flag is logged');
ok(wait_for("SELECT NOT EXISTS (SELECT FROM rate_limit_pending)"), '... violations are written all the same');
is(query("SELECT sum(count) FROM rate_limit_violation_details WHERE key = 'waiting'"), 1000, '... once');
query("SELECT rl_report('meanwhile', 'user', 3)");
ok(wait_for("SELECT sum(count) = 3 FROM rate_limit_violation_details WHERE key = 'meanwhile'"), '... now and later');
query('ALTER TABLE hidden RENAME TO rate_limit_flags');
ok(wait_for("SELECT count(*) = 2 FROM rate_limit_flagged WHERE key LIKE '%waiting'"), '... and the flag is tried again');
is(flag_lines('waiting'), 1, '... with one line');
my $failed = () = slurp_file($node->logfile, $from) =~ /ratelimit: failed/g;
is($failed, 1, '... after one about the failure');

# a worker with nothing but written flags behind it has nothing to do
$from = -s $node->logfile;
query("ALTER SYSTEM SET log_min_messages = debug1");
$node->reload;
flagged('nobody');
wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'ratelimit worker'});
wait_until_workers_ended($node, $from);
$from = -s $node->logfile;
my $end = query("SELECT clock_timestamp() + interval '2.5 s'");
wait_for("SELECT clock_timestamp() > '$end'");
unlike(slurp_file($node->logfile, $from), qr/ratelimit worker|ratelimit: writing/, 'flags once written need no worker');
query("ALTER SYSTEM RESET log_min_messages");
$node->reload;

# very many at once: more than are kept waiting
query("SELECT count(rl_report('one of many ' || i, 'user', 1000)) FROM generate_series(1, 3000) i");
ok(wait_for("SELECT count(*) >= 1000 FROM rate_limit_flagged WHERE key LIKE 'one of many %'"), '3000 keys cross at once: flagged as they fit');
query("SELECT count(rl_report('one of many ' || i, 'user', 1)) FROM generate_series(1, 3000) i");
ok(wait_for("SELECT count(*) >= 2000 FROM rate_limit_flagged WHERE key LIKE 'one of many %'"), '... more with their next violations');
query("SELECT count(rl_report('one of many ' || i, 'user', 1)) FROM generate_series(1, 3000) i");
ok(wait_for("SELECT count(*) = 3000 FROM rate_limit_flagged WHERE key LIKE 'one of many %'"), '... all of them');

#
# Limiters, by reload
#
set_for_all('ratelimit.flag_limiters', 'ip, api key ,path');
query("SELECT rl_report('ip later', 'ip', 1000)");
ok(wait_for("SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'ip later'"), 'limiters changed by reload');
query("SELECT rl_report('limiters', l, 1000) FROM unnest(ARRAY['user', 'ip', 'api key', 'path', 'api', 'key', 'ip, api key,path']) l; SELECT rl_report('ip last', 'ip', 1000)");
wait_for("SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'ip last'");
is(query("SELECT string_agg(limiter, ',' ORDER BY limiter) FROM rate_limit_flagged WHERE key = 'limiters'"), 'api key,ip,path', '... those in the list, and no others');
set_for_all('ratelimit.flag_limiters', '');
query("SELECT rl_report('no limiters', 'user', 1000), rl_report('no limiters', '', 1000), rl_report('no limiters', 'ip', 1000); SELECT rl_flush()");
is(query("SELECT count(*) FROM rate_limit_flagged WHERE key = 'no limiters'"), 0, 'an empty list: none');
set_for_all('ratelimit.flag_limiters', '*');
query("SELECT rl_report('all limiters', l, 1000) FROM unnest(ARRAY['user', 'any', 'api key', '*', repeat('l', 63)]) l; SELECT rl_flush()");
ok(wait_for("SELECT count(*) = 5 FROM rate_limit_flagged WHERE key = 'all limiters'"), 'an asterisk: all of them');
set_for_all('ratelimit.flag_limiters', 'user,**');
query("SELECT rl_report('asterisks', l, 1000) FROM unnest(ARRAY['a', '*', 'user']) l; SELECT rl_flush()");
wait_for("SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'asterisks' AND limiter = 'user'");
is(query("SELECT string_agg(limiter, ',') FROM rate_limit_flagged WHERE key = 'asterisks'"), 'user', '... but two are a name');
set_for_all('ratelimit.flag_limiters', 'user');

#
# Thresholds are validated
#
foreach my $value (0, -1)
{
	my ($rc, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET ratelimit.flag_threshold = $value");
	like($err, qr/ERROR:  $value is outside the valid range for parameter "ratelimit.flag_threshold"/, "a threshold of $value is refused");
	($rc, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET ratelimit.flag_window = $value");
	like($err, qr/ERROR:  .* outside the valid range for parameter "ratelimit.flag_window"/, "a window of $value is refused");
}

#
# The window: 1000 violations over more than it do not flag, as many within it do
#
set_for_all('ratelimit.flag_window', '8s');
my $spread = <<'SQL';
DO $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	PERFORM rl_report('spread', 'user', 500);
	PERFORM rl_report('spread in steps', 'user', 1);
	FOR i IN 1 .. 998 LOOP
		WHILE clock_timestamp() < began + i / 998.0 * interval '8.5 s' LOOP
			PERFORM pg_sleep(0.002);
		END LOOP;
		PERFORM rl_report('spread in steps', 'user', 1);
	END LOOP;
	PERFORM rl_report('spread', 'user', 500);
	PERFORM rl_report('spread in steps', 'user', 1);
END
$$
SQL
query($spread);
is(flagged('spread'), 0, '1000 over more than the window: no flag');
is(flagged('spread in steps'), 0, '... nor in small steps');
is(query("SELECT sum(count) FROM (SELECT key, count FROM rate_limit_pending UNION ALL SELECT key, count FROM rate_limit_violation_details) c WHERE key LIKE 'spread%'"),
	2000, '... though there were as many');
query(<<'SQL');
DO $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	FOR i IN 0 .. 999 LOOP
		WHILE clock_timestamp() < began + i / 1000.0 * interval '5 s' LOOP
			PERFORM pg_sleep(0.002);
		END LOOP;
		PERFORM rl_report('within', 'user', 1);
	END LOOP;
	-- a machine that stalls would spread them too much
	IF clock_timestamp() > began + interval '7 s' THEN
		PERFORM rl_report('within', 'user', 1000);
	END IF;
END
$$
SQL
is(flagged('within'), 1, '1000 within the window: flagged');

$node->stop;
done_testing();
