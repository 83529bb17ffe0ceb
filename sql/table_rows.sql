-- Buckets in the table, when the library is not preloaded.
CREATE EXTENSION ratelimit;

SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
SELECT key, tokens, tier FROM rate_limit_status;
SELECT limiter, key, capacity, refill, owed, updated_at > now() - interval '1 min' AS recent FROM rate_limit_buckets;
SELECT relpersistence FROM pg_class WHERE oid = 'rate_limit_buckets'::regclass;
SELECT count(*) FROM rl_partitions();

-- many calls of one statement
SELECT count(*) FILTER (WHERE rl_consume('many', 100, 0)) FROM generate_series(1, 1000);

-- rows belong to the transaction: here a rollback does give tokens back
BEGIN;
SELECT rl_consume('rollback', 1, 0);
ROLLBACK;
SELECT rl_consume('rollback', 1, 0);

-- a read-only transaction cannot decide, but can look
BEGIN TRANSACTION READ ONLY;
SELECT rl_consume('a', 2, 0);
ROLLBACK;
BEGIN TRANSACTION READ ONLY;
SELECT remaining FROM rl_peek('a', 2, 0);
SET LOCAL ratelimit.on_error = allow;
SELECT rl_consume('a', 2, 0);
SELECT * FROM rl_throttle('a', 2, 0);
SET LOCAL ratelimit.on_error = deny;
SELECT rl_consume('a', 2, 0);
ROLLBACK;

-- rows that make no sense are repaired
UPDATE rate_limit_buckets SET owed = 'NaN' WHERE key = 'a';
SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
UPDATE rate_limit_buckets SET owed = -1e30 WHERE key = 'a';
SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
UPDATE rate_limit_buckets SET owed = 'Infinity' WHERE key = 'a';
SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
UPDATE rate_limit_buckets SET owed = 1e60 WHERE key = 'a';
SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
UPDATE rate_limit_buckets SET capacity = 'NaN', refill = '-Infinity' WHERE key = 'a';
SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
SELECT rl_consume('future', 1, 0.001);
UPDATE rate_limit_buckets SET updated_at = 'infinity' WHERE key = 'future';
SELECT rl_consume('future', 1, 0.001), rl_consume('future', 1, 0.001);
UPDATE rate_limit_buckets SET updated_at = now() + interval '1 year' WHERE key = 'future';
SELECT rl_consume('future', 1, 0.001), rl_consume('future', 1, 0.001);
UPDATE rate_limit_buckets SET updated_at = '-infinity' WHERE key = 'future';
SELECT rl_consume('future', 1, 0.001), rl_consume('future', 1, 0.001);

-- rows that are full again go
SELECT count(*) FILTER (WHERE rl_consume('short' || i, 1, 1e6)) FROM generate_series(1, 500) i;
SELECT count(*) FILTER (WHERE rl_consume('long' || i, 1, 0)) FROM generate_series(1, 500) i;
SELECT count(*) < 500 FROM rate_limit_buckets WHERE key LIKE 'short%';
SELECT count(*) FROM rate_limit_buckets WHERE key LIKE 'long%';

SELECT rl_reset('a'), rl_reset('a'), rl_reset_all('none'), rl_reset_all() > 500;
SELECT count(*) FROM rate_limit_buckets;
DROP EXTENSION ratelimit;
