# PostgreSQL executes the expression of an index for whoever maintains the table: a
# superuser with ANALYZE, or autovacuum.  What it does there is done by the table's owner.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('maintenance', conf => <<'CONF');
autovacuum = off
autovacuum_naptime = 1s
ratelimit.max_reservations = 16
ratelimit.max_tickets = 64
CONF
my $mallory = "SET SESSION AUTHORIZATION mallory;";

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# An operator has a trigger without a search_path, and mallory a schema with what it
# looks for.  His index calls when others than he analyze the table.
query(<<'SQL');
CREATE ROLE mallory;
CREATE ROLE app;
CREATE SCHEMA mallory AUTHORIZATION mallory;
CREATE TABLE audit (reservation bigint);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql
AS $$BEGIN INSERT INTO audit VALUES (new.reservation); RETURN new; END$$;
CREATE TRIGGER audit AFTER INSERT ON rate_limit_reserved FOR EACH ROW EXECUTE FUNCTION audit();
SQL
my $ticket = query("SET ROLE app; SELECT rl_acquire('job', 1, 1, '1 hour')");
query("$mallory " . <<"SQL");
CREATE TABLE mallory.audit (reservation bigint);
GRANT INSERT ON mallory.audit TO PUBLIC;
CREATE FUNCTION mallory.spring() RETURNS trigger LANGUAGE plpgsql
AS \$\$BEGIN RAISE LOG 'trap: %', current_setting('is_superuser'); RETURN new; END\$\$;
CREATE TRIGGER spring BEFORE INSERT ON mallory.audit FOR EACH ROW EXECUTE FUNCTION mallory.spring();

CREATE FUNCTION mallory.call(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN
	IF session_user = 'mallory' OR i > 1 THEN
		RETURN i;
	END IF;
	PERFORM set_config('search_path', 'mallory, public', false);
	RAISE LOG 'released: %', rl_release($ticket);
	BEGIN
		PERFORM rl_acquire('mine', 1000, 1, '1 hour') FROM generate_series(1, 100);
	EXCEPTION WHEN configuration_limit_exceeded THEN
		PERFORM rl_acquire('mine', 1000, 1, '1 hour') FROM generate_series(1, 20);
	END;
	BEGIN
		PERFORM rl_reserve('mine', 1e6, 0, 1) FROM generate_series(1, 20);
	EXCEPTION WHEN undefined_table THEN
		RAISE LOG 'the trigger finds nothing of ours';
	END;
	RETURN i;
END\$\$;
CREATE TABLE mallory.bait (i int);
CREATE INDEX ON mallory.bait (mallory.call(i));
INSERT INTO mallory.bait SELECT generate_series(1, 100);
SQL

foreach my $by ('ANALYZE by a superuser', 'autovacuum')
{
	my $since = -s $node->logfile;
	my $log;

	query("$mallory INSERT INTO mallory.bait SELECT generate_series(2, 200)");
	if ($by eq 'autovacuum')
	{
		query('ALTER SYSTEM SET autovacuum = on');
		$node->reload;
		ok($node->poll_query_until('postgres', q{SELECT autoanalyze_count > 0 FROM pg_stat_user_tables WHERE relname = 'bait'}), "$by has been there");
	}
	else
	{
		query('ANALYZE mallory.bait');
	}
	$log = substr(slurp_file($node->logfile), $since);
	like($log, qr/released: f/, "$by: a ticket of another role stays");
	like($log, qr/the trigger finds nothing of ours/, "$by: the trigger does not look in the schema of the table's owner");
	unlike($log, qr/trap:/, "$by: ... and no code of his runs as the extension's owner");
	is(query("SELECT string_agg(DISTINCT role, ' ') FROM rate_limit_slots WHERE key = 'mine'"), 'mallory', "$by: the tickets are his");
	is(query("SELECT string_agg(DISTINCT role, ' ') FROM rate_limit_reservations"), 'mallory', "$by: ... and so are reservations");
	is(query("SET ROLE app; SELECT rl_acquire('other', 1, 1, '1 hour') > 0"), 't', "$by: ... there is room for another role");
	query("SELECT rl_release(ticket) FROM rate_limit_slots WHERE key <> 'job'");
}

# So are the SECURITY DEFINER functions of roles that a superuser calls.
query("$mallory CREATE FUNCTION mallory.helpful() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = mallory, public
	AS 'BEGIN PERFORM rl_reserve(''more'', 1e6, 0, 1) FROM generate_series(1, 20); END'");
my ($rc, $out, $err) = $node->psql('postgres', 'SELECT mallory.helpful()');
like($err, qr/relation "audit" does not exist/, 'the same in a SECURITY DEFINER function that a superuser calls');

$node->stop;
done_testing();
