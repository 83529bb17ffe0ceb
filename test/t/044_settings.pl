# Every setting can be changed, by a reload or a restart as it says, and nothing is
# lost by that.  Values out of range and misspelt names are refused with a message
# that says what is wrong.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# Each with two values that are not its default.  One that is not here fails the
# test.
my %values = (
	enabled => [ 'off', 'off' ],
	episode_retention => [ '2h', '90s' ],
	flag_limiters => [ 'api, login', '' ],
	flag_threshold => [ 7, 2147483647 ],
	flag_window => [ '30s', '1d' ],
	flush_interval => [ '2s', '2147483s' ],
	gateway_name => [ 'one', 'x' x 255 ],
	max_buckets => [ 16, 200000 ],
	max_episodes => [ 1, 1000 ],
	max_reservations => [ 16, 10000 ],
	max_tickets => [ 16, 20000 ],
	max_violations => [ 16, 20000 ],
	on_error => [ 'allow', 'deny' ],
	overflow => [ 'evict', 'evict' ],
	postgrest_headers => [ 'on', 'on' ],
	refund_on_rollback => [ 'on', 'on' ],
	save_interval => [ '1s', '0' ],
	shadow => [ 'on', 'on' ],
	shared_memory => [ 'off', 'off' ],
	violation_retention => [ '1d', '2147483647s' ],
	violation_sink => [ 'log', 'none' ]);
my %postmaster = map { $_ => 1 } qw(max_buckets max_episodes max_reservations max_tickets max_violations shared_memory);

my $node = start_server('settings');
$node->adjust_conf('postgresql.conf', 'ratelimit.flush_interval', undef);
$node->reload;

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# Of a new session.
sub setting
{
	my ($name) = @_;

	return query("SELECT current_setting('ratelimit.$name')");
}

# Put settings into a file that postgresql.conf reads last, and no others.
my $file = $node->data_dir . '/changed.conf';
sub configure
{
	my (%settings) = @_;

	unlink $file;
	append_to_file($file, join('', map { "ratelimit.$_ = '$settings{$_}'\n" } sort keys %settings));
	return;
}

# Reload, and wait until sessions know, by a setting that we made up.
my $generation = 0;
sub reload
{
	append_to_file($file, 'test.generation = ' . ++$generation . "\n");
	$node->reload;
	$node->poll_query_until('postgres', "SELECT current_setting('test.generation', true) = '$generation'");
	return;
}

configure();
$node->append_conf('postgresql.conf', "include = 'changed.conf'");

is(query(q{SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE name LIKE 'ratelimit.%'}),
	join(' ', map { "ratelimit.$_" } sort keys %values), 'these are all settings');
is(query(q{SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE name LIKE 'ratelimit.%' AND context = 'postmaster'}),
	join(' ', map { "ratelimit.$_" } sort keys %postmaster), 'these take a restart');
my $reference = slurp_file("$FindBin::RealBin/../../docs/reference.md");
ok($reference =~ /^### ratelimit\.$_$/m, "$_ is in the reference") foreach sort keys %values;
is(query(q{SELECT count(*) FROM pg_settings WHERE name LIKE 'ratelimit.%' AND short_desc = ''}), 0, 'and each says what it is');

#
# Refused
#
foreach my $row (split /\n/, query(q{SELECT name, vartype, min_val, max_val, unit, setting FROM pg_settings WHERE name LIKE 'ratelimit.%' ORDER BY name}))
{
	my ($name, $type, $min, $max, $unit, $setting) = split /\|/, $row;
	my %refused;

	%refused = map { $_ => qr/\Q$_\E.* is outside the valid range for parameter "$name" \($min.* \.\. $max.*\)/ }
	  grep { $_ < 2147483648 } ($min - 1, $max + 1)
	  if $type eq 'integer';
	$refused{'2147483648'} = qr/invalid value for parameter "$name": "2147483648"\nHINT:  Value exceeds integer range/ if $type eq 'integer';
	$refused{many} = qr/invalid value for parameter "$name": "many"/ if $type =~ /^(integer|enum)$/;
	$refused{many} = qr/parameter "$name" requires a Boolean value/ if $type eq 'bool';
	$refused{'1 mile'} = qr/invalid value for parameter "$name": "1 mile"\nHINT:  Valid units/ if $unit;
	$refused{none_such} = qr/invalid value for parameter "$name": "none_such"\nHINT:  Available values/ if $type eq 'enum';
	foreach my $value (sort keys %refused)
	{
		my ($rc, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET $name = '$value'");

		like($err, qr/ERROR:  $refused{$value}/, "$name = $value is refused");
	}
	is(query("SELECT setting FROM pg_settings WHERE name = '$name'"), $setting, "$name is what it was");
}
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT set_config('ratelimit.gateway_name', repeat('x', 256), false)});
like($err, qr/ERROR:  invalid value for parameter "ratelimit.gateway_name": "x+"\nDETAIL:  It must not be longer than 255 bytes/, 'a name too long is refused');

# by whom it is not for
query('CREATE ROLE somebody LOGIN');
foreach my $row (split /\n/, query(q{SELECT name, context, setting FROM pg_settings WHERE name LIKE 'ratelimit.%' ORDER BY name}))
{
	my ($name, $context, $setting) = split /\|/, $row;
	my $says = {
		postmaster => qr/ERROR:  parameter "$name" cannot be changed without restarting the server/,
		sighup => qr/ERROR:  parameter "$name" cannot be changed now/,
		superuser => qr/ERROR:  permission denied to set parameter "$name"/,
		user => qr/^$/ }->{$context};

	($rc, $out, $err) = $node->psql('postgres', "SET $name = '$setting'", extra_params => [ '--username' => 'somebody' ]);
	like($err, $says, "SET $name, as anybody: $context");
}

# misspelt
($rc, $out, $err) = $node->psql('postgres', "SET ratelimit.max_bucket = 1");
like($err, qr/ERROR:  invalid configuration parameter name "ratelimit.max_bucket"\nDETAIL:  "ratelimit" is a reserved prefix/, 'SET of a misspelt name is refused');
($rc, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET ratelimit.max_bucket = 1");
like($err, qr/ERROR:  (unrecognized configuration parameter|invalid configuration parameter name) "ratelimit.max_bucket"/, '... ALTER SYSTEM too');
($rc, $out, $err) = $node->psql('postgres', "ALTER ROLE somebody SET ratelimit.gateway = 'x'");
like($err, qr/ERROR:  (unrecognized configuration parameter|invalid configuration parameter name) "ratelimit.gateway"/, '... ALTER ROLE too');
my $from = -s $node->logfile;
configure(max_bucket => 1, flag_threshold => 5);
reload();
$node->wait_for_log(qr/LOG:  invalid configuration parameter name "ratelimit.max_bucket"/, $from);
pass('the log tells of one in a file');
is(setting('flag_threshold'), 5, '... the others are applied');
$from = -s $node->logfile;
$node->restart;
$node->wait_for_log(qr/WARNING:  invalid configuration parameter name "ratelimit.max_bucket", removing it/, $from);
is(setting('flag_threshold'), 5, '... as they are at a restart');
$from = -s $node->logfile;
configure(flag_threshold => 0, flag_window => '9s');
reload();
$node->wait_for_log(qr/LOG:  0 is outside the valid range for parameter "ratelimit.flag_threshold" \(1 \.\. 2147483647\)/, $from);
pass('the log tells of a value out of range in a file');
is(setting('flag_threshold') . ' ' . setting('flag_window'), '5 9s', '... the old one stays, the others are applied');

#
# Reload
#
configure();
reload();
my %default = map { $_ => setting($_) } keys %values;
my $launcher = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'});
my $session = in_session($node);
is($session->query_safe("SELECT rl_consume('living', 2, 0)"), 't', 'a bucket');
foreach my $round (0, 1)
{
	configure(map { $_ => $values{$_}[$round] } keys %values);
	reload();
	foreach my $name (sort keys %values)
	{
		if ($postmaster{$name})
		{
			is(setting($name), $default{$name}, "reload $round: $name takes a restart");
			is(query("SELECT pending_restart FROM pg_settings WHERE name = 'ratelimit.$name'"), 't', '... and says so');
			next;
		}
		is(setting($name), $values{$name}[$round], "reload $round: $name is changed");
		is($session->query_safe("SHOW ratelimit.$name"), $values{$name}[$round], '... in a session that was there too');
	}
	is($session->query_safe("SELECT count(rl_consume('k' || i, 1, 0)) FROM generate_series(1, 50) i"), 50, "reload $round: calls are decided");
}
configure();
reload();
is(setting($_), $default{$_}, "reload: $_ is back at its default") foreach sort keys %values;
is($session->query_safe("SELECT rl_consume('living', 2, 0), rl_consume('living', 2, 0)"), 't|f', 'the bucket was there all the time');
finish_session($session);

# the launcher has followed them all and is still the same
is(query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'}), $launcher, 'the launcher has not been restarted');
configure(flush_interval => '1s');
reload();
query("SELECT rl_report('k', 'user', 3)");
ok($node->poll_query_until('postgres', "SELECT count(*) > 0 FROM rate_limit_violation_details WHERE key = 'k' AND limiter = 'user'"), '... and works');

#
# Restart: every setting changed, with violations pending and buckets in the table
#
query('SELECT rl_flush(); TRUNCATE rate_limit_violations; SELECT rl_reset_all(NULL)');
my %all_kept = (flush_interval => '1h', violation_sink => 'table', violation_retention => '0', overflow => 'table', shared_memory => 'on');
my $sent = 0;
foreach my $round (0, 1, 'default')
{
	my %settings = $round eq 'default' ? () : (map { $_ => $values{$_}[$round] } keys %values);
	my $pending = 'SELECT coalesce(sum(count), 0) FROM rate_limit_pending';
	my $written = 'SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details';

	# nothing is to be written meanwhile
	configure(flush_interval => '1h');
	reload();
	query("SELECT count(rl_report('k' || i, 'user', i)) FROM generate_series(1, 100) i");
	$sent += 5050;
	configure(%settings, %all_kept);
	$node->restart;
	foreach my $name (sort keys %settings)
	{
		is(setting($name), $all_kept{$name} // $values{$name}[$round], "restart $round: $name is changed");
	}
	# not at each moment of the flush after the start
	ok($node->poll_query_until('postgres', "SELECT ($pending) + ($written) = $sent"), "restart $round: every violation is there");
	my $max = setting('max_violations');
	ok(query('SELECT count(DISTINCT key) FROM rate_limit_pending') <= $max + 1, "restart $round: ... under at most $max keys and (other)");
	is(query("SET ratelimit.enabled = on; SET ratelimit.shadow = off; SELECT rl_consume('r$round', 2, 0), rl_consume('r$round', 2, 0), rl_consume('r$round', 2, 0)"), 't|t|f', "restart $round: calls are decided");
	$sent++;
	is(query("SELECT count(*) FROM rl_partitions() WHERE slots > 0"), query('SELECT count(*) FROM rl_partitions()'), "restart $round: partitions have slots");
	ok(query('SELECT sum(slots) FROM rl_partitions()') >= setting('max_buckets'), "restart $round: ... as many as asked for");
}
query('SELECT rl_flush()');
is(query('SELECT sum(total_count) FROM rate_limit_violations'), $sent, 'every violation is written once');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing broke');

$node->stop;
done_testing();
