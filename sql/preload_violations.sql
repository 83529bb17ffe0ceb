-- Violations in shared memory.
CREATE EXTENSION ratelimit;
SET application_name = 'app';
SELECT count(*) FROM generate_series(1, 10) WHERE rl_consume('a', 3, 0);
SET ratelimit.gateway_name = 'gw';
SELECT count(*) FROM generate_series(1, 10) WHERE rl_consume('::1', 3, 0, limiter => 'ip');
-- a rolled-back call was denied all the same; looking denies nobody
BEGIN;
SELECT rl_consume('a', 3, 0), (rl_throttle('a', 3, 0)).allowed;
ROLLBACK;
SELECT allowed FROM rl_peek('a', 3, 0);
SELECT gateway_name, limiter, key, count FROM rate_limit_pending ORDER BY 1, 2, 3;
SELECT limiter, key, rejected, first_seen <= last_seen FROM rate_limit_episodes ORDER BY 1;
SELECT limiter, allowed, denied, buckets_used, violations_pending, violations_flushed FROM rate_limit_stats ORDER BY limiter;

-- a flush that is rolled back has not been
BEGIN;
SELECT rl_flush();
SELECT count(*) FROM rate_limit_violations;
SELECT sum(count) FROM rate_limit_pending;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT rl_flush();
ROLLBACK TO s;
SELECT sum(count) FROM rate_limit_pending;
SAVEPOINT t;
SELECT rl_flush();
RELEASE t;
SELECT count(*) FILTER (WHERE rl_consume('a', 3, 0)) FROM generate_series(1, 5);
SAVEPOINT u;
SELECT rl_flush();
ROLLBACK TO u;
COMMIT;
SELECT gateway_name, total_count, details FROM rate_limit_violations ORDER BY 1;
SELECT rl_flush();
SELECT rl_flush();
SELECT gateway_name, total_count, details FROM rate_limit_violations ORDER BY id;
SELECT count(*) FROM rate_limit_pending;
BEGIN TRANSACTION READ ONLY;
SELECT rl_flush();
ROLLBACK;
SELECT limiter, denied, violations_pending, violations_flushed, flush_failures, last_flush IS NOT NULL AS flushed FROM rate_limit_stats ORDER BY limiter;
SELECT rl_stats_reset();
SELECT limiter, allowed, denied, violations_flushed, last_flush FROM rate_limit_stats ORDER BY limiter;

-- more than one flush can take: what a rollback puts back is written by the next ones
SELECT count(rl_report('much', 'huge', 1099511627776)) FROM generate_series(1, 4);
BEGIN;
SELECT rl_flush();
SELECT count(rl_report('much', 'huge', 1099511627776)) FROM generate_series(1, 4);
ROLLBACK;
SELECT rl_flush() > 0 AS first, rl_flush() >= 0 AS second;
SELECT rl_flush() >= 0 AS third;
SELECT sum(count) FROM rate_limit_violation_details WHERE key = 'much';
SELECT count(*) FROM rate_limit_pending;

-- a transaction that has flushed cannot be prepared
BEGIN;
SELECT rl_consume('prepared', 0, 0);
SELECT rl_flush() > 0;
PREPARE TRANSACTION 'flushed';

-- DROP EXTENSION leaves none
SELECT rl_consume('a', 3, 0);
DROP EXTENSION ratelimit;
CREATE EXTENSION ratelimit;
SELECT count(*) FROM rate_limit_pending;
SELECT count(*) FROM rate_limit_episodes;
SELECT limiter, allowed, denied FROM rate_limit_stats;
DROP EXTENSION ratelimit;
