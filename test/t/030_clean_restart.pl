# A clean restart brings everything back as it was: 100,000 buckets, to the
# nanosecond of their refill for the downtime; 5,000 pending violations; episodes;
# what counts towards flags; figures.  No call in between sees a fresh bucket.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use POSIX ();
use SavedState;
use Test::More;
use Time::HiRes;

my $node = start_server('restart', conf => <<'CONF');
ratelimit.max_buckets = 262144
ratelimit.flush_interval = 1h
ratelimit.flag_threshold = 1000
ratelimit.max_episodes = 6000
CONF

sub query
{
	my ($sql, $database) = @_;

	return $node->safe_psql($database // 'postgres', $sql);
}

#
# Known states.  None of these buckets becomes full within five minutes, so they are all
# there until the end, however slow the machine is.
#
query('CREATE DATABASE other');
query('CREATE EXTENSION ratelimit', 'other');
query(<<'SQL');
SELECT count(rl_consume('user:' || i, 100 + i % 7, 0.001, 1 + i % 5)) FROM generate_series(1, 60000) i;
SELECT count(rl_consume('quota:' || i, 10, 0, 1 + i % 10, 'quota')) FROM generate_series(1, 20000) i;
SELECT count(rl_consume('fraction:' || i, 2.5, 1.0 / 3600, 0.1 * (1 + i % 20), 'fraction')) FROM generate_series(1, 10000) i;
SELECT count(rl_consume(repeat('k', 249) || lpad(i::text, 6, '0'), 1e12, 1.0 / 31557600, 1e-4, repeat('l', 63))) FROM generate_series(1, 1000) i;
SELECT rl_consume('empty', 5, 0, 5), rl_consume('slow', 5, 1e-9, 5), rl_consume('refilling', 1e6, 10, 1e6);
SQL
query(q{SELECT count(rl_consume('user:' || i, 100, 0.002, 1 + i % 9)) FROM generate_series(1, 9000) i}, 'other');
is(query('SELECT count(*) FROM rate_limit_status') + query('SELECT count(*) FROM rate_limit_status', 'other'), 100_003, '100,003 buckets');

# the table is not there when the workers look for it: so they stay pending
query(<<'SQL');
SELECT rl_flush();
SELECT count(rl_report('key ' || i, 'reports', 1 + i % 3)) FROM generate_series(1, 5000) i;
SELECT rl_report('in progress', 'user', 600), rl_report('far from it', 'user', 5);
SELECT count(rl_consume('denied', 1, 0)) FROM generate_series(1, 10);
ALTER TABLE rate_limit_violations RENAME TO hidden;
CREATE TABLE status_before AS SELECT * FROM rate_limit_status;
CREATE TABLE pending_before AS SELECT * FROM rate_limit_pending;
SQL
my $episodes = query('SELECT * FROM rate_limit_episodes ORDER BY limiter, key');
my $counts = query('SELECT limiter, allowed, denied, decided_in_table FROM rate_limit_stats ORDER BY limiter');
my $flushed = query('SELECT violations_flushed, last_flush, stats_since FROM rate_limit_stats WHERE limiter IS NULL');
is(query('SELECT count(*) FROM pending_before'), 5003, 'pending: 5,000 reported, 2 more, 1 denied');
like($episodes, qr/^user\|in progress\|.*\|600/m, 'episodes');

#
# Somebody who tries all the time, while the server is restarted three times.
#
my $answers = $node->basedir . '/answers';
my $connection = $node->connstr('postgres');
my $over = $node->basedir . '/over';
my $pid = fork() // die $!;
if ($pid == 0)
{
	open(STDERR, '>', '/dev/null');
	until (-e $over)
	{
		system("psql -XAtq -d \"$connection\" -c \"SELECT rl_consume('empty', 5, 0), rl_consume('slow', 5, 1e-9)\" >>$answers");
	}
	POSIX::_exit(0);
}

$node->stop;
my $first = state_bytes($node);
is(sprintf('%o', (stat state_file($node))[2] & 07777), '600', 'the file is only for the server');
$node->start;

is(query(<<'SQL'), '0|91003', 'the same buckets, rules, tokens and times to be full');
SELECT count(*) FILTER (WHERE b.key IS NULL OR a.key IS NULL OR b.store <> a.store
		OR b.capacity <> a.capacity OR b.refill <> a.refill
		OR CASE WHEN b.refill = 0 THEN b.tokens <> a.tokens
			ELSE abs(extract(epoch FROM b.full_at - a.full_at)) > 1 END),
	count(*)
FROM (SELECT * FROM status_before WHERE key <> 'denied') b
FULL JOIN (SELECT * FROM rate_limit_status WHERE key <> 'denied') a USING (limiter, key)
SQL
is(query(<<'SQL'), '0|5003', 'the same pending violations');
SELECT count(*) FILTER (WHERE b.key IS NULL OR a.key IS NULL OR (b.key NOT IN ('empty', 'slow') AND b.count <> a.count)
		OR abs(extract(epoch FROM b.last_at - a.last_at)) > 1),
	count(*)
FROM pending_before b FULL JOIN (SELECT * FROM rate_limit_pending WHERE key NOT IN ('empty', 'slow')) a USING (gateway_name, limiter, key)
SQL
is(query(q{SELECT * FROM rate_limit_episodes WHERE key NOT IN ('empty', 'slow') ORDER BY limiter, key}), $episodes, 'the same episodes');
is(query(q{SELECT violations_flushed, last_flush, stats_since FROM rate_limit_stats WHERE limiter IS NULL}), $flushed, 'the same figures of flushes');
is(query(q{SELECT limiter, allowed, denied, decided_in_table FROM rate_limit_stats WHERE limiter NOT IN ('default') ORDER BY limiter}),
	join("\n", grep { !/^(default)?\|/ } split /\n/, $counts), 'the same counts of limiters');
is(query(q{SELECT allowed FROM rate_limit_stats WHERE limiter = 'default'}), 60004, '... also of the one that is used meanwhile');

$node->restart;
$node->restart;
my $lines = sub { my $n = () = slurp_file($answers) =~ /\n/g; return $n; };
my $seen = $lines->();
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if $lines->() > $seen;
	Time::HiRes::usleep(100_000);
}
PostgreSQL::Test::Utils::append_to_file($over, '');
waitpid($pid, 0);
my $text = slurp_file($answers);
like($text, qr/\A(f\|f\n)+\z/, 'no call sees a fresh bucket, over three restarts');
note $lines->() . ' calls';

#
# Exactly: nobody has used the others since, and they become full when they would have.
#
$node->stop;
my $last = state_bytes($node);
my ($before, $after) = (state_buckets($first), state_buckets($last));
my $different = 0;
my $compared = 0;
foreach my $name (keys %$before)
{
	my ($b, $a) = ($before->{$name}, $after->{$name});

	$compared++;
	$different++
	  if !$a || ($b->{refill} == 0 ? $b->{owed} != $a->{owed} : $b->{full_at} != $a->{full_at});
}
is($compared, 100_004, 'compared to the nanosecond: all buckets');
is($different, 0, '... and after three restarts none has got or lost any');
cmp_ok(state_header($last)->{mono} - state_header($first)->{mono}, '>', 0, '... while time went by');
cmp_ok(length($first) / 100_000, '<', 110, sprintf('the file takes %.1f bytes a bucket, with what else is in it', length($first) / 100_000));
$node->start;

#
# Flags in progress
#
query('ALTER TABLE hidden RENAME TO rate_limit_violations');
query(q{SELECT rl_report('in progress', 'user', 399), rl_report('far from it', 'user', 994)});
$node->restart;
query('SELECT rl_flush()');
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'pending violations are written');
$node->restart;
is(query('SELECT count(*) FROM rate_limit_flags'), 0, '999 violations, partly before restarts: no flag');
query(q{SELECT rl_report('in progress', 'user', 1), rl_report('far from it', 'user', 1)});
$node->restart;
ok($node->poll_query_until('postgres', 'SELECT count(*) = 2 FROM rate_limit_flags'), '... one more: flagged, over one more restart');
is(query(q{SELECT string_agg(key, ', ' ORDER BY key) FROM rate_limit_flags WHERE rejected = 1000}), 'far from it, in progress', '... with all of them');
$node->restart;
query(q{SELECT rl_report('in progress', 'user', 10); SELECT rl_flush()});
is(query('SELECT count(*) FROM rate_limit_flags'), 2, '... and once');

is(query(q{SELECT sum(count) FROM rate_limit_violation_details WHERE limiter = 'reports'}), query(q{SELECT sum(1 + i % 3) FROM generate_series(1, 5000) i}),
	'what was pending before the first restart is written once');

$node->stop;
done_testing();
