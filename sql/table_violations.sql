-- Violations without preloading: written with the transaction, one row.
-- not its notice, which is another one on PostgreSQL 17
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
SET ratelimit.gateway_name = 'gw';
SELECT count(*) FROM generate_series(1, 10) WHERE rl_consume('a', 3, 0);
BEGIN;
SELECT rl_consume('a', 3, 0), rl_consume('a', 3, 0);
SELECT rl_consume('b', 1, 0, 2, 'big');
SELECT count(*) FROM rate_limit_violations;
COMMIT;
BEGIN;
SELECT rl_consume('a', 3, 0);
ROLLBACK;
SELECT gateway_name, total_count, details FROM rate_limit_violations ORDER BY id;
-- what is not counted is null
SELECT * FROM rate_limit_stats ORDER BY limiter \gx
-- a commit goes on whatever becomes of them
ALTER TABLE rate_limit_violations RENAME TO elsewhere;
CREATE TABLE mine (n int);
BEGIN;
INSERT INTO mine SELECT 1 WHERE NOT rl_consume('a', 3, 0);
COMMIT;
SELECT * FROM mine;
ALTER TABLE elsewhere RENAME TO rate_limit_violations;
DROP TABLE mine;
DROP EXTENSION ratelimit;
