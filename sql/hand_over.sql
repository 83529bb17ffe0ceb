-- Buckets as another server had them: _rl_export() and _rl_import().
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

SELECT rl_consume('quota', 10, 0, 3), rl_consume('fraction', 1e12, 0, 0.1, 'api'),
	rl_penalize('debt', 10, 0, 1e6), rl_consume('slow', 1e6, 1e-6, 5e5);
SELECT rl_consume_period('period', 100, 'year', 0.123456789), (rl_count('counted', 'year', 7)).hits;
SELECT rl_block('blocked', '1 day');
CREATE TEMP TABLE exported AS SELECT * FROM _rl_export();
CREATE TEMP VIEW shown AS SELECT limiter, key, tokens, capacity, refill, period FROM rate_limit_status WHERE key <> 'blocked';
CREATE TEMP TABLE before AS SELECT * FROM shown;

-- a period is in the limiter's name, and its end in place of the refill; owed is what was used
SELECT limiter, key, capacity, refill < 0 AS in_period, owed > 0 OR owed_high > 0 AS owes FROM exported ORDER BY key;
SELECT limiter, key, owed, owed_high FROM exported WHERE refill < 0 ORDER BY key;

-- as it was, on a server that has nothing
SELECT rl_reset_all(NULL);
SELECT count(*) FROM shown;
SELECT count(_rl_import(limiter, key, capacity, refill, owed, owed_high)::text) FROM exported;
SELECT b.limiter, b.key, s.tokens IS NOT DISTINCT FROM b.tokens OR (b.key = 'slow' AND abs(s.tokens - b.tokens) < 0.001) AS same_tokens
FROM before b JOIN shown s USING (limiter, key) WHERE (s.capacity, s.refill, s.period) IS NOT DISTINCT FROM (b.capacity, b.refill, b.period)
ORDER BY key;
SELECT rl_consume('quota', 10, 0, 8), rl_consume('quota', 10, 0, 7), (rl_count('counted', 'year', 0)).hits;

-- what is there owes the more
SELECT _rl_import('default', 'quota', 10, 0, owed, owed_high) FROM exported WHERE key = 'quota';
SELECT tokens FROM rl_status('quota');
-- a period that is over has no bucket
SELECT _rl_import('default:day', 'over', 10, -1e15, 1000000000, 0);
SELECT * FROM rl_status('over');

-- it counts as no decision
SELECT count(*) FROM rate_limit_decisions WHERE limiter = 'api' AND (allowed, denied) <> (1, 0);

-- other rows than these are errors
SELECT _rl_import(NULL, 'k', 10, 0, 1, 0);
SELECT _rl_import('default', 'k', 10, 0, NULL, 0);
SELECT _rl_import('default', '', 10, 0, 1, 0);
SELECT _rl_import('default', repeat('k', 256), 10, 0, 1, 0);
SELECT _rl_import('', 'k', 10, 0, 1, 0);
SELECT _rl_import(repeat('l', 64), 'k', 10, 0, 1, 0);
SELECT _rl_import(':default', 'k', 10, 0, 1, 0);
SELECT _rl_import(':', 'k', 10, 0, 1, 0);
SELECT _rl_import('default:', 'k', 10, -1e15, 1, 0);
SELECT _rl_import('default', 'k', 0, 0, 1, 0);
SELECT _rl_import('default', 'k', 'NaN', 0, 1, 0);
SELECT _rl_import('default', 'k', 'Infinity', 0, 1, 0);
SELECT _rl_import('default', 'k', 10, 'NaN', 1, 0);
SELECT _rl_import('default', 'k', 10, -1, 1, 0);
SELECT _rl_import('default:day', 'k', 10, 1, 1, 0);
SELECT _rl_import('default:day', 'k', 10, -1e300, 1, 0);
SELECT _rl_import('default', 'k', 10, 0, -1, 0);
SELECT _rl_import('default', 'k', 10, 0, 0, -1);
SELECT _rl_import('default', 'k', 10, 0, 0, 9223372036854775807);
SELECT _rl_import('default', 'k', 10, 0, 9223372036854775807, 316912650057);
SELECT _rl_import('default', 'k', 10, 0, 0, 0);
SELECT * FROM rl_status('k');

DROP VIEW shown;
DROP EXTENSION ratelimit;
