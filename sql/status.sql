-- What lives: rate_limit_status, which shows no more rows than are asked for, rl_status() of one
-- key, and the counts of rate_limit_stats.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
SELECT rl_reset_all(NULL) >= 0 AS empty;

-- one key under several limiters, beside keys that look like it
SELECT count(*) FILTER (WHERE rl_consume(key, 10, 0, 3, limiter)) AS allowed
FROM unnest(ARRAY['kim', 'kim2', 'ki', 'm', E'k:im', repeat('kim', 85)]) key,
	unnest(ARRAY['api', 'kim', 'a', repeat('l', 22), repeat('l', 63)]) limiter;
SELECT rl_consume_period('kim', 5, 'year', 2, 'api'), (rl_count('kim', 'month', 4, 'hits')).hits,
	rl_penalize('kim', 10, 0, 15, 'debt'), rl_reserve('kim', 8, 0, 5, limiter => 'held') IS NOT NULL AS reserved;
SELECT rl_block('kim', '1 day', 'api'), rl_block('kim', '1 hour', 'nothing else'), rl_block('ki', '1 hour', 'api');
SELECT left(limiter, 23) AS limiter, length(limiter), tokens, capacity, refill, full_at = 'infinity' AS never_full, blocked_until > now() AS blocked, period FROM rl_status('kim') ORDER BY limiter COLLATE "C", length, period;
SELECT left(limiter, 3) AS limiter, tokens, blocked_until > now() AS blocked FROM rl_status('ki') ORDER BY limiter COLLATE "C", 2;
SELECT count(*), min(key) = repeat('kim', 85) AS whole FROM rl_status(repeat('kim', 85));
SELECT count(*) FROM rl_status('k');
-- they are the rows of the view
SELECT count(*) FROM (SELECT limiter, key, tokens, capacity, refill, blocked_until IS NULL, store, period FROM rate_limit_status
	EXCEPT SELECT limiter, key, tokens, capacity, refill, blocked_until IS NULL, store, period
	FROM unnest(ARRAY['kim', 'kim2', 'ki', 'm', E'k:im', repeat('kim', 85)]) k, rl_status(k)) others;
SELECT left(key, 5) AS key, count(*) FROM rate_limit_status GROUP BY 1 ORDER BY left(key, 5) COLLATE "C";
-- the figures count them: blocks, too, but not what stands for a reservation
SELECT left(limiter, 3) AS limiter, length(limiter), sum(buckets_used + buckets_in_table) AS buckets FROM rate_limit_stats GROUP BY limiter HAVING sum(buckets_used + buckets_in_table) > 0 ORDER BY limiter COLLATE "C", 2;
SELECT coalesce(sum(living) - min(buckets_used), 0) BETWEEN 0 AND 1 AS the_same FROM rl_partitions(), rate_limit_stats WHERE limiter IS NULL;

-- a block ends, and its bucket stays
SELECT rl_unblock('kim', 'api'), rl_unblock('kim', 'nothing else');
SELECT limiter, tokens, blocked_until FROM rl_status('kim') WHERE limiter IN ('api', 'nothing else') AND period IS NULL;

SELECT rl_status(NULL);
SELECT rl_status('');
SELECT rl_status(repeat('k', 256));

-- a query with LIMIT makes no more rows than it needs; a block has to be looked for
CREATE FUNCTION rows_made(query text) RETURNS SETOF numeric LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT JSON) ' || query INTO plan;
	RETURN QUERY SELECT (node ->> 'Actual Rows')::numeric FROM jsonb_path_query(plan, 'strict $.** ? (@."Node Type" == "ProjectSet")') node;
END
$$;
SELECT count(*) FILTER (WHERE rl_consume('many:' || i, 10, 0)) FROM generate_series(1, 500) i;
SELECT round(rows_made('SELECT * FROM rate_limit_status LIMIT 3')) AS rows;
SELECT rl_unblock('ki', 'api');
SELECT round(rows_made('SELECT * FROM rate_limit_status LIMIT 3')) AS rows;
SELECT round(rows_made('SELECT * FROM rate_limit_status')) > 500 AS all_rows;
-- so does a cursor, which sees to it that nothing is left behind
BEGIN;
DECLARE looking CURSOR FOR SELECT limiter IS NOT NULL AS shown FROM rate_limit_status;
FETCH 2 FROM looking;
SELECT count(rl_consume('more:' || i, 10, 0)) FROM generate_series(1, 100) i;
MOVE FORWARD ALL IN looking;
COMMIT;
-- rows that are made meanwhile do not make the query endless
SELECT count(rl_consume(left(key, 200) || '!', 10, 0, limiter => 'again')) > 500 AS ended FROM rate_limit_status;

-- a large table is counted from some of its pages
SELECT rl_reset_all(NULL) > 500 AS reset;
INSERT INTO rate_limit_buckets SELECT 'large', lpad(i::text, 200, 'k'), 10, 0, 1, now() FROM generate_series(1, 30000) i;
SELECT pg_relation_size('rate_limit_buckets') > 4096 * 1024 AS large;
SELECT buckets_in_table BETWEEN 29000 AND 31000 AS estimated FROM rate_limit_stats WHERE limiter = 'large';
SELECT limiter, store FROM rl_status(lpad('777', 200, 'k'));
SELECT limiter, count(*) FROM rate_limit_status GROUP BY limiter;
SELECT count(*), min(limiter) FROM (SELECT * FROM rate_limit_status LIMIT 5) shown;
DROP FUNCTION rows_made(text);
DROP EXTENSION ratelimit;
