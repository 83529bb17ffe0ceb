\echo Use "CREATE EXTENSION ratelimit" to load this file. \quit

CREATE TYPE rl_result AS (
	allowed boolean,
	capacity float8,
	remaining float8,
	retry_after interval,
	reset_after interval
);
COMMENT ON TYPE rl_result IS
'A decision with what an HTTP answer needs. allowed: may the call go on; capacity, remaining: tokens, remaining as the call left it; retry_after: time until such a call would be allowed, zero when allowed, null when never; reset_after: time until the bucket is full, null when never. When ratelimit.on_error decided, only allowed and capacity are not null.';

CREATE UNLOGGED TABLE rate_limit_buckets (
	limiter text COLLATE "C" NOT NULL,
	key text COLLATE "C" NOT NULL,
	capacity float8 NOT NULL,
	refill float8 NOT NULL,
	owed numeric NOT NULL,
	updated_at timestamptz NOT NULL,
	PRIMARY KEY (limiter, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE rate_limit_buckets IS
'The buckets that do not live in shared memory, a row each. Written by the consuming functions only; to look at buckets, use rate_limit_status, to change one, rl_reset(). Emptied by a crash and by promotion.';
COMMENT ON COLUMN rate_limit_buckets.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_buckets.key IS 'whom is limited';
COMMENT ON COLUMN rate_limit_buckets.capacity IS 'tokens, of the last call';
COMMENT ON COLUMN rate_limit_buckets.refill IS 'tokens per second, of the last call';
COMMENT ON COLUMN rate_limit_buckets.owed IS 'what the bucket lacked to be full at updated_at: nanoseconds of refill; with refill 0, tokens in a unit that follows from capacity';
COMMENT ON COLUMN rate_limit_buckets.updated_at IS 'when owed was true';

CREATE FUNCTION rl_consume(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume(text, float8, float8, float8, text) IS
'Take cost tokens from the bucket of (limiter, key): true if they were there, false, and nothing taken, if not. capacity: most tokens the bucket holds, > 0; refill: tokens per second, >= 0; cost: tokens, >= 0. A bucket starts full. Not undone by a rollback. Errors: 22004 a null argument; 22023 capacity, refill or cost out of range, key or limiter empty, limiter with a colon; 54000 key over 255 or limiter over 63 bytes.';

CREATE FUNCTION rl_throttle(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_throttle(text, float8, float8, float8, text) IS
'The same decision as rl_consume(), with the tokens left and the times to wait. Arguments and errors as there.';

CREATE FUNCTION rl_peek(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION rl_peek(text, float8, float8, float8, text) IS
'What rl_throttle() would answer now. Takes nothing, creates nothing, records nothing. Arguments and errors as of rl_consume().';

CREATE FUNCTION rl_simulate(ts timestamptz, capacity float8, refill float8, cost float8 DEFAULT 1)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C WINDOW IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_simulate(timestamptz, float8, float8, float8) IS
'What a rule would have decided on recorded traffic: use OVER (PARTITION BY key ORDER BY ts). Each window partition is one bucket, full at its first row; a row whose ts is before an earlier row''s counts as of the same time. Shares nothing with real buckets. Errors: 22004 a null argument; 22023 ts, capacity, refill or cost out of range.';

CREATE FUNCTION rl_reset(key text, limiter text DEFAULT 'default')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_reset(text, text) IS
'Make the bucket of (limiter, key) full: true if it was not. Not undone by a rollback when the bucket is in shared memory. Errors: 22004 a null argument; 22023, 54000 as rl_consume().';

CREATE FUNCTION rl_reset_all(limiter text DEFAULT NULL)
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_reset_all(text) IS
'Make all buckets of a limiter in this database full, or of all limiters when null: how many were living.';

CREATE FUNCTION rl_buckets(OUT limiter text, OUT key text, OUT tokens float8, OUT capacity float8, OUT refill float8, OUT full_at timestamptz, OUT tier text)
RETURNS SETOF record AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION rl_buckets() IS
'The living buckets of this database; read the view rate_limit_status instead.';

CREATE FUNCTION rl_partitions(OUT partition integer, OUT slots bigint, OUT living bigint, OUT spilled boolean, OUT evicted bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION rl_partitions() IS
'How full shared memory is, a row per partition of it: slots for buckets; living buckets of this database; spilled, whether buckets of this database that are not in memory are in the table rate_limit_buckets; evicted, buckets of any database that gave way since the server started. No rows when ratelimit is not in shared_preload_libraries.';

CREATE VIEW rate_limit_status AS
SELECT limiter, key, tokens, capacity, refill, full_at,
	NULL::timestamptz AS blocked_until, tier
FROM rl_buckets();
COMMENT ON VIEW rate_limit_status IS
'Every living bucket of this database, that is, every one that is not full: tokens now, capacity, refill (tokens per second), full_at (infinity: never by itself), blocked_until, tier (memory or table).';

REVOKE ALL ON rate_limit_buckets, rate_limit_status FROM PUBLIC;
GRANT SELECT ON rate_limit_buckets, rate_limit_status TO pg_monitor;
REVOKE ALL ON FUNCTION rl_reset(text, text), rl_reset_all(text), rl_buckets(), rl_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rl_buckets(), rl_partitions() TO pg_monitor;
