# A hot standby counts violations and writes nothing; they wait for its promotion,
# over a restart of the standby, too.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $primary = start_server('primary', streaming => 1);

$primary->safe_psql('postgres', "SET ratelimit.gateway_name = 'primary'; SELECT rl_report('k', 'user', 5)");
ok($primary->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'the primary has written its own');
$primary->safe_psql('postgres', "SET ratelimit.gateway_name = 'primary'; SELECT rl_report('written before the backup', 'user', 6)");
$primary->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)');

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));

sub query
{
	return $standby->safe_psql('postgres', $_[0]);
}

my $pending = "SELECT gateway_name, limiter, key, count FROM rate_limit_pending ORDER BY key";

is(query('SELECT count(*) FROM rate_limit_pending'), 0, 'none pending that the primary had written');
is(query("SET ratelimit.gateway_name = 'standby'; SELECT count(*) FILTER (WHERE NOT rl_consume('k', 3, 0, limiter => 'user')) FROM generate_series(1, 10)"), 7, '7 calls denied on the standby');
is(query($pending), 'standby|user|k|7', '... are pending there');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM rate_limit_pending'), 0, '... not on the primary');
my ($rc, $out, $err) = $standby->psql('postgres', 'SELECT rl_flush()');
like($err, qr/ERROR:  .*(recovery|read-only)/, 'rl_flush() cannot write there');
is(query($pending), 'standby|user|k|7', '... and they stay pending');
is(query("SELECT rejected FROM rate_limit_episodes WHERE key = 'k'"), 7, 'an episode is seen');
query("SET ratelimit.gateway_name = 'standby'; SELECT rl_report('flagged', 'user', 1000)");

# several intervals, by the server's clock
my $later = query("SELECT clock_timestamp() + interval '2.5 s'");
$standby->poll_query_until('postgres', "SELECT clock_timestamp() > '$later'");
is(query($pending), "standby|user|flagged|1000\nstandby|user|k|7", 'in recovery they wait');
is(query("SELECT flush_failures, violations_flushed FROM rate_limit_stats WHERE limiter IS NULL"), '0|0', '... nobody has tried');
is(query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ratelimit%'}), 0, '... no worker runs');

# a clean restart of the standby, and the primary goes on
$standby->restart;
is(query($pending), "standby|user|flagged|1000\nstandby|user|k|7", 'over a restart, too');
query("SET ratelimit.gateway_name = 'standby'; SELECT rl_report('k', 'user', 2)");
$primary->safe_psql('postgres', "SET ratelimit.gateway_name = 'primary'; SELECT rl_report('k', 'user', 8); SELECT rl_flush()");
$primary->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
is(query("SELECT gateway_name, sum(count) FROM rate_limit_violation_details WHERE key = 'k' GROUP BY 1"), 'primary|13', "the primary's rows are seen there");

$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM rate_limit_pending)'), 'promoted: written by itself');
is(query("SELECT gateway_name, key, sum(count) FROM rate_limit_violation_details GROUP BY 1, 2 ORDER BY 1, 2"),
	"primary|k|13\nprimary|written before the backup|6\nstandby|flagged|1000\nstandby|k|9", '... each once, beside those of the primary');

query("SELECT rl_report('flagged', 'user', 1000)");
ok($standby->poll_query_until('postgres', "SELECT count(*) = 1 FROM rate_limit_flagged WHERE key = 'flagged'"), '... flags, too');
is($primary->safe_psql('postgres', "SELECT count(*) FROM rate_limit_violation_details WHERE gateway_name = 'standby'"), 0, 'the primary has none of them');

$standby->stop;
$primary->stop;
done_testing();
