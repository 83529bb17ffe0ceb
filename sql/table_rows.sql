-- Buckets in the table, when there is no shared memory.
-- not its notice, which is another one on PostgreSQL 17
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
SELECT key, tokens, store FROM rate_limit_status;
SELECT limiter, key, capacity, refill, owed, owed_high, updated_at > now() - interval '1 min' AS recent FROM rate_limit_buckets;
SELECT relpersistence FROM pg_class WHERE oid = 'rate_limit_buckets'::regclass;
SELECT count(*) FROM rl_partitions();

-- many calls of one statement
SELECT count(*) FILTER (WHERE rl_consume('many', 100, 0)) FROM generate_series(1, 1000);

-- rows do not belong to the transaction: a rollback gives no tokens back
BEGIN;
SELECT rl_consume('rollback', 2, 0);
SAVEPOINT s;
SELECT rl_consume('rollback', 2, 0);
ROLLBACK TO s;
ROLLBACK;
SELECT rl_consume('rollback', 2, 0);
DO $$ BEGIN PERFORM rl_consume('in block', 1, 0); RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN END $$;
SELECT rl_consume('in block', 1, 0);

-- a read-only transaction decides, makes rows, and resets
BEGIN TRANSACTION READ ONLY;
SELECT remaining FROM rl_peek('read only', 2, 0);
SELECT rl_consume('read only', 2, 0), rl_consume('read only', 2, 0), rl_consume('read only', 2, 0);
SELECT rl_reset('read only');
SELECT rl_consume_all(ARRAY['read only', 'another'], ARRAY[2, 2], ARRAY[0, 0], ARRAY[2, 1]);
ROLLBACK;
SELECT key, tokens FROM rate_limit_status WHERE key IN ('read only', 'another') ORDER BY key;
-- a parallel worker cannot make a row
ALTER FUNCTION rl_consume(text, float8, float8, float8, text) PARALLEL SAFE;
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET parallel_leader_participation = off;
CREATE TABLE many AS SELECT i FROM generate_series(1, 5000) i;
ALTER TABLE many SET (parallel_workers = 2);
SELECT count(*) FROM many WHERE rl_consume('parallel', 2, 0);
SET ratelimit.on_error = allow;
SET client_min_messages = error;
SELECT count(*) FROM many WHERE rl_consume('parallel', 2, 0);
RESET client_min_messages;
RESET ratelimit.on_error;
ALTER FUNCTION rl_consume_all(text[], float8[], float8[], float8[], text[]) PARALLEL SAFE;
SELECT count(*) FROM many WHERE rl_consume_all('{parallel}', '{2}', '{0}');
SET ratelimit.on_error = allow;
SET client_min_messages = error;
SELECT count(*) FROM many WHERE rl_consume_all('{parallel,too}', '{2,2}', '{0,0}');
RESET client_min_messages;
RESET ratelimit.on_error;
ALTER FUNCTION rl_acquire(text, integer, integer, text, interval, text) PARALLEL SAFE;
SELECT count(*) FROM many WHERE rl_acquire('parallel', 2) IS NOT NULL;
DROP TABLE many;
ALTER FUNCTION rl_consume(text, float8, float8, float8, text) PARALLEL UNSAFE;

-- a setting decides what fails, but not what is cancelled
SET ratelimit.on_error = allow;
BEGIN;
LOCK TABLE rate_limit_buckets;
PREPARE TRANSACTION 'locks';
BEGIN;
SET LOCAL statement_timeout = '100ms';
-- PostgreSQL 19 says for which lock it waited
\set SHOW_CONTEXT never
SELECT rl_consume('cancelled', 2, 0);
\set SHOW_CONTEXT errors
ROLLBACK;
ROLLBACK PREPARED 'locks';
SET client_min_messages = error;
BEGIN;
ALTER TABLE rate_limit_buckets RENAME TO elsewhere;
ALTER TABLE rate_limit_tickets RENAME TO elsewhere_too;
SELECT hits FROM rl_count('k', '100 years');
SELECT rl_acquire('k', 1, 1, '1 hour'), rl_acquire('k', 1, 1, '1 hour');
ROLLBACK;
RESET client_min_messages;
RESET ratelimit.on_error;
BEGIN;
ALTER TABLE rate_limit_buckets RENAME TO elsewhere;
SELECT rl_consume('k', 2, 0);
ROLLBACK;
SELECT count(*) FROM rate_limit_episodes;

-- rows that make no sense are repaired
UPDATE rate_limit_buckets SET owed = -1 WHERE key = 'a';
SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
UPDATE rate_limit_buckets SET owed_high = 9223372036854775807 WHERE key = 'a';
SELECT rl_consume('a', 2, 0), rl_consume('a', 2, 0), rl_consume('a', 2, 0);
UPDATE rate_limit_buckets SET owed_high = -9223372036854775808 WHERE key = 'a';
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

-- a bucket that takes millennia to fill
SELECT rl_consume('slow', 1e12, 3e-8, 1e11), rl_consume('slow', 1e12, 3e-8, 9e11), rl_consume('slow', 1e12, 3e-8);
SELECT owed_high > 0 AS high FROM rate_limit_buckets WHERE key = 'slow';
SELECT tokens BETWEEN 0 AND 1 AS empty FROM rate_limit_status WHERE key = 'slow';

-- what calls cannot work with is refused, and named
CREATE INDEX more ON rate_limit_buckets (updated_at);
SELECT rl_consume('altered', 1, 0);
DROP INDEX more;
ALTER TABLE rate_limit_buckets ALTER owed TYPE numeric;
SELECT rl_consume('altered', 1, 0);
ALTER TABLE rate_limit_buckets ALTER owed TYPE bigint;
CREATE TRIGGER t BEFORE UPDATE ON rate_limit_buckets FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
SELECT rl_consume('altered', 1, 0);
DROP TRIGGER t ON rate_limit_buckets;
ALTER TABLE rate_limit_buckets ADD more text NOT NULL DEFAULT 'x';
SELECT rl_consume('altered', 1, 0);
ALTER TABLE rate_limit_buckets DROP more;
ALTER TABLE rate_limit_buckets ADD CONSTRAINT c CHECK (capacity <> 0);
SELECT rl_consume('altered', 1, 0);
ALTER TABLE rate_limit_buckets DROP CONSTRAINT c;
ALTER TABLE rate_limit_buckets DROP CONSTRAINT rate_limit_buckets_pkey;
SELECT rl_consume('altered', 1, 0);
ALTER TABLE rate_limit_buckets ADD PRIMARY KEY (limiter, key);
-- another column, or an index on names, does no harm
ALTER TABLE rate_limit_buckets ADD more text;
CREATE INDEX more ON rate_limit_buckets (key);
SELECT rl_consume('altered', 1, 0), rl_consume('altered', 1, 0);
SET enable_seqscan = off;
SELECT key, owed > 0 AS taken, more FROM rate_limit_buckets WHERE key = 'altered';
RESET enable_seqscan;
ALTER TABLE rate_limit_buckets DROP more;

-- rows that are full again go
SELECT count(*) FILTER (WHERE rl_consume('short' || i, 1, 1e6)) FROM generate_series(1, 500) i;
SELECT count(*) FILTER (WHERE rl_consume('long' || i, 1, 0)) FROM generate_series(1, 500) i;
SELECT count(*) < 500 FROM rate_limit_buckets WHERE key LIKE 'short%';
SELECT count(*) FROM rate_limit_buckets WHERE key LIKE 'long%';

SELECT rl_reset('a'), rl_reset('a'), rl_reset_all('none'), rl_reset_all(NULL) > 500;
SELECT count(*) FROM rate_limit_buckets;
DROP EXTENSION ratelimit;
