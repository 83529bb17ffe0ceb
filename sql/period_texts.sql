-- What a text says as a period, and what is wrong with it.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE FUNCTION try(period text, at timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
	hint text;
BEGIN
	r := rl_period(period, at);
	RETURN format('%s: %s to %s', r.name, r.begins_at, r.ends_at);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ' ' || SQLERRM || CASE WHEN hint <> '' THEN E'\n' || hint ELSE '' END;
END
$$;
\t on
\pset format unaligned

-- the words, and intervals
SELECT period, try(period, '2026-11-27 17:40:05.25') FROM unnest(ARRAY[
	'second', 'minute', 'hour', 'day', 'week', 'month', 'year', ' MONTH ',
	'15 minutes', '90 s', '90s', '1.5 seconds', '1500 us', '1 us', '2 weeks', '3 months', '1 year 6 months', '10 years',
	'36 hours', '1 day 12 hours', '01:30', 'PT15M', '@ 1 day']) period;

-- what is the same has the same name
SELECT (rl_period(period)).name, string_agg(period, ' | ' ORDER BY n) FROM unnest(ARRAY[
	'day', '1 day', '24 hours', '86400 s', 'day UTC', 'day Etc/UTC', 'DAY', 'day from 2026-01-01', '1 day from 2026-01-02 02:00+02',
	'week', '7 days', '168 hours', 'week from 2026-01-05', 'week from 1970-01-01', '7 days from 2026-01-01',
	'month', '1 mon', 'month from 2026-05-01', 'month from 2026-05-02', 'month from 2026-05-31', 'month from 2026-05-31T00:00Z',
	'year', '12 months', 'year from 2026-01-01', 'year from 2024-02-29', 'year from 2000-02-29', '4 years from 2024-02-29', '4 years from 2023-02-28',
	'day Europe/Berlin', 'day  europe/berlin', '1 day from 2026-01-01 Europe/Berlin', 'day from 2026-01-01 04:00 Europe/Berlin',
	'15 minutes from 2026-01-01 00:05+00', '15 minutes from 1999-12-31 23:50', 'month from 2026-05-01+05:30', 'month from 2026-01-01 00:00+0530'])
	WITH ORDINALITY AS periods (period, n)
GROUP BY 1 ORDER BY min(n);

-- time zones: a day, a month, and a week of Berlin; an hour in Kathmandu
SELECT period, at, try(period, at) FROM (VALUES
	('day Europe/Berlin', '2026-03-29 12:00'::timestamptz), ('day Europe/Berlin', '2026-10-25 12:00'), ('month Europe/Berlin', '2026-03-15 00:00'),
	('week Europe/Berlin', '2026-01-01 00:00'), ('hour Asia/Kathmandu', '2026-01-01 00:00'), ('15 minutes Asia/Kathmandu', '2026-01-01 00:00'),
	('day Etc/GMT-2', '2026-01-01 00:00'), ('month Etc/GMT-2', '2026-01-01 00:00')) v (period, at);
-- an hour that happens twice is two, a midnight that happens twice is one
SELECT period, at, try(period, at) FROM (VALUES
	('hour Europe/Berlin', '2026-10-25 00:30'::timestamptz), ('hour Europe/Berlin', '2026-10-25 01:30'),
	('day America/Havana', '2010-10-31 04:30'), ('day America/Havana', '2010-10-31 05:30'),
	('day America/St_Johns', '2010-11-07 02:30:30'), ('day America/St_Johns', '2010-11-07 03:00')) v (period, at);
-- a change of half an hour cuts an hour, not a day
SELECT period, at, try(period, at) FROM (VALUES
	('hour Australia/Lord_Howe', '2026-04-04 14:59'::timestamptz), ('hour Australia/Lord_Howe', '2026-04-04 15:00'), ('hour Australia/Lord_Howe', '2026-04-04 15:30'),
	('hour Australia/Lord_Howe', '2026-10-03 15:30'), ('30 minutes Australia/Lord_Howe', '2026-04-04 15:00'), ('day Australia/Lord_Howe', '2026-04-04 15:00')) v (period, at);
-- a day that begins at one, and one that does not exist
SELECT period, at, try(period, at) FROM (VALUES
	('day America/Sao_Paulo', '2018-11-04 02:59:59.999999'::timestamptz), ('day America/Sao_Paulo', '2018-11-04 03:00'),
	('day Pacific/Apia', '2011-12-30 09:59:59.999999'), ('day Pacific/Apia', '2011-12-30 10:00')) v (period, at);

-- an hour that is cut where the clock is put forward by half of it
SELECT period, at, try(period, at) FROM (VALUES
	('hour Asia/Pyongyang', '2018-05-04 14:45'::timestamptz), ('hour Asia/Pyongyang', '2018-05-04 15:05')) v (period, at);
-- anchors to the second and to its fractions, of hours in a zone, and of a year that is the only one with its day
SELECT period, try(period, '2026-03-04 05:06') FROM unnest(ARRAY['hour from 2026-01-01 08:30:15', 'hour from 2026-01-01 08:30:15.25', 'month from 2026-01-01 08:30+02:30:15',
	'6 hours from 2026-01-31 08:30 Europe/Berlin', '7000 years from 1600-02-29', 'day EST5EDT']) period;

-- lengths of months
SELECT at::date, try('month from 2026-01-31 09:00 Europe/Berlin', at), try('year from 2024-02-29', at)
FROM generate_series('2027-01-31'::timestamptz, '2028-05-31', '3 months') at;

-- far away
SELECT period, at, try(period, at) FROM unnest(ARRAY['second', 'month', 'year', '1000 years', 'day Europe/Berlin', 'month Asia/Kathmandu', 'hour Asia/Kathmandu', '178000000 years', '2562047788 hours', '2147483647 days']) period,
	unnest(ARRAY['4714-11-24 00:00 BC', '0001-01-01 00:00 BC', '294276-12-31 23:59:59.999999']::timestamptz[]) at;
SELECT try('month', 'infinity'), try('month', '-infinity'), try(NULL, now()), try('month', NULL);

-- errors
SELECT try(period, now()) FROM unnest(ARRAY[
	'', '  ', repeat('x', 128), 'fortnight', '3 fortnights', '15 minuts', 'minutes', 'quarter', '15', '1 day 2', 'month 3', 'm', 'month day', 'infinity',
	'0 s', '-1 day', '1 day ago', '1 day -24 hours', '1 month 2 days', '1 day 1 hour Europe/Berlin', '6 hours Europe/Berlin', '7 minutes Europe/Berlin',
	'200000000 years', '3000000000000 hours', '99999999999999999999 days', '2147483647 days 2562047788 hours', 'd99999999999999999999s quite unknown',
	'100000000 days from 9999-12-31 23:59-01',
	'month Europe/Berln', 'day PST', 'day CEST', 'day +02', 'day Europe', 'day ABC3', 'day Europe/Berlin7', 'day Etc/GMT+13', 'day Etc/GMT-05', 'day Etc/GMT5', 'day GMT+5', 'day posix/Europe/Berlin', 'day right/UTC', 'day ../zone', 'day /etc/passwd', E'day \u00fc',
	'Europe/Berlin', 'UTC day', 'day Europe/Berlin from 2026-01-01',
	'day from', 'from 2026-01-01', 'day from now', 'day from yesterday', 'day from 1/2/2026', 'day from 2026-02-29', 'day from 2026-13-01', 'day from 0000-01-01', 'day from 2026-01-01 24:00', 'day from 2026-01-01 8:30',
	'1..5 days', 'day from 2026-01-01 08:30:', 'day from 2026-01-01 08:30:60', 'day from 2026-01-01 08:30:00.', 'day from 2026-01-01 08:30+16', 'day from 2026-01-01 08:30+', 'day from 2026-01-01 08:30 +0x', 'day from 2026-01-01 08:30 CEST', 'day from 2026-01-01 08:30+02 Europe/Berlin',
	'day from 20260101', 'day from infinity', 'day from 10000-01-01', 'day from from']) period;
\t off
\pset format aligned

DROP FUNCTION try;
DROP EXTENSION ratelimit;
