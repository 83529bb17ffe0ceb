# ratelimit.refund_on_rollback would free whoever may set it from every limit: only a
# superuser sets it, for a role, a database or a function, or lets a role set it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $refused = qr/permission denied to set parameter "ratelimit.refund_on_rollback"/;
my $denied = qr/ERROR:  $refused/;

foreach my $preload (1, 0)
{
	my $name = $preload ? 'preloaded' : 'table';
	my $node = start_server($name, preload => $preload);

	my $query = sub { return $node->safe_psql('postgres', $_[0]) };
	my $as = sub {
		my ($role, $sql) = @_;
		my ($rc, $out, $err) = $node->psql('postgres', $sql, on_error_stop => 0, extra_params => [ '--username' => $role ]);

		return ($out, $err);
	};

	$query->(<<'SQL');
CREATE ROLE untrusted LOGIN;
CREATE ROLE trusted LOGIN;
CREATE ROLE granted LOGIN;
GRANT CREATE ON SCHEMA public TO untrusted;
CREATE FUNCTION limited() RETURNS boolean LANGUAGE sql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $$ SELECT public.rl_consume('limited', 5, 0) $$;
REVOKE EXECUTE ON FUNCTION rl_consume(text, float8, float8, float8, text) FROM PUBLIC;
SQL

	# every way that is open to a role by itself
	my $load = $preload ? '' : "SELECT rl_headers(rl_peek('any', 1, 0)) IS NULL;";
	foreach (
		[ "$load SET ratelimit.refund_on_rollback = on", $denied, 'SET' ],
		[ "$load BEGIN; SET LOCAL ratelimit.refund_on_rollback = on", $denied, 'SET LOCAL' ],
		[ "$load SELECT set_config('ratelimit.refund_on_rollback', 'on', false)", $denied, 'set_config()' ],
		[ "$load UPDATE pg_settings SET setting = 'on' WHERE name = 'ratelimit.refund_on_rollback'", $denied, 'UPDATE pg_settings' ],
		[ "$load ALTER ROLE untrusted SET ratelimit.refund_on_rollback = on", $denied, 'ALTER ROLE itself' ],
		[ "$load CREATE FUNCTION own() RETURNS int LANGUAGE sql SET ratelimit.refund_on_rollback = on AS 'SELECT 1'", $denied, 'CREATE FUNCTION ... SET' ])
	{
		my ($sql, $expected, $what) = @$_;
		my ($out, $err) = $as->('untrusted', $sql);

		like($err, $expected, "$name: $what is refused");
	}

	my $options = $node->connstr('postgres') . " user=untrusted options='-c ratelimit.refund_on_rollback=on'";
	my ($rc, $out, $err);
	if ($preload)
	{
		($out, $err) = $as->('untrusted', 'SET ratelimit.refund_on_rollback = on; ' . 'BEGIN; SELECT limited(); ROLLBACK; ' x 7);
		is($out, join("\n", ('t') x 5, ('f') x 2), "$name: a session that has tried has its limit");
		($rc, $out, $err) = $node->psql('postgres', 'SELECT 1', connstr => $options);
		isnt($rc, 0, "$name: a connection that asks for it is refused");
		like($err, $refused, "$name: ... for that reason");
	}
	else
	{
		# in one session, before the library is loaded: the name means nothing yet
		($out, $err) = $as->('untrusted', "SET ratelimit.refund_on_rollback = on; SELECT 1 FROM rl_peek('any', 1, 0); SHOW ratelimit.refund_on_rollback");
		like($err, qr/WARNING:  $refused/, "$name: set before the library is loaded: refused when it is");
		is($out, "1\noff", "$name: ... and off");
		($rc, $out, $err) = $node->psql('postgres', "SELECT 1 FROM rl_peek('any', 1, 0); SHOW ratelimit.refund_on_rollback", connstr => $options);
		like($err, qr/WARNING:  $refused/, "$name: a connection that asks for it: refused, too");
		is($out, "1\noff", "$name: ... and off");
		$node->stop;
		next;
	}

	# the ways of a superuser
	$query->('ALTER ROLE trusted SET ratelimit.refund_on_rollback = on; GRANT SET ON PARAMETER ratelimit.refund_on_rollback TO granted');
	$query->("SELECT rl_reset('limited')");
	($out, $err) = $as->('trusted', 'BEGIN; SELECT limited(); ROLLBACK; ' x 7);
	is($out, join("\n", ('t') x 7), "$name: a role that it is set for");
	($out, $err) = $as->('trusted', 'SET ratelimit.refund_on_rollback = on');
	like($err, $denied, "$name: ... cannot set it by itself");
	($out, $err) = $as->('granted', 'SET ratelimit.refund_on_rollback = on; ' . 'BEGIN; SELECT limited(); ROLLBACK; ' x 7);
	is($out, join("\n", ('t') x 7), "$name: a role with GRANT SET ON PARAMETER sets it");
	is($err, '', "$name: ... without complaint");

	# a function: that of a definer who may set it
	$query->(<<'SQL');
CREATE FUNCTION refunded() RETURNS boolean LANGUAGE sql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET ratelimit.refund_on_rollback = on
	AS $$ SELECT public.rl_consume('refunded', 5, 0) $$;
CREATE FUNCTION refunded_as_invoker() RETURNS boolean LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET ratelimit.refund_on_rollback = on
	AS $$ SELECT public.limited() $$;
SQL
	($out, $err) = $as->('untrusted', 'BEGIN; SELECT refunded(); ROLLBACK; ' x 7);
	is($out, join("\n", ('t') x 7), "$name: a definer's function that it is set for");
	($out, $err) = $as->('untrusted', 'SELECT refunded_as_invoker()');
	like($err, $denied, "$name: ... not one that runs as its caller");
	($out, $err) = $as->('untrusted', 'BEGIN; SELECT limited(), refunded(); ROLLBACK; ' x 7);
	is($out, join("\n", ('t|t') x 5, ('f|t') x 2), "$name: ... and other functions keep their limit");
	$node->stop;
}
done_testing();
