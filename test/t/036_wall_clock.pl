# The wall clock set an hour forward or back neither grants nor takes tokens in
# memory, nor freezes them, also over a restart and a crash.  After a boot of the
# machine, when it is all there is to go by, tokens are never negative; nor are
# they ever in the table.
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

my $node = start_server('clock', conf => <<'CONF');
ratelimit.max_buckets = 1024
ratelimit.save_interval = 0
ratelimit.flush_interval = 1h
CONF
my ($seam, %seam) = preload_seam($node);
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

sub set_clock
{
	my ($offset) = @_;

	set_seam($seam, clock_us => $offset);
	my $now = query('SELECT extract(epoch FROM clock_timestamp())');
	cmp_ok(abs($now - time - $offset / 1e6), '<', 300, 'the clock is set ' . $offset / HOUR . ' h off');
	return;
}

# 36 tokens an hour, of 100
sub tokens
{
	my ($key) = @_;

	return query("SELECT (rl_peek('$key', 100, 0.01, 0)).remaining");
}

sub empty
{
	my ($key) = @_;

	return is(query("SELECT rl_reset('$key') IS NOT NULL AND rl_consume('$key', 100, 0.01, 100)"), 't', "$key: empty");
}

# As many as an honest clock gives: a test may take 10 minutes.
sub is_honest
{
	my ($key, $what) = @_;
	my $tokens = tokens($key);

	return ok($tokens >= 0 && $tokens < 6, "$what: $tokens tokens");
}

# It goes on refilling: 1000 a second.
sub goes_on
{
	my ($what) = @_;

	query("SELECT rl_consume('fast', 1000, 1000, 1000)");
	return ok($node->poll_query_until('postgres', "SELECT rl_consume('fast', 1000, 1000, 50)"), "$what: tokens come");
}

#
# In memory
#
foreach my $way (1, -1)
{
	my $what = $way > 0 ? 'forward' : 'back';

	empty('memory');
	is(store_of($node, 'memory'), 'memory', 'in memory');
	query("SELECT rl_report('violator', 'user', 3)");
	set_clock($way * HOUR);
	is_honest('memory', $what);
	goes_on($what);
	is(query("SELECT rl_consume('memory', 100, 0.01, 20)"), 'f', "$what: denied still");
	is(query("SELECT retry_after BETWEEN '1000 s' AND '2000 s' FROM rl_throttle('memory', 100, 0.01, 20)"), 't', "$what: ... for as long as before");

	$node->stop;
	set_clock_down(0);
	start();
	is_honest('memory', "$what, and the other way while the server was down");
	goes_on("$what, restarted");
	set_clock($way * HOUR);
	$node->stop('immediate');
	start();
	is_honest('memory', "$what, after a crash");
	goes_on("$what, after a crash");
	set_clock(0);
	is_honest('memory', "$what, and right again");
}

sub set_clock_down
{
	my ($offset) = @_;

	set_seam($seam, clock_us => $offset);
	return;
}

#
# Another boot: the monotonic clock began anew
#
empty('memory');
query("SELECT rl_consume('quota', 100, 0, 30)");
$node->stop;
my $saved = state_bytes($node);
my $header = state_header($saved);
isnt(substr($header->{boot}, 0, 36), "\0" x 36, 'the file knows its boot');
foreach my $boot (
	[ 'half an hour ago', -HOUR / 2, 18, 24 ],
	[ 'now', 0, 0, 6 ],
	[ 'in an hour, as the clock was set back', HOUR, 0, 6 ],
	[ 'in a thousand years', 1000 * 8766 * HOUR, 0, 6 ],
	[ 'a thousand years ago', -1000 * 8766 * HOUR, 100, 100 ])
{
	my ($when, $offset, $least, $most) = @$boot;

	foreach my $mono ($header->{mono}, 5_000_000, ~0 >> 1)
	{
		put_state($node, state_with($saved, boot => 'another', mono => $mono, saved_at => $header->{saved_at} + $offset));
		start();
		my $tokens = tokens('memory');
		ok($tokens >= $least && $tokens <= $most, "saved by another boot, $when: $tokens tokens");
		is(query(q{SELECT tokens FROM rate_limit_status WHERE key = 'quota'}), 70, '... and a quota stays');
		$node->stop('immediate');
	}
}
put_state($node, state_with($saved, mono => ~0 >> 1));
start();
is_honest('memory', 'saved later than it can be, in the same boot');

#
# In the table
#
$node->stop;
$node->append_conf('postgresql.conf', 'ratelimit.max_buckets = 16');
start();
query('SELECT rl_reset_all(NULL)');
fill_until_spilled($node, 'filling', 1, 0);
foreach my $way (1, -1)
{
	my $what = $way > 0 ? 'forward' : 'back';
	my $sane = q{SELECT count(*), count(*) FILTER (WHERE tokens < 0 OR tokens > capacity) FROM rate_limit_status WHERE key = 'table'};

	empty('table');
	is(store_of($node, 'table'), 'table', 'in the table');
	foreach my $offset ($way * HOUR, 0, $way * HOUR, -$way * HOUR, 0)
	{
		set_clock($offset);
		is(query($sane), '1|0', "table, $what: never negative");
		cmp_ok(tokens('table'), '>=', 0, "table, $what: nor for who asks");
		is(query(q{SELECT bool_and(remaining >= 0) FROM (SELECT (rl_throttle('table', 100, 0.01)).remaining FROM generate_series(1, 200)) t}), 't', "table, $what: nor when all is taken");
		is(query(q{SELECT rl_consume('table', 100, 0.01, 50)}), 'f', "table, $what: and no more is there than was");
	}
}
$node->stop;
done_testing();
