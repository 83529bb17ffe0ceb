# Without preloading, a transaction's violations are one row per gateway, written
# as it commits, and none if it is rolled back.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('bare', preload => 0);

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# What is written since the last look.
sub written
{
	my $rows = query('SELECT gateway_name, total_count, details FROM rate_limit_violations ORDER BY gateway_name, id');

	query('TRUNCATE rate_limit_violations');
	return $rows;
}

my $gateway = "SET ratelimit.gateway_name = 'gw';";

query("LOAD 'ratelimit'; $gateway SELECT rl_consume('k', 2, 0) FROM generate_series(1, 5)");
is(written(), 'gw|3|{"k:default": 3}', 'a statement: one row');
query("LOAD 'ratelimit'; $gateway SELECT rl_consume('k', 2, 0) FROM generate_series(1, 2)");
is(written(), 'gw|2|{"k:default": 2}', 'the next session: another row');
query(<<"SQL");
LOAD 'ratelimit'; $gateway
BEGIN;
SELECT rl_consume('k', 2, 0) FROM generate_series(1, 3);
SELECT rl_consume('2001:db8::1', 1, 0, limiter => 'ip') FROM generate_series(1, 3);
SELECT count(*) FROM rate_limit_violations \\gset
SELECT rl_consume('k', 2, 0);
SELECT rl_report('u', 'user', 7);
COMMIT;
SQL
is(written(), 'gw|13|{"u:user": 7, "k:default": 4, "2001:db8::1:ip": 2}', 'a transaction: one row, for all of its calls');
query(<<"SQL");
LOAD 'ratelimit';
BEGIN;
SET LOCAL ratelimit.gateway_name = 'gw 1';
SELECT rl_report('u', 'user', 1);
SET LOCAL ratelimit.gateway_name = 'gw 2';
SELECT rl_report('u', 'user', 2);
COMMIT;
SQL
is(written(), "gw 1|1|{\"u:user\": 1}\ngw 2|2|{\"u:user\": 2}", '... per gateway');
is(query("LOAD 'ratelimit'; BEGIN; SELECT rl_consume('k', 2, 0) FROM generate_series(1, 3); ROLLBACK; SELECT count(*) FROM rate_limit_violations"), "f\nf\nf\n0", 'rolled back: none');
my ($rc, $out, $err) = $node->psql('postgres', "LOAD 'ratelimit'; SELECT rl_consume('k', 2, 0), 1 / (random() * 0)::int");
like($err, qr/division by zero/, 'a failing statement');
is(written(), '', '... none');
query("LOAD 'ratelimit'; $gateway BEGIN; SELECT rl_report('u', 'user', 3); PREPARE TRANSACTION 'p'");
is(query('SELECT count(*) FROM rate_limit_violations'), 0, 'prepared: not yet');
query("COMMIT PREPARED 'p'");
is(written(), 'gw|3|{"u:user": 3}', '... committed: written');
query("BEGIN; SELECT rl_report('u', 'user', 3); PREPARE TRANSACTION 'p'");
query("ROLLBACK PREPARED 'p'");
is(written(), '', '... rolled back: none');
is(query("SELECT rl_flush()"), 0, 'there is nothing to flush');
is(query('SELECT count(*) FROM rate_limit_pending'), 0, '... nor pending');

# the sink is heeded
query("LOAD 'ratelimit'; ALTER SYSTEM SET ratelimit.violation_sink = 'none'");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('ratelimit.violation_sink', true) = 'none'");
query("SELECT rl_report('u', 'user', 3)");
is(written(), '', 'sink none: none');
query("LOAD 'ratelimit'; ALTER SYSTEM RESET ratelimit.violation_sink");
$node->reload;
$node->poll_query_until('postgres', "SELECT coalesce(current_setting('ratelimit.violation_sink', true), '') = ''");

# a row that cannot be written disturbs nobody
query('ALTER TABLE rate_limit_violations RENAME TO hidden; CREATE TABLE done (i int)');
($rc, $out, $err) = $node->psql('postgres', "BEGIN; INSERT INTO done VALUES (1); SELECT rl_consume('k', 2, 0); COMMIT");
is($rc, 0, 'no table: the transaction commits');
like($err, qr/WARNING:  could not write the transaction's rate limit violations/, '... with a warning');
is(query('SELECT count(*) FROM done'), 1, '... whole');
query('ALTER TABLE hidden RENAME TO rate_limit_violations');

# read-only: decides, cannot write
($rc, $out, $err) = $node->psql('postgres', "SET default_transaction_read_only = on; SELECT rl_peek('k', 2, 0)");
is($rc, 0, 'read-only: a look');
is(written(), '', '... writes none');

# Many at once: every committed one is there, no other
run_clients(
	$node, 'many clients',
	clients => 8,
	transactions => 50,
	script => <<'SCRIPT');
SELECT set_config('ratelimit.gateway_name', 'gateway ' || :client_id % 4, false);
BEGIN;
SELECT rl_report('key ' || :client_id, 'user', i) FROM generate_series(1, 10) i;
COMMIT;
BEGIN;
SELECT rl_report('rolled back', 'user', 1);
ROLLBACK;
SCRIPT
is(query('SELECT gateway_name, key, count(*), sum(count) FROM rate_limit_violation_details GROUP BY 1, 2 ORDER BY 2'),
	join("\n", map { 'gateway ' . $_ % 4 . "|key $_|50|2750" } 0 .. 7), '... one row for each transaction that committed');

written();

# Whose they are: the server's if the session has no name; and bytes that are no text here are not shown
query("LOAD 'ratelimit'; SET application_name = ''; SELECT rl_report('u', 'user', 1)");
is(written(), 'bare|1|{"u:user": 1}', 'without a name, they are those of the server');
query(q{CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'});
$node->safe_psql('latin', q{CREATE ROLE latin LOGIN SUPERUSER; DO $$BEGIN EXECUTE format('ALTER ROLE latin SET ratelimit.gateway_name = %L', 'b' || chr(252) || 'ro'); END$$});
query(q{CREATE DATABASE utf8 TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'});
$node->safe_psql('utf8', 'CREATE EXTENSION ratelimit');
$node->safe_psql('utf8', "LOAD 'ratelimit'; SELECT rl_report('u', 'user', 1)", extra_params => [ '-U', 'latin' ]);
is($node->safe_psql('utf8', 'SELECT gateway_name FROM rate_limit_violations'), 'b?ro', 'a name in another encoding');

# Into the log
$node->append_conf('postgresql.conf', 'ratelimit.violation_sink = log');
$node->reload;
$node->poll_query_until('postgres', "LOAD 'ratelimit'; SELECT current_setting('ratelimit.violation_sink') = 'log'", "LOAD\nt");
my $from = -s $node->logfile;
query("LOAD 'ratelimit'; $gateway SELECT rl_report('u', 'user', 2)");
like(slurp_file($node->logfile, $from), qr/ratelimit violations: \{"database": "postgres", "gateway_name": "gw", "total_count": 2, "details": \{"u:user": 2\}\}/, 'they go to the log, if a setting says so');
is(written(), '', '... only');

$node->stop;
done_testing();
