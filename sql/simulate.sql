-- rl_simulate: what a rule would have decided.
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

-- shares nothing with real buckets
SELECT count(*) FROM rate_limit_status;

DROP EXTENSION ratelimit;
