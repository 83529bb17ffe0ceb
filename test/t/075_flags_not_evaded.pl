# A key that violates as much as flag_threshold says is flagged, whatever its owner
# does with other keys: keys chosen by the hashes that SQL offers, a flood of keys
# that fills the room for violations and for what is counted towards flags, between
# any two violations of the key.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# 17 slices of a second
my $node = start_server('evasion', conf => <<'CONF');
ratelimit.flush_interval = 1h
ratelimit.flag_window = 17s
ratelimit.flag_threshold = 100
ratelimit.max_violations = 1024
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

sub flagged
{
	my ($key) = @_;

	# any reader tells flags of violations so far; the launcher's next round writes them
	query('SELECT count(*) FROM rate_limit_episodes');
	query("ALTER SYSTEM SET ratelimit.flush_interval = '1s'");
	$node->reload;
	query("SELECT rl_report('sure: $key', 'user', 100)");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'sure: $key'");
	end_rounds($node);
	return query("SELECT count(*) FROM rate_limit_flagged WHERE key = '$key'");
}

# So many violations of a key that never has a token.
sub violate
{
	my ($key, $n) = @_;

	return query("SELECT count(*) FILTER (WHERE NOT rl_consume('$key', 1, 0, 2, 'user')) FROM generate_series(1, $n)");
}

# A slice of flag_window later.
sub next_slice
{
	my $end = query("SELECT clock_timestamp() + interval '1.05 s'");

	return $node->poll_query_until('postgres', "SELECT clock_timestamp() > '$end'");
}

#
# Tracks are found again after a restart
#
is(violate('restarted', 60), 60, 'violations before a restart');
$node->restart;
is(violate('restarted', 60), 60, '... and after it');
is(flagged('restarted'), 1, '... together flag the key');

#
# Keys with the same hash as SQL computes it, of limiter and key, by the database
#
query(<<'SQL');
CREATE TABLE decoy AS
WITH seed AS (SELECT hashtextextended('user' COLLATE "C", oid::bigint << 2) AS seed FROM pg_database WHERE datname = current_database()),
place AS (SELECT mod(hashtextextended('evader' COLLATE "C", seed)::numeric + 18446744073709551616, 1024) AS place, seed FROM seed)
SELECT 'decoy ' || i AS key FROM place, generate_series(1, 60000) i
WHERE mod(hashtextextended(('decoy ' || i) COLLATE "C", seed)::numeric + 18446744073709551616, 1024) = place
LIMIT 34;
SQL
cmp_ok(query('SELECT count(*) FROM decoy'), '>=', 17, 'keys whose hashes collide with a key as SQL computes them');
foreach my $round (1 .. 6)
{
	is(violate('evader', 80), 80, "round $round: 80 violations");
	query('SELECT count(*) FROM rate_limit_episodes');
	next_slice();
	query("SELECT count(*) FILTER (WHERE NOT rl_consume(key, 1, 0, 2, 'user')) FROM decoy");
	query('SELECT count(*) FROM rate_limit_episodes');
}
is(flagged('evader'), 1, '480 violations among decoys that collide: flagged');

#
# A flood of 20 times as many keys as there is room for, before and between
#
sub flood
{
	my ($name, $times) = @_;

	return query("SELECT count(*) FILTER (WHERE NOT rl_consume('$name ' || i, 1, 0, 2, 'user')) FROM generate_series(1, 1024 * $times) i");
}

is(flood('first', 20), 20480, 'a flood');
foreach my $round (1 .. 3)
{
	is(violate('flooder', 80), 80, "round $round: 80 violations");
	is(flood("flood $round", 20), 20480, '... and a flood');
}
is(flagged('flooder'), 1, '240 violations among floods: flagged');
is(query(q{SELECT count(*) FROM rate_limit_flagged WHERE key ~ '^(decoy|first|flood )'}), 0, 'no other is flagged');

# as many of each key as there are of the one that hides, in turn with it
foreach my $round (1 .. 6)
{
	violate('in turn', 40);
	is(query("SELECT count(*) FILTER (WHERE NOT rl_consume('turn ' || i % 700, 1, 0, 2, 'user')) FROM generate_series(1, 700 * 10) i"), 7000, "round $round: 10 violations of each of 700 others");
}
is(flagged('in turn'), 1, '240 violations among others with 60 each: flagged');
is(query(q{SELECT count(*) FROM rate_limit_flagged WHERE key ~ '^turn'}), 0, 'those with 60 are not');

#
# Counted in the room for others, and flagged
#
query('SELECT rl_flush()');
is(flood('full', 2), 2048, 'the room for violations is full');
is(violate('no room', 300), 300, 'violations of a key that finds none');
is(query(q{SELECT count(*) FROM rate_limit_pending WHERE key = 'no room'}), 0, '... count for others');
is(flagged('no room'), 1, '... and flag it');

$node->stop;
done_testing();
