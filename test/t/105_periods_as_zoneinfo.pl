# Periods begin and end when Python's calendar and zoneinfo say so; every moment is in
# exactly one; and no text that a caller makes up does more than raise an error.
#
# test/t/105_periods_as_zoneinfo.py makes the periods and moments.  By hand, for another
# number of them and another seed: RATELIMIT_PERIODS=1000000 RATELIMIT_SEED=2.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $wanted = $ENV{RATELIMIT_PERIODS} // 10000;
my $seed = $ENV{RATELIMIT_SEED} || 1;

my $node = start_server('periods', preload => 0);

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

#
# Against zoneinfo, with the server's own files of time zones if it has some
#
my $zones = $node->config_data('--sharedir') . '/timezone';
local $ENV{PYTHONTZPATH} = $zones if -d $zones;

my $file = $node->basedir . '/cases';
open(my $cases, '>', $file) or die $!;
close $cases;
is(system("python3 $FindBin::RealBin/105_periods_as_zoneinfo.py $wanted $seed > $file"), 0, 'zoneinfo answers');
query(<<"SQL");
CREATE TABLE cases (period text, at timestamptz, begins_at timestamptz, ends_at timestamptz);
COPY cases FROM '$file';
SQL
is(query('SELECT count(*) FROM cases'), $wanted, "$wanted periods and moments");
cmp_ok(query('SELECT count(DISTINCT period) FROM cases'), '>', $wanted / 20, 'of many kinds');

# What a session is set to makes no difference.
my $settings = "SET timezone = 'America/St_Johns'; SET datestyle = 'German, DMY'; SET intervalstyle = 'sql_standard';";
my $differ = '(r.begins_at, r.ends_at) IS DISTINCT FROM (c.begins_at, c.ends_at)';

is(query("$settings SELECT c, r FROM cases c, rl_period(c.period, c.at) r WHERE $differ LIMIT 5"), '', 'begin and end as zoneinfo says');
is(query("SELECT count(*) FROM (SELECT period, at, begins_at, ends_at + '1 us'::interval AS ends_at FROM cases) c, rl_period(c.period, c.at) r WHERE $differ"),
	$wanted, '... which is compared');

#
# One period ends where the next begins
#
is(query(<<'SQL'), '', 'the first and the last moment are of the same period, the next moments of others');
SELECT c.period, c.at, r FROM cases c, rl_period(c.period, c.at) r, rl_period(c.period, r.begins_at) first,
	rl_period(c.period, r.ends_at - '1 us'::interval) last, rl_period(c.period, r.ends_at) next
WHERE NOT (first = r AND last = r AND next.begins_at = r.ends_at AND next.ends_at > next.begins_at) LIMIT 5
SQL
is(query(<<'SQL'), '', 'the name says the same period');
SELECT c.period, c.at, r FROM cases c, rl_period(c.period, c.at) r, rl_period(r.name, c.at) named
WHERE r <> named LIMIT 5
SQL

#
# All names of time zones
#
is(query(<<'SQL'), '', 'the names in pg_timezone_names are known, and no others');
CREATE FUNCTION known(zone text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN (rl_period('1 month ' || zone)).name IS NOT NULL;
EXCEPTION WHEN invalid_parameter_value THEN
	RETURN false;
END
$$;
SELECT name FROM pg_timezone_names WHERE known(name) = (name ~ '^(posix|right)/') OR known(name || '9') OR known('Etc/' || name || '9');
SQL

#
# Texts that anybody may make up.  What they leave behind is what the names of zones do.
#
my $fuzz = <<'SQL';
CREATE FUNCTION outcome(text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
	now timestamptz := '2026-11-27 12:00+00'::timestamptz + random() * interval '100 years' - random() * interval '100 years';
BEGIN
	r := rl_period($1, now);
	IF r.begins_at <= now AND now < r.ends_at AND r = rl_period(r.name, now) AND r = rl_period(r.name, greatest(r.begins_at, '4714-11-24 00:00+00 BC')) THEN
		RETURN 'a period';
	END IF;
	RETURN format('%s at %s: %s', $1, now, r);
EXCEPTION WHEN invalid_parameter_value OR program_limit_exceeded THEN
	IF SQLERRM LIKE 'period %' THEN
		RETURN 'an error';
	END IF;
	RETURN format('%s: %s', $1, SQLERRM);
END
$$;
CREATE FUNCTION random_text() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	parts text[] := ARRAY['day', 'month', 'week', 'minutes', 's', 'from', 'from', 'Europe/Berlin', 'Etc/GMT+1', 'UTC', 'EST5EDT', '1', '2', '90', '-3', '0', '1.5', '12345678901', '2147483647', '1e9',
		'2026-01-31', '9999-12-31', '0001-01-01', '2024-02-29', '08:30', '23:59:59.999999', '+00', '-15:59:59', '+05:30', 'Z', 'T', 'PT', 'P', 'H', '@', 'ago', 'years', 'us', 'centuries', 'infinity', '/', ':', '.', '..', '-', '+', '%s', '%n'];
	said text[] := ARRAY['13 days from 2026-01-31 08:30:15.25 Europe/Berlin', '123 months from 1999-12-31 23:59:59.123456', '59 minutes from 2000-02-29 00:00:01+12:34:56', '12345678 seconds'];
	result text := '';
BEGIN
	FOR i IN 1 .. 1 + floor(random() * 6) LOOP
		result := result || CASE WHEN random() < 0.8 THEN parts[1 + floor(random() * cardinality(parts))] ELSE chr(1 + floor(random() * 127)::int) END
			|| CASE WHEN random() < 0.7 THEN ' ' ELSE '' END;
	END LOOP;
	IF random() < 0.5 THEN
		result := said[1 + floor(random() * cardinality(said))];
		result := overlay(result PLACING chr(1 + floor(random() * 127)::int) FROM 1 + floor(random() * length(result))::int);
	END IF;
	RETURN result;
END
$$;
SQL
query($fuzz);
my $session = in_session($node);
my $memory = q{SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name IN ('Timezones', 'TopMemoryContext')};
$session->query(q{SELECT count(*) FROM pg_timezone_names WHERE name !~ '^(posix|right)/' AND known(name)});
$session->query(q{SELECT outcome('day Nowhere')});
$session->query('SELECT setseed(0.5)');
my $before = $session->query($memory);
is($session->query(<<"SQL"), "a period\nan error", 'random texts are a period or raise an error about the period');
SELECT outcome || CASE WHEN count(*) < 1000 THEN ', too seldom' ELSE '' END
FROM (SELECT outcome(random_text()) FROM generate_series(1, 20000)) texts (outcome) GROUP BY outcome ORDER BY 1
SQL
$session->query(q{SELECT count(*) FROM generate_series(1, 20000) i, LATERAL outcome('day AB' || chr(65 + i % 26) || i)});
$session->query(q{SELECT count(*) FROM generate_series(1, 20000) i, LATERAL outcome(i || ' days from 2026-01-01 Europe/Berlin')});
is($session->query($memory), $before, '60000 texts leave no memory behind');
finish_session($session);

$node->stop;
done_testing();
