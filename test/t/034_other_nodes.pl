# No server picks up the saved state of another: not a base backup, not a rewound
# server, not a copy of files.  Primary and standby have limits of their own, over
# restarts and crashes of each, and promoted and rewound by turns.  A data directory
# that was moved is the same server still.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use SavedState;
use Test::More;

my $primary = start_server('primary', streaming => 1, conf => <<'CONF');
ratelimit.save_interval = 1s
wal_log_hints = on
restart_after_crash = on
CONF

# How many of so many tokens somebody gets.
sub take
{
	my ($node, $n, $key) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(*) FILTER (WHERE rl_consume('$key', 10, 0)) FROM generate_series(1, $n)");
}

sub nothing_in_log
{
	my ($node, $from, $what) = @_;
	my @lines = slurp_file($node->logfile, $from) =~ /(ratelimit: (?!loaded).*)/g;

	return is("@lines", '', "$what: nothing in the log");
}

is(take($primary, 4, 'k'), 4, 'the primary: 4 of 10');
ok(wait_for_save($primary), 'saved');

#
# A base backup
#
$primary->backup('backup');
is(join(' ', glob $primary->backup_dir . '/backup/pg_stat/*ratelimit*'), '', 'a base backup leaves the file out');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
is(take($standby, 3, 'k'), 3, 'the standby: 3 of its own');
is(take($standby, 20, 'k'), 7, '... which are 10');
is(take($primary, 20, 'k'), 6, 'the primary has its 6 still');

# the standby's own state
$standby->safe_psql('postgres', "SELECT rl_report('standby', 'user', 5)");
$standby->restart;
is(take($standby, 20, 'k'), 0, 'the standby restarted: its bucket is empty as before');
is($standby->safe_psql('postgres', "SELECT count FROM rate_limit_pending WHERE key = 'standby'"), 5, '... and its violations are pending');
is(take($standby, 6, 'm'), 6, 'another key');
ok(wait_for_save($standby), 'a standby saves, too');
$standby->stop('immediate');
$standby->start;
is(take($standby, 20, 'm'), 4, 'the standby crashed: what it saved is there');
is(take($standby, 20, 'k'), 0, '... all of it');
is(take($primary, 20, 'm'), 10, 'the primary has its own');

#
# Copies of files
#
$primary->safe_psql('postgres', "SELECT rl_flush()");
$primary->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)');
$standby->stop;
end_rounds($primary);
is(take($primary, 5, 'copied'), 5, '5 tokens');
$primary->safe_psql('postgres', "SELECT rl_report('copied', 'user', 7)");
$primary->stop;
$primary->backup_fs_cold('copy');
ok(-e $primary->backup_dir . '/copy/pg_stat/pgsql_tmp.ratelimit', 'a copy of all files has the file');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($primary, 'copy');
$copy->start;
is(scalar(() = slurp_file($copy->logfile) =~ /LOG: .*ratelimit: ignoring file .* saved by another server/g), 1, '... but does not take it, and says so');
is($copy->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_pending'), 0, '... nothing is pending');
is(take($copy, 20, 'copied'), 10, '... and buckets are full');
$copy->restart;
is(take($copy, 20, 'copied'), 0, '... but what it saves itself is its own');
$copy->stop;

# The file alone
my $foreign = state_bytes($copy);
$primary->start;
is(take($primary, 20, 'copied'), 5, 'the primary takes its own');
ok($primary->poll_query_until('postgres', q{SELECT sum(count) = 7 FROM rate_limit_violation_details WHERE key = 'copied'}), '... and writes what was pending');
$primary->stop('immediate');
put_state($primary, $foreign);
my $from = -s $primary->logfile;
$primary->start;
like(slurp_file($primary->logfile, $from), qr/saved by another server/, "the copy's file brought back: not taken");
is(take($primary, 20, 'copied'), 10, '... all are full');

#
# Moved, and given to itself again
#
$primary->stop;
my $folder = $primary->data_dir;
rename($folder, "$folder.moved") or die $!;
symlink("$folder.moved", $folder) or die $!;
$primary->start;
is(take($primary, 20, 'copied'), 0, 'a data directory that was moved is the same server');
$primary->stop;
unlink($folder);
rename("$folder.moved", $folder) or die $!;
SKIP:
{
	skip 'the file system does not know when files were created', 1
	  if state_header(state_bytes($primary))->{born} == 0;
	chmod(0600, "$folder/PG_VERSION");
	utime(1, 1, "$folder/PG_VERSION");
	$primary->start;
	is(take($primary, 20, 'copied'), 0, '... and so is one whose files were touched');
	$primary->stop;
}
$primary->start;

#
# Promote, rewind, promote, rewind
#
$primary->safe_psql('postgres', 'ALTER SYSTEM SET ratelimit.flush_interval = 1');
$primary->reload;
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
my ($old, $new) = ($primary, $standby);
foreach my $round (1 .. 3)
{
	my $key = "round $round";

	is(take($old, 9, $key), 9, "$key: the primary gives 9");
	is(take($new, 3, $key), 3, "$key: the standby 3");
	$new->safe_psql('postgres', "SET ratelimit.gateway_name = 'promoted'; SELECT rl_report('$key', 'user', 2)");
	$new->promote;
	ok($new->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), "$key: promoted");
	ok($new->poll_query_until('postgres', "SELECT sum(count) = 2 FROM rate_limit_violation_details WHERE key = '$key'"), "$key: ... it writes what it had pending");
	is(take($new, 20, $key), 7, "$key: ... and has its own buckets");
	$new->safe_psql('postgres', 'CHECKPOINT');

	# the old primary goes its own way, and stops with violations that nobody wrote
	$old->safe_psql('postgres', "SET ratelimit.gateway_name = 'old'; ALTER TABLE rate_limit_violations RENAME TO hidden; SELECT rl_report('$key', 'user', 500)");
	$old->stop;
	cmp_ok(state_header(state_bytes($old))->{n_violation}, '>', 0, "$key: the old primary stops with some pending");
	ok(-e state_file($old), "$key: the old primary has saved its state");
	ok(wait_for_save($new), "$key: and so has the new one");
	command_ok([ 'pg_rewind', '--target-pgdata' => $old->data_dir, '--source-server' => $new->connstr('postgres'), '--no-sync' ], "$key: rewound");
	ok(!-e state_file($old), "$key: pg_rewind leaves no file");

	# pg_rewind has brought the configuration of the other one
	$old->append_conf('postgresql.conf', 'port = ' . $old->port . "\n");
	$old->enable_streaming($new);
	$from = -s $old->logfile;
	$old->start;
	nothing_in_log($old, $from, $key);
	$new->wait_for_catchup($old, 'replay', $new->lsn('write'));
	is(take($old, 20, $key), 10, "$key: the rewound server starts with full buckets, neither its own nor the other's");
	is($old->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_pending'), 1, "$key: ... and nothing pending but what it denied just now");
	($old, $new) = ($new, $old);
}
is($old->safe_psql('postgres', q{SELECT string_agg(key || ' ' || c, ', ' ORDER BY key) FROM (SELECT key, sum(count) AS c FROM rate_limit_violation_details WHERE gateway_name = 'promoted' GROUP BY 1) v}),
	'round 1 2, round 2 2, round 3 2', 'what the promoted ones had pending is written once');
is($old->safe_psql('postgres', q{SELECT count(*) FROM rate_limit_violation_details WHERE gateway_name = 'old'}), 0, 'and nothing of what was rewound');

$new->stop;
$old->stop;
done_testing();
