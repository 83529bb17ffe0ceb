# Calls with a capacity of 0 are denied and leave no trace but violations: beside them, 32
# connections get exactly what a bucket has; they need no room, no table and no right to
# write, and so are denied also where other calls could not be decided.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# Every function that takes a capacity, or a policy, and what it answers.
my @calls = (
	[ q{rl_consume('KEY', 0, 5)}, 'f' ],
	[ q{(rl_throttle('KEY', 0, 5)).allowed}, 'f' ],
	[ q{(rl_peek('KEY', 0, 5)).allowed}, 'f' ],
	[ q{rl_consume_upto('KEY', 0, 5, 3)}, '0' ],
	[ q{rl_consume_each(ARRAY['KEY', 'KEY'], 0, 5)}, '{f,f}' ],
	[ q{rl_consume_all(ARRAY['KEY', 'other KEY'], ARRAY[0, 100], ARRAY[5, 5])}, 'f' ],
	[ q{rl_throttle_each('{KEY}', '{0}', '{5}')}, '{"(f,0,0,,,default,f,)"}' ],
	[ q{rl_consume_policies('{closed,partly}', '{KEY,other KEY}')}, '{"(f,0,0,,,closed,f,)","(f,0,0,,,partly/none,f,)"}' ],
	[ q{rl_wait('KEY', 0, 5, timeout => '1 day')}, 'f' ],
	[ q{rl_consume_policy('closed', 'KEY')}, 'f' ],
	[ q{(rl_throttle_policy('closed', 'KEY')).allowed}, 'f' ],
	[ q{rl_consume_policy('partly', 'KEY')}, 'f' ]);
my $policies = q{INSERT INTO rate_limit_policies (policy, tier, capacity, refill) VALUES ('closed', 'default', 0, 5), ('partly', 'default', 100, 5), ('partly', 'none', 0, 5)};
# rl_peek() records nothing
my $violations = 12;

# All calls, by a key of its own, after some SET commands: nothing is left of them.
sub denied_everywhere
{
	my ($node, $what, $before, $key) = @_;

	foreach my $call (@calls)
	{
		my ($sql, $answer) = @$call;
		my ($rc, $out, $err) = $node->psql('postgres', "$before SELECT " . $sql =~ s/KEY/$key/gr, on_error_stop => 0);

		is("$out$err", $answer, "$what: $sql");
	}
	is($node->safe_psql('postgres', "SELECT count(*) FROM rate_limit_status WHERE key ~ '$key'"), 0, "$what: no bucket is made");
	return;
}

sub violations_of
{
	my ($node, $key) = @_;

	$node->safe_psql('postgres', 'SELECT rl_flush()');
	return $node->safe_psql('postgres', "SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE key ~ '$key'");
}

foreach my $store ('memory', 'table')
{
	my $node = start_server($store, preload => $store eq 'memory', $store eq 'memory' ? (conf => 'ratelimit.max_buckets = 16') : ());
	my $sql = sub { return $node->safe_psql('postgres', $_[0]); };

	$sql->($policies);
	denied_everywhere($node, $store, '', 'k');
	is(violations_of($node, '^k'), $violations, "$store: ... and every denial is recorded, of those that refused");
	is(violations_of($node, '^other'), 1, "$store: ... and of the other key where that has a capacity of 0, too");
	denied_everywhere($node, "$store, deciding errors", 'SET ratelimit.on_error = allow;', 'lenient');
	denied_everywhere($node, "$store, refunding", 'SET ratelimit.refund_on_rollback = on;', 'refunding');
	denied_everywhere($node, "$store, read-only", 'SET default_transaction_read_only = on;', 'reading');

	# beside them, the bucket is exact
	$sql->('CREATE UNLOGGED TABLE hits (ok bool, refill float8)');
	foreach my $round (1, 2)
	{
		my $capacity = 500 * $round;
		run_clients(
			$node, "$store, round $round",
			clients => 32,
			transactions => 100,
			script => <<"SQL");
SELECT rl_consume('hot', 0, random() * 100), rl_consume_each('{hot,hot}', 0, 0, 0);
INSERT INTO hits SELECT rl_consume('hot', $capacity, 0, 0.5, 'default');
SELECT rl_consume_all('{hot,more}', '{0,10}', '{0,0}');
SQL
		is($sql->('SELECT count(*) FILTER (WHERE ok) FROM hits'), $round == 1 ? 1000 : 0, "$store, round $round: exactly what the bucket has is given");
		is($sql->(q{SELECT key, tokens, capacity, refill FROM rate_limit_status WHERE key IN ('hot', 'more')}), "hot|0|$capacity|0", "$store, round $round: ... and it is as its own calls left it");
		$sql->('TRUNCATE hits');
	}

	# a bucket that refills goes on refilling at its own rate
	$sql->(q{SELECT rl_consume('timed', 1000, 0.001, 500)});
	is($sql->(q{SELECT bool_or(rl_consume('timed', 0, 1e9)), bool_or(rl_consume('timed', 0, 0, 0)) FROM generate_series(1, 1000)}), 'f|f', "$store: a bucket that refills");
	is($sql->(q{SELECT round(tokens), capacity, refill FROM rate_limit_status WHERE key = 'timed'}), '500|1000|0.001', "$store: ... is as it was");

	if ($store eq 'memory')
	{
		# where memory is full
		fill_until_spilled($node, 'full ', 1, 0);
		denied_everywhere($node, 'where partitions are full', '', 'no room');
		is($sql->(q{SELECT count(*) FROM rate_limit_buckets WHERE key ~ 'no room'}), 0, '... nor is a row');
		is($sql->(q{SELECT decided_in_table FROM rate_limit_stats WHERE limiter = 'closed'}), 0, '... nor does a call count as decided in the table');
		is($sql->(q{SELECT rl_consume('full 1', 0, 5), rl_consume('full 1', 1, 0)}), 'f|f', '... and a row stays as it is');
	}
	else
	{
		# the table is not needed, and may be away or locked
		$sql->('ALTER TABLE rate_limit_buckets RENAME TO away');
		is($sql->(q{SELECT rl_consume('without', 0, 5), rl_consume_upto('without', 0, 5, 3), (rl_throttle('without', 0, 5)).allowed}), 'f|0|f', 'without the table');
		$sql->('ALTER TABLE away RENAME TO rate_limit_buckets');
		my $session = in_session($node);
		$session->query_safe(q{BEGIN; LOCK rate_limit_buckets});
		is($sql->(q{SET lock_timeout = '100 ms'; SELECT rl_consume('locked out', 0, 5), rl_wait('locked out', 0, 5)}), 'f|f', '... or with a strong lock on it');
		$session->query_safe('ROLLBACK');
		finish_session($session);
	}
	$node->stop;
}

#
# A restart
#
my $node = start_server('restarted');
$node->safe_psql('postgres', q{SELECT rl_consume('kept', 10, 0, 4), rl_consume('kept', 0, 0), rl_consume('none', 0, 1)});
$node->restart;
is($node->safe_psql('postgres', 'SELECT key, tokens, capacity FROM rate_limit_status'), 'kept|6|10', 'after a restart there are the buckets that there were');
$node->stop;

#
# A standby, without preloading, where no other call could be decided
#
my $primary = start_server('primary', preload => 0, streaming => 1);
$primary->safe_psql('postgres', $policies);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
my ($rc, $out, $err) = $standby->psql('postgres', q{SELECT rl_consume('k', 1, 0)});
like($err, qr/cannot decide on key "k", limiter "default" during recovery/, 'a standby without preloading cannot decide');
is($standby->safe_psql('postgres', q{SELECT rl_consume('k', 0, 5), rl_consume_upto('k', 0, 5, 1), rl_consume_each('{k,l}', 0, 5), rl_consume_policy('closed', 'k')}), 'f|0|{f,f}|f', '... but deny what nobody may');
$standby->stop;
$primary->stop;

done_testing();
