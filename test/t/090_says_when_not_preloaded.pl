# CREATE EXTENSION says it when there is no shared memory: once, when the extension
# is there to stay, whatever the transaction looks like, and only then.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('table', preload => 0);
my $why =
  can_be_late($node)
  ? 'ratelimit does not use shared memory'
  : 'ratelimit is not in shared_preload_libraries';
my $notice = qr/^NOTICE:  $why\nDETAIL:  [^\n]+\.\nHINT:  [^\n]+\.\n?$/;

# What psql says, with the extension not there before.
sub said
{
	my ($server, $sql) = @_;

	$server->safe_psql('postgres', 'DROP EXTENSION IF EXISTS ratelimit');
	my ($rc, $out, $err) = $server->psql('postgres', $sql, on_error_stop => 0);
	return $err =~ s/^psql:<stdin>:\d+: //mgr;
}

foreach (
	[ 'CREATE EXTENSION ratelimit', 'created' ],
	[ 'BEGIN; CREATE EXTENSION ratelimit; SELECT 1; COMMIT', 'created in a transaction' ],
	[ 'BEGIN; SAVEPOINT a; CREATE EXTENSION ratelimit; RELEASE a; COMMIT', 'created in a savepoint' ],
	[ "LOAD 'ratelimit'; CREATE EXTENSION ratelimit", 'created with the library loaded' ],
	[ 'CREATE EXTENSION ratelimit; SELECT rl_consume(\'k\', 1, 0); CREATE TABLE t (); DROP TABLE t', 'created, and used' ],
	[ 'BEGIN; CREATE EXTENSION ratelimit; DROP EXTENSION ratelimit; COMMIT; CREATE EXTENSION ratelimit', 'created, dropped and created' ],
	[ 'BEGIN; CREATE EXTENSION ratelimit; ROLLBACK; CREATE EXTENSION ratelimit', 'rolled back and created' ],
	[ 'BEGIN; CREATE EXTENSION ratelimit; SELECT pg_sleep(0); END; SELECT 1', 'ended otherwise' ])
{
	my ($sql, $what) = @$_;

	like(said($node, $sql), $notice, "$what: it says so, once");
}
foreach (
	[ 'BEGIN; CREATE EXTENSION ratelimit; ROLLBACK', 'rolled back' ],
	[ 'BEGIN; SAVEPOINT a; CREATE EXTENSION ratelimit; ROLLBACK TO a; COMMIT', 'rolled back to a savepoint' ],
	[ 'BEGIN; CREATE EXTENSION ratelimit; DROP EXTENSION ratelimit; COMMIT', 'dropped in the same transaction' ],
	[ 'SET client_min_messages = warning; CREATE EXTENSION ratelimit', 'the client wants no notices' ],
	[ 'SELECT 1', 'nothing is created' ])
{
	my ($sql, $what) = @$_;

	is(said($node, $sql), '', "$what: it does not");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_proc WHERE proname ~ '^_?rl_creation'"), 0, 'and nothing of it stays');
$node->stop;

$node = start_server('preloaded');
is(said($node, 'CREATE EXTENSION ratelimit'), '', 'preloaded: there is nothing to say');
$node->stop;

if (can_be_late($node))
{
	$node = start_server('late', late => 1);
	is(said($node, 'CREATE EXTENSION ratelimit'), '', 'nor if memory is made without preloading');
	$node->stop;
}
done_testing();
