# Shared memory so small that most keys overflow into the table, and keys that
# move from one store to the other and back: still exact.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('exact_between_stores', conf => 'ratelimit.max_buckets = 16');

$node->safe_psql('postgres', <<'SQL');
CREATE UNLOGGED TABLE hits (name text, key text, ok bool, began timestamptz, ended timestamptz);
SQL

sub call
{
	my ($name, $keys, $capacity, $refill) = @_;

	return <<"SCRIPT";
\\set key random(1, $keys)
INSERT INTO hits SELECT '$name', :key, ok, statement_timestamp(), clock_timestamp()
FROM (SELECT rl_consume('k' || :key, $capacity, $refill, 1, '$name') AS ok OFFSET 0) s;
SCRIPT
}

# The moments a call may have been decided at, key by key.  However they really
# fell, no stretch of time may have more allowed calls than C + R x its length.
sub check_stretches
{
	my ($name, $capacity, $refill) = @_;
	my (%calls, @excess);
	my $rows = 0;

	foreach my $row (split /\n/, $node->safe_psql('postgres',
			"SELECT key, ok, extract(epoch FROM began), extract(epoch FROM ended) FROM hits WHERE name = '$name'"))
	{
		my ($key, $ok, $began, $ended) = split /\|/, $row;

		push @{ $calls{$key} }, [ $began, $ended ] if $ok eq 't';
		$rows++;
	}
	foreach my $key (keys %calls)
	{
		my @by_end = sort { $a->[1] <=> $b->[1] } @{ $calls{$key} };
		# from the start of one call to the end of another; what counts are
		# the calls that lie wholly between
		foreach my $first (@by_end)
		{
			my $inside = 0;

			foreach my $last (@by_end)
			{
				next if $last->[0] < $first->[0];
				$inside++;
				my $bound = $capacity + $refill * ($last->[1] - $first->[0]);
				push @excess, "$key: $inside in " . ($last->[1] - $first->[0]) . ' s'
				  if $inside > $bound + 1e-6;
			}
		}
	}
	is(scalar(@excess), 0, "$name: no stretch of time admitted more than C + R x t")
	  or diag(join("\n", @excess[ 0 .. ($#excess < 5 ? $#excess : 5) ]));
	return $rows;
}

#
# Quotas: 16 slots for 1,000 keys
#
foreach my $keys (10, 1000)
{
	my $name = "quota$keys";
	my $capacity = $keys == 1000 ? 3 : 300;

	run_clients(
		$node, "quota, $keys keys",
		clients => 32,
		transactions => 300,
		script => call($name, $keys, $capacity, 0));
	is( $node->safe_psql('postgres',
			"SELECT count(*) FROM hits WHERE name = '$name'"),
		9600, "quota, $keys keys: 32 connections decided 300 calls each");
	is( $node->safe_psql('postgres',
			"SELECT key, count(*), count(*) FILTER (WHERE ok) FROM hits WHERE name = '$name' GROUP BY key HAVING count(*) FILTER (WHERE ok) <> least($capacity, count(*)) LIMIT 5"),
		'',
		"quota, $keys keys: exactly $capacity allowed for every key");
	is(twice_living($node), '', "quota, $keys keys: no bucket in both stores");
	is( $node->safe_psql('postgres',
			"SELECT count(*) = (SELECT count(DISTINCT key) FROM hits WHERE name = '$name') FROM rate_limit_status WHERE limiter = '$name'"),
		't', "quota, $keys keys: no bucket forgotten");
}
is( $node->safe_psql('postgres',
		q{SELECT count(*) FILTER (WHERE store = 'memory') BETWEEN 1 AND 16, count(*) FILTER (WHERE store = 'table') > 900 FROM rate_limit_status}),
	't|t', 'most were in the table, some in shared memory');

# Buckets in memory and rows alike, called many times in one statement.
foreach my $key ($node->safe_psql('postgres',
		q{SELECT min(key) FROM rate_limit_status WHERE store = 'memory' AND limiter = 'quota10'}),
	'fresh')
{
	run_clients(
		$node, "many calls on $key",
		clients => 32,
		transactions => 10,
		script => <<"SCRIPT");
INSERT INTO hits SELECT 'many$key', '$key', rl_consume('$key', 700, 0, 1, 'many'), now(), now() FROM generate_series(1, 30);
SCRIPT
	is( $node->safe_psql('postgres',
			"SELECT count(*), count(*) FILTER (WHERE ok) FROM hits WHERE name = 'many$key'"),
		'9600|700', "many calls on $key: exactly 700 allowed");
}

# Most of them with refill
my $seconds = run_clients(
	$node, 'refill, 60 keys',
	clients => 32,
	transactions => 300,
	script => call('refill60', 60, 4, 1));
is( $node->safe_psql('postgres', <<"SQL"), '', 'refill, 60 keys: never above C + R x T');
SELECT key, count(*) FROM hits WHERE name = 'refill60' AND ok GROUP BY key HAVING count(*) > 4 + $seconds LIMIT 5
SQL
cmp_ok(
	$node->safe_psql('postgres',
		"SELECT count(*) FROM hits WHERE name = 'refill60' AND ok"),
	'>=', 60 * 4, 'refill, 60 keys: and no less than the capacities');

cmp_ok($node->safe_psql('postgres', 'SELECT rl_reset_all(NULL)'),
	'>', 900, 'everything is reset');
ok(wait_until_nothing_spilled($node), 'with no row left the marks go');

#
# Moving.  Buckets are full again after at most 1.5 s.  In each round more
# keys than there are slots are called at once, so that the partition spills;
# then a trickle, under which rows expire, the worker clears the mark and the
# trickle's own keys are back in memory.
#
my %seen;
my $twice = '';

sub look
{
	foreach (split /\n/, $node->safe_psql('postgres',
			'SELECT key, store FROM rate_limit_status'))
	{
		my ($key, $store) = split /\|/;
		$seen{$key}{$store} = 1;
	}
	$twice .= twice_living($node);
	return;
}

foreach my $round (1 .. 4)
{
	run_clients(
		$node, "moving, round $round, rush",
		clients => 8,
		transactions => 80,
		script => call('moving', 40, 6, 4));
	look();

	my $trickle = start_clients(
		$node,
		clients => 4,
		seconds => 5,
		rate => 4,
		script => call('moving', 40, 6, 4));
	ok(wait_until_nothing_spilled($node),
		"moving, round $round: the mark goes, calls or no calls");
	# until the trickle has ended, to see where keys live now
	while ($trickle->{handle}->pumpable)
	{
		look();
		$trickle->{handle}->pump_nb;
	}
	finish_clients($trickle, "moving, round $round, trickle");
}
is($twice, '', 'moving: at no time was a bucket in both stores');
cmp_ok(check_stretches('moving', 6, 4), '>', 4 * 8 * 80, 'moving: calls decided');
cmp_ok(scalar(grep { $seen{$_}{memory} && $seen{$_}{table} } keys %seen),
	'>', 5, 'moving: the same keys lived in both stores');

$node->stop;
done_testing();
