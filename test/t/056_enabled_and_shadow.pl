# ratelimit.enabled and ratelimit.shadow, for every function that decides, in both
# stores: disabled, every call is allowed, nothing is taken or counted; in shadow mode
# every call is decided and recorded, and allowed.  Who may set them, and where.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node;
my $sql = sub { return $node->safe_psql('postgres', $_[0]); };

# A call that has the tokens, and one that has not; what they answer.  Buckets have
# 4 of 10 tokens.
my @functions = (
	[ 'rl_consume', "rl_consume('KEY', 10, 0, 4)", "rl_consume('KEY', 10, 0, 5)", 't', 'f' ],
	[ 'rl_consume, of more than the capacity', "rl_consume('KEY', 10, 0, 4)", "rl_consume('KEY', 10, 0, 11)", 't', 'f' ],
	[ 'rl_throttle', "(rl_throttle('KEY', 10, 0, 4)).allowed", "(rl_throttle('KEY', 10, 0, 5)).allowed", 't', 'f' ],
	[ 'rl_consume_each', "rl_consume_each('{KEY}', 10, 0, 4)", "rl_consume_each('{KEY}', 10, 0, 5)", '{t}', '{f}' ],
	[ 'rl_consume_all', "rl_consume_all('{KEY}', '{10}', '{0}', '{4}')", "rl_consume_all('{KEY}', '{10}', '{0}', '{5}')", 't', 'f' ],
	[ 'rl_wait', "rl_wait('KEY', 10, 0, 4)", "rl_wait('KEY', 10, 0, 5)", 't', 'f' ],
	[ 'rl_consume_upto', "rl_consume_upto('KEY', 10, 0, 4)", "rl_consume_upto('KEY', 10, 0, 0) + rl_consume_upto('KEY', 10, 0, 7, 'empty')", 4, 0 ],
	[ 'rl_consume_policy', "rl_consume_policy('default', 'KEY', 4)", "rl_consume_policy('default', 'KEY', 5)", 't', 'f' ],
	[ 'rl_throttle_policy', "(rl_throttle_policy('default', 'KEY', 4)).allowed", "(rl_throttle_policy('default', 'KEY', 5)).allowed", 't', 'f' ],
	[ 'rl_throttle_each', "(rl_throttle_each('{KEY}', '{10}', '{0}', '{4}'))[1].allowed", "(rl_throttle_each('{KEY}', '{10}', '{0}', '{5}'))[1].allowed", 't', 'f' ],
	[ 'rl_consume_policies', "(rl_consume_policies('{default}', '{KEY}', '{4}'))[1].allowed", "(rl_consume_policies('{default}', '{KEY}', '{5}'))[1].allowed", 't', 'f' ],
	[ 'rl_enforce', "rl_enforce('KEY', 10, 0, 4)::text = ''", "rl_enforce('KEY', 10, 0, 5)::text = ''", 't', 'ERROR' ]);

# In the statement before: tokens of the key, violations pending, calls counted.
my $taken = q{SELECT string_agg(limiter || ' ' || tokens, ' ' ORDER BY limiter) FROM rate_limit_status WHERE key = 'KEY'};
my $recorded = q{SELECT sum(count) FROM (SELECT limiter, key, count FROM rate_limit_violation_details UNION ALL SELECT limiter, key, count FROM rate_limit_pending) v WHERE key = 'KEY'};

sub check
{
	my ($name, $preload) = @_;
	my $n = 0;

	$sql->("INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('default', 10, 0, true)");
	foreach (@functions)
	{
		my ($function, $allowed, $denied, $yes, $no) = @$_;
		my $key = 'key ' . ++$n;
		# none of that limiter is there for rl_consume_upto()
		my $empty = $function eq 'rl_consume_upto' ? 'empty 0' : '';
		my $what = "$name, $function";
		my $answer = sub {
			my ($setting, $call) = @_;
			my ($rc, $out, $err) = $node->psql('postgres', "$setting; SELECT " . $call =~ s/KEY/$key/gr);

			return $err =~ /^[^\n]*ERROR:  rate limit exceeded/ ? 'ERROR' : "$out$err";
		};
		my $look = sub { return $sql->($_[0] =~ s/KEY/$key/gr); };
		my $counts = $preload ? q{SELECT sum(allowed) || ' ' || sum(denied) || ' ' || sum(shadowed) FROM rate_limit_stats WHERE limiter IS NOT NULL} : q{SELECT ''};
		# without shared memory, an error takes the record of its violation along
		my $denials = !$preload && $no eq 'ERROR' ? 1 : 2;
		my $would = $yes eq '4' ? '7' : $no eq 'ERROR' ? 't' : $no =~ s/f/t/r;

		$sql->("SELECT rl_consume('$key', 10, 0, 6)" . ($empty ? ", rl_consume('$key', 10, 0, 10, 'empty')" : ''));
		$sql->('SELECT rl_flush(), rl_stats_reset(); TRUNCATE rate_limit_violations');

		my $before = $look->($taken);
		is($answer->('SET ratelimit.enabled = off', $allowed), $yes, "$what: disabled, a call that has the tokens");
		is($answer->('SET ratelimit.enabled = off', $denied), $would, "$what: ... and one that has not are allowed");
		is($look->($taken), $before, "$what: ... nothing is taken");
		is($look->($recorded), '', "$what: ... or recorded");
		is($look->($counts), $preload ? '0 0 0' : '', "$what: ... or counted");

		is($answer->('SET ratelimit.shadow = on', $denied), $would, "$what: in shadow mode, one that has not is allowed");
		is($look->($taken), $before, "$what: ... takes nothing");
		is($look->($recorded), 1, "$what: ... is recorded as a violation");
		is($look->($counts), $preload ? '0 0 1' : '', "$what: ... and counted as shadowed");
		is($answer->('SET ratelimit.shadow = on', $allowed), $yes, "$what: ... one that has the tokens");
		is($look->($taken), $before =~ s/default 4/default 0/r, "$what: ... takes them");
		is($look->($recorded), 1, "$what: ... which is no violation");
		is($look->($counts), $preload ? '1 0 1' : '', "$what: ... and counted as allowed");

		is($answer->('SET ratelimit.enabled = on', $denied), $no, "$what: by default, one that has not is denied");
		is($look->($recorded), $denials, "$what: ... and recorded");
		is($look->($counts), $preload ? '1 1 1' : '', "$what: ... and counted");
		is($answer->('SET ratelimit.enabled = off; SET ratelimit.shadow = on', $denied), $would, "$what: disabled and in shadow mode");
		is($look->($recorded), $denials, "$what: ... is disabled");
	}

	# answers with figures
	is($sql->("SET ratelimit.enabled = off; SELECT rl_throttle('key 1', 10, 1, 3), rl_peek('key 1', 10, 1, 3), rl_throttle('key 1', 10, 1, 11)"),
		join('|', ('(t,10,10,00:00:00,00:00:00,default,f,)') x 3), "$name: disabled, every bucket is full");
	is($sql->("SELECT rl_consume('figures', 10, 0, 8); SET ratelimit.shadow = on; SELECT allowed, remaining, retry_after, shadowed FROM rl_throttle('figures', 10, 0, 3); SELECT allowed, remaining, shadowed FROM rl_peek('figures', 10, 0, 3); SELECT shadowed FROM rl_throttle('figures', 10, 0, 0)"),
		"t\nt|2|00:00:00|t\nt|2|t\nf", "$name: in shadow mode, figures are those of the bucket");

	# blocks
	is($sql->("SELECT rl_block('figures', '1 hour'); SET ratelimit.shadow = on; SELECT rl_consume('figures', 10, 0), (rl_peek('figures', 10, 0)).allowed; SET ratelimit.enabled = off; SELECT rl_consume('figures', 10, 0); SET ratelimit.enabled = on; SET ratelimit.shadow = off; SELECT rl_consume('figures', 10, 0)"),
		"\nt|t\nt\nf", "$name: neither keeps to a block");
	is($sql->("SET ratelimit.enabled = off; SELECT rl_penalize('admin', 10, 0, 3), rl_reward('admin', 1), rl_reset('admin'), rl_block('admin', '1 hour'), rl_unblock('admin')"), '7|1|t||t', "$name: what administrators do is done, enabled or not");
	is($sql->("SET ratelimit.shadow = on; SELECT rl_penalize('admin', 10, 0, 3), rl_reward('admin', 1), rl_reset('admin'), rl_block('admin', '1 hour'), rl_unblock('admin')"), '7|1|t||t', "$name: ... in shadow or not");

	# arguments are checked all the same
	foreach my $setting ('enabled = off', 'shadow = on')
	{
		my ($rc, $out, $err) = $node->psql('postgres', "SET ratelimit.$setting; SELECT rl_consume('k', -1, 0)");
		like($err, qr/capacity must be a finite number not below 0, not -1/, "$name: $setting: bad arguments are errors");
	}
	my ($rc, $out, $err) = $node->psql('postgres', "SET ratelimit.shadow = on; SELECT rl_consume_policy('nope', 'k')");
	like($err, qr/policy "nope" does not exist/, "$name: in shadow mode, a policy that does not exist is an error");
	is($sql->("SET ratelimit.enabled = off; SELECT rl_consume_policy('nope', 'k')"), 't', "$name: disabled, policies are not even looked up");
	return;
}

$node = start_server('memory', conf => "ratelimit.flush_interval = '1h'");
check('memory', 1);

#
# Who may set them, and where
#
$sql->('CREATE ROLE app LOGIN; CREATE ROLE trusted LOGIN; CREATE DATABASE quiet');
$node->safe_psql('quiet', 'CREATE EXTENSION ratelimit');
my $as = sub {
	my ($role, $script, $database) = @_;
	my ($rc, $out, $err) = $node->psql($database // 'postgres', $script, extra_params => [ '-U', $role ], on_error_stop => 0);

	return "$out$err";
};
foreach my $setting ('enabled', 'shadow')
{
	like($as->('app', "SELECT rl_consume('x', 1, 0, 0); SET ratelimit.$setting = off"), qr/permission denied to set parameter "ratelimit.$setting"/, "$setting: not for everybody");
	like($as->('app', "SET ratelimit.$setting = off; SELECT rl_consume('x', 1, 0, 0); SHOW ratelimit.$setting"), qr/permission denied|invalid|\bt\n(on|off)$/, "$setting: ... not before the library is loaded either");
	$sql->("GRANT SET ON PARAMETER ratelimit.$setting TO trusted");
	like($as->('trusted', "SET ratelimit.$setting = on; SHOW ratelimit.$setting"), qr/^on$/, "$setting: for whom it is granted to");
}
is($as->('app', "SELECT rl_consume('where', 1, 0), rl_consume('where', 1, 0)"), 't|f', 'a role');
$sql->('ALTER ROLE app SET ratelimit.shadow = on');
is($as->('app', "SELECT rl_consume('where', 1, 0)"), 't', '... in shadow mode');
is($as->('trusted', "SELECT rl_consume('where', 1, 0)"), 'f', '... others are not');
$sql->('ALTER ROLE app RESET ratelimit.shadow');
$sql->('ALTER DATABASE quiet SET ratelimit.enabled = off');
is($as->('app', "SELECT rl_consume('where', 1, 0), rl_consume('where', 1, 0)", 'quiet'), 't|t', 'a database, disabled');
is($as->('app', "SELECT rl_consume('where', 1, 0)"), 'f', '... others are not');
is($sql->("BEGIN; SET LOCAL ratelimit.enabled = off; SELECT rl_consume('where', 1, 0); SAVEPOINT a; SET LOCAL ratelimit.enabled = on; SELECT rl_consume('where', 1, 0); ROLLBACK TO a; SELECT rl_consume('where', 1, 0); COMMIT; SELECT rl_consume('where', 1, 0)"), "t\nf\nt\nf", 'a transaction, as far as it goes');
is($sql->("CREATE FUNCTION unlimited() RETURNS boolean LANGUAGE sql SET ratelimit.enabled = off AS 'SELECT rl_consume(''where'', 1, 0)'; SELECT unlimited(), rl_consume('where', 1, 0), unlimited()"), 't|f|t', 'a function');

# all sessions, while they run
my $session = in_session($node);
is($session->query_safe("SELECT rl_consume('where', 1, 0)"), 'f', 'a session');
foreach ([ 'ratelimit.enabled = off', 't' ], [ 'ratelimit.enabled = on', 'f' ], [ 'ratelimit.shadow = on', 't' ], [ 'ratelimit.shadow = off', 'f' ])
{
	my ($setting, $answer) = @$_;

	$sql->("ALTER SYSTEM SET $setting");
	$node->reload;
	$node->poll_query_until('postgres', "SELECT rl_consume('where', 1, 0)", $answer) or die 'not reloaded';
	my $said = '';
	# it may see to the signal only with its next statement
	foreach (1 .. 1000)
	{
		$said = $session->query_safe("SELECT rl_consume('where', 1, 0)");
		last if $said eq $answer;
	}
	is($said, $answer, "$setting for all: a session that goes on obeys");
}
finish_session($session);
$node->stop;

$node = start_server('table', preload => 0);
check('table', 0);
$node->stop;
done_testing();
