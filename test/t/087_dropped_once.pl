# Buckets and pending violations go with the extension when its drop is committed, and
# only then, whatever savepoints, a CREATE EXTENSION and a PREPARE do in between.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('dropped', conf => "ratelimit.flush_interval = '1h'");

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# What is left of a bucket of 5 of which 3 are taken, and of 2 violations, once a
# script has run.
sub left_after
{
	my ($script) = @_;

	query("CREATE EXTENSION IF NOT EXISTS ratelimit; SELECT rl_reset('k'), rl_flush()");
	query("SELECT rl_consume('k', 5, 0, 3), rl_consume('k', 5, 0, 3), rl_consume('k', 5, 0, 3)");
	my ($rc, $out, $err) = $node->psql('postgres', $script, on_error_stop => 0);
	return (query("CREATE EXTENSION IF NOT EXISTS ratelimit; SELECT (rl_peek('k', 5, 0, 0)).remaining, (SELECT coalesce(sum(count), 0) FROM rate_limit_pending)"), $err);
}

my ($kept, $gone) = ('2|2', '5|0');
my $drop = 'DROP EXTENSION ratelimit;';
my $create = 'CREATE EXTENSION ratelimit;';

foreach (
	[ "SELECT 1", $kept, 'no drop' ],
	[ $drop, $gone, 'a drop' ],
	[ "BEGIN; $drop ROLLBACK", $kept, 'one that is rolled back' ],
	[ "BEGIN; $drop SELECT 1 / 0; COMMIT", $kept, 'one in a transaction that fails' ],
	[ "$drop $create", $gone, 'a drop, and another one' ],
	[ "BEGIN; $drop $create COMMIT", $gone, '... in one transaction' ],
	[ "BEGIN; $drop $create ROLLBACK", $kept, '... that is rolled back' ],
	[ "BEGIN; SAVEPOINT a; $drop ROLLBACK TO a; COMMIT", $kept, 'a drop in a savepoint that is rolled back' ],
	[ "BEGIN; SAVEPOINT a; $drop RELEASE a; COMMIT", $gone, '... that is released' ],
	[ "BEGIN; SAVEPOINT a; $drop RELEASE a; ROLLBACK", $kept, '... in a transaction that is rolled back' ],
	[ "BEGIN; SAVEPOINT a; SAVEPOINT b; $drop RELEASE b; ROLLBACK TO a; COMMIT", $kept, '... in a savepoint that is rolled back' ],
	[ "BEGIN; SAVEPOINT a; $drop ROLLBACK TO a; $drop COMMIT", $gone, 'a drop after one that is rolled back' ],
	[ "BEGIN; $drop $create SAVEPOINT a; $drop ROLLBACK TO a; COMMIT", $gone, 'a drop before one that is rolled back' ],
	[ "BEGIN; SAVEPOINT a; $drop $create SAVEPOINT b; $drop ROLLBACK TO b; RELEASE a; COMMIT", $gone, '... in a savepoint that is released' ],
	[ "BEGIN; SAVEPOINT a; $drop $create SAVEPOINT b; $drop RELEASE b; ROLLBACK TO a; COMMIT", $kept, 'two, both rolled back' ],
	[ "BEGIN; SAVEPOINT a; $drop $create SAVEPOINT b; $drop $create RELEASE b; RELEASE a; COMMIT", $gone, 'two, both released' ],
	[ "DO \$\$ BEGIN BEGIN DROP EXTENSION ratelimit; RAISE 'x'; EXCEPTION WHEN raise_exception THEN END; END \$\$", $kept, 'a drop in a block that fails' ],
	[ "BEGIN; $drop PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'", $kept, 'a drop that is prepared and rolled back' ],
	[ "BEGIN; $drop PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'", $kept, 'a drop that is prepared: it is refused' ],
	[ "BEGIN; SAVEPOINT a; $drop ROLLBACK TO a; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'", $kept, 'a transaction that is prepared after its drop was rolled back' ],
	[ "BEGIN; $drop ROLLBACK; BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'; DROP TABLE t", $kept, '... after another one has dropped' ])
{
	my ($script, $expected, $what) = @$_;
	my ($result, $err) = left_after($script);

	is($result, $expected, $what) or diag($err);
}

my ($result, $err) = left_after("BEGIN; $drop PREPARE TRANSACTION 'p'");
like($err, qr/ERROR:  cannot PREPARE a transaction that has dropped extension ratelimit/, 'PREPARE TRANSACTION says so');
is(query('SELECT count(*) FROM pg_prepared_xacts'), 0, '... and prepares nothing');

# with its schema, or its owner
query("$drop CREATE SCHEMA s; CREATE EXTENSION ratelimit SCHEMA s; SELECT s.rl_consume('k', 5, 0, 3)");
query("DROP SCHEMA s CASCADE; $create");
is(query("SELECT (rl_peek('k', 5, 0, 0)).remaining"), 5, 'dropped with its schema');

# Another session's statement may outlast the extension.  What it does then is not the
# next one's.
my $session = in_session($node);
my $locker = in_session($node);
$locker->query_safe('SELECT pg_advisory_lock(1)');
$session->query_safe("SELECT rl_consume('before', 5, 0)");
$session->query_until(qr/begun/, "\\echo begun\nSELECT rl_consume('before', 5, 0), pg_advisory_lock(1), rl_report('after', 'user', 2);\n\\echo over\n");
ok($node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"), 'a statement is on its way');
query($drop);
$locker->query_safe('SELECT pg_advisory_unlock(1)');
like($session->query_until(qr/over/, ''), qr/t\|\|/, '... and goes on after the extension is dropped');
query($create);
is(query("SELECT (rl_peek('before', 5, 0, 0)).remaining, (SELECT count(*) FROM rate_limit_pending)"), '5|0', 'the next extension begins with nothing');
finish_session($session);
finish_session($locker);

# nothing is lost when the creation is only tried
query("SELECT rl_consume('k', 5, 0, 3)");
$node->psql('postgres', $create);
$node->psql('postgres', 'CREATE EXTENSION IF NOT EXISTS ratelimit');
is(query("SELECT (rl_peek('k', 5, 0, 0)).remaining"), 2, 'an extension that is there already keeps what it has');

$node->stop;
done_testing();
