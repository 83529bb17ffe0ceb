# Recorded traffic is decided as exact arithmetic decides it, by rl_simulate(),
# and by live rl_consume() from many clients at once.
#
# The recording is ../shared/data/access-log.tsv or $RATELIMIT_ACCESS_LOG.  Where
# neither is there, one is made up: whole seconds, so that many requests fall on
# the very instant at which a token is due, which is where floating point errs.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# Rules: capacity, refill as tokens per seconds; what data/README.md says of them.
my @rules = (
	[ 5, 1, 10, '8233|1767', '130.237.218.86|284' ],
	[ 20, 1, 5, '9577|423', '75.97.9.59|143' ],
	[ 3, 1, 3, '9053|947', '130.237.218.86|202' ]);

# What exact arithmetic decides on the log for a rule, request by request.  A
# token is $per units, a second brings $tokens units: all whole numbers.
sub decide_exactly
{
	my ($log, $capacity, $tokens, $per) = @_;
	my (%units, %last);
	my @decisions;

	foreach my $request (@$log)
	{
		my ($ts, $client) = @$request;
		my $full = $capacity * $per;
		my $units = $units{$client} // $full;

		$units += ($ts - ($last{$client} // $ts)) * $tokens;
		$units = $full if $units > $full;
		$last{$client} = $ts;
		push @decisions, $units >= $per ? 't' : 'f';
		$units -= $per if $units >= $per;
		$units{$client} = $units;
	}
	return @decisions;
}

sub made_up_log
{
	my @log;
	my $state = 20240229;
	my $random = sub {
		$state = ($state * 1103515245 + 12345) % 2147483648;
		return ($state >> 8) % $_[0];
	};
	my $ts = 1431857100;

	for my $n (1 .. 10000)
	{
		# bursts and pauses, a few clients far ahead of the others
		$ts += $random->(8) ? 0 : $random->(12);
		push @log,
		  [ $ts, '192.0.2.' . ($random->(3) ? $random->(4) : $random->(250)) ];
	}
	return @log;
}

my $node = start_server('access_log');
my $file = $ENV{RATELIMIT_ACCESS_LOG};
my $real = 1;
my @log;

if (!$file)
{
	($file) = grep { -r $_ } map { "$FindBin::RealBin/$_/shared/data/access-log.tsv" }
	  ('../../..', '../..');
}
$node->safe_psql('postgres',
	'CREATE TABLE access_log (id int GENERATED ALWAYS AS IDENTITY, ts timestamptz, client text, method text, status int)');
if ($file)
{
	note "recorded traffic: $file";
	$node->safe_psql('postgres',
		"\\copy access_log (ts, client, method, status) FROM '$file'");
	@log = map { [ split /\|/ ] } split /\n/, $node->safe_psql('postgres',
		'SELECT extract(epoch FROM ts)::bigint, client FROM access_log ORDER BY id');
}
else
{
	note 'no recorded traffic here: making some up';
	$real = 0;
	@log = made_up_log();
	my $tsv = $node->basedir . '/log.tsv';
	append_to_file($tsv, join('', map { "$_->[0]\t$_->[1]\n" } @log));
	$node->safe_psql('postgres', <<"SQL");
CREATE TEMP TABLE raw (ts bigint, client text);
\\copy raw FROM '$tsv'
INSERT INTO access_log (ts, client) SELECT to_timestamp(ts), client FROM raw;
SQL
}
is(scalar(@log), 10000, 'the log has its requests');

#
# rl_simulate()
#
foreach my $rule (@rules)
{
	my ($capacity, $tokens, $per, $totals, $most) = @$rule;
	my $refill = "$tokens / $per\::float8";
	my $name = "capacity $capacity, refill $tokens/$per";
	my @exact = decide_exactly(\@log, $capacity, $tokens, $per);
	my $denied = grep { $_ eq 'f' } @exact;
	my $simulate = "SELECT id, client, rl_simulate(ts, $capacity, $refill)"
	  . ' OVER (PARTITION BY client ORDER BY ts, id) AS allowed FROM access_log';
	my $wrong = 0;

	cmp_ok($denied, '>', 100, "$name: there is something to deny");
	my @simulated = split /\n/, $node->safe_psql('postgres',
		"SELECT allowed FROM ($simulate) s ORDER BY id");
	is(scalar(@simulated), scalar(@exact), "$name: a decision for every request");
	for my $n (0 .. $#exact)
	{
		$wrong++ if $exact[$n] ne $simulated[$n];
	}
	is($wrong, 0, "$name: rl_simulate decides every request as exact arithmetic");

	next unless $real;
	is( $node->safe_psql('postgres',
			"SELECT count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed) FROM ($simulate) s"),
		$totals, "$name: allowed and denied as in data/README.md");
	is( $node->safe_psql('postgres',
			"SELECT client, count(*) FROM ($simulate) s WHERE NOT allowed GROUP BY client ORDER BY 2 DESC, 1 LIMIT 1"),
		$most, "$name: most denied client as in data/README.md");
}

#
# Live: 10 clients share the log's requests, in whatever order they come
#
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE todo AS
	SELECT client, id % 10 AS worker, (id / 10) % 20 AS part FROM access_log;
CREATE INDEX ON todo (worker, part);
ANALYZE todo;
CREATE UNLOGGED TABLE hits (capacity int, client text, allowed bigint, calls bigint);
SQL
foreach my $capacity (1, 5, 60)
{
	# each connection has its own tenth of the log, in 20 statements
	run_clients(
		$node, "quota of $capacity",
		clients => 10,
		transactions => 20,
		define => { part => -1 },
		script => <<"SCRIPT");
\\set part :part + 1
INSERT INTO hits SELECT $capacity, client, count(*) FILTER (WHERE ok), count(*)
FROM (SELECT client, rl_consume(client, $capacity, 0, 1, 'quota$capacity') AS ok FROM todo WHERE worker = :client_id AND part = :part OFFSET 0) s
GROUP BY client;
SCRIPT
	is( $node->safe_psql('postgres',
			"SELECT sum(calls) FROM hits WHERE capacity = $capacity"),
		10000, "quota of $capacity: every request was decided");
	is( $node->safe_psql('postgres', <<"SQL"), '', "quota of $capacity: exactly min($capacity, requests) allowed for every client");
SELECT client, count(*), h.allowed FROM access_log
LEFT JOIN (SELECT client, sum(allowed) AS allowed FROM hits WHERE capacity = $capacity GROUP BY client) h USING (client)
GROUP BY client, h.allowed
HAVING h.allowed IS DISTINCT FROM least($capacity, count(*)) LIMIT 5
SQL
}

$node->stop;
done_testing();
