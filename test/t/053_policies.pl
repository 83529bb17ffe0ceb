# Policies: a committed change is obeyed by every session's very next call, whatever
# transaction it is in, a rolled-back one by none; the tiers of a policy give all or
# nothing; and no rule that makes no sense can be stored.
#
# RATELIMIT_FULL=1 for a longer load.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};
my $node = start_server('primary', streaming => 1, conf => "ratelimit.flush_interval = '1h'");
my $sql = sub { return $node->safe_psql('postgres', $_[0]); };

sub result_of
{
	my ($script, @more) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $script, on_error_stop => 0, @more);

	$err =~ s/^psql:<stdin>:\d+: //mg;
	return ($out, $err);
}

#
# Who obeys what and when: sessions of all kinds, of which each has read the policy
#
my $capacity = q{SELECT (rl_throttle_policy('p', 'k', 0)).capacity};
my %sessions = (
	'no transaction' => '',
	'read committed' => 'BEGIN ISOLATION LEVEL READ COMMITTED',
	'repeatable read' => 'BEGIN ISOLATION LEVEL REPEATABLE READ',
	'serializable' => 'BEGIN ISOLATION LEVEL SERIALIZABLE',
	'read only' => 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY',
	'savepoint' => 'BEGIN; SAVEPOINT s',
	'other role' => 'SET ROLE app; BEGIN');

$sql->("CREATE ROLE app; INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 1, 0, true), ('other', 99, 0, true)");
foreach my $kind (keys %sessions)
{
	my $session = in_session($node);

	$session->query_safe($sessions{$kind}) if $sessions{$kind};
	$session->query_safe('SELECT count(*) FROM pg_class');
	$sessions{$kind} = $session;
}

# What all sessions make of the policy; one answer if they agree.
sub obeyed
{
	my ($query) = @_;
	my %answers;

	foreach my $kind (sort keys %sessions)
	{
		my $answer = $sessions{$kind}->query_safe($query // $capacity);
		$answers{$answer} .= " $kind,";
	}
	return (keys %answers)[0] if keys %answers == 1;
	return join('; ', map { "$_:$answers{$_}" } sort keys %answers);
}

is(obeyed(), 1, 'every session reads the policy');
my $n = 1;
foreach (
	[ "UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'", 'UPDATE' ],
	[ "BEGIN; DELETE FROM rate_limit_policies WHERE policy = 'p'; INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', NEW, 0, true); COMMIT", 'DELETE and INSERT' ],
	[ "BEGIN; DELETE FROM rate_limit_policies; COPY rate_limit_policies (policy, capacity, refill, quota) FROM PROGRAM 'echo p,NEW,0,t' (FORMAT csv); COMMIT", 'COPY' ],
	[ "MERGE INTO rate_limit_policies r USING (VALUES ('p', NEW)) v (policy, capacity) ON r.policy = v.policy WHEN MATCHED THEN UPDATE SET capacity = v.capacity", 'MERGE' ],
	[ "INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', NEW, 0, true) ON CONFLICT (policy, tier) DO UPDATE SET capacity = EXCLUDED.capacity", 'INSERT ON CONFLICT' ],
	[ "SET session_replication_role = replica; UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'", 'UPDATE as replication does' ],
	[ "DO \$\$ BEGIN UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'; COMMIT; END \$\$", 'UPDATE in a procedure' ],
	[ "BEGIN; SAVEPOINT a; UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'; RELEASE a; COMMIT", 'UPDATE in a savepoint' ],
	[ "BEGIN; UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'; SAVEPOINT a; UPDATE rate_limit_policies SET capacity = 1000 WHERE policy = 'p'; $capacity; ROLLBACK TO a; COMMIT", 'UPDATE before a savepoint that is rolled back' ],
	[ "BEGIN; UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'", 'UPDATE in a prepared transaction' ])
{
	my ($change, $what) = @$_;

	$n++;
	$change =~ s/NEW/$n/g;
	$sql->($change);
	is(obeyed(), $n, "$what: obeyed by every session's next call");
}
$sql->("INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('later', 7, 0, true)");
is(obeyed("SELECT (rl_throttle_policy('later', 'k', 0)).capacity"), 7, 'a new policy: known to every session');
is(obeyed($capacity), $n, '... and the other one is as it was');
$sql->("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('later', 'less', 5, 0, true)");
is(obeyed("SELECT (rl_throttle_policy('later', 'k', 0)).capacity"), 5, 'a new tier, likewise');

# A change that is not committed, or rolled back
my $changer = in_session($node);
foreach my $end ('ROLLBACK', 'ROLLBACK TO before; COMMIT', 'fails', 'is terminated', 'PREPARE')
{
	$changer->query_safe("BEGIN; SELECT 1; SAVEPOINT before");
	$changer->query_safe("UPDATE rate_limit_policies SET capacity = 1000 WHERE policy = 'p'");
	is($changer->query_safe($capacity), 1000, "$end: who changes it obeys at once");
	is(obeyed(), $n, "$end: ... but nobody else does");
	if ($end eq 'fails')
	{
		$changer->query('SELECT 1 / 0');
		$changer->{stderr} = '';
		$changer->query_safe('COMMIT');
	}
	elsif ($end eq 'is terminated')
	{
		my $pid = $changer->query_safe('SELECT pg_backend_pid()');
		$sql->("SELECT pg_terminate_backend($pid)");
		ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"), 'its session ends');
		$changer->{run}->finish;
		$changer = in_session($node);
	}
	elsif ($end eq 'PREPARE')
	{
		$changer->query_safe("PREPARE TRANSACTION 'p'");
		is(obeyed(), $n, 'prepared: obeyed by nobody');
		is($changer->query_safe($capacity), $n, '... not even by who did it');
		$sql->("ROLLBACK PREPARED 'p'");
	}
	else
	{
		$changer->query_safe($end);
	}
	is($changer->query_safe($capacity), $n, "$end: rolled back, not any more");
	is(obeyed(), $n, "$end: ... and nobody else does");
}
is($sql->("BEGIN; UPDATE rate_limit_policies SET capacity = 500 WHERE policy = 'p'; $capacity; SAVEPOINT a; UPDATE rate_limit_policies SET capacity = 600 WHERE policy = 'p'; $capacity; ROLLBACK TO a; $capacity; ROLLBACK; $capacity"),
	"500\n600\n500\n$n", 'changes of a savepoint go with it');
is($sql->("DO \$\$ BEGIN BEGIN UPDATE rate_limit_policies SET capacity = 600; IF (rl_throttle_policy('p', 'k', 0)).capacity <> 600 THEN RAISE 'not 600'; END IF; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN END; END \$\$; $capacity"),
	$n, '... and those of an exception block');
is($sql->("WITH changed AS (UPDATE rate_limit_policies SET capacity = 600 WHERE policy = 'p' RETURNING 1) SELECT (SELECT count(*) FROM changed), (rl_throttle_policy('p', 'k', 0)).capacity; $capacity"),
	"1|$n\n600", 'a statement that changes them sees it afterwards');
$sql->(<<"SQL");
UPDATE rate_limit_policies SET capacity = $n WHERE policy = 'p';
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM rl_consume_policy(''p'', ''k'', 0); RAISE ''no''; END';
CREATE TRIGGER a_look AFTER UPDATE ON rate_limit_policies FOR EACH ROW EXECUTE FUNCTION look();
SQL
is((result_of("$capacity; UPDATE rate_limit_policies SET capacity = 600; $capacity"))[0], "$n\n$n", 'one that is looked at and refused by a trigger was none');
$sql->("CREATE OR REPLACE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'");

# In the middle of a statement that goes on
my $session = $sessions{'repeatable read'};
$session->query_until(qr/^begun$/m, <<'SQL');
\echo begun
DO $$ DECLARE calls bigint := 0; BEGIN WHILE (rl_throttle_policy('p', 'k', 0)).capacity <> 4321 LOOP calls := calls + 1; END LOOP; END $$;
\echo ended
SQL
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '4321' AND state = 'active' AND pid <> pg_backend_pid()"), 'a statement makes calls');
$sql->("UPDATE rate_limit_policies SET capacity = 4321 WHERE policy = 'p'");
$session->query_until(qr/^ended$/m, '');
pass('... and obeys in its midst');

$_->query_safe('SET client_min_messages = error; COMMIT') foreach values %sessions;
$sql->('DROP FUNCTION look() CASCADE');

#
# The table, or the extension, moves, goes and comes
#
foreach (
	[ "BEGIN; TRUNCATE rate_limit_policies; INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', NEW, 0, true); COMMIT", 'TRUNCATE and INSERT' ],
	[ "SET session_replication_role = replica; BEGIN; TRUNCATE rate_limit_policies; INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', NEW, 0, true); COMMIT", 'TRUNCATE as replication does' ],
	[ "CREATE TABLE spare AS SELECT * FROM rate_limit_policies; UPDATE spare SET capacity = NEW; BEGIN; ALTER TABLE rate_limit_policies RENAME TO away; ALTER TABLE away RENAME TO rate_limit_policies; UPDATE rate_limit_policies r SET capacity = s.capacity FROM spare s WHERE s.policy = r.policy; COMMIT; DROP TABLE spare", 'UPDATE of a table that was renamed and renamed back' ],
	[ "UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'; CLUSTER rate_limit_policies USING rate_limit_policies_pkey", 'CLUSTER' ],
	[ "UPDATE rate_limit_policies SET capacity = NEW WHERE policy = 'p'; VACUUM FULL rate_limit_policies", 'VACUUM FULL' ])
{
	my ($change, $what) = @$_;

	$n++;
	$change =~ s/NEW/$n/g;
	$sql->($change);
	is(obeyed(), $n, "$what: obeyed by every session's next call");
}
$sql->('CREATE SCHEMA elsewhere; ALTER EXTENSION ratelimit SET SCHEMA elsewhere; GRANT USAGE ON SCHEMA elsewhere TO app');
is(obeyed("SELECT (elsewhere.rl_throttle_policy('p', 'k', 0)).capacity"), $n, 'in another schema');
$sql->("UPDATE elsewhere.rate_limit_policies SET capacity = 3 WHERE policy = 'p'");
is(obeyed("SELECT (elsewhere.rl_throttle_policy('p', 'k', 0)).capacity"), 3, '... a change is obeyed');
$sql->("SET search_path = elsewhere, public; CREATE TEMP TABLE rate_limit_policies (LIKE elsewhere.rate_limit_policies); INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, shadow, enabled, slots) SELECT 'p', 'default', 1, 0, true, false, false, false; SELECT 1 / ((rl_throttle_policy('p', 'k', 0)).capacity = 3)::int");
$sql->('ALTER EXTENSION ratelimit SET SCHEMA public');
is(obeyed(), 3, '... and back');
$sql->("DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit; INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 6, 0, true)");
is(obeyed(), 6, 'dropped and created: obeyed');
$sql->("UPDATE rate_limit_policies SET capacity = 7 WHERE policy = 'p'");
is(obeyed(), 7, '... and so is a change');
finish_session($_) foreach values %sessions;

#
# Under load: no call goes by a policy older than what was known to be committed
# when it began, nor newer than what was when it had ended
#
$sql->(<<'SQL');
CREATE UNLOGGED TABLE committed (version float8);
INSERT INTO committed VALUES (1);
INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('version', 1, 0, true);
CREATE FUNCTION check_version() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	known float8;
	used float8;
	stored float8;
BEGIN
	FOR i IN 1 .. 20 LOOP
		known := (SELECT version FROM committed);
		used := (rl_throttle_policy('version', 'k', 0)).capacity;
		stored := (SELECT capacity FROM rate_limit_policies WHERE policy = 'version');
		IF known <= used AND used <= stored THEN
			CONTINUE;
		END IF;
		RAISE 'known %, used %, stored %', known, used, stored;
	END LOOP;
END $$;
SQL
my $changes = start_clients($node, clients => 1, transactions => $full ? 20000 : 500, script => <<'SCRIPT');
UPDATE rate_limit_policies SET capacity = capacity + 1 WHERE policy = 'version';
UPDATE committed SET version = (SELECT capacity FROM rate_limit_policies WHERE policy = 'version');
SCRIPT
run_clients($node, 'load', clients => 8, transactions => $full ? 10000 : 300, script => 'SELECT check_version();');
finish_clients($changes, 'changes');
cmp_ok($sql->('SELECT version FROM committed'), '>', 500, 'load: the policy changed all the time, and was obeyed');

#
# What policies decide
#
my $buckets = q{SELECT string_agg(limiter || ' ' || tokens, ', ' ORDER BY limiter) FROM rate_limit_status WHERE key = 'u'};
my $pending = q{SELECT string_agg(limiter || '/' || key || '=' || count, ' ' ORDER BY limiter) FROM rate_limit_pending};
my $counts = q{SELECT string_agg(limiter || ' ' || allowed || '/' || denied || '/' || shadowed, ', ' ORDER BY limiter) FROM rate_limit_stats WHERE limiter ~ '^t'};
$sql->("SELECT rl_flush(), rl_reset_all(NULL), rl_stats_reset(); INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('tiers', 'default', 10, 0, true), ('tiers', 'small', 4, 0, true), ('tiers', 'large', 100, 0, true)");
is($sql->("SELECT * FROM rl_throttle_policy('tiers', 'u', 3)"), 't|4|1|00:00:00||tiers/small|f|', 'allowed: the tier with the least left tells');
is($sql->($buckets), 'tiers 7, tiers/large 97, tiers/small 1', '... all tiers pay');
is($sql->("SELECT * FROM rl_throttle_policy('tiers', 'u', 2)"), 'f|4|1|||tiers/small|f|', 'denied by one');
is($sql->($buckets), 'tiers 7, tiers/large 97, tiers/small 1', '... none pays');
is($sql->($pending), 'tiers/small/u=1', '... the violation is of the tier that refused');
is($sql->("SELECT rl_consume_policy('tiers', 'u', 9)"), 'f', 'denied by two');
is($sql->($pending), 'tiers/u=1 tiers/small/u=2', '... a violation of each');
is($sql->("SELECT rl_consume_policy('tiers', 'u'), rl_consume_policy('tiers', 'u', 0)"), 't|t', 'the last token');
is($sql->($counts), 'tiers 3/1/0, tiers/large 3/0/0, tiers/small 3/2/0', 'decisions are counted per tier');

$sql->("UPDATE rate_limit_policies SET enabled = false WHERE tier = 'small'; SELECT rl_stats_reset()");
is($sql->("SELECT * FROM rl_throttle_policy('tiers', 'u', 2)"), 't|10|4|00:00:00||tiers|f|', 'a tier that is disabled has no say');
is($sql->($buckets), 'tiers 4, tiers/large 94, tiers/small 0', '... and does not pay');
$sql->("UPDATE rate_limit_policies SET enabled = true, shadow = true WHERE tier = 'small'; SELECT rl_flush()");
is($sql->("SELECT * FROM rl_throttle_policy('tiers', 'u', 2)"), 't|10|2|00:00:00||tiers|t|', 'a tier in shadow does not deny');
is($sql->($buckets), 'tiers 2, tiers/large 92, tiers/small 0', '... and what it does not have is not paid');
is($sql->($pending), 'tiers/small/u=1', '... but it is recorded');
is($sql->($counts), 'tiers 2/0/0, tiers/large 2/0/0, tiers/small 0/0/1', '... as shadowed');
is($sql->("SELECT rl_reset('u', 'tiers/small'), rl_consume_policy('tiers', 'u', 3), rl_consume_policy('tiers', 'u', 2)"), 't|f|t', 'others deny without it');
is($sql->($buckets), 'tiers 0, tiers/large 90, tiers/small 2', '... and when they do, it does not pay either');
$sql->("UPDATE rate_limit_policies SET shadow = true; SELECT rl_flush(), rl_stats_reset()");
is($sql->("SELECT allowed, capacity FROM rl_throttle_policy('tiers', 'u', 3)"), 't|10', 'all tiers in shadow: allowed');
is($sql->($buckets), 'tiers 0, tiers/large 87, tiers/small 2', '... each for itself');
is($sql->($pending), 'tiers/u=1 tiers/small/u=1', '... all that refused are recorded');
is($sql->($counts), 'tiers 0/0/1, tiers/large 1/0/0, tiers/small 0/0/1', '... as shadowed');
$sql->("UPDATE rate_limit_policies SET enabled = false; SELECT rl_flush(), rl_stats_reset()");
is($sql->("SELECT rl_consume_policy('tiers', 'u', 1000), allowed, remaining FROM rl_throttle_policy('tiers', 'u', 3)"), 't|t|10', 'all tiers disabled: always allowed');
is($sql->("$buckets; $pending; $counts"), "tiers 0, tiers/large 87, tiers/small 2\n\ntiers 0/0/0, tiers/large 0/0/0, tiers/small 0/0/0", '... nothing is paid, recorded or counted');
$sql->("UPDATE rate_limit_policies SET enabled = true, shadow = false; SELECT rl_reset_all(NULL), rl_block('u', '1 hour', 'tiers/large')");
is($sql->("SELECT rl_consume_policy('tiers', 'u', 0), allowed, retry_after > '59 min' FROM rl_throttle_policy('tiers', 'u')"), 'f|f|t', 'a block of one tier denies');
is($sql->($pending), 'tiers/large/u=2', '... and is its violation');
$sql->("SELECT rl_unblock('u', 'tiers/large'), rl_flush()");
is($sql->("SELECT rl_throttle_policy('tiers', 'u', 3); UPDATE rate_limit_policies SET capacity = 20 WHERE tier = 'small'; SELECT * FROM rl_throttle_policy('tiers', 'u', 1)"),
	"(t,4,1,00:00:00,,tiers/small,f,)\nt|20|0|00:00:00||tiers/small|f|", 'a tier that grows grants nothing by itself');
is($sql->("SET ROLE app; SELECT rl_consume_policy('tiers', 'a'), (rl_throttle_policy('tiers', 'a')).allowed"), 't|t', 'who may not read policies may call them');
is((result_of("SET ROLE app; SELECT * FROM rate_limit_policies"))[1], "ERROR:  permission denied for table rate_limit_policies", '... as all are');
$sql->("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) SELECT 'many', i, 10, 0, true FROM generate_series(1, 64) i");
is($sql->("SELECT rl_consume_policy('many', 'm', 4), rl_consume_policy('many', 'm', 4), rl_consume_policy('many', 'm', 4)"), 't|t|f', '64 tiers');
is($sql->("SELECT count(*) FROM rate_limit_status WHERE key = 'm' AND tokens = 2"), '64', '... all or nothing');
$sql->("UPDATE rate_limit_policies SET shadow = true WHERE policy = 'many' AND tier::int % 2 = 0");
is($sql->("SELECT rl_consume_policy('many', 'm', 1), (SELECT count(*) FROM rate_limit_status WHERE key = 'm' AND tokens = 1)"), 't|64', '... half of them in shadow');
$sql->("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('many', '65', 10, 0, true)");
like((result_of("SELECT rl_consume_policy('many', 'm')"))[1], qr/policy "many" must not have more than 64 tiers, not 65/, '65 tiers are too many');

#
# Errors
#
foreach (
	[ "SELECT rl_consume_policy('nope', 'k')", '', qr/^ERROR:  policy "nope" does not exist\nHINT:  Policies are the rows of the table rate_limit_policies\.\n?$/ ],
	[ "SELECT rl_throttle_policy('nope', 'k')", '', qr/^ERROR:  policy "nope" does not exist\nHINT:  Policies are the rows of the table rate_limit_policies\.\n?$/ ],
	[ "SET ratelimit.on_error = allow; SELECT rl_consume_policy('nope', 'k'), rl_throttle_policy('nope', 'k')", 't|(t,,,,,,f,)', qr/^WARNING:  policy "nope" does not exist/ ],
	[ "SET ratelimit.on_error = deny; SELECT rl_consume_policy('nope', 'k'), rl_throttle_policy('nope', 'k')", 'f|(f,,,,,,f,)', qr/^WARNING:  policy "nope" does not exist/ ],
	[ "SELECT rl_consume_policy('', 'k')", '', qr/policy must not be empty/ ],
	[ "SELECT rl_consume_policy(repeat('p', 64), 'k')", '', qr/policy must not be longer than 63 bytes/ ],
	[ "SELECT rl_consume_policy(NULL, 'k')", '', qr/policy must not be null/ ],
	[ "SELECT rl_consume_policy('p', NULL)", '', qr/key must not be null/ ],
	[ "SELECT rl_consume_policy('p', '')", '', qr/key must not be empty/ ],
	[ "SELECT rl_consume_policy('p', repeat('k', 256))", '', qr/key must not be longer than 255 bytes/ ],
	[ "SELECT rl_consume_policy('p', 'k', 'NaN')", '', qr/cost must be a finite number not below 0, not NaN/ ],
	[ "SELECT rl_consume_policy('p', 'k', -1)", '', qr/cost must be a finite number not below 0, not -1/ ])
{
	my ($script, $expected, $error) = @$_;
	my ($out, $err) = result_of($script);

	is($out, $expected, "$script: answer");
	like($err, $error, "... $error");
}
is((result_of("\\set VERBOSITY sqlstate\nSELECT rl_consume_policy('nope', 'k')"))[1], 'ERROR:  42704', 'a policy that does not exist has a SQLSTATE of its own');
$sql->('ALTER TABLE rate_limit_policies RENAME TO away');
like((result_of("SELECT rl_consume_policy('p', 'k')"))[1], qr/^ERROR: .*rate_limit_policies/, 'without the table: an error that names it');
is((result_of("SET client_min_messages = error; SET ratelimit.on_error = allow; SELECT rl_consume_policy('p', 'k'); BEGIN; SELECT rl_consume_policy('p', 'k'); SELECT 1; COMMIT"))[0], "t\nt\n1", '... or what ratelimit.on_error says, and the transaction goes on');
$sql->('ALTER TABLE away RENAME TO rate_limit_policies');
is($sql->("SELECT rl_consume_policy('p', 'k')"), 't', '... and it is back');

#
# Rows that cannot be
#
my $insert = 'INSERT INTO rate_limit_policies (policy, tier, capacity, refill) VALUES';
foreach (
	(map { "('bad', 'default', $_, 1)" } "'NaN'", "'Infinity'", "'-Infinity'", -1, -1e-300, 'NULL'),
	(map { "('bad', 'default', 1, $_)" } "'NaN'", "'Infinity'", "'-Infinity'", -1, -1e-300, 0, "'-0'", 'NULL'),
	(map { "($_, 'default', 1, 1)" } "''", "'a:b'", "':'", "repeat('p', 64)", "repeat('€', 22)", 'NULL'),
	(map { "('bad', $_, 1, 1)" } "''", "'a:b'", "repeat('t', 60)", 'NULL'),
	"('p', 'default', 1, 1)", "('twice', 'x', 1, 1), ('twice/x', 'default', 1, 1)", "('a/b', 'c', 1, 1), ('a', 'b/c', 1, 1)")
{
	my ($out, $err) = result_of("$insert $_");

	like($err, qr/^ERROR:  (new row .* violates check constraint|null value in column|duplicate key value violates unique constraint)/, "cannot be stored: $_");
}
like((result_of("UPDATE rate_limit_policies SET capacity = 'NaN' WHERE policy = 'p'"))[1], qr/violates check constraint/, 'nor by an update');
like((result_of("UPDATE rate_limit_policies SET shadow = NULL WHERE policy = 'p'"))[1], qr/null value in column "shadow"/, 'nor a flag that is neither');
$sql->("$insert (repeat('p', 63), 'default', 1e-300, 1e-300), (repeat('q', 60), 'tt', 1e300, 1e300), (repeat('€', 21), 'default', 1, 1)");
is($sql->("SELECT rl_consume_policy(repeat('p', 63), 'k', 1e-300), rl_consume_policy(repeat('q', 60), 'k'), rl_consume_policy(repeat('€', 21), 'k'), rl_consume_policy(repeat('€', 21), 'k')"), 't|t|t|f', 'the longest names, the largest numbers');

#
# A standby obeys what was committed and replayed
#
$sql->("DELETE FROM rate_limit_policies; INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 1, 0, true)");
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
# what the old snapshot below sees is not to be cleaned away under it, nor is autovacuum
# to lock the table, which its transaction has read, to give back pages
$sql->('ALTER TABLE rate_limit_policies SET (autovacuum_enabled = off)');
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1");
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
my @on_standby = (in_session($standby), in_session($standby));
$on_standby[1]->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM rate_limit_policies');
$node->poll_query_until('postgres', 'SELECT count(backend_xmin) = 1 FROM pg_stat_replication')
	or die 'the standby does not tell of its snapshot';
is(join(' ', map { $_->query_safe($capacity) } @on_standby), '1 1', 'standby: reads the policy');
foreach (
	[ "UPDATE rate_limit_policies SET capacity = 2", 2 ],
	[ "BEGIN; UPDATE rate_limit_policies SET capacity = 3; ROLLBACK", 2 ],
	[ "DELETE FROM rate_limit_policies; INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 4, 0, true)", 4 ])
{
	my ($change, $expected) = @$_;

	$sql->($change);
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	is(join(' ', map { $_->query_safe($capacity) } @on_standby), "$expected $expected", "standby: $change: obeyed by the next call");
}
is($on_standby[0]->query_safe("SELECT rl_consume_policy('p', 'k', 3), rl_consume_policy('p', 'k', 2)"), 't|f', 'standby: decides');
finish_session($_) foreach @on_standby;
$standby->stop;

#
# A parallel query reads policies as of its own snapshot: nothing later goes by that
#
$sql->("CREATE TABLE rows AS SELECT FROM generate_series(1, 1000); ANALYZE rows; UPDATE rate_limit_policies SET capacity = 5");
$session = in_session($node);
$session->query_safe(<<'SQL');
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM rows;
SQL
$sql->('UPDATE rate_limit_policies SET capacity = 6');
my $parallel = q(SELECT s.capacity FROM (SELECT count(*) FROM rows) r (n), LATERAL rl_status_policy('p', 'k' || n) s);
like($session->query_safe("EXPLAIN (COSTS OFF) $parallel"), qr/Gather/, 'a parallel query');
is($session->query_safe($parallel), 5, '... reads a policy as of its snapshot');
is($session->query_safe($capacity), 6, '... which later calls do not go by');
$session->query_safe('COMMIT');
is($session->query_safe($capacity), 6, '... nor those of later transactions');
finish_session($session);
$node->stop;

#
# Without shared memory
#
$node = start_server('table', preload => 0);
$sql = sub { return $node->safe_psql('postgres', $_[0]); };
$sql->("INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('tiers', 'default', 10, 0, true), ('tiers', 'small', 4, 0, true)");
is($sql->("SELECT rl_throttle_policy('tiers', 'u', 3), rl_consume_policy('tiers', 'u', 2)"), '(t,4,1,00:00:00,,tiers/small,f,)|f', 'table: all tiers or none');
is($sql->($buckets), 'tiers 7, tiers/small 1', '... as can be seen');
$session = in_session($node);
$session->query_safe("BEGIN; SELECT rl_consume_policy('tiers', 'u')");
$sql->("UPDATE rate_limit_policies SET capacity = 5 WHERE tier = 'small'");
is($session->query_safe("SELECT capacity FROM rl_throttle_policy('tiers', 'u', 0)"), 5, 'table: a change is obeyed');
finish_session($session);
$node->stop;
done_testing();
