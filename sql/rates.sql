-- Rates as people say them.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

SELECT tokens, per, rl_per(tokens, per::interval), rl_per(tokens, per::interval) = expected AS same FROM (VALUES
	(100, '1 minute', 100 / 60.0::float8), (5, '1 minute', 5 / 60.0::float8), (1000, '1 day', 1000 / 86400.0::float8),
	(1, '1 month', 1 / 2592000.0::float8), (1, '1 year', 1 / 31104000.0::float8), (10, '1 s', 10), (10, '100 ms', 100), (3, '100 ms', 30),
	(1, '1 us', 1000000), (0, '1 day', 0), (7, '1 day 00:00:00.5', 7 / 86400.5::float8), (1, '1 month -29 days', 1 / 86400.0::float8), (0.1, '1 s', 0.1),
	(1e12, '1 s', 1e12)) v (tokens, per, expected);

-- it is the double nearest to the exact quotient: as numeric, with many digits, has it
SELECT setseed(0.14);
SELECT count(*), count(*) FILTER (WHERE rl_per(tokens, us * interval '1 us') <> ((tokens::bigint::numeric * 1000000)::numeric(200, 80) / us)::float8) AS off
FROM (SELECT floor(random() * 2 ^ (1 + i % 53))::float8 AS tokens, 1 + floor(random() * 2 ^ (i % 50))::bigint AS us FROM generate_series(1, 20000) i) v
WHERE tokens > 0;
-- with fractions of tokens
SELECT count(*), count(*) FILTER (WHERE rl_per(n / 1024.0::float8, us * interval '1 us') <> ((n::numeric * 1000000)::numeric(200, 80) / 1024 / us)::float8) AS off
FROM (SELECT 1 + floor(random() * 1e6)::bigint AS n, 1 + floor(random() * 1e12)::bigint AS us FROM generate_series(1, 5000) i) v;

-- exact: n tokens are back after one span, and not a microsecond before; each single token likewise
SELECT count(*), bool_and(allowed = (due <= at)) AS exact FROM (
	SELECT at, due, rl_simulate('2026-01-01'::timestamptz + at * interval '1 us', n, rl_per(n, us * interval '1 us'), cost) OVER (PARTITION BY case_no, part ORDER BY step) AS allowed, step
	FROM (SELECT i AS case_no, 1 + (i * 7919) % 1000 AS n, (1 + (i * 104729) % 1000) * ((i * 7919) % 1000 + 1) * 60::bigint AS us FROM generate_series(1, 500) i) c,
		LATERAL (VALUES (0, 0), (0, 1), (1, 0), (1, 1)) p (early, single),
		LATERAL (SELECT early * 2 + single AS part) q,
		LATERAL (VALUES (1, 0, n, 0),
			(2, CASE WHEN single = 1 THEN us / n ELSE us END - early, CASE WHEN single = 1 THEN 1 ELSE n END, CASE WHEN single = 1 THEN us / n ELSE us END)) s (step, at, cost, due)) r
WHERE step = 2;

-- it is a constant to the planner
EXPLAIN (COSTS OFF) SELECT 1 FROM pg_class WHERE relpages = rl_per(60, '1 minute');
SELECT provolatile, proparallel FROM pg_proc WHERE proname = 'rl_per';
CREATE TABLE calls AS SELECT i FROM generate_series(1, 3) i;
SELECT i, rl_consume('k', 2, rl_per(1, '1 day')) FROM calls;

CREATE FUNCTION try(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT ' || call INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT args, try('rl_per(' || args || ')') FROM (VALUES
	(1, $$NULL, '1 s'$$), (2, $$1, NULL$$), (3, $$-1, '1 s'$$), (4, $$'NaN', '1 s'$$), (5, $$'Infinity', '1 s'$$),
	(6, $$1, '0'$$), (7, $$1, '-1 minute'$$), (8, $$1, '1 month -30 days'$$), (9, $$1, '-1 month 29 days'$$), (10, $$1, '00:00:00.0000001'$$),
	(11, $$1e308, '1 ms'$$), (12, $$5e-324, '1 day'$$), (13, $$5e-324, '1 s'$$), (14, $$1e308, '1 s'$$), (15, $$1e-300, '178000000 years'$$),
	(16, $$9007199254740993, '3 s'$$)) v (n, args) ORDER BY n;

DROP TABLE calls;
DROP FUNCTION try(text);
DROP EXTENSION ratelimit;
