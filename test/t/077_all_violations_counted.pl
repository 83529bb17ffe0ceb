# Whatever happens at once, every denied call is counted exactly once: denied calls
# equal violations written, pending and lost.  A small room, so that entries change
# hands all the time; many gateways, limiters and keys, as callers please; flushes by
# the worker and by sessions, some of them rolled back; readers that fold.
#
# RATELIMIT_SEED repeats a run's choices, RATELIMIT_FULL=1 takes longer.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $seed = $ENV{RATELIMIT_SEED} || time;
srand($seed);
note "RATELIMIT_SEED=$seed";

my $node = start_server('counted', conf => <<'CONF');
ratelimit.max_violations = 256
ratelimit.max_episodes = 50
ratelimit.flag_limiters = 'limiter 1'
ratelimit.flag_threshold = 50
ratelimit.flag_window = 17s
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# Denied calls, each session's own count of them.
query('CREATE TABLE denied (n bigint NOT NULL)');

# Once no client is there any more; pending ones are flushed first, or the worker
# might move them from one sum to the other while they are read.
sub is_exact
{
	my ($what) = @_;

	cmp_ok(query('SELECT rl_flush()'), '>=', 0, "$what: flushed");
	my ($denied, $written, $pending, $lost) = split /\|/, query(<<'SQL');
SELECT (SELECT sum(n) FROM denied),
	(SELECT sum(total_count) FROM rate_limit_violations),
	(SELECT coalesce(sum(count), 0) FROM rate_limit_pending),
	(SELECT violations_lost FROM rate_limit_stats WHERE limiter IS NULL)
SQL
	is("$written|$pending|$lost", "$denied|0|0", '... written are as many as denied, and none is lost');
	return;
}

# gateways, limiters, keys: how many different ones
sub load_script
{
	my ($gateways, $limiters, $keys) = @_;

	return <<"SCRIPT";
\\set what random(1, 20)
SELECT set_config('ratelimit.gateway_name', 'gateway ' || (random() * $gateways)::int, false);
WITH calls AS MATERIALIZED (
	SELECT rl_consume('key ' || (random() * $keys)::int, 1, 0, 2, 'limiter ' || (random() * $limiters)::int) AS allowed
	FROM generate_series(1, 50))
INSERT INTO denied SELECT count(*) FROM calls WHERE NOT allowed;
\\if :what = 1
SELECT rl_flush();
\\elif :what = 2
BEGIN;
SELECT rl_flush();
ROLLBACK;
\\elif :what = 3
SELECT count(*) FROM rate_limit_episodes, rate_limit_pending;
\\endif
SCRIPT
}

my $transactions = $ENV{RATELIMIT_FULL} ? 4000 : 250;
my %loads = (
	'few keys, which nearly fit' => [ 2, 2, 60 ],
	'many keys' => [ 3, 3, 5000 ],
	'many gateways' => [ 3000, 3, 10 ],
	'many of everything' => [ 500, 500, 500 ]);
foreach my $load (sort keys %loads)
{
	run_clients($node, $load, clients => 8, transactions => $transactions, script => load_script(@{ $loads{$load} }));
	is_exact($load);
}
# A flush that is rolled back over and over, of counts as large as can be: what comes
# back is no more than an entry can hold.  In one session, so that no worker comes between.
end_rounds($node);
query('TRUNCATE rate_limit_violations, denied; SELECT rl_flush()');
my $big = '1::bigint << 40';
my $reported = 24 * (1 << 40);
is(query(<<"SQL"), "$reported\n1", 'counts of 2^42 are taken and come back, over and over: all are there, with their names');
\\o /dev/null
BEGIN;
@{[ map { "SELECT rl_report('big', 'big', $big) FROM generate_series(1, 4); SELECT rl_flush();\n" } 1 .. 6 ]}
ROLLBACK;
\\o
SELECT (SELECT sum(count) FROM rate_limit_pending) + (SELECT violations_lost FROM rate_limit_stats WHERE limiter IS NULL);
SELECT count(*) FROM rate_limit_pending WHERE key = 'big' AND count > 0;
SQL

$node->stop;
done_testing();
