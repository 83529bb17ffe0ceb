-- rl_simulate, rl_simulate_period: what a rule would have decided.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

CREATE TEMP TABLE calls (id int GENERATED ALWAYS AS IDENTITY, ts timestamptz, client text);
INSERT INTO calls (ts, client)
SELECT '2026-01-01 00:00:00+00'::timestamptz + s * interval '1 s', client
FROM (VALUES (0, 'a'), (0, 'a'), (0, 'b'), (0, 'a'), (9, 'a'), (10, 'a'), (10, 'a'),
	(19, 'b'), (20, 'a'), (20, 'b'), (30, 'a'), (30, 'a'), (3600, 'a'), (3600, 'a'), (3600, 'a'))
	v (s, client);

-- a token falls due on the very second of a call, again and again
SELECT id, client, extract(epoch FROM ts - '2026-01-01 00:00:00+00')::int AS s,
	rl_simulate(ts, 2, 0.1) OVER (PARTITION BY client ORDER BY ts, id) AS allowed
FROM calls ORDER BY id;

-- a third of a token per second, after every third second
SELECT count(*) FILTER (WHERE allowed) FROM (
	SELECT rl_simulate('2026-01-01'::timestamptz + i * interval '3 s', 1, 1.0 / 3)
		OVER (ORDER BY i) AS allowed FROM generate_series(1, 100000) i) x;
-- 100 calls at each tenth of 100 seconds: 7 at once, then 0.7 a second
SELECT count(*) FILTER (WHERE allowed) FROM (
	SELECT rl_simulate('2026-01-01'::timestamptz + i / 100 * interval '0.1 s', 7, 0.7)
		OVER (ORDER BY i) AS allowed FROM generate_series(0, 99999) i) x;
-- a token a year, on its birthday
SELECT y, rl_simulate('2000-01-01 00:00:00+00'::timestamptz + y * interval '31557600 s', 1, 1.0 / 31557600)
	OVER (ORDER BY y) FROM generate_series(0, 3) y;
-- and one microsecond before
SELECT y, rl_simulate('2000-01-01 00:00:00+00'::timestamptz + y * interval '31557599.999999 s', 1, 1.0 / 31557600)
	OVER (ORDER BY y) FROM generate_series(0, 3) y;

-- parameters may change from row to row; cost may vary
SELECT i, rl_simulate('2026-01-01', capacity, 0, cost) OVER (ORDER BY i) AS allowed
FROM (VALUES (1, 10, 6), (2, 10, 5), (3, 20, 5), (4, 20, 4), (5, 20, 0.5), (6, 3, 1)) v (i, capacity, cost);

-- time that runs backwards stands still; ends of time do no harm
SELECT i, rl_simulate(ts, 1, 1) OVER (ORDER BY i) AS allowed FROM (VALUES
	(1, '2026-01-01 00:00:10+00'::timestamptz), (2, '2026-01-01 00:00:00+00'),
	(3, '2026-01-01 00:00:10.999999+00'), (4, '2026-01-01 00:00:11+00'),
	(5, '4713-01-01 BC'), (6, '294276-12-31')) v (i, ts);

-- rl_simulate_period: an allowance of two a minute, which comes back when the minute begins
SELECT id, client, extract(epoch FROM ts - '2026-01-01 00:00:00+00')::int AS s,
	rl_simulate_period(ts, 2, 'minute') OVER (PARTITION BY client ORDER BY ts, id) AS allowed
FROM calls ORDER BY id;
-- the first so many of each period, whatever the period
SELECT period, count(*), count(*) FILTER (WHERE allowed) AS allowed, count(*) FILTER (WHERE allowed <> (n <= 3)) AS off FROM (
	SELECT period, rl_simulate_period(ts, 3, period) OVER (PARTITION BY period ORDER BY ts) AS allowed,
		row_number() OVER (PARTITION BY period, (rl_period(period, ts)).begins_at ORDER BY ts) AS n
	FROM unnest(ARRAY['day', 'day Europe/Berlin', 'week', 'month Asia/Kathmandu', '36 hours', 'month from 2026-01-31 08:00 America/New_York', '10 years']) period,
		generate_series('2025-01-01'::timestamptz, '2030-01-01', '2 hours 53 minutes') ts) x
GROUP BY period ORDER BY period;
-- costs, fractions, and an allowance that changes: what has been used stays
SELECT i, rl_simulate_period('2026-01-01', allowance, 'day', cost) OVER (ORDER BY i) AS allowed
FROM (VALUES (1, 1, 0.7), (2, 1, 0.3), (3, 1, 0.1), (4, 1, 0), (5, 2, 0.9), (6, 2, 0.1), (7, 2, 0.1), (8, 1, 0.1), (9, 0, 0), (10, 3, 1)) v (i, allowance, cost);
-- time that runs backwards stands still; ends of time do no harm
SELECT i, rl_simulate_period(ts, 1, 'minute') OVER (ORDER BY i) AS allowed FROM (VALUES
	(1, '4714-11-24 00:00 BC'::timestamptz), (2, '2026-01-01 00:00:59.999999+00'), (3, '2026-01-01 00:00+00'), (4, '2026-01-01 00:01+00'),
	(5, '2026-01-01 00:00:30+00'), (6, '2300-01-01'), (7, '2300-01-02'), (8, '294276-12-31 23:59:59+00'), (9, '294276-12-31 23:59:59.999999+00')) v (i, ts);
-- one period in a window partition, however it is spelled
SELECT i, rl_simulate_period('2026-01-01', 2, period) OVER (ORDER BY i) AS allowed FROM (VALUES (1, 'day'), (2, '24 hours'), (3, 'DAY UTC')) v (i, period);
SELECT i, rl_simulate_period('2026-01-01', 2, period) OVER (ORDER BY i) AS allowed FROM (VALUES (1, 'day'), (2, 'week')) v (i, period);
SELECT rl_simulate_period('2026-01-01', 2, 'fortnight') OVER ();
SELECT rl_simulate_period('2026-01-01', -2, 'day') OVER ();
SELECT rl_simulate_period('infinity', 2, 'day') OVER ();
SELECT rl_simulate_period('2026-01-01', NULL, 'day') OVER ();
SELECT rl_simulate_period('2026-01-01', 2, 'day');

-- shares nothing with real buckets
SELECT count(*) FROM rate_limit_status;

DROP EXTENSION ratelimit;
