# Without preloading, a transaction's violations are written as it commits.  What is in
# the way of that costs it its violations and no more, with a warning that says why; an
# error of the INSERT itself, or of an operator's triggers and constraints, fails it.
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

query('CREATE TABLE done (i int)');

# A transaction with a violation: how it ends, and what it leaves.
sub ends
{
	my ($before, $options) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', <<"SQL");
LOAD 'ratelimit';
@{[ $options // '' ]};
BEGIN;
INSERT INTO done VALUES (1);
SELECT 1 FROM rl_report('k', 'user', 3);
@{[ $before // '' ]};
COMMIT;
SQL
	my $done = query('SELECT count(*) FROM done');
	my $written = query('SELECT coalesce(sum(total_count), 0) FROM rate_limit_violations');

	query('TRUNCATE done, rate_limit_violations');
	return ("$done $written", $err);
}

my $warning = qr/WARNING:  could not write the transaction's rate limit violations/;
my ($result, $err) = ends();
is($result, '1 3', 'a transaction commits with its violations');
is($err, '', '... in silence');

#
# In the way: the transaction commits
#
foreach (
	[ 'ALTER TABLE rate_limit_violations RENAME TO hidden', 'ALTER TABLE hidden RENAME TO rate_limit_violations',
		'Table rate_limit_violations does not exist.', 'a table that is not there' ],
	[ 'CREATE ROLE other; ALTER TABLE rate_limit_violations OWNER TO other', 'ALTER TABLE rate_limit_violations OWNER TO CURRENT_USER',
		'Table rate_limit_violations is not owned by the owner of the extension.', 'a table that was given away' ])
{
	my ($spoil, $mend, $why, $what) = @$_;
	my ($rc, $out);

	# in the transaction itself, so that the call before could be decided
	($rc, $out, $err) = $node->psql('postgres', "BEGIN; INSERT INTO done VALUES (1); SELECT 1 FROM rl_report('k', 'user', 3); $spoil; COMMIT; $mend");
	is($rc, 0, "$what: the transaction commits") or diag($err);
	like($err, qr/$warning\nDETAIL:  \Q$why\E/, '... with a warning that says why');
	is(query('SELECT count(*) FROM done'), 1, '... whole');
	query('TRUNCATE done');
}
($result, $err) = ends('SET TRANSACTION READ ONLY');
is($result, '1 0', 'a transaction that has become read-only: it commits');
like($err, qr/$warning\nDETAIL:  The transaction has become read-only/, '... with a warning that says why');

my $locker = in_session($node);
$locker->query_safe('BEGIN; LOCK rate_limit_violations IN SHARE MODE');
foreach (
	[ "SET lock_timeout = '50ms'", 'with a lock_timeout' ],
	[ "SET lock_timeout = 0", 'without one' ])
{
	my ($options, $what) = @$_;
	my ($rc, $out);
	my $began = monotonic_seconds();

	($rc, $out, $err) = $node->psql('postgres', "$options; BEGIN; INSERT INTO done VALUES (1); SELECT 1 FROM rl_report('k', 'user', 3); COMMIT; SELECT count(*) FROM done");
	is("$rc $out", "0 1\n1", "a table that is locked, $what: the transaction commits");
	like($err, qr/$warning\nDETAIL:  Table rate_limit_violations is locked/, '... with a warning that says why');
	cmp_ok(monotonic_seconds() - $began, '<', 20, '... soon');
	query('TRUNCATE done');
}

# It waits, for a second at most, and can be interrupted: again, should that be too late
my $waiter = in_session($node);
my $interrupter = in_session($node);
$waiter->query_safe("SET lock_timeout = '10min'; LOAD 'ratelimit'");
my $pid = $waiter->query_safe('SELECT pg_backend_pid()');
$locker->query_safe('ROLLBACK; BEGIN; LOCK rate_limit_violations IN SHARE MODE');
my $done;
foreach (1 .. 20)
{
	query('TRUNCATE done');
	$waiter->query_until(qr/begun/, "BEGIN; INSERT INTO done VALUES (1); SELECT 1 FROM rl_report('k', 'user', 3);\n\\echo begun\nCOMMIT;\n\\echo over\n");
	$interrupter->query_safe(<<"SQL");
DO \$\$
BEGIN
	WHILE (SELECT wait_event IS DISTINCT FROM 'Extension' AND state <> 'idle' FROM pg_stat_activity WHERE pid = $pid) LOOP
		PERFORM pg_stat_clear_snapshot(), pg_sleep(0.002);
	END LOOP;
	PERFORM pg_cancel_backend($pid);
END
\$\$
SQL
	$waiter->query_until(qr/over/, '');
	$done = query('SELECT count(*) FROM done');
	last if $done == 0;
}
is($done, 0, 'a transaction that waits for the table is cancelled, and does not commit');
like($waiter->{stderr}, qr/canceling statement due to user request/, '... and says so');
$locker->query_safe('COMMIT');
finish_session($interrupter);
finish_session($waiter);
query('TRUNCATE done, rate_limit_violations');

# A deadlock that the server does not see: the committing transaction gives way
$waiter = in_session($node);
$waiter->query_safe("SELECT 1 FROM rl_peek('any', 1, 0)");
$locker->query_safe('BEGIN; LOCK rate_limit_violations IN SHARE MODE');
$waiter->query_safe("BEGIN; LOCK done; SELECT 1 FROM rl_report('k', 'user', 3)");
$locker->query_until(qr/asked/, "\\echo asked\nLOCK done;\n\\echo locked\n");
ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'done'::regclass)}), 'somebody has the table and waits for a lock of ours');
$waiter->query('COMMIT');
$locker->query_until(qr/locked/, '');
pass('... the transaction commits, and they go on');
finish_session($locker);
finish_session($waiter);

#
# Errors: the transaction fails
#
my $context = qr/CONTEXT:.*while writing the transaction's rate limit violations/s;
query('ALTER TABLE rate_limit_violations ADD CONSTRAINT small CHECK (total_count < 3)');
($result, $err) = ends();
is($result, '0 0', 'a constraint that a row violates: the transaction fails');
like($err, qr/ERROR:  new row for relation "rate_limit_violations" violates check constraint "small".*$context/s, '... with that error, and where');
query("LOAD 'ratelimit'; ALTER SYSTEM SET ratelimit.violation_sink = 'none'");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('ratelimit.violation_sink', true) = 'none'");
($result, $err) = ends();
is($result, '1 0', '... not with ratelimit.violation_sink = none');
query("LOAD 'ratelimit'; ALTER SYSTEM RESET ratelimit.violation_sink");
$node->reload;
$node->poll_query_until('postgres', "SELECT coalesce(current_setting('ratelimit.violation_sink', true), '') = ''");
query('ALTER TABLE rate_limit_violations DROP CONSTRAINT small');

#
# An operator's triggers: they run, deferred ones too
#
query(<<'SQL');
CREATE TABLE seen (what text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	c refcursor;
BEGIN
	INSERT INTO seen VALUES (TG_NAME);
	OPEN c FOR SELECT * FROM seen;
	IF TG_ARGV[0] = 'fail' THEN
		RAISE 'failed in %', TG_NAME;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER at_once AFTER INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION see();
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON rate_limit_violations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see();
CREATE CONSTRAINT TRIGGER cascade AFTER INSERT ON seen DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.what = 'later') EXECUTE FUNCTION see();
SQL
foreach my $end ('COMMIT', "PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'", 'a procedure')
{
	my $sql = "BEGIN; SELECT 1 FROM rl_report('k', 'user', 3); $end";

	$sql = "DO \$\$ BEGIN PERFORM rl_report('k', 'user', 3); COMMIT; PERFORM 1; END \$\$"
	  if $end eq 'a procedure';
	my ($rc, $out);
	($rc, $out, $err) = $node->psql('postgres', "SELECT 1 FROM rl_peek('any', 1, 0); $sql; SELECT count(*) FROM pg_cursors");
	is("$rc $err", '0 ', "$end: triggers that leave cursors open");
	like($out, qr/^0$/m, '... leave none');
	is(query("SELECT string_agg(what, ' ' ORDER BY what) FROM seen"), 'at_once cascade later', "... and run, the deferred ones too");
	query('TRUNCATE seen, rate_limit_violations');
}
query('DROP TRIGGER later ON rate_limit_violations');
query("CREATE CONSTRAINT TRIGGER later AFTER INSERT ON rate_limit_violations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see('fail')");
($result, $err) = ends();
is($result, '0 0', 'a deferred trigger that fails: the transaction fails');
like($err, qr/ERROR:  failed in later.*$context/s, '... with that error, and where');

query('DROP TRIGGER at_once ON rate_limit_violations; DROP TRIGGER later ON rate_limit_violations; DROP TRIGGER cascade ON seen');

#
# They run as the extension's owner, in sessions of any role: what they call is not to
# be the caller's
#
query(<<'SQL');
CREATE FUNCTION public.note(text) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.seen VALUES ('operator ' || current_user) $$;
CREATE FUNCTION public.noting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM note('x'); RETURN NULL; END $$;
CREATE TRIGGER noting AFTER INSERT ON rate_limit_violations FOR EACH ROW EXECUTE FUNCTION noting();
CREATE ROLE attacker LOGIN;
CREATE SCHEMA attack AUTHORIZATION attacker;
SQL
my ($rc, $out);
($rc, $out, $err) = $node->psql('postgres', <<'SQL', extra_params => [ '--username' => 'attacker' ]);
CREATE FUNCTION attack.note(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE attacker SUPERUSER'; END $$;
SET search_path = attack, public;
SELECT rl_consume('k', 1, 0), rl_consume('k', 1, 0);
SQL
is(query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'attacker'}), 'f', 'a trigger that does not say where to look does not look where the caller says');
# the same for flags, which a role may be allowed to set
query(<<'SQL');
CREATE TRIGGER noting AFTER INSERT OR UPDATE ON rate_limit_flags FOR EACH ROW EXECUTE FUNCTION noting();
GRANT EXECUTE ON FUNCTION rl_flag(text, text, text), rl_unflag(text, text) TO attacker;
INSERT INTO rate_limit_flags (limiter, key, reason) VALUES ('user', 'flagged', 'by hand');
SQL
foreach my $call ("rl_flag('k', 'user', 'x')", "rl_unflag('flagged', 'user')")
{
	($rc, $out, $err) = $node->psql('postgres', "SET search_path = attack, public; SELECT $call", extra_params => [ '--username' => 'attacker' ]);
	is(query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'attacker'}), 'f', "... nor in $call");
}
query('DROP TRIGGER noting ON rate_limit_flags');

query('ALTER FUNCTION noting() SET search_path = public, pg_temp');
query('TRUNCATE seen');
($rc, $out, $err) = $node->psql('postgres', "SET search_path = attack, public; SELECT rl_consume('k', 1, 0), rl_consume('k', 1, 0)", extra_params => [ '--username' => 'attacker' ]);
is("$rc $err", '0 ', '... and one that does runs');
like(query('SELECT what FROM seen'), qr/^operator /, '... as the operator has meant it');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal|leak/, 'nothing broke');
$node->stop;
done_testing();
