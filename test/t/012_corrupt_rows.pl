# A row that makes no sense: the call is decided, a warning names the key, and the
# bucket is sane afterwards, never a free pass for ever.  Cleaning goes on.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# Column values that replace those of a sane row, for a bucket of 3 without refill.
my %corrupt = (
	'owed negative' => 'owed = -1',
	'owed very negative' => 'owed = -9223372036854775808',
	'owed_high negative' => 'owed_high = -1',
	'owed huge' => 'owed = 9223372036854775807, owed_high = 9223372036854775807',
	'owed beyond any debt' => 'owed_high = 200000000000',
	'capacity NaN' => "capacity = 'NaN'",
	'capacity infinite' => "capacity = 'infinity'",
	'capacity -infinite' => "capacity = '-infinity'",
	'capacity 0' => 'capacity = 0',
	'capacity negative' => 'capacity = -5',
	'refill NaN' => "refill = 'NaN'",
	'refill infinite' => "refill = 'infinity'",
	'refill negative' => 'refill = -1',
	'updated_at in the future' => "updated_at = now() + interval '1 year'",
	'updated_at infinite' => "updated_at = 'infinity'",
	'updated_at -infinite' => "updated_at = '-infinity'",
	'everything' => "owed = -1, capacity = 'NaN', refill = 'NaN', updated_at = 'infinity'");
# The same with refill: a bucket of 3, one token in 1,000 s.
my @refilled = (
	'owed negative', 'owed huge', 'owed_high negative', 'refill NaN',
	'updated_at in the future', 'updated_at infinite', 'updated_at -infinite');

foreach my $preload (0, 1)
{
	my $name = $preload ? 'spilled' : 'not preloaded';
	my $node = start_server("corrupt_$preload", preload => $preload, conf => <<'CONF');
ratelimit.max_buckets = 16
ratelimit.flush_interval = 1h
CONF

	fill_until_spilled($node, 'filling', 3, 0) if $preload;
	foreach my $case (
		(map { [ $_, 0 ] } sort keys %corrupt),
		(map { [ $_, 0.001 ] } @refilled))
	{
		my ($what, $refill) = @$case;
		my $key = "$what, $refill";
		my $call = "SELECT rl_consume('$key', 3, $refill)";
		my $here = "$name: $what, refill $refill";

		is($node->safe_psql('postgres', $call), 't', "$here: a bucket");
		$node->safe_psql('postgres', "UPDATE rate_limit_buckets SET $corrupt{$what} WHERE key = '$key'");

		# looking does no harm and does not fail
		my ($rc, $out, $err) = $node->psql('postgres', "SELECT count(*) FROM rate_limit_status WHERE key = '$key'; SELECT (rl_peek('$key', 3, $refill)).remaining BETWEEN 0 AND 3");
		like($out, qr/^[01]\nt$/, "$here: can be looked at");
		unlike($err, qr/ERROR/, "$here: ... without error");

		($rc, $out, $err) = $node->psql('postgres', $call);
		is($rc, 0, "$here: is decided");
		like($err, qr/WARNING:  repaired the bucket of key "\Q$key\E", limiter "default"/, "$here: the warning names the key");
		# 3 calls at most, whatever the first one said
		($rc, $out, $err) = $node->psql('postgres', "$call; $call; $call; $call;");
		is($err, '', "$here: no warning any more");
		like($out, qr/\nf$/, "$here: no free pass for ever");
		is( $node->safe_psql('postgres', <<"SQL"), '3|t|t|t', "$here: the row is sane");
SELECT capacity, refill = $refill, owed >= 0 AND owed < 1e18 AND owed_high BETWEEN 0 AND 2, updated_at BETWEEN now() - interval '1 min' AND now() FROM rate_limit_buckets WHERE key = '$key'
SQL
		is($node->safe_psql('postgres', "SELECT rl_reset('$key'), rl_consume('$key', 3, $refill)"), 't|t', "$here: can be reset");
	}

	# Until here no worker came between.
	$node->append_conf('postgresql.conf', 'ratelimit.flush_interval = 1s');
	$node->reload;

	# Cleaning.  A sane row that has expired goes, whatever else is there.
	my $n = 0;
	foreach my $what (sort keys %corrupt)
	{
		$n++;
		foreach my $refill (0, 1000)
		{
			$node->safe_psql('postgres', <<"SQL");
INSERT INTO rate_limit_buckets VALUES ('clean', '$n, $refill', 3, $refill, 1, now() - interval '1 hour');
UPDATE rate_limit_buckets SET $corrupt{$what} WHERE limiter = 'clean' AND key = '$n, $refill';
SQL
		}
	}
	$node->safe_psql('postgres', "INSERT INTO rate_limit_buckets VALUES ('clean', 'sane', 3, 1000, 1, now() - interval '1 hour')");
	# without a worker, new rows clean
	my $calls = $preload ? '' : "SELECT count(*) FROM generate_series(1, 500) i WHERE rl_consume('cleaning' || i || random(), 1, 1e6);";
	my $sane_is_gone = "SELECT NOT EXISTS (SELECT FROM rate_limit_buckets WHERE limiter = 'clean' AND key = 'sane')";
	my $gone = 0;
	for (1 .. 20)
	{
		last if $preload || $gone;
		$gone = $node->safe_psql('postgres', "$calls $sane_is_gone") =~ /t$/;
	}
	ok($preload ? $node->poll_query_until('postgres', $sane_is_gone) : $gone,
		"$name: an expired row is cleaned away, corrupt ones or not");
	unlike(slurp_file($node->logfile), qr/ERROR:  (?!relation)/, "$name: nothing ever failed");

	# and what cleaning left of them can still be decided and reset
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT count(rl_consume(key, 3, 0, 1, limiter)) > 0 FROM rate_limit_buckets WHERE limiter = 'clean'; SELECT rl_reset_all(NULL) > 0");
	is("$rc $out", "0 t\nt", "$name: what is left is decided and reset");
	ok(wait_until_nothing_spilled($node), "$name: and the marks go") if $preload;
	$node->stop;
}

done_testing();
