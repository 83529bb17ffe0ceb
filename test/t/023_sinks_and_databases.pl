# Violations go to where they belong: each database its own rows, one without the
# extension none; to the table, to the log or nowhere, as set, without restart;
# old rows are deleted; and nothing runs when there is nothing to do.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('sinks', conf => 'log_min_messages = debug1');

sub query
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

sub wait_for
{
	my ($sql, $database) = @_;

	return $node->poll_query_until($database // 'postgres', $sql);
}

sub set_for_all
{
	my ($setting, $value) = @_;

	query("ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	wait_for("SELECT current_setting('$setting') = '$value'");
	return;
}

sub wait_until_flushed
{
	my ($what, $database) = @_;

	return ok(wait_for('SELECT NOT EXISTS (SELECT FROM rate_limit_pending)', $database), $what);
}

# Until so much time has passed on the server's clock.
sub let_pass
{
	my ($interval) = @_;

	return wait_for(q{SELECT clock_timestamp() > timestamptz '} . query("SELECT clock_timestamp() + interval '$interval'") . q{'});
}

# The JSON of the violations in the log from there on.
sub logged
{
	my ($from) = @_;

	return map { decode_json($_) } slurp_file($node->logfile, $from) =~ /LOG:  ratelimit violations: (\{.*\})$/mg;
}

#
# Each database its own
#
query('CREATE DATABASE second');
query('CREATE EXTENSION ratelimit', 'second');
query('CREATE DATABASE without');
query("SET ratelimit.gateway_name = 'gateway'; SELECT count(*) FROM generate_series(1, 5) WHERE NOT rl_consume('k', 2, 0)");
query("SET ratelimit.gateway_name = 'gateway'; SELECT count(*) FROM generate_series(1, 9) WHERE NOT rl_consume('k', 2, 0)", 'second');
wait_until_flushed('flushed');
wait_until_flushed('... the second database too', 'second');
is(query('SELECT gateway_name, total_count, details FROM rate_limit_violations'), 'gateway|3|{"k:default": 3}', 'the first database has its row');
is(query('SELECT gateway_name, total_count, details FROM rate_limit_violations', 'second'), 'gateway|7|{"k:default": 7}', '... and the second its own');
is(query("SELECT count(*) FROM pg_class WHERE relname LIKE 'rate_limit%'", 'without'), 0, 'the one without the extension has nothing');
is(query("SELECT abs(extract(epoch FROM created_at - timezone('UTC', now()))) < 60 FROM rate_limit_violations"), 't', 'created_at is in UTC');
is(query("SELECT total_count FROM rate_limit_violations WHERE id = 1"), 3, 'the first row has the first id');

#
# Idle
#
ok(wait_until_workers_ended($node, 0), 'the workers are gone');
my $from = -s $node->logfile;
my $launcher = query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher' AND datid IS NULL");
like($launcher, qr/^\d+$/, 'the launcher is seen under its name, connected to no database');

# at least three of its intervals, by the server's clock
let_pass('3.5 s');
my $log = slurp_file($node->logfile, $from);
unlike($log, qr/ratelimit worker|ratelimit: |starting background worker/, 'idle: no worker is started');
is(query("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ratelimit%' AND datid IS NOT NULL"), 0, '... no connection held');

# while it writes, it is seen
my $locker = in_session($node);
$locker->query_safe('BEGIN; LOCK TABLE rate_limit_violations IN ACCESS EXCLUSIVE MODE');
query("SELECT rl_report('seen', 'user', 1)");
ok(wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ratelimit worker' AND datname = 'postgres' AND state = 'active' AND query = 'ratelimit: writing violations'}),
	'a worker is seen under its name, and what it does');
$locker->query_safe('COMMIT');
finish_session($locker);
like(slurp_file($node->logfile, $from), qr/DEBUG:  ratelimit: writing violations/, '... and so in the log at debug1');
wait_until_flushed('... and then is done');

# The worker itself leaves nothing behind that starts another one.
ok(wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'ratelimit worker'"), 'it goes');

#
# Log
#
set_for_all('ratelimit.violation_sink', 'log');
$from = -s $node->logfile;
my $rows = query('SELECT count(*) FROM rate_limit_violations');
query(<<'SQL');
SET ratelimit.gateway_name = 'gateway "1" \ Übergang';
SELECT rl_report('2001:db8::1', 'ip', 3), rl_report(E'a "quoted"\n\tkey \\ ü', 'user', 4);
SET ratelimit.gateway_name = 'gateway 2';
SELECT rl_report('k', 'user', 5);
SQL
wait_until_flushed('sink log');
my @lines = sort { $a->{total_count} <=> $b->{total_count} } logged($from);
is(scalar(@lines), 2, 'log: a line per gateway');
is_deeply($lines[0], { database => 'postgres', gateway_name => 'gateway 2', total_count => 5, details => { 'k:user' => 5 } }, '... as JSON')
  or diag(explain($lines[0]));
is_deeply(
	$lines[1],
	{   database => 'postgres', gateway_name => "gateway \"1\" \\ \x{dc}bergang", total_count => 7,
		details => { '2001:db8::1:ip' => 3, "a \"quoted\"\n\tkey \\ \x{fc}:user" => 4 } },
	'... whatever the names contain') or diag(explain($lines[1]));
is(query('SELECT count(*) FROM rate_limit_violations'), $rows, '... and none in the table');

# by hand, too
query("SET ratelimit.gateway_name = 'hand'; SELECT rl_report('k', 'user', 6); SELECT rl_flush()");
ok(wait_for('SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'log, by hand or not');
is(scalar(grep { $_->{gateway_name} eq 'hand' && $_->{total_count} == 6 } logged($from)), 1, '... once');

#
# None
#
set_for_all('ratelimit.violation_sink', 'none');
$from = -s $node->logfile;
query("SELECT rl_report('k', 'user', 7)");
wait_until_flushed('sink none');
is(scalar(logged($from)), 0, 'none: none in the log');
is(query('SELECT count(*) FROM rate_limit_violations'), $rows, '... none in the table');
is(query("SELECT rejected FROM rate_limit_episodes WHERE limiter = 'user' AND key = 'k'"), 18, '... but episodes know of all');
set_for_all('ratelimit.violation_sink', 'table');
query("SELECT rl_report('k', 'user', 8)");
wait_until_flushed('sink table again');
is(query('SELECT total_count FROM rate_limit_violations ORDER BY id DESC LIMIT 1'), 8, '... writes rows again');

#
# The interval
#
set_for_all('ratelimit.flush_interval', '1h');
# the round that was due before is over when the next one takes more than 2 seconds
let_pass('2.5 s');
query("SELECT rl_report('interval', 'user', 1)");
let_pass('2.5 s');
is(query("SELECT sum(count) FROM rate_limit_pending"), 1, 'an interval of an hour: still pending');
set_for_all('ratelimit.flush_interval', '1s');
wait_until_flushed('an interval of a second');
is(query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'"), $launcher, '... all with the same launcher');

#
# Retention
#
query("UPDATE rate_limit_violations SET created_at = created_at - interval '1 day 1 hour' WHERE id = 1");
query("UPDATE rate_limit_violations SET created_at = created_at - interval '23 hours' WHERE id = 2");
set_for_all('ratelimit.violation_retention', '1d');
query("SELECT rl_report('retention', 'user', 1)");
ok(wait_for('SELECT NOT EXISTS (SELECT FROM rate_limit_violations WHERE id = 1)'), 'retention: an old row goes');
is(query('SELECT count(*) FROM rate_limit_violations WHERE id = 2'), 1, '... a newer one stays');
set_for_all('ratelimit.violation_retention', '0');
query("UPDATE rate_limit_violations SET created_at = created_at - interval '100 years' WHERE id = 2; SELECT rl_report('retention', 'user', 1)");
wait_until_flushed('retention 0');
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'ratelimit worker'");
is(query('SELECT count(*) FROM rate_limit_violations WHERE id = 2'), 1, '... keeps all');

$node->stop;
done_testing();
