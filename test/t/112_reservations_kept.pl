# Where reservations are kept, and for how long: over a restart but not over a crash,
# in memory of which nobody gets all, on a standby and in read-only and prepared
# transactions, until the extension or the database is dropped; what settling does
# when it fails; and that they expire when they should, by each store's clock.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;

my $memory = start_server('memory', streaming => 1, conf => "ratelimit.max_reservations = 64\nratelimit.save_interval = 1s\n");
my $table = start_server('table', preload => 0);
my ($seam, %seam) = preload_seam($table);

# The number of a reservation; empty if denied.
sub reserve
{
	my ($node, $key, $tokens, $expires, $before) = @_;
	my @lines = split /\n/, $node->safe_psql('postgres', ($before // '') . "SELECT rl_reserve('$key', 100, 0, $tokens, '" . ($expires // '1 day') . "')");

	return $lines[-1] // '';
}

sub settle
{
	my ($node, $number, $used) = @_;

	return $node->safe_psql('postgres', "SELECT rl_settle($number, $used)");
}

sub tokens
{
	my ($node, $key) = @_;

	return $node->safe_psql('postgres', "SELECT (rl_peek('$key', 100, 0, 0)).remaining");
}

#
# Restarts and crashes
#
my %number;
foreach my $node ($memory, $table)
{
	my $what = $node->name;

	$number{$what} = reserve($node, 'stays', 60);
	is($node->safe_psql('postgres', 'SELECT key, tokens, store FROM rate_limit_reservations'), "stays|60|$what", "$what: reserved");
	$node->append_conf('postgresql.conf', 'ratelimit.max_reservations = 300') if $what eq 'memory';
	my $expires = $node->safe_psql('postgres', 'SELECT expires_at FROM rate_limit_reservations');
	{
		local %ENV = (%ENV, $what eq 'table' ? %seam : ());
		$node->stop;
		$node->start;
	}
	is($node->safe_psql('postgres', "SELECT abs(extract(epoch FROM expires_at - timestamptz '$expires')) < 5 FROM rate_limit_reservations"), 't', "$what: a clean restart keeps it, and when it expires");
	is(settle($node, $number{$what}, 10), 90, "$what: it is settled after the restart");
	is(settle($node, $number{$what}, 10), '', "$what: once");
	$node->restart;
	is(settle($node, $number{$what}, 10), '', "$what: also after the next restart");

	$number{$what} = reserve($node, 'crash', 60);
	ok(wait_for_save($node), 'saved') if $what eq 'memory';
	$node->stop('immediate');
	{
		local %ENV = (%ENV, $what eq 'table' ? %seam : ());
		$node->start;
	}
	is($node->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_reservations'), 0, "$what: a crash forgets reservations");
	is(settle($node, $number{$what}, 10), '', "$what: ... which then cannot be settled");
	is(tokens($node, 'crash'), $what eq 'memory' ? 40 : 100, "$what: ... and have used all, if the bucket is not forgotten");
}

#
# Expiry
#
# the wall clock does not matter in memory, and is all there is in the table
my $number = reserve($table, 'late', 60, '10 min');
my $other = reserve($table, 'late', 10, '10 min');
set_seam($seam, clock_us => 9 * 60 * 1_000_000);
is($table->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_reservations'), 2, 'table: outstanding before ten minutes are over');
is(settle($table, $number, 20), 70, 'table: ... and settled');
set_seam($seam, clock_us => 10 * 60 * 1_000_000);
is($table->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_reservations'), 0, 'table: expired after ten minutes');
is(settle($table, $other, 5), '', 'table: ... and not settled');
is(tokens($table, 'late'), 70, 'table: ... at the full price');
set_seam($seam, clock_us => 0);
# expired rows do not stay
$table->safe_psql('postgres', q{SELECT count(rl_reserve('rows', 100, 0, 0, '1 us')) FROM generate_series(1, 1000)});
ok($table->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_reserved') < 64, 'table: expired rows are deleted by those who insert');

$number = reserve($memory, 'late', 60, '100 ms');
ok($memory->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_reservations)'), 'memory: expired');
is(settle($memory, $number, 5), '', 'memory: ... and not settled');
is(tokens($memory, 'late'), 40, 'memory: ... at the full price');

#
# Shares
#
$memory->append_conf('postgresql.conf', 'ratelimit.max_reservations = 64');
$memory->restart;
$memory->safe_psql('postgres', 'CREATE ROLE hog LOGIN; CREATE ROLE app LOGIN');
sub reserved
{
	my ($node, $role) = @_;

	return $node->safe_psql('postgres', "SELECT count(*) FROM rate_limit_reservations WHERE role = '$role' AND store = 'memory'");
}
$memory->safe_psql('postgres', q{SET ROLE hog; SELECT count(rl_reserve('hog', 100, 0, 0, '1 day')) FROM generate_series(1, 1000)});
my $hogs = reserved($memory, 'hog');
ok($hogs > 24 && $hogs <= 48, "one role gets three quarters of memory at most: $hogs of 64");
is($memory->safe_psql('postgres', "SELECT count(*) FROM rate_limit_reservations WHERE role = 'hog'"), 1000, '... and the table for the rest');
$memory->safe_psql('postgres', q{SET ROLE app; SELECT count(rl_reserve('app', 100, 0, 0, '1 day')) FROM generate_series(1, 100)});
my $apps = reserved($memory, 'app');
ok($apps >= 16, "another role gets a quarter at least: $apps");
# where the table cannot be written
my ($rc, $out, $err) = $memory->psql('postgres', q{SET ROLE hog; BEGIN READ ONLY; SELECT rl_reserve('full', 100, 0, 10) FROM generate_series(1, 70)}, on_error_stop => 1);
like($err, qr/cannot keep a reservation in a read-only transaction/, 'no room in memory, and the table cannot be written');
is(tokens($memory, 'full'), 100, '... nothing is taken');
is($memory->safe_psql('postgres', q{SET ratelimit.on_error = allow; SET client_min_messages = error; SET ROLE hog; BEGIN READ ONLY; SELECT min(rl_reserve('full', 100, 0, 1)) FROM generate_series(1, 10)}), 0, '... on_error = allow: 0');
is($memory->safe_psql('postgres', q{SET ratelimit.on_error = deny; SET client_min_messages = error; SET ROLE hog; BEGIN READ ONLY; SELECT rl_reserve('full', 100, 0, 1) IS NULL}), 't', '... deny: null');
is(tokens($memory, 'full'), 100, '... and nothing is taken');
($rc, $out, $err) = $table->psql('postgres', q{BEGIN READ ONLY; SELECT rl_reserve('full', 100, 0, 10)}, on_error_stop => 1);
like($err, qr/cannot keep a reservation in a read-only transaction.*no shared memory/s, 'without memory: the same error');
is(tokens($table, 'full'), 100, '... nothing is taken');

#
# A standby
#
$memory->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($memory, 'backup', has_streaming => 1);
$standby->start;
$memory->wait_for_catchup($standby, 'replay', $memory->lsn('write'));
$number = reserve($standby, 'there', 60);
is($standby->safe_psql('postgres', 'SELECT key, tokens, store FROM rate_limit_reservations'), 'there|60|memory', 'standby: reserved, and shown');
is(settle($memory, $number, 10), '', '... not on the primary');
is(settle($standby, $number, 10), 90, '... settled');
is(settle($standby, 12345, 10), '', '... no table to look in');
($rc, $out, $err) = $standby->psql('postgres', q{SELECT rl_reserve('many', 1e6, 0, 10) FROM generate_series(1, 70)});
like($err, qr/cannot keep a reservation during recovery/, '... and no more than memory has room for');
is($standby->safe_psql('postgres', "SELECT 1e6 - (rl_peek('many', 1e6, 0, 0)).remaining - (SELECT sum(tokens) FROM rate_limit_reservations)"), 0, '... to the token');
$standby->stop;

#
# PREPARE TRANSACTION
#
foreach my $node ($memory, $table)
{
	my $what = $node->name;
	my @lines = split /\n/, $node->safe_psql('postgres', "BEGIN; SELECT rl_reserve('prepared', 100, 0, 60); PREPARE TRANSACTION 'p'");

	is(settle($node, $lines[0], 10), '', 'table: the reservation of a prepared transaction cannot be settled') if $what eq 'table';
	$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
	is(settle($node, $lines[0], 10), 90, "$what: ... can when it is committed");

	@lines = split /\n/, $node->safe_psql('postgres', "SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_reserve('back', 100, 0, 60); PREPARE TRANSACTION 'p'");
	$node->safe_psql('postgres', "ROLLBACK PREPARED 'p'");
	is(tokens($node, 'back'), 40, "$what: ROLLBACK PREPARED gives nothing back");
}

#
# Settling that fails
#
$number = reserve($table, 'fails', 60);
my $blocker = in_session($table);
$blocker->query('BEGIN; LOCK rate_limit_buckets IN ACCESS EXCLUSIVE MODE');
($rc, $out, $err) = $table->psql('postgres', "SET lock_timeout = 10; SELECT rl_settle($number, 10)");
like($err, qr/lock timeout/, 'settling fails');
$blocker->query('ROLLBACK');
is(settle($table, $number, 10), 90, '... and can be tried again');

# a bucket that a statement is changing
$number = reserve($table, 'changing', 60);
$blocker->query(q{BEGIN; UPDATE rate_limit_buckets SET owed = owed WHERE key = 'changing'});
($rc, $out, $err) = $table->psql('postgres', "SET lock_timeout = 10; SELECT rl_settle($number, 10)");
like($err, qr/lock timeout/, 'settling fails halfway');
$blocker->query('ROLLBACK');
is(settle($table, $number, 10), 90, '... and can be tried again');

# one of two buckets, in the transaction that has reserved: a rollback gives back only what is
# not settled
$table->safe_psql('postgres', q{INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('two', 'a', 100, 0, true), ('two', 'b', 100, 0, true)});
$table->safe_psql('postgres', q{SELECT rl_consume_policy('two', 'half', 40)});
my $reserver = in_session($table);
$reserver->query('SET ratelimit.refund_on_rollback = on; BEGIN');
$number = $reserver->query(q{SELECT rl_reserve_policy('two', 'half', 30)});
$reserver->query('SET LOCAL lock_timeout = 10');
$blocker->query(q{BEGIN; UPDATE rate_limit_buckets SET owed = owed WHERE limiter = 'two/b'});
$reserver->query("SELECT rl_settle($number, 10)");
like($reserver->{stderr}, qr/lock timeout/, 'settling fails after the first of two buckets');
$reserver->query('ROLLBACK');
$blocker->query('ROLLBACK');
finish_session($reserver);
is($table->safe_psql('postgres', q{SELECT string_agg((rl_peek('half', 100, 0, 0, 'two/' || tier)).remaining::text, ' ') FROM unnest('{a,b}'::text[]) tier}), '60 60', '... and a rollback gives each of them its tokens once');

# in a parallel query, by a function of a caller that says it may be there
my $parallel = $table->safe_psql('postgres', q{SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')});
$number = reserve($table, 'parallel', 60);
$table->safe_psql('postgres', q{CREATE FUNCTION settle_safely(bigint) RETURNS float8 LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN rl_settle($1, 10); END'});
is($table->safe_psql('postgres', "SET $parallel = on; SELECT settle_safely($number)"), 90, 'a parallel query settles');

# the table of reservations
$blocker->query('BEGIN; LOCK rate_limit_reserved IN ACCESS EXCLUSIVE MODE');
($rc, $out, $err) = $table->psql('postgres', "SET lock_timeout = 10; SELECT rl_reserve('locked', 100, 0, 60)");
like($err, qr/lock timeout/, 'reserving fails');
is($table->safe_psql('postgres', "SET lock_timeout = 10; SET ratelimit.on_error = allow; SET client_min_messages = error; SELECT rl_reserve('locked', 100, 0, 60)"), 0, '... on_error = allow: 0');
is($table->safe_psql('postgres', "SET lock_timeout = 10; SET ratelimit.on_error = deny; SET client_min_messages = error; SET ratelimit.refund_on_rollback = on; BEGIN; SELECT rl_reserve('locked', 100, 0, 60) IS NULL; ROLLBACK"), 't', '... deny: null');
$blocker->query('ROLLBACK');
is(tokens($table, 'locked'), 100, '... and nothing is taken');
finish_session($blocker);

# rows that a person has written, and buckets that stand for all of them but one
$table->safe_psql('postgres', q{INSERT INTO rate_limit_buckets SELECT ':', n, 1e6, 1, 1e14, now() FROM unnest('{1,3,5,7,9,13}'::int[]) n});
$table->safe_psql('postgres', q{INSERT INTO rate_limit_reserved VALUES
(1, 'infinity', 'NaN', 0, '', '{}', '{NULL}', '{1,2}'), (3, 'infinity', 1, 0, 'k', '{a}', '{1}', '{1}'),
(5, now() + '1 day', 5, 0, 'k', '{{a,b},{c,d}}', '{1,1,1,1}', '{1,1,NULL,1}'), (7, now() + '1 day', 5, 0, 'k', '{:a}', '{1}', '{1}'),
(9, now() + '1 day', 5, 0, 'k', '{a}', '{-1}', '{Infinity}'), (11, now() + '1 day', 5, 0, 'k', '{a}', '{1}', '{1}'),
(13, now() + '1 day', 5, 0, 'k', '{a:day}', '{1}', '{-1e300}')});
is($table->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_reservations WHERE key = $$k$$'), 0, 'rows that make no sense are not shown');
is($table->safe_psql('postgres', 'SELECT count(rl_settle(n, 1)) FROM generate_series(0, 13) n'), 0, '... and nothing to settle');

#
# Another database; dropping
#
foreach my $node ($memory, $table)
{
	my $what = $node->name;

	$node->safe_psql('postgres', 'CREATE DATABASE other');
	$node->safe_psql('other', 'SET client_min_messages = warning; CREATE EXTENSION ratelimit');
	my $there = $node->safe_psql('other', "SELECT rl_reserve('k', 100, 0, 60, '1 day')");
	is(settle($node, $there, 1), '', "$what: a reservation of another database is not ours");
	is($node->safe_psql('other', 'SELECT count(*) FROM rate_limit_reservations'), 1, "$what: ... and shown there only");
	$node->safe_psql('other', 'SET client_min_messages = warning; DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit');
	is($node->safe_psql('other', 'SELECT count(*) FROM rate_limit_reservations'), 0, "$what: DROP EXTENSION forgets them");
	is($node->safe_psql('other', "SELECT rl_settle($there, 1)"), '', "$what: ... so that nobody can settle them");
	$node->safe_psql('postgres', 'DROP DATABASE other');
}

$memory->stop;
$table->stop;
done_testing();
