-- Buckets in shared memory.
CREATE EXTENSION ratelimit;

SELECT rl_consume('a', 2, 0), rl_consume(repeat('b', 255), 2, 0, limiter => repeat('c', 63));
SELECT left(key, 3), store FROM rate_limit_status ORDER BY 1;
SELECT count(*) FROM rate_limit_buckets;

-- a rollback does not give tokens back, nor does a savepoint or an exception
BEGIN;
SELECT rl_consume('rollback', 5, 0);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT rl_consume('rollback', 5, 0);
ROLLBACK TO s;
COMMIT;
DO $$ BEGIN PERFORM rl_consume('rollback', 5, 0); RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN END $$;
SELECT remaining FROM rl_peek('rollback', 5, 0, 0);

-- a read-only transaction decides
BEGIN TRANSACTION READ ONLY;
SELECT rl_consume('ro', 1, 0), rl_consume('ro', 1, 0);
COMMIT;
SELECT rl_consume('ro', 1, 0);

-- so does a parallel worker, should somebody declare the function safe
ALTER FUNCTION rl_consume(text, float8, float8, float8, text) PARALLEL SAFE;
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET max_parallel_workers_per_gather = 2;
CREATE TABLE many AS SELECT i FROM generate_series(1, 5000) i;
ALTER TABLE many SET (parallel_workers = 2);
EXPLAIN (COSTS OFF) SELECT count(*) FROM many WHERE rl_consume('parallel', 1234, 0);
SELECT count(*) FROM many WHERE rl_consume('parallel', 1234, 0);
DROP TABLE many;

-- at most 128 bytes a bucket
-- the word of a slot comes around: taken and reset again and again (src/shmem_slots.h)
DO $$
DECLARE
	n bigint;
BEGIN
	FOR round IN 1..12 LOOP
		SELECT count(*) FILTER (WHERE rl_consume('again', 9999, 0)) INTO n FROM generate_series(1, 10000);
		IF n <> 9999 OR NOT rl_reset('again') THEN
			RAISE 'round %: % allowed', round, n;
		END IF;
	END LOOP;
END $$;

-- (without preloading it is not listed there)
SELECT bool_and(allocated_size / current_setting('ratelimit.max_buckets')::int <= 128) IS NOT FALSE AS bytes
FROM pg_shmem_allocations WHERE name = 'ratelimit';
SELECT sum(slots) >= current_setting('ratelimit.max_buckets')::int AS slots,
	sum(living) AS living, bool_or(spilled) AS spilled, sum(evicted) AS evicted FROM rl_partitions();

-- DROP EXTENSION drops the buckets, unless it is rolled back
BEGIN;
DROP EXTENSION ratelimit;
ROLLBACK;
SELECT count(*) FROM rate_limit_status;
BEGIN;
SAVEPOINT s;
DROP EXTENSION ratelimit;
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM rate_limit_status;
DROP EXTENSION ratelimit;
CREATE EXTENSION ratelimit;
SELECT count(*) FROM rate_limit_status;

-- parallel workers find policies and exceptions
INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ('parallel', 100, 0, true);
INSERT INTO rate_limit_exceptions (policy, key, action, factor) VALUES ('parallel', 'k', 'factor', 2);
ALTER FUNCTION rl_consume_policy(text, text, float8) PARALLEL SAFE;
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET parallel_leader_participation = off;
CREATE TABLE many AS SELECT i FROM generate_series(1, 500) i;
ALTER TABLE many SET (parallel_workers = 2);
SELECT count(*) FROM many WHERE rl_consume_policy('parallel', 'k');
DROP TABLE many;
DROP EXTENSION ratelimit;
