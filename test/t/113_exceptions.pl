# Exceptions: a committed change is obeyed by every session's very next call, whatever
# transaction it is in and whoever made it in whichever way, a rolled-back one by none;
# on a standby, too, over restarts, and while the filter is emptied under load.
#
# RATELIMIT_FULL=1 for a longer load.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;

my $full = $ENV{RATELIMIT_FULL};
my $node = start_server('primary', streaming => 1, conf => "ratelimit.flush_interval = '1h'");
my $sql = sub { return $node->safe_psql('postgres', $_[0]); };
my $insert = 'INSERT INTO rate_limit_exceptions (key, network, action)';

sub result_of
{
	my ($script, @more) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $script, on_error_stop => 0, @more);

	$err =~ s/^psql:<stdin>:\d+: //mg;
	return ($out, $err);
}

# Which of some keys are allowed a call that only an exception allows
my $allowed = q{SELECT string_agg(k, ' ' ORDER BY n) FROM unnest(ARRAY['a', 'b', '192.0.2.1', '2001:db8::1']) WITH ORDINALITY u (k, n) WHERE rl_consume_policy('p', k)};
my $reset = 'DELETE FROM rate_limit_exceptions';

sub setup
{
	$sql->(q{INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('p', 0, 1), ('q', 1e6, 1)});
	return;
}

#
# Who obeys what and when
#
my %kinds = (
	'no transaction' => '',
	'read committed' => 'BEGIN ISOLATION LEVEL READ COMMITTED',
	'repeatable read' => 'BEGIN ISOLATION LEVEL REPEATABLE READ',
	'serializable' => 'BEGIN ISOLATION LEVEL SERIALIZABLE',
	'read only' => 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY',
	'savepoint' => 'BEGIN; SAVEPOINT s',
	'other role' => 'SET ROLE app; BEGIN');
my %sessions;

sub start_sessions
{
	foreach my $kind (keys %kinds)
	{
		# a transaction that may not write has no buckets in the table
		next if $kind eq 'read only' && !$_[0];
		$sessions{$kind} = in_session($node);
		$sessions{$kind}->query_safe($kinds{$kind}) if $kinds{$kind};
		$sessions{$kind}->query_safe('SELECT count(*) FROM pg_class');
	}
	return;
}

# What all sessions answer; one answer if they agree
sub obeyed
{
	my %answers;

	foreach my $kind (sort keys %sessions)
	{
		my $answer = $sessions{$kind}->query_safe($allowed);
		$answers{$answer} .= " $kind,";
	}
	return (keys %answers)[0] if keys %answers == 1;
	return join('; ', map { "$_:$answers{$_}" } sort keys %answers);
}

my @changes = (
	[ "$insert VALUES ('a', NULL, 'allow')", 'INSERT of a key', 'a' ],
	[ "UPDATE rate_limit_exceptions SET key = 'b'", 'UPDATE of the key', 'b' ],
	[ "UPDATE rate_limit_exceptions SET key = NULL, network = '192.0.2.0/24'", 'a network instead', '192.0.2.1' ],
	[ "UPDATE rate_limit_exceptions SET network = '2001:db8::/32'", 'UPDATE of the network', '2001:db8::1' ],
	[ "UPDATE rate_limit_exceptions SET action = 'deny'", 'UPDATE of the action', '' ],
	[ "BEGIN; DELETE FROM rate_limit_exceptions; COPY rate_limit_exceptions (key, action) FROM PROGRAM 'echo a,allow' (FORMAT csv); COMMIT", 'DELETE and COPY', 'a' ],
	[ "SET session_replication_role = replica; UPDATE rate_limit_exceptions SET key = 'b'", 'UPDATE as replication does', 'b' ],
	[ "DO \$\$ BEGIN UPDATE rate_limit_exceptions SET key = 'a'; COMMIT; END \$\$", 'UPDATE in a procedure', 'a' ],
	[ "BEGIN; SAVEPOINT a; $insert VALUES ('b', NULL, 'allow'); RELEASE a; COMMIT", 'INSERT in a savepoint', 'a b' ],
	[ "BEGIN; $insert VALUES (NULL, '2001::/16', 'allow'); SAVEPOINT a; $insert VALUES (NULL, '192.0.0.0/8', 'allow'); $allowed; ROLLBACK TO a; COMMIT", 'INSERT before a savepoint that is rolled back', 'a b 2001:db8::1' ],
	[ "BEGIN; UPDATE rate_limit_exceptions SET key = '192.0.2.1' WHERE key = 'b'; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'", 'UPDATE in a prepared transaction', 'a 192.0.2.1 2001:db8::1' ],
	[ "DELETE FROM rate_limit_exceptions WHERE key IS NOT NULL", 'DELETE', '2001:db8::1' ],
	[ "UPDATE rate_limit_exceptions SET policy = 'q'", 'UPDATE of the policy', '' ],
	[ "UPDATE rate_limit_exceptions SET policy = 'p', tier = 'default'", 'and back', '2001:db8::1' ],
	[ "$insert SELECT 'k' || i, NULL, 'allow' FROM generate_series(1, 3000) i; DELETE FROM rate_limit_exceptions; $insert VALUES ('b', NULL, 'allow')", 'many rows', 'b' ]);

# once no transaction is open that has read the table
my @more_changes = (
	[ 'TRUNCATE rate_limit_exceptions', 'TRUNCATE', '' ],
	[ "SET session_replication_role = replica; BEGIN; TRUNCATE rate_limit_exceptions; $insert VALUES ('b', NULL, 'allow'); COMMIT", 'TRUNCATE as replication does', 'b' ],
	[ "$insert VALUES ('a', NULL, 'allow'); VACUUM FULL rate_limit_exceptions", 'VACUUM FULL', 'a b' ],
	[ "UPDATE rate_limit_exceptions SET key = '192.0.2.1' WHERE key = 'a'; VACUUM (FREEZE) rate_limit_exceptions; ALTER TABLE rate_limit_exceptions ADD extra int DEFAULT random()", 'a rewritten table', 'b 192.0.2.1' ],
	[ "ALTER TABLE rate_limit_exceptions DROP extra, DISABLE TRIGGER ALL; $insert VALUES (NULL, '2001:db8::1', 'allow'); ALTER TABLE rate_limit_exceptions ENABLE TRIGGER ALL", 'a change without triggers, and the triggers again', 'b 192.0.2.1 2001:db8::1' ],
	[ "ALTER TABLE rate_limit_exceptions ENABLE ALWAYS TRIGGER rate_limit_exceptions_changed, ENABLE ALWAYS TRIGGER rate_limit_exceptions_truncated; ALTER TABLE rate_limit_exceptions SET UNLOGGED; $insert VALUES ('a', NULL, 'allow')", 'an unlogged table', 'a b 192.0.2.1 2001:db8::1' ],
	[ 'ALTER TABLE rate_limit_exceptions SET LOGGED; DELETE FROM rate_limit_exceptions WHERE network IS NULL', 'and logged again', '2001:db8::1' ],
	[ "ALTER TABLE rate_limit_exceptions ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON rate_limit_exceptions USING (false); ALTER TABLE rate_limit_exceptions FORCE ROW LEVEL SECURITY; $insert VALUES ('b', NULL, 'allow')", 'row-level security', 'b 2001:db8::1' ],
	[ "DROP POLICY none ON rate_limit_exceptions; ALTER TABLE rate_limit_exceptions DISABLE ROW LEVEL SECURITY; DROP INDEX rate_limit_exceptions_key_has_one; UPDATE rate_limit_exceptions SET key = 'a' WHERE key = 'b'", 'an index less', 'a 2001:db8::1' ],
	[ "BEGIN; CREATE TABLE other (LIKE rate_limit_exceptions INCLUDING ALL); INSERT INTO other (key, action) VALUES ('b', 'allow'); ALTER TABLE rate_limit_exceptions RENAME TO away; ALTER TABLE other RENAME TO rate_limit_exceptions; COMMIT", 'another table with the name', 'b' ],
	[ 'BEGIN; DROP TABLE rate_limit_exceptions; ALTER TABLE away RENAME TO rate_limit_exceptions; COMMIT', 'and the old one', 'a 2001:db8::1' ],
	[ 'CREATE SCHEMA elsewhere; ALTER EXTENSION ratelimit SET SCHEMA elsewhere; ALTER EXTENSION ratelimit SET SCHEMA public', 'another schema, and back', 'a 2001:db8::1' ],
	[ "DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit; INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('p', 0, 1), ('q', 1e6, 1); $insert VALUES ('b', NULL, 'allow')", 'dropped and created', 'b' ]);

sub check_changes
{
	my ($prefix, @list) = @_;

	foreach (@list)
	{
		my ($change, $what, $expected) = @$_;

		$sql->($change);
		is(obeyed(), $expected, "$prefix$what: obeyed by every session's next call");
	}
	return;
}

$sql->('CREATE ROLE app');
setup();
start_sessions(1);
is(obeyed(), '', 'no exceptions');
check_changes('', @changes);

# A change that is not committed, or rolled back
my $changer = in_session($node);
foreach my $end ('ROLLBACK', 'ROLLBACK TO before; COMMIT', 'fails', 'PREPARE')
{
	$changer->query_safe("BEGIN; SELECT 1; SAVEPOINT before; $insert VALUES ('a', NULL, 'allow'), (NULL, '0.0.0.0/0', 'allow')");
	is($changer->query_safe($allowed), 'a b 192.0.2.1', "$end: who changes it obeys at once");
	is(obeyed(), 'b', "$end: ... but nobody else does");
	if ($end eq 'fails')
	{
		$changer->query('SELECT 1 / 0');
		$changer->{stderr} = '';
		$changer->query_safe('COMMIT');
	}
	elsif ($end eq 'PREPARE')
	{
		$changer->query_safe("PREPARE TRANSACTION 'p'");
		is(obeyed(), 'b', 'prepared: obeyed by nobody');
		is($changer->query_safe($allowed), 'b', '... not even by who did it');
		$sql->("ROLLBACK PREPARED 'p'");
	}
	else
	{
		$changer->query_safe($end);
	}
	is($changer->query_safe($allowed), 'b', "$end: rolled back, not any more");
	is(obeyed(), 'b', "$end: ... and nobody else does");
}
finish_session($changer);
$_->query_safe('SET client_min_messages = error; COMMIT') foreach values %sessions;
check_changes('', @more_changes);

#
# Who may do what
#
foreach my $statement ('TABLE rate_limit_exceptions', "$insert VALUES ('a', NULL, 'allow')", 'DELETE FROM rate_limit_exceptions', 'TRUNCATE rate_limit_exceptions',
	"SELECT nextval('rate_limit_exceptions_id_seq')")
{
	like((result_of("SET ROLE app; $statement"))[1], qr/permission denied for (table|sequence) rate_limit_exceptions/, "a role without rights cannot $statement");
}
is($sql->("GRANT pg_monitor TO app; SET ROLE app; SELECT key FROM rate_limit_exceptions"), 'b', 'pg_monitor reads them');
like((result_of("SET ROLE app; DELETE FROM rate_limit_exceptions"))[1], qr/permission denied/, '... and changes nothing');
$sql->('CREATE ROLE thief; GRANT CREATE ON SCHEMA public TO thief; ALTER TABLE rate_limit_exceptions OWNER TO thief');
like((result_of($allowed))[1], qr/table rate_limit_exceptions is not owned by the owner of extension ratelimit/, 'a table that was given away is not read');
$sql->('ALTER TABLE rate_limit_exceptions OWNER TO CURRENT_USER; REVOKE CREATE ON SCHEMA public FROM thief; DROP ROLE thief');
is(obeyed(), 'b', '... until it is given back');
is($sql->("SET search_path = public; CREATE TEMP TABLE rate_limit_exceptions (LIKE public.rate_limit_exceptions INCLUDING DEFAULTS); $insert VALUES ('a', NULL, 'allow'); $allowed"), 'b', 'a temporary table of the name is none');
$sql->("CREATE TABLE child () INHERITS (rate_limit_exceptions); INSERT INTO child (key, action) VALUES ('a', 'allow')");
is(obeyed(), 'b', 'nor is one that inherits');
$sql->('DROP TABLE child');

#
# The table cannot be read
#
my $locker = in_session($node);
$locker->query_safe("BEGIN; $insert VALUES ('c', NULL, 'allow'); LOCK rate_limit_exceptions");
is(obeyed(), 'b', 'a lock on the table does not stop calls');
$sql->("UPDATE rate_limit_policies SET shadow = false");
{
	my ($out, $err) = result_of("SET lock_timeout = '10ms'; $allowed");
	like($err, qr/canceling statement due to lock timeout/, '... but a session that has to read it');
	foreach my $on_error ('allow', 'deny')
	{
		($out, $err) = result_of("SET lock_timeout = '10ms'; SET ratelimit.on_error = $on_error; $allowed");
		like($err, qr/WARNING:  could not read rate_limit_exceptions: canceling statement due to lock timeout/, "on_error = $on_error: a warning");
		is($out, $on_error eq 'allow' ? 'a b 192.0.2.1 2001:db8::1' : '', '... and decided so');
	}
}
$locker->query_safe('ROLLBACK');
finish_session($locker);

#
# Under load: each call obeys what was known to be committed when it began, while the
# filter becomes full and is emptied
#
$sql->(<<'SQL');
CREATE UNLOGGED TABLE committed (version int);
INSERT INTO committed VALUES (0);
INSERT INTO rate_limit_exceptions (key, action) VALUES ('v0', 'allow');
CREATE FUNCTION check_version() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	known int;
BEGIN
	FOR i IN 1 .. 20 LOOP
		known := (SELECT version FROM committed);
		IF NOT rl_consume_policy('p', 'v' || known) THEN
			RAISE 'v% is not known', known;
		END IF;
		IF rl_consume_policy('p', 'w' || known) OR NOT rl_consume_policy('q', 'w' || known) THEN
			RAISE 'w% is known', known;
		END IF;
		IF NOT rl_consume_policy('p', '10.' || (known >> 16) || '.' || (known >> 8) % 256 || '.' || known % 256) AND known > 0 THEN
			RAISE '10. % is not known', known;
		END IF;
	END LOOP;
END $$;
SQL
my $changes = start_clients($node, clients => 1, transactions => $full ? 20000 : 600, script => <<'SCRIPT');
INSERT INTO rate_limit_exceptions (key, network, action) SELECT 'v' || version + 1, NULL, 'allow' FROM committed
	UNION ALL SELECT NULL, '10.0.0.0'::inet + version + 1, 'allow' FROM committed;
UPDATE committed SET version = version + 1;
SCRIPT
my $load = start_clients($node, clients => 32, transactions => $full ? 3000 : 40, script => 'SELECT check_version();');
# more words than the filter has, and none of them needed any more, twice
foreach my $round (1 .. ($full ? 20 : 2))
{
	$sql->("INSERT INTO rate_limit_exceptions (key, action) SELECT 'x$round ' || i, 'deny' FROM generate_series(1, 140000) i");
	is($sql->("SELECT rl_consume_policy('q', 'x$round 1'), rl_consume_policy('q', 'y$round 1')"), 'f|t', 'load: many exceptions are known');
	$sql->("DELETE FROM rate_limit_exceptions WHERE key LIKE 'x$round %'");
	is($sql->("SELECT rl_consume_policy('q', 'x$round 1')"), 't', 'load: ... and gone again');
}
finish_clients($load, 'load');
finish_clients($changes, 'changes');
is($sql->(q{SELECT count(*) FROM committed, generate_series(0, version) v WHERE NOT rl_consume_policy('p', 'v' || v)}), 0, 'load: all are known');
cmp_ok($sql->('SELECT version FROM committed'), '>=', 600, 'load: the exceptions changed all the time');
$sql->($reset);
finish_session($_) foreach values %sessions;
%sessions = ();

#
# A standby obeys what was committed and replayed, where no trigger fires
#
$sql->("$insert SELECT 'k' || i, NULL, 'deny' FROM generate_series(1, 3000) i; $insert VALUES ('a', NULL, 'allow'); ALTER TABLE rate_limit_exceptions SET (autovacuum_enabled = off)");
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'max_standby_streaming_delay = -1');
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
my @on_standby = map { in_session($standby) } 1 .. 3;
sub on_standby { return join(' | ', map { $_->query_safe($allowed) } @on_standby); }
is(on_standby(), 'a | a | a', 'standby: reads the exceptions');
foreach (
	[ "$insert VALUES ('b', NULL, 'allow')", 'a b' ],
	[ "UPDATE rate_limit_exceptions SET key = '192.0.2.1' WHERE key = 'b'", 'a 192.0.2.1' ],
	[ "BEGIN; $insert VALUES ('b', NULL, 'allow'); ROLLBACK", 'a 192.0.2.1' ],
	[ "BEGIN; $insert VALUES (NULL, '2001:db8::/32', 'allow'); PREPARE TRANSACTION 'p'", 'a 192.0.2.1' ],
	[ "COMMIT PREPARED 'p'", 'a 192.0.2.1 2001:db8::1' ],
	[ "DELETE FROM rate_limit_exceptions WHERE key = 'a'", '192.0.2.1 2001:db8::1' ],
	[ "VACUUM rate_limit_exceptions; $insert VALUES ('a', NULL, 'allow')", 'a 192.0.2.1 2001:db8::1' ],
	[ "TRUNCATE rate_limit_exceptions; $insert VALUES ('b', NULL, 'allow')", 'b' ],
	[ "VACUUM FULL rate_limit_exceptions; $insert VALUES ('a', NULL, 'allow')", 'a b' ])
{
	my ($change, $expected) = @$_;

	$sql->($change);
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	is(on_standby(), join(' | ', ($expected) x 3), "standby: $change: obeyed by the next call");
}

# uncommitted, and a change that comes while the standby has not replayed it all
$changer = in_session($node);
$changer->query_safe("BEGIN; $insert VALUES (NULL, '2001:db8::/32', 'allow')");
$sql->("$insert VALUES ('192.0.2.1', NULL, 'allow')");
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(on_standby(), join(' | ', ('a b 192.0.2.1') x 3), 'standby: not what is not committed');
$changer->query_safe('COMMIT');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(on_standby(), join(' | ', ('a b 192.0.2.1 2001:db8::1') x 3), '... until it is');
finish_session($changer);
$standby->promote;
is(on_standby(), join(' | ', ('a b 192.0.2.1 2001:db8::1') x 3), 'promoted: as before');
$standby->safe_psql('postgres', "DELETE FROM rate_limit_exceptions WHERE key = 'a'; $insert VALUES (NULL, '192.0.2.0/24', 'deny')");
is(on_standby(), join(' | ', ('b 192.0.2.1 2001:db8::1') x 3), '... and changes of its own');
finish_session($_) foreach @on_standby;
$standby->stop;

#
# Restarts, and a transaction that was prepared before
#
$sql->("TRUNCATE rate_limit_exceptions; $insert VALUES ('a', NULL, 'allow')");
$sql->("BEGIN; $insert VALUES (NULL, '192.0.2.1', 'allow'); PREPARE TRANSACTION 'p'");
foreach my $mode ('fast', 'immediate')
{
	$node->stop($mode);
	$node->start;
	my $session = in_session($node);
	is($session->query_safe($allowed), 'a', "stopped $mode: obeyed");
	$sql->("COMMIT PREPARED 'p'") if $mode eq 'immediate';
	is($session->query_safe($allowed), 'a 192.0.2.1', '... and so is what was prepared before') if $mode eq 'immediate';
	finish_session($session);
}

#
# Dumped with triggers disabled, into a database with sessions; and as a template
#
my $dump = $node->basedir . '/exceptions.dump';
command_ok([ 'pg_dump', '--format=custom', '--file', $dump, $node->connstr('postgres') ], 'dumped');
$sql->('CREATE DATABASE restored');
$node->safe_psql('restored', "CREATE EXTENSION ratelimit; INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('p', 0, 1)");
my $restored = in_session($node, 'restored');
is($restored->query_safe($allowed), '', 'nothing is restored yet');
command_ok([ 'pg_restore', '--data-only', '--disable-triggers', '--table=rate_limit_exceptions', '--dbname', $node->connstr('restored'), $dump ], 'restored without triggers');
is($restored->query_safe($allowed), 'a 192.0.2.1', '... and obeyed');
$restored->query_safe(q{INSERT INTO rate_limit_exceptions (key, action) VALUES ('b', 'allow')});
is($restored->query_safe('SELECT count(*), max(id) > 2 FROM rate_limit_exceptions'), '3|t', '... rows go on with other numbers');
finish_session($restored);
$sql->('CREATE DATABASE copied TEMPLATE restored');
is($node->safe_psql('copied', $allowed), 'a b 192.0.2.1', 'a copy of a database has its exceptions');
is($sql->($allowed), 'a 192.0.2.1', '... and the others theirs');

#
# The clock makes them expire
#
my ($seam, %seam) = preload_seam($node);
$node->stop;
{
	local %ENV = (%ENV, %seam);
	$node->start;
}
$sql->(q{TRUNCATE rate_limit_exceptions; INSERT INTO rate_limit_exceptions (key, network, action, expires_at) VALUES ('a', NULL, 'allow', now() + interval '1 hour'), ('192.0.2.1', NULL, 'allow', now() + interval '2 hours'), (NULL, '192.0.2.0/24', 'deny', now() + interval '1 hour'), ('b', NULL, 'deny', now() + interval '1 hour')});
my $session = in_session($node);
my $retry = q{SELECT date_trunc('minute', retry_after + interval '30 s') FROM rl_throttle_policy('q', 'b')};
is($session->query_safe($allowed), 'a 192.0.2.1', 'before they expire');
is($session->query_safe($retry), '01:00:00', '... one that is denied is told when that ends');
set_seam($seam, clock_us => 1800 * 1_000_000);
is($session->query_safe($retry), '00:30:00', '... which comes nearer');
set_seam($seam, clock_us => 3660 * 1_000_000);
is($session->query_safe($allowed), '192.0.2.1', 'one has expired');
is($session->query_safe($retry), '00:00:00', '... and the denied one is allowed');
set_seam($seam, clock_us => 7260 * 1_000_000);
is($session->query_safe($allowed), '', 'all have');
is($session->query_safe('SELECT count(*) FROM rate_limit_exceptions'), 4, '... and are still there');
finish_session($session);
$node->stop;

#
# Without shared memory
#
$node = start_server('table', preload => 0);
$sql->('CREATE ROLE app');
setup();
start_sessions(0);
is(obeyed(), '', 'table: no exceptions');
check_changes('table: ', @changes);
$_->query_safe('SET client_min_messages = error; COMMIT') foreach values %sessions;
check_changes('table: ', @more_changes);
# the session's own filter grows, and is emptied
foreach my $round (1 .. 3)
{
	$sql->("INSERT INTO rate_limit_exceptions (key, action) SELECT 'x$round ' || i, 'deny' FROM generate_series(1, 20000) i; DELETE FROM rate_limit_exceptions WHERE key LIKE 'x$round 1%'");
	is(obeyed(), 'b', "table: many rows, round $round");
	is($sessions{'no transaction'}->query_safe("SELECT count(*) FROM generate_series(1, 20000) i WHERE NOT rl_consume_policy('q', 'x$round ' || i)"),
		$sql->("SELECT count(*) FROM rate_limit_exceptions WHERE key LIKE 'x$round %'"), '... all of them obeyed');
	$sql->("DELETE FROM rate_limit_exceptions WHERE key LIKE 'x%'; VACUUM rate_limit_exceptions");
}
finish_session($_) foreach values %sessions;
$node->stop;
done_testing();
