\echo Use "CREATE EXTENSION ratelimit" to load this file. \quit

-- Others may have created objects in this schema before.  PostgreSQL chooses operators
-- and functions by the best match in all of search_path, so each one is written with its
-- schema.  IN, BETWEEN, LIKE, NULLIF, CASE x WHEN, IS DISTINCT FROM and JOIN ... USING
-- look up operators by their bare names and are not used.  Types, collations and
-- relations come from the first schema that has one of that name, and pg_catalog is
-- first.  The extension's own functions are called without arguments here, which no
-- other function matches better.

-- Buckets are changed as rows of a heap are, whatever the server makes new tables of.
SET LOCAL default_table_access_method = heap;

-- Buckets

CREATE TYPE rl_result AS (
	allowed boolean,
	capacity float8,
	remaining float8,
	retry_after interval,
	reset_after interval,
	limiter text,
	shadowed boolean,
	period interval
);
COMMENT ON TYPE rl_result IS
'A decision with what an HTTP answer needs. When ratelimit.on_error decided, remaining, retry_after and reset_after are null, and, if a policy was unknown, capacity and limiter as well.';
COMMENT ON COLUMN rl_result.allowed IS 'whether the call may go on';
COMMENT ON COLUMN rl_result.capacity IS 'tokens, as the call named it';
COMMENT ON COLUMN rl_result.remaining IS 'tokens that the call left; below 0: in debt';
COMMENT ON COLUMN rl_result.retry_after IS 'time until such a call would be allowed; zero when it was allowed, null when it never will be';
COMMENT ON COLUMN rl_result.reset_after IS 'time until the bucket is full; null when it never will be';
COMMENT ON COLUMN rl_result.limiter IS 'limiter of the bucket that decided; for a policy, of the tier that binds most';
COMMENT ON COLUMN rl_result.period IS 'how long the period of the call lasts; null: the bucket is not that of a period';
COMMENT ON COLUMN rl_result.shadowed IS 'whether the call was allowed only because of shadow, and would have been denied';

CREATE UNLOGGED TABLE rate_limit_buckets (
	limiter text COLLATE pg_catalog."C" NOT NULL,
	key text COLLATE pg_catalog."C" NOT NULL,
	capacity float8 NOT NULL,
	refill float8 NOT NULL,
	owed bigint NOT NULL,
	updated_at timestamptz NOT NULL,
	owed_high bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (limiter, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE rate_limit_buckets IS
'The buckets that do not live in shared memory, a row each. Written by the consuming functions only; to look at buckets, use rate_limit_status, to change one, rl_reset(). Emptied by a crash and by promotion.';
COMMENT ON COLUMN rate_limit_buckets.limiter IS 'which rule; of a bucket of a period limiter:period, of a block :limiter';
COMMENT ON COLUMN rate_limit_buckets.key IS 'who is limited';
COMMENT ON COLUMN rate_limit_buckets.capacity IS 'tokens, of the last call; infinity: no call has named an allowance';
COMMENT ON COLUMN rate_limit_buckets.refill IS 'tokens per second, of the last call; below 0: minus the end of the period, in microseconds since 1970';
COMMENT ON COLUMN rate_limit_buckets.owed IS 'what the bucket lacked to be full at updated_at: nanoseconds of refill; with refill 0, tokens in a unit that follows from capacity; in a period, what was used, in billionths of a token';
COMMENT ON COLUMN rate_limit_buckets.updated_at IS 'when owed was true';
COMMENT ON COLUMN rate_limit_buckets.owed_high IS 'what owed lacks, in units of 10^18: above 0 only where a bucket takes more than 31 years to fill';

CREATE FUNCTION rl_per(tokens float8, per interval)
RETURNS float8 AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_per(float8, interval) IS
'A refill: so many tokens per span of time, in tokens per second. A month is 30 days. Errors: 22004 a null argument; 22023 tokens not finite or below 0, per not above 0 or not finite; 22003 a rate that float8 cannot hold.';

CREATE FUNCTION rl_period(period text, at timestamptz DEFAULT pg_catalog.clock_timestamp(), OUT begins_at timestamptz, OUT ends_at timestamptz, OUT name text)
RETURNS record AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_period(text, timestamptz) IS
'The period around a moment. period: second, minute, hour, day, week, month or year, or an interval; then, if not UTC, a time zone; or after an interval "from" and an anchor. begins_at: its first moment; ends_at: that of the next period; name: a text that says the same period, the same one for all such texts. -infinity or infinity stands for a moment that timestamptz does not have. Errors: 22004 a null argument; 22023 period is not one, at is not finite; 54000 period over 127 bytes.';

CREATE FUNCTION rl_consume(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume(text, float8, float8, float8, text) IS
'Take cost tokens from the bucket of (limiter, key): true if they were there, false, and nothing taken, if not. capacity: most tokens the bucket holds, >= 0, where 0 denies every call; refill: tokens per second, >= 0, see rl_per(); cost: tokens, >= 0. A bucket starts full. Not undone by a rollback. Errors: 22004 a null argument; 22023 capacity, refill or cost out of range, key or limiter empty, limiter with a colon; 54000 key over 255 or limiter over 63 bytes.';

CREATE FUNCTION rl_throttle(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_throttle(text, float8, float8, float8, text) IS
'The same decision as rl_consume(), with the tokens left and the times to wait. Arguments and errors as there.';

CREATE FUNCTION rl_peek(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION rl_peek(text, float8, float8, float8, text) IS
'What rl_throttle() would answer now. Takes nothing, creates nothing, records nothing. Arguments and errors as of rl_consume().';

CREATE FUNCTION rl_consume_period(key text, allowance float8, period text, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume_period(text, float8, text, float8, text) IS
'Take cost tokens from the allowance that (limiter, key) has in each period: true if they were there, false, and nothing taken, if not. The whole allowance is there again when the next period begins. allowance: tokens, >= 0, where 0 denies every call; period: ''month'', ''day Europe/Berlin'', ''15 minutes'', see rl_period(); cost: tokens, >= 0, in billionths. Each period that is named has a bucket of its own, beside that of rl_consume(). Not undone by a rollback. Errors: 22004 a null argument; 22023 allowance or cost out of range, period not understood; 54000 period too long; key and limiter as rl_consume().';

CREATE FUNCTION rl_throttle_period(key text, allowance float8, period text, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_throttle_period(text, float8, text, float8, text) IS
'The same decision as rl_consume_period(), with the tokens left and the time until the period ends. Arguments and errors as there.';

CREATE FUNCTION rl_peek_period(key text, allowance float8, period text, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION rl_peek_period(text, float8, text, float8, text) IS
'What rl_throttle_period() would answer now. Takes nothing, creates nothing, records nothing. Arguments and errors as there.';

CREATE FUNCTION rl_count(key text, period text, n float8 DEFAULT 1, limiter text DEFAULT 'default', OUT hits float8, OUT resets_at timestamptz)
RETURNS record AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_count(text, text, float8, text) IS
'Add n to what (limiter, key) has used in the present period, past any limit, or, if n is below 0, take it off, though not below 0. hits: what has then been used, in tokens; resets_at: when the period ends. The bucket is that of rl_consume_period(). Decides nothing: neither counted in rate_limit_stats nor a violation, and blocks do not matter. Not undone by a rollback. Errors: 22004 a null argument; 22023 n not between -1e18 and 1e18; others as rl_consume_period().';

CREATE FUNCTION rl_consume_upto(key text, capacity float8, refill float8, wanted float8, limiter text DEFAULT 'default')
RETURNS float8 AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume_upto(text, float8, float8, float8, text) IS
'Take as many whole tokens as the bucket of (limiter, key) has, at most wanted: how many it took. 0 is a violation, unless wanted is below 1. Arguments and errors as of rl_consume().';

CREATE FUNCTION rl_consume_each(keys text[], capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS boolean[] AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume_each(text[], float8, float8, float8, text) IS
'rl_consume() for each of the keys, in order, each decided by itself: an answer per key. A key may be given more than once. Arguments and errors as of rl_consume(); nothing is taken if any of them is bad.';

CREATE FUNCTION rl_throttle_each(keys text[], capacities float8[], refills float8[], costs float8[] DEFAULT NULL, limiters text[] DEFAULT NULL)
RETURNS rl_result[] AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_throttle_each(text[], float8[], float8[], float8[], text[]) IS
'rl_throttle() for each of the keys, in order, each decided by itself and by a rule of its own: an answer per key. A key may be given more than once. At most 100000 keys; costs are 1 and limiters "default" if null. Errors as of rl_consume(); also 2202E arrays of different lengths, 54000 more than 100000 keys; nothing is taken if any argument is bad.';

CREATE FUNCTION rl_consume_all(keys text[], capacities float8[], refills float8[], costs float8[] DEFAULT NULL, limiters text[] DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume_all(text[], float8[], float8[], float8[], text[]) IS
'Take costs[i] tokens from the bucket of (limiters[i], keys[i]) for every i, or, if any of them does not have them, from none: false, and a violation of those that refused. At most 64 buckets; costs are 1 and limiters "default" if null; one given twice has to pay both costs. Errors as of rl_consume(); also 2202E arrays of different lengths, 54000 more than 64 keys, 22023 one bucket given twice with different capacities or refills.';

CREATE FUNCTION rl_wait(key text, capacity float8, refill float8, cost float8 DEFAULT 1, timeout interval DEFAULT '1 min', limiter text DEFAULT 'default')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_wait(text, float8, float8, float8, interval, text) IS
'Take cost tokens from the bucket of (limiter, key) now and sleep until they are due, first come, first served: true. False at once, and nothing taken, if that is later than timeout (a month: 30 days), or the key is blocked. A wait that is cancelled gives its tokens back. The transaction stays open meanwhile. Arguments and errors as of rl_consume(); also 22023 timeout negative.';

CREATE FUNCTION rl_book(key text, capacity float8, refill float8, cost float8 DEFAULT 1, timeout interval DEFAULT '1 min', limiter text DEFAULT 'default')
RETURNS interval AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_book(text, float8, float8, float8, interval, text) IS
'rl_wait() for callers that sleep by themselves: take cost tokens from the bucket of (limiter, key) now, first come, first served, and return how long to wait until they are due, zero if they are; null, and nothing taken, if that is later than timeout, or the key is blocked. A caller that does not come gives its tokens back by rl_reward(). Not undone by a rollback. Arguments and errors as of rl_wait().';

CREATE FUNCTION rl_enforce(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_enforce(text, float8, float8, float8, text) IS
'rl_consume() that raises an error when denied: SQLSTATE PT429, detail: the key, its limiter and the tokens remaining, hint: the seconds to wait. With ratelimit.postgrest_headers on: SQLSTATE PGRST, message and detail the JSON from which PostgREST makes status 429, Retry-After and RateLimit headers; with problem: also the details of a problem of type quota-exceeded. Arguments and other errors as of rl_consume().';

CREATE FUNCTION rl_headers(r rl_result, policy text DEFAULT 'default', quota_unit text DEFAULT NULL, partition_key bytea DEFAULT NULL)
RETURNS jsonb AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_headers(rl_result, text, text, bytea) IS
'A decision as HTTP header fields, an object of strings: RateLimit and RateLimit-Policy as in draft-ietf-httpapi-ratelimit-headers-10 (q: capacity; w: seconds in which an empty bucket fills; r: whole tokens remaining; t: seconds until there is one more, or the key is no longer blocked), and Retry-After, in seconds, when denied and waiting helps. policy: the name that they give the limit; quota_unit (qu): what a token stands for, null: a request; partition_key (pk): whom the limit is counted for, null: left out. Errors: 22004 a null r or policy; 22023 quota_unit empty; 54000 quota_unit or partition_key over 255 bytes.';

CREATE FUNCTION rl_simulate(ts timestamptz, capacity float8, refill float8, cost float8 DEFAULT 1)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C WINDOW IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_simulate(timestamptz, float8, float8, float8) IS
'What a rule would have decided on recorded traffic: use OVER (PARTITION BY key ORDER BY ts). Each window partition is one bucket, full at its first row; a row whose ts is before an earlier row''s counts as of the same time. Shares nothing with real buckets. Errors: 22004 a null argument; 22023 ts, capacity, refill or cost out of range.';

CREATE FUNCTION rl_simulate_period(ts timestamptz, allowance float8, period text, cost float8 DEFAULT 1)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C WINDOW IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_simulate_period(timestamptz, float8, text, float8) IS
'What rl_consume_period() would have decided, of recorded traffic: a window function, each partition of which is one bucket. ts: when the call was made; a row before its predecessor counts as of the same time. period: the same in all rows of a partition. Takes nothing. Errors: 22004 a null argument; 22023 ts is not finite, period differs from row to row; others as of rl_consume_period().';

CREATE FUNCTION rl_reward(key text, tokens float8, limiter text DEFAULT 'default')
RETURNS float8 AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_reward(text, float8, text) IS
'Put tokens back into the bucket of (limiter, key), never above its capacity: how many it had room for. Not undone by a rollback. Errors: 22004 a null argument; 22023 tokens not finite or below 0; key and limiter as rl_consume().';

CREATE FUNCTION rl_penalize(key text, capacity float8, refill float8, tokens float8, limiter text DEFAULT 'default')
RETURNS float8 AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_penalize(text, float8, float8, float8, text) IS
'Take tokens from the bucket of (limiter, key) whether it has them or not: the tokens left, below 0 in debt, which refilling pays off first. Neither counted nor a violation. Not undone by a rollback. Arguments and errors as of rl_consume(); also 22023 capacity 0.';

CREATE FUNCTION rl_block(key text, duration interval, limiter text DEFAULT 'default')
RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_block(text, interval, text) IS
'Deny every call on (limiter, key), whatever its cost, for duration from now (a month: 30 days), instead of any block it has. Its tokens stay as they are. Not undone by a rollback. Errors: 22004 a null argument; 22023 duration not above 0; key and limiter as rl_consume().';

CREATE FUNCTION rl_unblock(key text, limiter text DEFAULT 'default')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_unblock(text, text) IS
'End the block of (limiter, key): true if it was blocked. Errors as of rl_reset().';

CREATE FUNCTION rl_reset(key text, limiter text DEFAULT 'default', period text DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_reset(text, text, text) IS
'Make the bucket of (limiter, key) full, or, if period is not null, that of rl_consume_period() and rl_count() with this period: true if it was not. A block stays. Not undone by a rollback. Errors: 22004 a null key or limiter; 22023, 54000 as rl_consume_period().';

CREATE FUNCTION rl_reset_all(limiter text)
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_reset_all(text) IS
'Make all buckets of a limiter in this database full, those of periods too, or, when it is null, the buckets of all limiters: how many were living. Blocks stay. Errors as of rl_reset().';

CREATE FUNCTION _rl_buckets(OUT limiter text, OUT key text, OUT tokens float8, OUT capacity float8, OUT refill float8, OUT full_at timestamptz, OUT blocked_until timestamptz, OUT store text, OUT period text)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_buckets' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _rl_buckets() IS
'The living buckets of this database, with their blocks; read the view rate_limit_status instead.';

CREATE FUNCTION _rl_export(OUT limiter text, OUT key text, OUT capacity float8, OUT refill float8, OUT owed bigint, OUT owed_high bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_export' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _rl_export() IS
'The living buckets of this database, without blocks, as they are kept; for _rl_import() on another server.';

CREATE FUNCTION _rl_import(limiter text, key text, capacity float8, refill float8, owed bigint, owed_high bigint)
RETURNS void AS 'MODULE_PATHNAME', 'rl_import' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _rl_import(text, text, float8, float8, bigint, bigint) IS
'Make a bucket that _rl_export() has returned: from now on it owes so much more. Not undone by a rollback. Errors: 22004 a null argument; 22023 this is no such row.';

CREATE FUNCTION _rl_living(OUT limiter text, OUT in_memory bigint, OUT in_table bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_living' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 20;
COMMENT ON FUNCTION _rl_living() IS 'How many buckets live, per limiter; read the view rate_limit_stats instead.';

CREATE FUNCTION _rl_memory(OUT slots bigint, OUT evicted bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_memory' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION _rl_memory() IS 'How large shared memory is; read the view rate_limit_stats instead.';

CREATE FUNCTION rl_partitions(OUT partition integer, OUT slots bigint, OUT living bigint, OUT spilled boolean, OUT evicted bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 128;
COMMENT ON FUNCTION rl_partitions() IS
'How full shared memory is, a row per partition of it: slots for buckets; living buckets of this database; spilled, whether buckets of this database that are not in memory are in the table rate_limit_buckets; evicted, buckets of any database that gave way since the first start of the server. No rows when ratelimit has no shared memory.';

-- A function in the list of columns, unlike one in FROM, makes no row before it is asked for:
-- a query with LIMIT is quick however many buckets there are.
CREATE VIEW rate_limit_status AS
SELECT (b).limiter, (b).key, (b).tokens, (b).capacity, (b).refill, (b).full_at, (b).blocked_until, (b).store, (b).period
FROM (SELECT _rl_buckets() AS b) AS buckets;
COMMENT ON VIEW rate_limit_status IS
'Every living bucket of this database, that is, every one that is not full or whose key is blocked. tokens, capacity, refill and full_at are null if the bucket is full. A key has a row for each period in which it has used something; a block is shown in the row without a period.';
COMMENT ON COLUMN rate_limit_status.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_status.key IS 'who is limited';
COMMENT ON COLUMN rate_limit_status.tokens IS 'tokens in the bucket now; below 0: in debt';
COMMENT ON COLUMN rate_limit_status.capacity IS 'tokens, of the last call';
COMMENT ON COLUMN rate_limit_status.refill IS 'tokens per second, of the last call; 0: never; null: the bucket is that of a period';
COMMENT ON COLUMN rate_limit_status.full_at IS 'when the bucket will be full, which is when its period ends; infinity: never by itself';
COMMENT ON COLUMN rate_limit_status.blocked_until IS 'when the block of the key ends; null: not blocked';
COMMENT ON COLUMN rate_limit_status.period IS 'the period whose allowance the bucket is; null: it refills';
COMMENT ON COLUMN rate_limit_status.store IS 'store of the bucket, memory or table; when the bucket is full, of the block';

CREATE FUNCTION rl_status(key text)
RETURNS SETOF rate_limit_status AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 5;
COMMENT ON FUNCTION rl_status(text) IS
'The rows of rate_limit_status of one key: its living buckets and its blocks under all limiters. Much quicker than the view with a condition. Errors: 22004 a null argument; 22023 key empty; 54000 key over 255 bytes.';

-- Slots: how many at a time

CREATE UNLOGGED TABLE rate_limit_tickets (
	ticket bigint PRIMARY KEY,
	limiter text COLLATE pg_catalog."C" NOT NULL,
	key text COLLATE pg_catalog."C" NOT NULL,
	places integer[] NOT NULL,
	slots integer NOT NULL,
	role oid NOT NULL,
	pid integer NOT NULL,
	since timestamptz NOT NULL,
	until timestamptz NOT NULL
);
CREATE INDEX rate_limit_tickets_by_key ON rate_limit_tickets (limiter, key);
CREATE INDEX rate_limit_tickets_by_time ON rate_limit_tickets (until);
COMMENT ON TABLE rate_limit_tickets IS
'The slots that are held for an interval, a row for each ticket, when there is no shared memory. Written by rl_acquire(), rl_renew() and rl_release() only; to look at slots, use rate_limit_slots. Emptied by a crash and by promotion.';
COMMENT ON COLUMN rate_limit_tickets.ticket IS 'as rl_acquire() returned it';
COMMENT ON COLUMN rate_limit_tickets.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_tickets.key IS 'who is limited';
COMMENT ON COLUMN rate_limit_tickets.places IS 'which of the key''s slots, counted from 0';
COMMENT ON COLUMN rate_limit_tickets.slots IS 'how many the key has, of the call';
COMMENT ON COLUMN rate_limit_tickets.role IS 'OID of the role that acquired them';
COMMENT ON COLUMN rate_limit_tickets.pid IS 'process ID of the backend that acquired them';
COMMENT ON COLUMN rate_limit_tickets.since IS 'when they were acquired';
COMMENT ON COLUMN rate_limit_tickets.until IS 'when they are free again';

CREATE FUNCTION rl_acquire(key text, slots integer, weight integer DEFAULT 1, hold text DEFAULT 'transaction', timeout interval DEFAULT '0', limiter text DEFAULT 'default')
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_acquire(text, integer, integer, text, interval, text) IS
'Hold weight of the slots of (limiter, key): a ticket, or null if they and those that are held are more than slots, or others wait, and timeout (a month: 30 days) is over. hold: transaction, freed when the transaction or its savepoint ends; session, freed when the backend ends; or an interval, after which they are free, for callers behind a pooler. Waiting is first come, first served; the transaction stays open meanwhile. Ticket 0: a setting allowed the call, and nothing is held. Errors: 22004 a null argument; 22023 slots negative, weight not above 0, hold neither of these, timeout negative; 53400 no room for a ticket (ratelimit.max_tickets); key and limiter as rl_consume(); without shared memory also 54000 slots above 1000, 25006 an interval during recovery.';

CREATE FUNCTION rl_release(ticket bigint)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_release(bigint) IS
'Free the slots of a ticket of rl_acquire() now: true if it held them. False if it does not, any more, or may not be released here: what a transaction or session holds, only by itself; what is held for an interval, by the role that acquired it or a role that has its privileges. Not undone by a rollback, in shared memory. Errors: 22004 a null argument.';

CREATE FUNCTION rl_renew(ticket bigint, hold interval)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_renew(bigint, interval) IS
'Let a ticket of rl_acquire() that is held for an interval be held for another one, from now (a month: 30 days): true. False if it is not held any more, or may not be renewed here, as rl_release(). Errors: 22004 a null argument; 22023 hold not above 0; 55000 a ticket that the transaction or session holds.';

CREATE FUNCTION _rl_slots(OUT limiter text, OUT key text, OUT state text, OUT ticket bigint, OUT weight integer, OUT hold text, OUT pid integer, OUT role oid, OUT since timestamptz, OUT until timestamptz, OUT slots integer, OUT held bigint, OUT waiting bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_slots' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _rl_slots() IS
'Who holds slots in this database, or waits for some, a row each; read the view rate_limit_slots instead.';

CREATE VIEW rate_limit_slots AS
SELECT limiter, key, state, ticket, weight, hold, pid, (SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) s.role) AS role,
	since, until, slots, held, waiting
FROM _rl_slots() s;
COMMENT ON VIEW rate_limit_slots IS
'Who holds slots in this database, a row for each ticket, and who waits for some. Without shared memory: what is held for an interval, and what this session holds.';
COMMENT ON COLUMN rate_limit_slots.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_slots.key IS 'who is limited';
COMMENT ON COLUMN rate_limit_slots.state IS 'held or waiting';
COMMENT ON COLUMN rate_limit_slots.ticket IS 'as rl_acquire() returned it; null if waiting';
COMMENT ON COLUMN rate_limit_slots.weight IS 'how many slots the ticket holds, or waits for';
COMMENT ON COLUMN rate_limit_slots.hold IS 'transaction, session or interval';
COMMENT ON COLUMN rate_limit_slots.pid IS 'process ID of the backend that acquired them, or waits';
COMMENT ON COLUMN rate_limit_slots.role IS 'the role for which it did; null if it does not exist any more';
COMMENT ON COLUMN rate_limit_slots.since IS 'since when the ticket has been held or waited for';
COMMENT ON COLUMN rate_limit_slots.until IS 'when the slots are free at the latest; null: when the transaction or session ends';
COMMENT ON COLUMN rate_limit_slots.slots IS 'how many slots the key has, as its last call said';
COMMENT ON COLUMN rate_limit_slots.held IS 'how many of the key''s slots are held in all; null without shared memory';
COMMENT ON COLUMN rate_limit_slots.waiting IS 'how many wait for slots of the key; null without shared memory';

-- Reservations

CREATE UNLOGGED TABLE rate_limit_reserved (
	reservation bigint NOT NULL PRIMARY KEY,
	expires_at timestamptz NOT NULL,
	tokens float8 NOT NULL,
	role oid NOT NULL,
	key text COLLATE pg_catalog."C" NOT NULL,
	limiters text[] NOT NULL,
	capacities float8[] NOT NULL,
	refills float8[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX rate_limit_reserved_expires_at ON rate_limit_reserved (expires_at);
COMMENT ON TABLE rate_limit_reserved IS
'The reservations that do not live in shared memory, a row each until some time after it expires, settled or not. Written by rl_reserve() and rl_reserve_policy() only; to look at reservations, use rate_limit_reservations. Emptied by a crash and by promotion.';
COMMENT ON COLUMN rate_limit_reserved.reservation IS 'its number: everybody who has it may settle it';
COMMENT ON COLUMN rate_limit_reserved.expires_at IS 'when all its tokens will have been used';
COMMENT ON COLUMN rate_limit_reserved.tokens IS 'tokens taken from each of its buckets';
COMMENT ON COLUMN rate_limit_reserved.role IS 'the role that reserved them';
COMMENT ON COLUMN rate_limit_reserved.key IS 'who is limited';
COMMENT ON COLUMN rate_limit_reserved.limiters IS 'which rules, one for each of its buckets; of a bucket of a period limiter:period';
COMMENT ON COLUMN rate_limit_reserved.capacities IS 'tokens, one for each of its buckets, of the call that reserved';
COMMENT ON COLUMN rate_limit_reserved.refills IS 'tokens per second, one for each of its buckets, of the call that reserved; below 0: minus the end of the period, in microseconds since 1970';

CREATE FUNCTION rl_reserve(key text, capacity float8, refill float8, tokens float8, expires interval DEFAULT '1 min', limiter text DEFAULT 'default')
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_reserve(text, float8, float8, float8, interval, text) IS
'Take tokens from the bucket of (limiter, key) before it is known how many will be used: the number of a reservation, for rl_settle(); null, and nothing taken, if they were not there; 0, and nothing taken, if the call is allowed only because of ratelimit.enabled, shadow or on_error. A reservation that is not settled before it expires has used all its tokens. Not undone by a rollback. Arguments and errors as of rl_consume(), tokens as cost; also 22023 expires not above 0 or above 1 day; 25006 where a reservation has no room in shared memory and a table cannot be written.';

CREATE FUNCTION rl_settle(reservation bigint, used float8)
RETURNS float8 AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_settle(bigint, float8) IS
'Say how many tokens of a reservation were used: the others go back into the bucket, never above its capacity, and what was used beyond them is taken, even into debt. Returns the tokens left in the bucket, or in the emptiest of a policy''s; null, and nothing happens, if the reservation is not outstanding: it was settled before, has expired, is being settled, or does not exist in this database. Everybody who has its number may settle it. Not undone by a rollback. Errors: 22004 a null argument; 22023 used not finite or below 0.';

CREATE FUNCTION _rl_reservations(OUT limiter text, OUT key text, OUT tokens float8, OUT expires_at timestamptz, OUT role text, OUT store text, OUT period text)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_reservations' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _rl_reservations() IS
'The outstanding reservations of this database, a row for each of their buckets; read the view rate_limit_reservations instead.';

CREATE VIEW rate_limit_reservations AS
SELECT limiter, key, tokens, expires_at, role, store, period FROM _rl_reservations();
COMMENT ON VIEW rate_limit_reservations IS
'The outstanding reservations of this database, a row for each bucket that one holds tokens of.';
COMMENT ON COLUMN rate_limit_reservations.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_reservations.key IS 'who is limited';
COMMENT ON COLUMN rate_limit_reservations.tokens IS 'tokens taken from the bucket and not settled';
COMMENT ON COLUMN rate_limit_reservations.expires_at IS 'when all of them will have been used';
COMMENT ON COLUMN rate_limit_reservations.role IS 'the role that reserved them; null if it does not exist any more';
COMMENT ON COLUMN rate_limit_reservations.store IS 'store of the reservation, memory or table; its bucket may be in the other one';
COMMENT ON COLUMN rate_limit_reservations.period IS 'the period whose allowance they were taken from; null: the bucket refills';

-- Policies

CREATE TABLE rate_limit_policies (
	policy text COLLATE pg_catalog."C" NOT NULL
		CONSTRAINT policy_not_empty_and_without_colon CHECK (policy OPERATOR(pg_catalog.<>) '' AND policy OPERATOR(pg_catalog.!~) ':'),
	tier text COLLATE pg_catalog."C" NOT NULL DEFAULT 'default'
		CONSTRAINT tier_not_empty_and_without_colon CHECK (tier OPERATOR(pg_catalog.<>) '' AND tier OPERATOR(pg_catalog.!~) ':'),
	capacity float8 NOT NULL
		CONSTRAINT capacity_finite_and_not_below_0 CHECK (capacity OPERATOR(pg_catalog.>=) 0::float8 AND capacity OPERATOR(pg_catalog.<) 'Infinity'),
	refill float8
		CONSTRAINT refill_finite_and_not_below_0 CHECK (refill OPERATOR(pg_catalog.>=) 0::float8 AND refill OPERATOR(pg_catalog.<) 'Infinity'),
	period text,
	slots boolean NOT NULL DEFAULT false,
	quota boolean NOT NULL DEFAULT false,
	initial float8
		CONSTRAINT initial_from_0_to_capacity CHECK (initial OPERATOR(pg_catalog.>=) 0::float8 AND initial OPERATOR(pg_catalog.<=) capacity),
	shadow boolean NOT NULL DEFAULT false,
	enabled boolean NOT NULL DEFAULT true,
	comment text,
	PRIMARY KEY (policy, tier),
	CONSTRAINT either_refill_or_period CHECK (slots OR (refill IS NULL) OPERATOR(pg_catalog.<>) (period IS NULL)),
	CONSTRAINT a_quota_has_no_period CHECK (NOT quota OR period IS NULL),
	CONSTRAINT initial_only_with_a_refill CHECK (initial IS NULL OR refill IS NOT NULL),
	CONSTRAINT slots_have_no_refill_period_or_quota CHECK (NOT slots OR (refill IS NULL AND period IS NULL AND NOT quota)),
	CONSTRAINT slots_are_a_whole_number CHECK (NOT slots OR (capacity OPERATOR(pg_catalog.=) pg_catalog.floor(capacity) AND capacity OPERATOR(pg_catalog.<=) 2147483647::float8)),
	CONSTRAINT refill_0_only_for_a_quota CHECK (quota OR refill OPERATOR(pg_catalog.<>) 0::float8),
	CONSTRAINT quota_only_with_refill_0 CHECK (NOT quota OR refill OPERATOR(pg_catalog.=) 0::float8),
	CONSTRAINT policy_and_tier_at_most_63_bytes CHECK (pg_catalog.octet_length(CASE WHEN tier OPERATOR(pg_catalog.=) 'default' THEN policy ELSE policy OPERATOR(pg_catalog.||) '/' OPERATOR(pg_catalog.||) tier END) OPERATOR(pg_catalog.<=) 63)
);
CREATE UNIQUE INDEX rate_limit_policies_limiter_is_taken ON rate_limit_policies
	((CASE WHEN tier OPERATOR(pg_catalog.=) 'default' THEN policy ELSE policy OPERATOR(pg_catalog.||) '/' OPERATOR(pg_catalog.||) tier END));
COMMENT ON INDEX rate_limit_policies_limiter_is_taken IS 'No two tiers of any policies have the same limiter.';
CREATE UNIQUE INDEX rate_limit_policies_slots_in_one_tier ON rate_limit_policies (policy) WHERE slots;
COMMENT ON INDEX rate_limit_policies_slots_in_one_tier IS 'A policy has at most one tier with slots.';
COMMENT ON TABLE rate_limit_policies IS
'Rules by name, for rl_consume_policy(): a row per tier. A call takes its cost from all tiers, or from none. A change is obeyed by every session''s next call once it is committed.';
COMMENT ON COLUMN rate_limit_policies.policy IS 'name; without a colon';
COMMENT ON COLUMN rate_limit_policies.tier IS 'name within the policy; its limiter is the policy, or, if tier is not default, policy/tier: at most 63 bytes';
COMMENT ON COLUMN rate_limit_policies.capacity IS 'tokens, or, of a tier with slots, how many at a time; 0: nobody is allowed anything';
COMMENT ON COLUMN rate_limit_policies.refill IS 'tokens per second, see rl_per(); 0: never, which only a quota may have; null: the tier has a period or slots';
COMMENT ON COLUMN rate_limit_policies.period IS 'capacity is the allowance of each such period, see rl_consume_period(); null: the tier has a refill or slots';
COMMENT ON COLUMN rate_limit_policies.slots IS 'true: capacity is how many at a time, for rl_acquire_policy(); calls that take tokens skip the tier';
COMMENT ON COLUMN rate_limit_policies.quota IS 'true, with refill 0: tokens that are used up never come back by themselves';
COMMENT ON COLUMN rate_limit_policies.initial IS 'tokens that a bucket begins with, from 0 to capacity, at the first call on its key; null: it begins full. A bucket that has become full may be forgotten, and its key then begins anew';
COMMENT ON COLUMN rate_limit_policies.shadow IS 'true: decided and recorded, but never denies';
COMMENT ON COLUMN rate_limit_policies.enabled IS 'false: as if the tier did not exist; a policy without any enabled tier allows everything';
COMMENT ON COLUMN rate_limit_policies.comment IS 'a note for people; nothing reads it';
SELECT pg_catalog.pg_extension_config_dump('rate_limit_policies', '');

CREATE FUNCTION _rl_policies_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'rl_policies_changed' LANGUAGE C;
COMMENT ON FUNCTION _rl_policies_changed() IS
'Triggers of rate_limit_policies, rate_limit_exceptions and rate_limit_postgrest_rules: has every session read the table anew once the change is committed.';
-- Rows that are replicated fire row triggers only, and only those enabled always.
CREATE TRIGGER rate_limit_policies_changed
AFTER INSERT OR UPDATE OR DELETE ON rate_limit_policies
FOR EACH ROW EXECUTE FUNCTION _rl_policies_changed();
ALTER TABLE rate_limit_policies ENABLE ALWAYS TRIGGER rate_limit_policies_changed;
CREATE TRIGGER rate_limit_policies_truncated
AFTER TRUNCATE ON rate_limit_policies
FOR EACH STATEMENT EXECUTE FUNCTION _rl_policies_changed();
ALTER TABLE rate_limit_policies ENABLE ALWAYS TRIGGER rate_limit_policies_truncated;

CREATE TABLE rate_limit_exceptions (
	id bigserial PRIMARY KEY,
	policy text COLLATE pg_catalog."C"
		CONSTRAINT policy_is_a_name CHECK (policy OPERATOR(pg_catalog.<>) '' AND policy OPERATOR(pg_catalog.!~) ':' AND pg_catalog.octet_length(policy) OPERATOR(pg_catalog.<=) 63),
	tier text COLLATE pg_catalog."C"
		CONSTRAINT tier_is_a_name CHECK (tier OPERATOR(pg_catalog.<>) '' AND tier OPERATOR(pg_catalog.!~) ':' AND pg_catalog.octet_length(tier) OPERATOR(pg_catalog.<=) 63),
	key text COLLATE pg_catalog."C"
		CONSTRAINT key_not_empty_and_at_most_255_bytes CHECK (key OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(key) OPERATOR(pg_catalog.<=) 255),
	network cidr
		CONSTRAINT an_ipv4_network_is_not_written_as_ipv6 CHECK (NOT network OPERATOR(pg_catalog.<<=) '::ffff:0.0.0.0/96'::cidr),
	action text COLLATE pg_catalog."C" NOT NULL
		CONSTRAINT action_is_allow_deny_rule_or_factor CHECK (action OPERATOR(pg_catalog.=) ANY (ARRAY['allow', 'deny', 'rule', 'factor']::text[])),
	capacity float8
		CONSTRAINT capacity_finite_and_not_below_0 CHECK (capacity OPERATOR(pg_catalog.>=) 0::float8 AND capacity OPERATOR(pg_catalog.<) 'Infinity'),
	refill float8
		CONSTRAINT refill_finite_and_not_below_0 CHECK (refill OPERATOR(pg_catalog.>=) 0::float8 AND refill OPERATOR(pg_catalog.<) 'Infinity'),
	quota boolean NOT NULL DEFAULT false,
	factor float8
		CONSTRAINT factor_finite_and_above_0 CHECK (factor OPERATOR(pg_catalog.>) 0::float8 AND factor OPERATOR(pg_catalog.<) 'Infinity'),
	expires_at timestamptz,
	comment text,
	CONSTRAINT either_a_key_or_a_network CHECK ((key IS NULL) OPERATOR(pg_catalog.<>) (network IS NULL)),
	CONSTRAINT a_tier_needs_a_policy CHECK (policy IS NOT NULL OR tier IS NULL),
	CONSTRAINT a_rule_has_capacity_and_refill_and_others_have_none CHECK ((action OPERATOR(pg_catalog.=) 'rule') OPERATOR(pg_catalog.=) (capacity IS NOT NULL)
		AND (action OPERATOR(pg_catalog.=) 'rule') OPERATOR(pg_catalog.=) (refill IS NOT NULL)),
	CONSTRAINT only_the_action_factor_has_a_factor CHECK ((action OPERATOR(pg_catalog.=) 'factor') OPERATOR(pg_catalog.=) (factor IS NOT NULL)),
	CONSTRAINT refill_0_only_for_a_quota CHECK (quota OR refill IS NULL OR refill OPERATOR(pg_catalog.<>) 0::float8),
	CONSTRAINT quota_only_with_refill_0 CHECK (NOT quota OR (refill IS NOT NULL AND refill OPERATOR(pg_catalog.=) 0::float8))
);
ALTER TABLE rate_limit_exceptions ALTER COLUMN key SET STORAGE PLAIN;
CREATE UNIQUE INDEX rate_limit_exceptions_key_has_one ON rate_limit_exceptions (key, policy, tier) NULLS NOT DISTINCT WHERE key IS NOT NULL;
COMMENT ON INDEX rate_limit_exceptions_key_has_one IS 'No two rows are for the same key, policy and tier.';
CREATE UNIQUE INDEX rate_limit_exceptions_network_has_one ON rate_limit_exceptions (network, policy, tier) NULLS NOT DISTINCT WHERE network IS NOT NULL;
COMMENT ON INDEX rate_limit_exceptions_network_has_one IS 'No two rows are for the same network, policy and tier.';
COMMENT ON TABLE rate_limit_exceptions IS
'Keys and networks for which policies have exceptions, a row each. The row that is most specific wins: one for the key over one for a network, the longer prefix over the shorter, then one for the tier over one for the policy over one for all policies. A change is obeyed by every session''s next call once it is committed.';
COMMENT ON COLUMN rate_limit_exceptions.id IS 'number of the row';
COMMENT ON COLUMN rate_limit_exceptions.policy IS 'the policy in rate_limit_policies that has the exception; null: every policy';
COMMENT ON COLUMN rate_limit_exceptions.tier IS 'the tier of the policy that has the exception; null: every tier';
COMMENT ON COLUMN rate_limit_exceptions.key IS 'the key; null: network says which keys';
COMMENT ON COLUMN rate_limit_exceptions.network IS 'keys that are IP addresses in this network, or networks inside of it; null: key says which key';
COMMENT ON COLUMN rate_limit_exceptions.action IS 'allow: every call is allowed and takes nothing; deny: every call is denied; rule: capacity and refill of this row are in place of those of the tier; factor: those of the tier, multiplied by factor';
COMMENT ON COLUMN rate_limit_exceptions.capacity IS 'tokens, for action rule; 0: nothing is allowed';
COMMENT ON COLUMN rate_limit_exceptions.refill IS 'tokens per second, for action rule, see rl_per(); 0: never, which only a quota may have';
COMMENT ON COLUMN rate_limit_exceptions.quota IS 'true, with refill 0: tokens that are used up never come back by themselves';
COMMENT ON COLUMN rate_limit_exceptions.factor IS 'what capacity and refill are multiplied by, for action factor';
COMMENT ON COLUMN rate_limit_exceptions.expires_at IS 'from then on it is as if the row did not exist; null: never';
COMMENT ON COLUMN rate_limit_exceptions.comment IS 'a note for people; nothing reads it';
COMMENT ON SEQUENCE rate_limit_exceptions_id_seq IS 'Numbers the rows of rate_limit_exceptions.';
SELECT pg_catalog.pg_extension_config_dump('rate_limit_exceptions', '');
SELECT pg_catalog.pg_extension_config_dump('rate_limit_exceptions_id_seq', '');

CREATE TRIGGER rate_limit_exceptions_changed
AFTER INSERT OR UPDATE OR DELETE ON rate_limit_exceptions
FOR EACH ROW EXECUTE FUNCTION _rl_policies_changed();
ALTER TABLE rate_limit_exceptions ENABLE ALWAYS TRIGGER rate_limit_exceptions_changed;
CREATE TRIGGER rate_limit_exceptions_truncated
AFTER TRUNCATE ON rate_limit_exceptions
FOR EACH STATEMENT EXECUTE FUNCTION _rl_policies_changed();
ALTER TABLE rate_limit_exceptions ENABLE ALWAYS TRIGGER rate_limit_exceptions_truncated;

CREATE FUNCTION rl_consume_policy(policy text, key text, cost float8 DEFAULT 1)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume_policy(text, text, float8) IS
'rl_consume() by the rule of that name in rate_limit_policies: from all its tiers, or from none. Errors: 42704 no such policy, unless ratelimit.on_error says otherwise; others as of rl_consume().';

CREATE FUNCTION rl_reserve_policy(policy text, key text, tokens float8, expires interval DEFAULT '1 min')
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_reserve_policy(text, text, float8, interval) IS
'rl_reserve() by the rule that rate_limit_policies has for policy: take tokens from the buckets of all its tiers, or from none. rl_settle() settles all of them. Errors as of rl_consume_policy() and rl_reserve(); also 54000 a policy with more than 8 enabled tiers.';

CREATE FUNCTION rl_acquire_policy(policy text, key text, weight integer DEFAULT 1, hold text DEFAULT 'transaction', timeout interval DEFAULT '0')
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_acquire_policy(text, text, integer, text, interval) IS
'rl_acquire() with as many slots as the tier with slots says that rate_limit_policies has for policy: a ticket, or null. Ticket 0 also if that tier is not enabled, or an exception allows the key. Errors as of rl_consume_policy() and rl_acquire(); also 55000 a policy without such a tier.';

CREATE FUNCTION rl_throttle_policy(policy text, key text, cost float8 DEFAULT 1)
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_throttle_policy(text, text, float8) IS
'The same decision as rl_consume_policy(), with the tokens left and the times to wait of the tier that binds most: when denied, the one to wait for longest, else the one with the fewest tokens left. Arguments and errors as there.';

CREATE FUNCTION rl_consume_policies(policies text[], keys text[], costs float8[] DEFAULT NULL)
RETURNS rl_result[] AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume_policies(text[], text[], float8[]) IS
'Take costs[i] tokens from all tiers of policies[i] for keys[i], for every i, or, if any of them does not have them, from none. An answer for each policy, in order, as of rl_throttle_policy(). The call is allowed if every answer is. If not, allowed is false in the answers of the policies that refuse, which are also the violations; true in an answer means that this policy would have allowed the call, and remaining is what its bucket still has, because nothing was taken. At most 64 policies, of 64 enabled tiers in all; costs are 1 if null; a policy given twice with one key has to pay both costs. Errors as of rl_consume_policy(); also 2202E arrays of different lengths, 54000 too many policies or tiers; nothing is taken then.';

CREATE FUNCTION rl_status_policy(policy text, key text, OUT tier text, OUT limiter text, OUT capacity float8, OUT refill float8, OUT tokens float8, OUT retry_after interval, OUT reset_after interval, OUT blocked_until timestamptz, OUT shadow boolean, OUT enabled boolean, OUT exception bigint, OUT period text)
RETURNS SETOF record AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 5;
COMMENT ON FUNCTION rl_status_policy(text, text) IS
'The buckets of a key under a policy, a row per tier: tokens now; retry_after, the time until the tier would allow a call of cost 1 (zero: now, null: never); reset_after, the time until the bucket is full (null: never); blocked_until, the end of a block (null: not blocked); exception, the id of the row of rate_limit_exceptions that applies (null: none); period, whose allowance capacity is (null: the tier refills). Takes nothing, creates nothing, records nothing. Errors as of rl_consume_policy().';

-- Requests of PostgREST

CREATE TABLE rate_limit_postgrest_rules (
	position integer PRIMARY KEY,
	enabled boolean NOT NULL DEFAULT true,
	role text COLLATE pg_catalog."C",
	claim text COLLATE pg_catalog."C",
	claim_value text COLLATE pg_catalog."C",
	methods text[] COLLATE pg_catalog."C",
	path text COLLATE pg_catalog."C",
	policy text COLLATE pg_catalog."C",
	key_from text COLLATE pg_catalog."C" NOT NULL DEFAULT 'address',
	key_name text COLLATE pg_catalog."C",
	proxies integer NOT NULL DEFAULT 1,
	comment text,
	CONSTRAINT a_claim_value_needs_a_claim CHECK (claim IS NOT NULL OR claim_value IS NULL),
	CONSTRAINT methods_are_upper_case_and_known CHECK (pg_catalog.cardinality(methods) OPERATOR(pg_catalog.>) 0
		AND methods OPERATOR(pg_catalog.<@) ARRAY['GET', 'HEAD', 'POST', 'PATCH', 'PUT', 'DELETE', 'OPTIONS']::text[]
		AND pg_catalog.array_position(methods, NULL::text) IS NULL),
	CONSTRAINT path_begins_with_a_slash_or_star CHECK (path OPERATOR(pg_catalog.~) '^[/*]' AND pg_catalog.octet_length(path) OPERATOR(pg_catalog.<=) 255),
	CONSTRAINT policy_is_a_name CHECK (policy OPERATOR(pg_catalog.<>) '' AND policy OPERATOR(pg_catalog.!~) ':' AND pg_catalog.octet_length(policy) OPERATOR(pg_catalog.<=) 63),
	CONSTRAINT key_from_is_claim_header_or_address CHECK (key_from OPERATOR(pg_catalog.=) ANY (ARRAY['claim', 'header', 'address']::text[])),
	CONSTRAINT a_key_from_a_claim_or_header_needs_its_key_name CHECK (key_name IS NOT NULL OR key_from OPERATOR(pg_catalog.<>) ALL (ARRAY['claim', 'header']::text[])),
	CONSTRAINT a_header_is_in_lower_case CHECK (key_from OPERATOR(pg_catalog.=) 'claim' OR key_name OPERATOR(pg_catalog.~) '^[a-z0-9_-]+$'),
	CONSTRAINT proxies_is_at_least_1 CHECK (proxies OPERATOR(pg_catalog.>=) 1)
);
COMMENT ON TABLE rate_limit_postgrest_rules IS
'Which requests of PostgREST rl_postgrest_check() limits, a row per rule. A rule matches a request if role, claim, methods and path do, or are null. All rules that match are obeyed, in the order of position: each takes a token from its policy, until one of them denies the request, or one without a policy lets it pass. A change takes effect with the next request once it is committed.';
COMMENT ON COLUMN rate_limit_postgrest_rules.position IS 'the order in which rules are obeyed';
COMMENT ON COLUMN rate_limit_postgrest_rules.enabled IS 'false: as if the rule did not exist';
COMMENT ON COLUMN rate_limit_postgrest_rules.role IS 'the database role of the request; null: any role';
COMMENT ON COLUMN rate_limit_postgrest_rules.claim IS 'a claim that the JWT of the request has; app_metadata.plan is a claim inside of another one; null: any request, also one without a JWT';
COMMENT ON COLUMN rate_limit_postgrest_rules.claim_value IS 'the value of the claim, or, if the claim is an array, one of its elements; null: any value';
COMMENT ON COLUMN rate_limit_postgrest_rules.methods IS 'the method of the request is one of these; null: any method';
COMMENT ON COLUMN rate_limit_postgrest_rules.path IS 'the path of the request, without the query, as /items or /rpc/login; * stands for any characters, or none; null: any path';
COMMENT ON COLUMN rate_limit_postgrest_rules.policy IS 'the policy in rate_limit_policies that the request takes a token from; null: the request passes, and the rules after this one are not looked at';
COMMENT ON COLUMN rate_limit_postgrest_rules.key_from IS 'what part of the request is the key: claim, header or address';
COMMENT ON COLUMN rate_limit_postgrest_rules.key_name IS 'the name of the claim or of the header that is the key, or, for an address, of the header that it is in, null: x-forwarded-for; a request without the claim is not limited by this rule, and requests without the header, or without an address in it, share the key (none)';
COMMENT ON COLUMN rate_limit_postgrest_rules.proxies IS 'how many proxies of your own add an address to the end of the header; the key is the first address that they added, of an IPv6 address the /64 prefix';
COMMENT ON COLUMN rate_limit_postgrest_rules.comment IS 'a note for people; nothing reads it';
SELECT pg_catalog.pg_extension_config_dump('rate_limit_postgrest_rules', '');

CREATE TRIGGER rate_limit_postgrest_rules_changed
AFTER INSERT OR UPDATE OR DELETE ON rate_limit_postgrest_rules
FOR EACH ROW EXECUTE FUNCTION _rl_policies_changed();
ALTER TABLE rate_limit_postgrest_rules ENABLE ALWAYS TRIGGER rate_limit_postgrest_rules_changed;
CREATE TRIGGER rate_limit_postgrest_rules_truncated
AFTER TRUNCATE ON rate_limit_postgrest_rules
FOR EACH STATEMENT EXECUTE FUNCTION _rl_policies_changed();
ALTER TABLE rate_limit_postgrest_rules ENABLE ALWAYS TRIGGER rate_limit_postgrest_rules_truncated;

CREATE FUNCTION rl_postgrest_check() RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_postgrest_check() IS
'Limit a request of PostgREST by the rules in rate_limit_postgrest_rules. For its db-pre-request. Reads the settings request.method, request.path, request.headers and request.jwt.claims. A denied request raises an error with SQLSTATE PGRST, from which PostgREST makes status 429 with Retry-After and RateLimit headers. An allowed one gets RateLimit headers by the setting response.headers, unless that is already set. Works in read-only transactions. Errors: 42704 a rule names a policy that does not exist, unless ratelimit.on_error says otherwise; 22P02 a setting is not JSON; 22P05 it has a character that text cannot have, as U+0000; others as of rl_consume().';

-- Violations

CREATE TABLE rate_limit_violations (
	id BIGSERIAL PRIMARY KEY,
	gateway_name VARCHAR(255) NOT NULL,
	total_count BIGINT NOT NULL,
	details JSONB NOT NULL DEFAULT '{}',
	created_at TIMESTAMP WITHOUT TIME ZONE DEFAULT (pg_catalog.now() AT TIME ZONE 'UTC')
);
CREATE INDEX idx_rlv_gateway_created ON rate_limit_violations (gateway_name, created_at DESC);
COMMENT ON TABLE rate_limit_violations IS
'Violations, that is, denied calls: a row per gateway and flush. For a row per key read rate_limit_violation_details.';
COMMENT ON SEQUENCE rate_limit_violations_id_seq IS 'Numbers the rows of rate_limit_violations.';
COMMENT ON COLUMN rate_limit_violations.id IS 'number of the row, in the order of writing';
COMMENT ON COLUMN rate_limit_violations.gateway_name IS 'the application instance that made the calls: ratelimit.gateway_name, else application_name, cluster_name, host name';
COMMENT ON COLUMN rate_limit_violations.total_count IS 'violations in this row';
COMMENT ON COLUMN rate_limit_violations.details IS 'maps "key:limiter" to its violations';
COMMENT ON COLUMN rate_limit_violations.created_at IS 'when written, in UTC';

CREATE TABLE rate_limit_flags (
	limiter text COLLATE pg_catalog."C" NOT NULL,
	key text COLLATE pg_catalog."C" NOT NULL,
	flagged_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	rejected bigint NOT NULL DEFAULT 0,
	reason text NOT NULL,
	cleared_at timestamptz,
	cleared_by text
);
-- where flags are published, they can be cleared
ALTER TABLE rate_limit_flags REPLICA IDENTITY FULL;
CREATE UNIQUE INDEX rate_limit_flags_not_cleared ON rate_limit_flags (limiter, key) WHERE cleared_at IS NULL;
COMMENT ON TABLE rate_limit_flags IS
'Keys that violated heavily, and whether somebody has looked at them. Denies nothing. The ones to review are in rate_limit_flagged.';
COMMENT ON COLUMN rate_limit_flags.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_flags.key IS 'who is flagged';
COMMENT ON COLUMN rate_limit_flags.flagged_at IS 'when flagged';
COMMENT ON COLUMN rate_limit_flags.rejected IS 'violations within ratelimit.flag_window when flagged; 0: flagged by hand';
COMMENT ON COLUMN rate_limit_flags.reason IS 'why it was flagged';
COMMENT ON COLUMN rate_limit_flags.cleared_at IS 'when rl_unflag() cleared it; null: not cleared';
COMMENT ON COLUMN rate_limit_flags.cleared_by IS 'the role that called rl_unflag(); null: not cleared';

SELECT pg_catalog.pg_extension_config_dump('rate_limit_violations', '');
SELECT pg_catalog.pg_extension_config_dump('rate_limit_violations_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('rate_limit_flags', '');

CREATE FUNCTION rl_flush() RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_flush() IS
'Write the pending violations of this database now, in this transaction: the number of rows, or lines of the log, written. If the transaction is rolled back they are pending again. 0 when ratelimit has no shared memory: a transaction''s violations are then written as it commits.';

CREATE FUNCTION rl_report(key text, limiter text DEFAULT 'default', rejected bigint DEFAULT 1) RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_report(text, text, bigint) IS
'Count rejections that a gateway decided by itself as violations of (limiter, key). False, and nothing counted, when key or limiter is empty or rejected is not above 0. Not undone by a rollback. Errors: 22004 a null argument; 22023 limiter with a colon, rejected above 2^40; 54000 key over 255 or limiter over 63 bytes.';

CREATE FUNCTION rl_report_batch(entries jsonb, OUT accepted bigint, OUT skipped bigint)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_report_batch(jsonb) IS
'rl_report() for an array of {"key": text, "limiter": text, "rejected": integer}: how many entries counted, and how many did not, being malformed, empty or not above 0. Errors: 22004 null; 22023 not an array, and nothing is counted.';

CREATE FUNCTION rl_flag(key text, limiter text DEFAULT 'default', reason text DEFAULT 'flagged by hand') RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_flag(text, text, text) IS
'Flag a key of a limiter by hand: true if it was not flagged already. Denies nothing. Errors: 22004 a null argument; 22023, 54000 as rl_consume().';

CREATE FUNCTION rl_unflag(key text, limiter text DEFAULT 'default') RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_unflag(text, text) IS
'Clear the flag of a key of a limiter, recording when and by whom: true if it was flagged. Only violations from now on can flag it again. Errors: 22004 a null argument; 22023, 54000 as rl_consume().';

CREATE FUNCTION rl_stats_reset() RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_stats_reset() IS
'Start the figures of rate_limit_stats for this database anew. Buckets, violations and flags stay.';

CREATE FUNCTION _rl_pending(OUT gateway_name text, OUT limiter text, OUT key text, OUT count bigint, OUT last_at timestamptz)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_pending' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _rl_pending() IS 'Violations counted and not yet written; read the view rate_limit_pending instead.';

CREATE FUNCTION _rl_episodes(OUT limiter text, OUT key text, OUT first_at timestamptz, OUT last_at timestamptz, OUT rejected bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_episodes' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 200;
COMMENT ON FUNCTION _rl_episodes() IS 'Recent runs of violations; read the view rate_limit_episodes instead.';

CREATE FUNCTION _rl_limiters(OUT limiter text, OUT allowed bigint, OUT denied bigint, OUT shadowed bigint, OUT overflowed bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_limiters' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 20;
COMMENT ON FUNCTION _rl_limiters() IS 'Decisions counted per limiter; read the view rate_limit_stats instead.';

CREATE FUNCTION _rl_flushes(OUT flushed bigint, OUT failures bigint, OUT last_flush timestamptz, OUT last_error_at timestamptz, OUT last_error text, OUT lost bigint, OUT since timestamptz)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_flushes' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION _rl_flushes() IS 'How writing violations went; read the view rate_limit_stats instead.';

CREATE VIEW rate_limit_pending AS
SELECT gateway_name, limiter, key, count, last_at FROM _rl_pending();
COMMENT ON VIEW rate_limit_pending IS
'Violations counted and not yet written, a row per gateway, limiter and key. Key (other): those for which ratelimit.max_violations left no room.';
COMMENT ON COLUMN rate_limit_pending.gateway_name IS 'the application instance that made the calls';
COMMENT ON COLUMN rate_limit_pending.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_pending.key IS 'who violated it; (other): keys for which there was no room';
COMMENT ON COLUMN rate_limit_pending.count IS 'violations';
COMMENT ON COLUMN rate_limit_pending.last_at IS 'when the last one happened';

CREATE VIEW rate_limit_violation_details AS
SELECT v.id, v.gateway_name, pg_catalog.split_part(d.name, ':', -1) AS limiter,
	CASE WHEN pg_catalog.strpos(d.name, ':') OPERATOR(pg_catalog.=) 0 THEN d.name
		ELSE pg_catalog.left(d.name, -1 OPERATOR(pg_catalog.-) pg_catalog.length(pg_catalog.split_part(d.name, ':', -1))) END AS key,
	d.count::bigint AS count, v.created_at
FROM rate_limit_violations v, pg_catalog.jsonb_each_text(
	CASE WHEN pg_catalog.jsonb_typeof(v.details) OPERATOR(pg_catalog.=) 'object' THEN v.details ELSE '{}' END) d (name, count)
WHERE d.count OPERATOR(pg_catalog.~) '^[0-9]{1,18}$';
COMMENT ON VIEW rate_limit_violation_details IS
'rate_limit_violations, a row per gateway, limiter and key; the limiter is what follows the last colon, so keys with colons come out whole. created_at is in UTC.';
COMMENT ON COLUMN rate_limit_violation_details.id IS 'the row of rate_limit_violations';
COMMENT ON COLUMN rate_limit_violation_details.gateway_name IS 'the application instance that made the calls';
COMMENT ON COLUMN rate_limit_violation_details.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_violation_details.key IS 'who violated it';
COMMENT ON COLUMN rate_limit_violation_details.count IS 'violations';
COMMENT ON COLUMN rate_limit_violation_details.created_at IS 'when written, in UTC';

CREATE VIEW rate_limit_top_offenders AS
SELECT o.limiter, o.key,
	coalesce(pg_catalog.sum(o.count) FILTER (WHERE o.at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) interval '1 hour')), 0)::bigint AS last_hour,
	coalesce(pg_catalog.sum(o.count) FILTER (WHERE o.at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) interval '1 day')), 0)::bigint AS last_day,
	pg_catalog.sum(o.count)::bigint AS total, pg_catalog.max(o.at) AS last_seen,
	EXISTS (SELECT FROM rate_limit_flags f
		WHERE f.limiter OPERATOR(pg_catalog.=) o.limiter AND f.key OPERATOR(pg_catalog.=) o.key AND f.cleared_at IS NULL) AS flagged
FROM (SELECT limiter, key, count, created_at AT TIME ZONE 'UTC' AS at FROM rate_limit_violation_details
	UNION ALL
	SELECT limiter, key, count, last_at FROM _rl_pending()) o
GROUP BY o.limiter, o.key
ORDER BY last_hour DESC, last_day DESC, total DESC;
COMMENT ON VIEW rate_limit_top_offenders IS
'Per limiter and key: violations in the last hour, the last day, and in all that is kept, pending ones included; when last seen, to the flush; whether flagged. Worst first.';
COMMENT ON COLUMN rate_limit_top_offenders.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_top_offenders.key IS 'who violated it';
COMMENT ON COLUMN rate_limit_top_offenders.last_hour IS 'violations in the last hour';
COMMENT ON COLUMN rate_limit_top_offenders.last_day IS 'violations in the last 24 hours';
COMMENT ON COLUMN rate_limit_top_offenders.total IS 'violations in all that is kept';
COMMENT ON COLUMN rate_limit_top_offenders.last_seen IS 'when the last one happened; of written ones, when they were written';
COMMENT ON COLUMN rate_limit_top_offenders.flagged IS 'whether the key has a flag that is not cleared';

CREATE VIEW rate_limit_violations_hourly AS
SELECT pg_catalog.date_trunc('hour', created_at) AS hour, gateway_name, limiter,
	pg_catalog.sum(count)::bigint AS count, pg_catalog.count(DISTINCT key) AS keys
FROM rate_limit_violation_details
GROUP BY 1, 2, 3
ORDER BY 1 DESC, 4 DESC;
COMMENT ON VIEW rate_limit_violations_hourly IS
'Written violations per hour (UTC), gateway and limiter, and how many keys they are of. Newest first.';
COMMENT ON COLUMN rate_limit_violations_hourly.hour IS 'beginning of the hour, in UTC';
COMMENT ON COLUMN rate_limit_violations_hourly.gateway_name IS 'the application instance that made the calls';
COMMENT ON COLUMN rate_limit_violations_hourly.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_violations_hourly.count IS 'violations';
COMMENT ON COLUMN rate_limit_violations_hourly.keys IS 'number of different keys';

CREATE VIEW rate_limit_episodes AS
SELECT limiter, key, first_at AS first_seen, last_at AS last_seen, rejected
FROM _rl_episodes() ORDER BY last_at DESC;
COMMENT ON VIEW rate_limit_episodes IS
'Recent runs of violations of one limiter and key, from the first to the last, and how many; most recently throttled first. At most ratelimit.max_episodes of the server, each for ratelimit.episode_retention after its last violation. Empty when ratelimit has no shared memory.';
COMMENT ON COLUMN rate_limit_episodes.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_episodes.key IS 'who violated it';
COMMENT ON COLUMN rate_limit_episodes.first_seen IS 'when the first violation happened';
COMMENT ON COLUMN rate_limit_episodes.last_seen IS 'when the last violation happened';
COMMENT ON COLUMN rate_limit_episodes.rejected IS 'violations';

CREATE VIEW rate_limit_flagged AS
SELECT limiter, key, flagged_at, rejected, reason
FROM rate_limit_flags WHERE cleared_at IS NULL ORDER BY flagged_at DESC;
COMMENT ON VIEW rate_limit_flagged IS
'The review queue: flags not cleared, newest first.';
COMMENT ON COLUMN rate_limit_flagged.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_flagged.key IS 'who is flagged';
COMMENT ON COLUMN rate_limit_flagged.flagged_at IS 'when flagged';
COMMENT ON COLUMN rate_limit_flagged.rejected IS 'violations within ratelimit.flag_window when flagged; 0: flagged by hand';
COMMENT ON COLUMN rate_limit_flagged.reason IS 'why it was flagged';

-- The functions say how many rows they mostly return: were each taken for 1000, the joins would seem
-- so large that JIT compiles this query, for more than a second.
CREATE VIEW rate_limit_stats AS
WITH b AS (SELECT limiter, in_memory AS used, in_table FROM _rl_living()),
	p AS (SELECT limiter, pg_catalog.sum(count) AS pending FROM _rl_pending() GROUP BY limiter),
	c AS (SELECT limiter, allowed, denied, shadowed, overflowed FROM _rl_limiters()),
	-- the figures of limiters without counts of their own: 0, or null if nothing is counted ("counted")
	-- or if their calls may be counted as (other) ("apart")
	n AS (SELECT CASE WHEN f.since IS NOT NULL THEN 0::bigint END AS counted,
			CASE WHEN f.since IS NOT NULL AND NOT EXISTS (SELECT FROM c WHERE limiter OPERATOR(pg_catalog.=) '(other)') THEN 0::bigint END AS apart
		FROM (SELECT) one LEFT JOIN _rl_flushes() f ON true),
	l AS (SELECT coalesce(c.limiter, b.limiter, p.limiter) AS limiter, coalesce(allowed, apart) AS allowed, coalesce(denied, apart) AS denied,
		coalesce(shadowed, apart) AS shadowed, coalesce(overflowed, apart) AS overflowed, coalesce(used, 0) AS used,
		coalesce(in_table, 0) AS in_table, coalesce(pending, counted) AS pending
		FROM c FULL JOIN b ON c.limiter OPERATOR(pg_catalog.=) b.limiter
			FULL JOIN p ON coalesce(c.limiter, b.limiter) OPERATOR(pg_catalog.=) p.limiter
			CROSS JOIN n),
	m AS (SELECT slots, evicted FROM _rl_memory())
SELECT limiter, allowed, denied, shadowed, used AS buckets_used, NULL::bigint AS buckets_free,
	in_table AS buckets_in_table, overflowed AS decided_in_table, NULL::bigint AS buckets_evicted,
	pending::bigint AS violations_pending, NULL::bigint AS violations_flushed, NULL::bigint AS violations_lost,
	NULL::bigint AS flush_failures, NULL::timestamptz AS last_flush, NULL::timestamptz AS last_error_at,
	NULL::text AS last_error, f.since AS stats_since
FROM l LEFT JOIN _rl_flushes() f ON true
UNION ALL
SELECT NULL, coalesce(pg_catalog.sum(allowed), n.counted)::bigint, coalesce(pg_catalog.sum(denied), n.counted)::bigint, coalesce(pg_catalog.sum(shadowed), n.counted)::bigint, coalesce(pg_catalog.sum(used), 0)::bigint,
	(SELECT m.slots FROM m) OPERATOR(pg_catalog.-) coalesce(pg_catalog.sum(used), 0)::bigint,
	coalesce(pg_catalog.sum(in_table), 0)::bigint, coalesce(pg_catalog.sum(overflowed), n.counted)::bigint, (SELECT m.evicted FROM m),
	coalesce(pg_catalog.sum(pending), n.counted)::bigint, f.flushed, f.lost, f.failures, f.last_flush, f.last_error_at, f.last_error, f.since
FROM l RIGHT JOIN (SELECT g.* FROM (SELECT) one LEFT JOIN _rl_flushes() g ON true) f ON true CROSS JOIN n
GROUP BY n.counted, f.flushed, f.lost, f.failures, f.last_flush, f.last_error_at, f.last_error, f.since;
COMMENT ON VIEW rate_limit_stats IS
'Figures of this database, a row per limiter and one for all (limiter null). What is not counted is null: figures that are not kept per limiter, in the rows of limiters; figures of a limiter that counts towards (other) and is shown for its buckets; and, when ratelimit has no shared memory, all but the buckets.';
COMMENT ON COLUMN rate_limit_stats.limiter IS 'which rule; null: all of them';
COMMENT ON COLUMN rate_limit_stats.allowed IS 'calls that were allowed, since stats_since';
COMMENT ON COLUMN rate_limit_stats.denied IS 'calls that were denied, since stats_since';
COMMENT ON COLUMN rate_limit_stats.shadowed IS 'calls that were allowed because of shadow and would have been denied, since stats_since';
COMMENT ON COLUMN rate_limit_stats.buckets_used IS 'buckets and blocks living in memory now';
COMMENT ON COLUMN rate_limit_stats.buckets_free IS 'slots of memory without a bucket of this database now';
COMMENT ON COLUMN rate_limit_stats.buckets_in_table IS 'buckets and blocks living in the table now; an estimate if the table is larger than 4 MB';
COMMENT ON COLUMN rate_limit_stats.decided_in_table IS 'calls that were decided in the table because memory had no room, since stats_since';
COMMENT ON COLUMN rate_limit_stats.buckets_evicted IS 'buckets of any database that gave way to others, since the first start of the server';
COMMENT ON COLUMN rate_limit_stats.violations_pending IS 'violations that are counted and not yet written';
COMMENT ON COLUMN rate_limit_stats.violations_flushed IS 'violations that were written, since stats_since';
COMMENT ON COLUMN rate_limit_stats.violations_lost IS 'violations of any database for which there was no room, not even as (other), since the first start of the server';
COMMENT ON COLUMN rate_limit_stats.flush_failures IS 'flushes that failed, since stats_since';
COMMENT ON COLUMN rate_limit_stats.last_flush IS 'when something was last written';
COMMENT ON COLUMN rate_limit_stats.last_error_at IS 'when the worker last failed';
COMMENT ON COLUMN rate_limit_stats.last_error IS 'why the worker last failed';
COMMENT ON COLUMN rate_limit_stats.stats_since IS 'since when calls are counted: the first call after the start of the server, or rl_stats_reset()';

CREATE VIEW rate_limit_decisions AS
SELECT c.limiter, c.allowed, c.denied, c.shadowed, c.overflowed AS decided_in_table, f.since AS stats_since
FROM _rl_limiters() c CROSS JOIN _rl_flushes() f;
COMMENT ON VIEW rate_limit_decisions IS
'The decisions of rate_limit_stats without its other figures, a row per limiter that is counted: at most 1024, and (other). Looks at no bucket. Empty when ratelimit has no shared memory.';
COMMENT ON COLUMN rate_limit_decisions.limiter IS 'which rule; (other): those that are not counted separately';
COMMENT ON COLUMN rate_limit_decisions.allowed IS 'calls that were allowed, since stats_since';
COMMENT ON COLUMN rate_limit_decisions.denied IS 'calls that were denied, since stats_since';
COMMENT ON COLUMN rate_limit_decisions.shadowed IS 'calls that were allowed because of shadow and would have been denied, since stats_since';
COMMENT ON COLUMN rate_limit_decisions.decided_in_table IS 'calls that were decided in the table because memory had no room, since stats_since';
COMMENT ON COLUMN rate_limit_decisions.stats_since IS 'since when calls are counted: the first call after the start of the server, or rl_stats_reset()';

REVOKE ALL ON rate_limit_reserved, rate_limit_reservations FROM PUBLIC;
GRANT SELECT ON rate_limit_reservations TO pg_monitor;
REVOKE ALL ON FUNCTION _rl_reservations() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _rl_reservations() TO pg_monitor;
REVOKE ALL ON rate_limit_postgrest_rules, rate_limit_exceptions FROM PUBLIC;
GRANT SELECT ON rate_limit_postgrest_rules, rate_limit_exceptions TO pg_monitor;
REVOKE ALL ON rate_limit_buckets, rate_limit_status, rate_limit_tickets, rate_limit_slots, rate_limit_policies, rate_limit_violations, rate_limit_flags,
	rate_limit_pending, rate_limit_violation_details, rate_limit_top_offenders,
	rate_limit_violations_hourly, rate_limit_episodes, rate_limit_flagged, rate_limit_stats, rate_limit_decisions FROM PUBLIC;
GRANT SELECT ON rate_limit_buckets, rate_limit_status, rate_limit_tickets, rate_limit_slots, rate_limit_policies, rate_limit_violations, rate_limit_flags,
	rate_limit_pending, rate_limit_violation_details, rate_limit_top_offenders,
	rate_limit_violations_hourly, rate_limit_episodes, rate_limit_flagged, rate_limit_stats, rate_limit_decisions TO pg_monitor;
REVOKE ALL ON FUNCTION rl_reward(text, float8, text), rl_penalize(text, float8, float8, float8, text), rl_count(text, text, float8, text),
	rl_block(text, interval, text), rl_unblock(text, text), _rl_policies_changed(),
	rl_reset(text, text, text), rl_reset_all(text), _rl_export(), _rl_import(text, text, float8, float8, bigint, bigint), _rl_buckets(), rl_status(text), _rl_living(), _rl_memory(), rl_partitions(), _rl_slots(),
	rl_flush(), rl_report(text, text, bigint), rl_report_batch(jsonb), rl_flag(text, text, text),
	rl_unflag(text, text), rl_stats_reset(), _rl_pending(), _rl_episodes(), _rl_limiters(), _rl_flushes() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _rl_buckets(), rl_status(text), _rl_living(), _rl_memory(), rl_partitions(), _rl_slots(), _rl_pending(), _rl_episodes(), _rl_limiters(),
	_rl_flushes() TO pg_monitor;

-- What CREATE EXTENSION says.
CREATE FUNCTION _rl_creation() RETURNS void
AS 'MODULE_PATHNAME', 'rl_creation' LANGUAGE C;
SELECT _rl_creation();
DROP FUNCTION _rl_creation();
