-- The main job: what rl_consume, rl_throttle, rl_peek and rl_reset answer.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

-- a bucket starts full and runs dry
SELECT i, rl_consume('alice', 3, 0) FROM generate_series(1, 5) i;

-- another key and another limiter are other buckets
SELECT rl_consume('bob', 3, 0), rl_consume('alice', 3, 0, limiter => 'login'),
	rl_consume('alice', 3, 0);

-- cost, named and positional, untyped parameters as drivers send them
SELECT rl_consume('carol', 10, 0, 4), rl_consume('carol', 10, 0, cost => 4),
	rl_consume('carol', 10, 0, 4), rl_consume('carol', 10, 0, 2);
PREPARE untyped AS SELECT rl_consume($1, $2, $3);
EXECUTE untyped('dave', 1, 0);
EXECUTE untyped('dave', '1', '0');
SELECT pg_typeof(rl_consume('dave', 1, 0)), pg_typeof(rl_throttle('dave', 1, 0));

-- cost 0 is always allowed, a cost above capacity never, and takes nothing
SELECT rl_consume('erin', 2, 0, 0), rl_consume('erin', 2, 0, 3),
	rl_consume('erin', 2, 0, 2), rl_consume('erin', 2, 0, 0);

-- decimal fractions are exact
SELECT count(*) FILTER (WHERE rl_consume('frank', 1, 0, 0.1)) AS of_20 FROM generate_series(1, 20);
SELECT count(*) FILTER (WHERE rl_consume('grace', 0.3, 0, 0.1)) AS of_20 FROM generate_series(1, 20);

-- what rl_throttle adds; with a refill, times are a moment short of whole
SELECT * FROM rl_throttle('heidi', 10, 0, 4);
SELECT * FROM rl_throttle('heidi', 10, 0, 7);
SELECT * FROM rl_throttle('heidi', 10, 0, 11);
SELECT allowed, capacity, round(remaining::numeric, 1) AS remaining, retry_after,
	reset_after > '39 min' AND reset_after <= '40 min' AS reset
FROM rl_throttle('ivan', 10, 0.001, 2.4);
SELECT allowed, capacity, round(remaining::numeric, 1) AS remaining,
	retry_after > '6 min' AND retry_after <= '6 min 40 s' AS retry,
	reset_after > '39 min' AND reset_after <= '40 min' AS reset
FROM rl_throttle('ivan', 10, 0.001, 8);
SELECT allowed, retry_after FROM rl_throttle('ivan', 10, 0.001, 11);

-- rl_peek tells what rl_throttle would, and changes nothing
SELECT * FROM rl_peek('judy', 5, 0, 2) UNION ALL SELECT * FROM rl_peek('judy', 5, 0, 2);
SELECT * FROM rl_throttle('judy', 5, 0, 2);
SELECT * FROM rl_peek('judy', 5, 0, 4);
SELECT count(*) FROM rate_limit_status WHERE key = 'judy';
SELECT * FROM rl_peek('nobody', 5, 0, 6);
SELECT count(*) FROM rate_limit_status WHERE key = 'nobody';

-- one token a year, a billion a second, a trillion of capacity
SELECT allowed, round(remaining::numeric, 6) AS remaining, retry_after FROM rl_throttle('year', 1, 1.0 / 31557600);
SELECT allowed, retry_after > '8765 h' AND retry_after <= '8766 h' AS in_a_year
FROM rl_throttle('year', 1, 1.0 / 31557600);
SELECT allowed, round(remaining::numeric, 3) AS remaining FROM rl_throttle('big', 1e12, 1.0 / 31557600, 1e12);
SELECT rl_consume('big', 1e12, 1.0 / 31557600);
SELECT count(*) FILTER (WHERE rl_consume('fast', 1e12, 1e9, 1e6)) FROM generate_series(1, 100);
-- centuries away: from seconds to millennia and back, denied and allowed
SELECT count(*) FILTER (WHERE rl_consume('ages', 1e12, 1, 1e11)) FROM generate_series(1, 12);
SELECT allowed, extract(epoch FROM retry_after) BETWEEN 1e11 - 600 AND 1e11 AS in_ages FROM rl_throttle('ages', 1e12, 1, 1e11);
SELECT rl_consume('ages', 1e12, 1, 1e5);
SELECT rl_consume('mixed', 1e12, 1, 10), rl_consume('mixed', 1e12, 1, 5e11), rl_consume('mixed', 1e12, 1, 6e11),
	rl_consume('mixed', 1e12, 1, 10), rl_consume('mixed', 1e12, 1, 0);
SELECT remaining - 499999999980 BETWEEN 0 AND 600 AS right FROM rl_peek('mixed', 1e12, 1, 0);
SELECT rl_consume('tiny', 1e-300, 0, 1e-300), rl_consume('tiny', 1e-300, 0, 1e-300),
	rl_consume('huge', 1e300, 1e-300, 1e300), rl_consume('huge', 1e300, 1e-300, 1e300);

-- parameters change: the tokens carry over and are cut; growing grants nothing
SELECT remaining FROM rl_throttle('kate', 10, 0, 4);
SELECT remaining FROM rl_throttle('kate', 20, 0, 1);
SELECT remaining FROM rl_throttle('kate', 3, 0, 1);
SELECT remaining FROM rl_throttle('kate', 10, 0, 0);
SELECT round(remaining::numeric, 2) AS remaining FROM rl_throttle('kate', 10, 0.0001, 1);
SELECT round(remaining::numeric, 2) AS remaining FROM rl_throttle('kate', 8, 0.001, 0.5);
SELECT round(remaining::numeric, 2) AS remaining FROM rl_throttle('kate', 8, 0, 0.25);

-- a bucket refills
SELECT rl_consume('leo', 1, 2), rl_consume('leo', 1, 2);
DO $$ BEGIN WHILE NOT (rl_peek('leo', 1, 2)).allowed LOOP END LOOP; END $$;
SELECT rl_consume('leo', 1, 2);

-- keys are exact to the last byte, whatever their length
SELECT rl_consume(repeat('x', 254) || i, 1, 0, limiter => repeat('y', 63)),
	rl_consume(repeat('x', 254) || i, 1, 0, limiter => repeat('y', 63))
FROM generate_series(1, 3) i;
SELECT rl_consume('ab', 1, 0, limiter => 'c'), rl_consume('b', 1, 0, limiter => 'ca'),
	rl_consume('äöü €', 1, 0), rl_consume(E'\n''"\\', 1, 0);

-- what lives, and resetting it
SELECT limiter, left(key, 10) AS key, tokens, capacity, refill, full_at, blocked_until
FROM rate_limit_status WHERE refill = 0 AND key ~ '^[a-jl-sx-z]' ORDER BY limiter COLLATE "C", rate_limit_status.key COLLATE "C";
SELECT rl_reset('alice'), rl_reset('alice'), rl_reset('nobody'), rl_reset('alice', 'login');
SELECT rl_consume('alice', 3, 0);
SELECT rl_reset_all(repeat('y', 63)), rl_reset_all(repeat('y', 63)), rl_reset_all('none');
SELECT rl_reset_all(NULL) > 10, rl_reset_all(NULL);
SELECT count(*) FROM rate_limit_status;

DROP EXTENSION ratelimit;
-- nothing is left behind
SELECT count(*) FROM pg_proc WHERE proname LIKE 'rl\_%';
SELECT count(*) FROM pg_class WHERE relname LIKE 'rate\_limit\_%';
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
SELECT count(*) FROM rate_limit_status;
DROP EXTENSION ratelimit;
