-- After several new keys in a row the table takes the next one for new, too: wrongly,
-- if it is known.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
SELECT key, count(*) FILTER (WHERE ok) AS allowed
FROM (SELECT 'key ' || i % 6 AS key, rl_consume('key ' || i % 6, 2, 0) AS ok
	FROM generate_series(0, 29) i OFFSET 0) calls
GROUP BY key ORDER BY key;
SELECT count(rl_consume('new ' || i, 1, 0)) FROM generate_series(1, 5) i;
SELECT rl_consume('key 0', 2, 0, 3) AS known, rl_consume('none', 2, 0, 3) AS new, rl_consume('new 5', 1, 0) AS empty;
SELECT count(rl_consume('newer ' || i, 1, 0)) FROM generate_series(1, 5) i;
SELECT rl_consume('key 0', 4, 0, 2) AS known, rl_consume('key 0', 4, 0) AS empty;
SELECT key, tokens FROM rate_limit_status WHERE tokens > 0 OR key ~ '^key' ORDER BY key COLLATE "C";
DROP EXTENSION ratelimit;
