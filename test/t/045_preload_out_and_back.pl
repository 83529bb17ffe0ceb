# The library is taken out of shared_preload_libraries and put back: all decide all
# the time, buckets in the table go on and come back to memory, and every violation
# is written once.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('turns', conf => "ratelimit.max_buckets = 16\nratelimit.flush_interval = 1h");
my $denied = 0;

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# So many calls of cost 1 on a bucket of 5: how many are allowed.
sub calls
{
	my ($key, $n) = @_;
	my $allowed = query("SELECT count(*) FILTER (WHERE rl_consume('$key', 5, 0)) FROM generate_series(1, $n)");

	$denied += $n - $allowed;
	return $allowed;
}

sub restart_with
{
	my ($libraries, $how) = @_;

	$node->stop($how // 'fast');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
	$node->append_conf('postgresql.conf', 'ratelimit.shared_memory = ' . ($libraries ? 'on' : 'off'));
	$node->start;
	return;
}

my $written = q{SELECT coalesce(sum(count), 0) FROM rate_limit_violation_details WHERE limiter = 'default'};
my $pending = q{SELECT coalesce(sum(count), 0) FROM rate_limit_pending WHERE limiter = 'default'};
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ratelimit%'};

# Is every violation pending or written?  Not at each moment of a flush.
sub all_there
{
	return $node->poll_query_until('postgres', "SELECT ($written) + ($pending) = $denied");
}

#
# Preloaded
#
is(calls('memory', 3), 3, 'a bucket of 5, 3 taken');
is(store_of($node, 'memory'), 'memory', '... in memory');
query(q{SELECT count(rl_consume('fill' || i, 1, 0)) FROM generate_series(1, 40) i});
is(calls('row', 2), 2, 'a bucket of 5, 2 taken');
is(store_of($node, 'row'), 'table', '... in the table');
is(calls('denied', 12), 5, 'a bucket of 5, and more calls');
query(q{SELECT rl_flag('k', 'user', 'flagged'); INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('p', 1, 0, true)});
is(query($pending), $denied, 'violations are pending');

#
# Taken out
#
restart_with('');
is(query('SELECT shared_preload_libraries FROM current_setting($$shared_preload_libraries$$) shared_preload_libraries'), '', 'not preloaded');
is(query($workers), 0, '... no worker');
is(query('SELECT stats_since IS NULL FROM rate_limit_stats WHERE limiter IS NULL'), 't', '... no figures');
is(query('SELECT count(*) FROM rl_partitions()'), 0, '... no partitions');
is(query("$written"), 0, '... nothing is written that was pending');
is(calls('row', 2), 2, 'the bucket in the table goes on');
is(calls('denied', 1), 0, '... an empty one too');
is(query($written), 1, '... its violation is written at once');
is(calls('new', 4), 4, 'a new bucket');
is(calls('memory', 6), 5, 'the one that was in memory starts full');
is(query(q{SELECT string_agg(DISTINCT store, ',') FROM rate_limit_status}), 'table', 'all are in the table');
is(query("SELECT rl_flag('k', 'user', 'again'), rl_unflag('k', 'user'), rl_flag('l', 'user', 'new')"), 'f|t|t', 'flags are there');
is(query("SELECT rl_consume_policy('p', 'k'), rl_consume_policy('p', 'k')"), 't|f', 'policies too');
my ($rc, $out, $err) = $node->psql('postgres', "BEGIN READ ONLY; SELECT rl_consume('row', 5, 0, 0), rl_consume('row', 5, 0, 2)");
is("$out$err", 't|f', 'a read-only transaction decides');

# the settings are still in the file
is(query("LOAD 'ratelimit'; SELECT setting FROM pg_settings WHERE name = 'ratelimit.max_buckets'"), 16, 'settings are known once the library is loaded');
($rc, $out, $err) = $node->psql('postgres', "LOAD 'ratelimit'; SET ratelimit.max_buckets = 17");
like($err, qr/ERROR:  parameter "ratelimit.max_buckets" cannot be changed now/, '... and guarded');
($rc, $out, $err) = $node->psql('postgres', "LOAD 'ratelimit'; SET ratelimit.max_bucket = 17");
like($err, qr/ERROR:  invalid configuration parameter name "ratelimit.max_bucket"/, '... misspelt ones too');

#
# Put back
#
restart_with('ratelimit');
ok($node->poll_query_until('postgres', "SELECT ($workers) > 0"), 'preloaded again: a launcher');
ok(all_there(), 'violations pending from before and written meanwhile are there');
is(calls('row', 2), 1, 'the bucket in the table goes on');
is(calls('new', 2), 1, '... the one made meanwhile too');
is(calls('memory', 1), 0, '... and what was taken meanwhile from the one of before counts');
is(calls('denied', 1), 0, '... as does an empty one');
is(twice_living($node), '', 'no bucket is in two places');
is(query("SELECT rl_consume_policy('p', 'k')"), 'f', 'so it is with policies');
is(query("SELECT key FROM rate_limit_flagged"), 'l', '... and flags');
query('SELECT rl_flush()');
is(query($written), $denied, 'every violation is written, once');

# room in memory: rows go there
query(q{SELECT count(rl_reset(key, limiter)) FROM rate_limit_status WHERE key LIKE 'fill%' OR limiter = 'p'});
query(q{ALTER SYSTEM SET ratelimit.flush_interval = '1s'});
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 4 FROM rate_limit_status WHERE store = 'memory'}), 'all buckets come back to memory');
is(join(' ', map { calls($_, 1) } 'row', 'new', 'memory', 'denied'), '0 0 0 0', '... as they were');
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_buckets)'), '... and leave no row behind');
ok($node->poll_query_until('postgres', "SELECT ($written) = $denied"), 'the worker writes violations again');

#
# Taken out, a crash, put back
#
end_rounds($node);
calls('row', 3);
restart_with('');
calls('crash', 8);
$node->stop('immediate');
$node->start;
is(query("SELECT count(*) FROM rate_limit_status"), 0, 'taken out, then a crash: buckets are full');
is(calls('row', 6), 5, '... and decide');
restart_with('ratelimit');
ok(all_there(), 'put back: the violations pending before all that are there');
is(calls('row', 1), 0, '... buckets go on');
query('SELECT rl_flush()');
is(query($written), $denied, '... every violation is written, once');
foreach my $how ('immediate', 'fast')
{
	$node->stop($how);
	$node->start;
	ok(all_there(), "... and after a stop, $how");
}

$node->stop;
done_testing();
