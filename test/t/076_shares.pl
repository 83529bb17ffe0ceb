# One role uses up its share of the room for violations and for limiters, not
# another's: whatever names of gateways, limiters and keys it chooses, in however many
# sessions, also through a SECURITY DEFINER function.  Nothing is lost by it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('shares', conf => <<'CONF');
ratelimit.flush_interval = 1h
ratelimit.max_violations = 1024
ratelimit.max_episodes = 2000
CONF

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# As a role that has logged in as another and then SET ROLE, as a pool does.
sub query_as
{
	my ($role, $sql) = @_;

	return query("SET ROLE $role;\n$sql");
}

query(<<'SQL');
CREATE ROLE mallory;
CREATE ROLE alice;
CREATE ROLE bob;
CREATE ROLE owner;
GRANT USAGE, CREATE ON SCHEMA public TO owner;
GRANT EXECUTE ON FUNCTION rl_report TO owner;
SET ROLE owner;
CREATE FUNCTION denied(key text, limiter text) RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS 'SELECT NOT public.rl_consume(key::text, 1::float8, 0::float8, 2::float8, limiter::text)';
SQL

# all violations there are, and those named for keys of this role
sub pending
{
	my ($role) = @_;

	return query("SELECT (SELECT sum(count) FROM rate_limit_pending), count(*), sum(count) FROM rate_limit_pending WHERE key LIKE '$role %'");
}

sub lost
{
	return query('SELECT violations_lost FROM rate_limit_stats WHERE limiter IS NULL');
}

#
# Keys
#
is(query_as('mallory', q{SELECT count(*) FILTER (WHERE denied('mallory ' || i, 'm')) FROM generate_series(1, 5000) i}), 5000, 'a role with 5000 keys, all of them denied');
is(pending('mallory'), '5000|1024|1024', '... is alone and has all of the room');
is(query_as('alice', q{SELECT count(*) FILTER (WHERE denied('alice ' || i, 'a')) FROM generate_series(1, 400) i, generate_series(1, 3)}), 1200, 'another with 400 keys');
is(pending('alice'), '6200|400|1200', '... has room for them, as they are not half of it');
is(pending('mallory'), '6200|624|624', '... at the expense of the first');
is(query_as('mallory', q{SELECT count(*) FILTER (WHERE denied('mallory again ' || i, 'm')) FROM generate_series(1, 5000) i}), 5000, 'the first goes on');
is(pending('alice'), '11200|400|1200', '... and the other has lost nothing');
is(query_as('alice', q{SELECT count(*) FILTER (WHERE denied('alice more ' || i, 'a')) FROM generate_series(1, 1000) i}), 1000, 'the other wants more');
is(pending('alice'), '12200|512|1312', '... and gets its half');
is(query_as('bob', q{SELECT count(*) FILTER (WHERE denied('bob ' || i, 'b')) FROM generate_series(1, 1000) i}), 1000, 'a third');
like(pending('bob'), qr/^13200\|341\|341$/, '... gets a third');
is(query(q{SELECT sum(count) FROM rate_limit_pending WHERE limiter IN ('a', 'm', 'b')}), 13200, 'what was displaced counts for (other) of its limiter');
query('SELECT rl_flush()');
is(query('SELECT sum(total_count) FROM rate_limit_violations'), 13200, '... and is written');
is(lost(), 0, '... none is lost');

#
# Gateways: each has an (other) of its own
#
query('TRUNCATE rate_limit_violations');
query_as('mallory', q{SELECT count(*) FROM generate_series(1, 22000) i, LATERAL (SELECT set_config('ratelimit.gateway_name', lpad(i::text, 250, 'g'), false) AS set OFFSET 0) s WHERE denied('mallory ' || right(set, 8), 'm')});
my $gateways = query('SELECT count(DISTINCT gateway_name) FROM rate_limit_pending');
cmp_ok($gateways, '>=', 1024, "22000 gateways: the room is full of them ($gateways)");
is(query_as('alice', q{SET ratelimit.gateway_name = 'api'; SELECT count(*) FILTER (WHERE denied('alice ' || i, 'a')) FROM generate_series(1, 1000) i}), 1000, 'another with one gateway');
is(query(q{SELECT count(*) FILTER (WHERE key <> '(other)'), count(*) FILTER (WHERE key = '(other)'), sum(count) FROM rate_limit_pending WHERE gateway_name = 'api'}), '512|1|1000', '... has its half and its own (other)');
is(query('SELECT sum(count) FROM rate_limit_pending'), 23000, 'all are counted');
query('SELECT rl_flush()');
is(query('SELECT sum(total_count) FROM rate_limit_violations'), 23000, '... and written');
is(lost(), 0, '... none is lost');

#
# Limiters
#
sub shown
{
	my ($prefix) = @_;

	return query("SELECT count(*), sum(denied) FROM rate_limit_stats WHERE limiter LIKE '$prefix %'");
}
my $before = query('SELECT denied FROM rate_limit_stats WHERE limiter IS NULL');
is(query_as('mallory', q{SELECT count(*) FILTER (WHERE denied('k', 'mallory ' || i)) FROM generate_series(1, 1100) i}), 1100, '1100 limiters');
cmp_ok((split /\|/, shown('mallory'))[0], '>', 900, '... take what there is');
is(query_as('alice', q{SELECT count(*) FILTER (WHERE denied('k', 'alice ' || i)) FROM generate_series(1, 100) i, generate_series(1, 5)}), 500, 'another with 100');
is(shown('alice'), '100|500', '... has them counted apart');
is(query_as('mallory', q{SELECT count(*) FILTER (WHERE denied('k', 'mallory again ' || i)) FROM generate_series(1, 1100) i}), 1100, 'the first goes on');
is(shown('alice'), '100|500', '... and the other has lost nothing');
is(query('SELECT denied FROM rate_limit_stats WHERE limiter IS NULL') - $before, 2700, 'all are counted');
$node->restart;
is(shown('alice'), '100|500', '... and still are after a restart');

#
# A restart with less room: violations are loaded into the shares of databases.  Their
# keys' episodes know of them already, so a displaced entry adds nothing to its episode.
#
query('SELECT rl_flush()');
query('TRUNCATE rate_limit_violations');
query('CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION ratelimit');
query(q{SELECT count(*) FROM generate_series(1, 900) i WHERE rl_report('key ' || i, 'told', 3)});
query('SELECT rl_flush()');
query(q{SELECT count(*) FROM generate_series(1, 900) i WHERE rl_report('key ' || i, 'told', 2)});
$node->safe_psql('other', q{SELECT count(*) FROM generate_series(1, 100) i WHERE rl_report('key ' || i, 'told', 1)});
my $told = q{SELECT count(*), min(rejected), max(rejected) FROM rate_limit_episodes WHERE limiter = 'told'};
is(query($told), '900|5|5', 'episodes of 900 keys');
$node->append_conf('postgresql.conf', 'ratelimit.max_violations = 256');
$node->restart;
is(query($told), '900|5|5', '... after a restart with room for 256, of which another database has its share');
query('SELECT rl_flush()');
is(query('SELECT sum(total_count) FROM rate_limit_violations'), 900 * 5, '... and all violations are counted');
is(lost(), 0, '... none is lost');

$node->stop;
done_testing();
