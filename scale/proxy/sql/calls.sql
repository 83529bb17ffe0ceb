
-- Calls on one key

-- These ask no bucket.
CREATE FUNCTION rl_per(tokens float8, per interval)
RETURNS float8 AS '$libdir/ratelimit' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_per(float8, interval) IS 'As rl_per() of ratelimit.';

CREATE FUNCTION rl_period(period text, at timestamptz DEFAULT pg_catalog.clock_timestamp(), OUT begins_at timestamptz, OUT ends_at timestamptz, OUT name text)
RETURNS record AS '$libdir/ratelimit' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_period(text, timestamptz) IS 'As rl_period() of ratelimit.';

CREATE FUNCTION rl_headers(r rl_result, policy text DEFAULT 'default', quota_unit text DEFAULT NULL, partition_key bytea DEFAULT NULL)
RETURNS jsonb AS '$libdir/ratelimit' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_headers(rl_result, text, text, bytea) IS 'As rl_headers() of ratelimit.';

CREATE FUNCTION rl_simulate(ts timestamptz, capacity float8, refill float8, cost float8 DEFAULT 1)
RETURNS boolean AS '$libdir/ratelimit' LANGUAGE C WINDOW IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_simulate(timestamptz, float8, float8, float8) IS 'As rl_simulate() of ratelimit.';

CREATE FUNCTION rl_simulate_period(ts timestamptz, allowance float8, period text, cost float8 DEFAULT 1)
RETURNS boolean AS '$libdir/ratelimit' LANGUAGE C WINDOW IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION rl_simulate_period(timestamptz, float8, text, float8) IS 'As rl_simulate_period() of ratelimit.';

-- An answer that on_error has given; what is not known is null.
CREATE FUNCTION _rl_undecided(allowed boolean, capacity float8, limiter text) RETURNS rl_result LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
	SELECT ROW(allowed, capacity, NULL, NULL, NULL, limiter, false, NULL)::rl_result;
END;
COMMENT ON FUNCTION _rl_undecided(boolean, float8, text) IS 'The answer to a call that on_error has decided.';

DO $$
DECLARE
	by_key text := '@extschema@._rl_partition($1, limiter)';
	by_policy text := '@extschema@._rl_partition($2, policy)';
	calls text[][] := ARRAY[
		['rl_consume', 'key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT ''default''', 'boolean',
			by_key, 'RETURN true;', 'RETURN false;'],
		['rl_throttle', 'key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT ''default''', 'rl_result',
			by_key, 'RETURN @extschema@._rl_undecided(true, $2, $5);', 'RETURN @extschema@._rl_undecided(false, $2, $5);'],
		['rl_peek', 'key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT ''default''', 'rl_result',
			by_key, 'RETURN @extschema@._rl_undecided(true, $2, $5);', 'RETURN @extschema@._rl_undecided(false, $2, $5);'],
		['rl_consume_period', 'key text, allowance float8, period text, cost float8 DEFAULT 1, limiter text DEFAULT ''default''', 'boolean',
			by_key, 'RETURN true;', 'RETURN false;'],
		['rl_throttle_period', 'key text, allowance float8, period text, cost float8 DEFAULT 1, limiter text DEFAULT ''default''', 'rl_result',
			by_key, 'RETURN @extschema@._rl_undecided(true, $2, $5);', 'RETURN @extschema@._rl_undecided(false, $2, $5);'],
		['rl_peek_period', 'key text, allowance float8, period text, cost float8 DEFAULT 1, limiter text DEFAULT ''default''', 'rl_result',
			by_key, 'RETURN @extschema@._rl_undecided(true, $2, $5);', 'RETURN @extschema@._rl_undecided(false, $2, $5);'],
		['rl_count', 'key text, period text, n float8 DEFAULT 1, limiter text DEFAULT ''default'', OUT hits float8, OUT resets_at timestamptz', 'record',
			by_key, 'hits := 0; RETURN;', 'hits := ''Infinity''; RETURN;'],
		['rl_consume_upto', 'key text, capacity float8, refill float8, wanted float8, limiter text DEFAULT ''default''', 'float8',
			by_key, 'RETURN floor($4);', 'RETURN 0;'],
		['rl_book', 'key text, capacity float8, refill float8, cost float8 DEFAULT 1, timeout interval DEFAULT ''1 min'', limiter text DEFAULT ''default''', 'interval',
			by_key, 'RETURN interval ''0'';', 'RETURN NULL;'],
		['rl_reserve', 'key text, capacity float8, refill float8, tokens float8, expires interval DEFAULT ''1 min'', limiter text DEFAULT ''default''', 'bigint',
			by_key, 'RETURN 0;', 'RETURN NULL;'],
		['rl_consume_policy', 'policy text, key text, cost float8 DEFAULT 1', 'boolean',
			by_policy, 'RETURN true;', 'RETURN false;'],
		['rl_throttle_policy', 'policy text, key text, cost float8 DEFAULT 1', 'rl_result',
			by_policy, 'RETURN @extschema@._rl_undecided(true, NULL, NULL);', 'RETURN @extschema@._rl_undecided(false, NULL, NULL);'],
		['rl_reserve_policy', 'policy text, key text, tokens float8, expires interval DEFAULT ''1 min''', 'bigint',
			by_policy, 'RETURN 0;', 'RETURN NULL;'],
		['rl_reward', 'key text, tokens float8, limiter text DEFAULT ''default''', 'float8', by_key, NULL, NULL],
		['rl_penalize', 'key text, capacity float8, refill float8, tokens float8, limiter text DEFAULT ''default''', 'float8', by_key, NULL, NULL],
		['rl_block', 'key text, duration interval, limiter text DEFAULT ''default''', 'void', by_key, NULL, NULL],
		['rl_unblock', 'key text, limiter text DEFAULT ''default''', 'boolean', by_key, NULL, NULL],
		['rl_reset', 'key text, limiter text DEFAULT ''default'', period text DEFAULT NULL', 'boolean', by_key, NULL, NULL],
		['rl_report', 'key text, limiter text DEFAULT ''default'', rejected bigint DEFAULT 1', 'boolean', by_key, NULL, NULL],
		['rl_flag', 'key text, limiter text DEFAULT ''default'', reason text DEFAULT ''flagged by hand''', 'boolean', by_key, NULL, NULL],
		['rl_unflag', 'key text, limiter text DEFAULT ''default''', 'boolean', by_key, NULL, NULL]];
BEGIN
	FOR i IN 1 .. pg_catalog.array_length(calls, 1) LOOP
		PERFORM @extschema@._rl_define(calls[i][1], calls[i][2], calls[i][3], calls[i][4], calls[i][5], calls[i][6]);
	END LOOP;

	-- The error of a denied call comes back as an answer: a connection that has brought an error is closed.
	PERFORM @extschema@._rl_define('_rl_enforce', 'key text, capacity float8, refill float8, cost float8, limiter text', 'text[]',
		by_key, 'RETURN NULL;', 'RETURN ARRAY[''PT429'', ''rate limit exceeded'', format(''key "%s", limiter "%s"'', $1, $5), '''']::text[];',
		'@extschema@.rl_node_enforce($3, $4, $5, $6, $7)');

	-- What a transaction or a session holds would be that of a connection to the node.
	PERFORM @extschema@._rl_define('_rl_acquire', 'key text, slots integer, weight integer, hold text, timeout interval, limiter text', 'bigint',
		by_key, 'RETURN 0;', 'RETURN NULL;', '@extschema@.rl_acquire($3, $4, $5, $6, $7, $8)');
	PERFORM @extschema@._rl_define('_rl_acquire_policy', 'policy text, key text, weight integer, hold text, timeout interval', 'bigint',
		by_policy, 'RETURN 0;', 'RETURN NULL;', '@extschema@.rl_acquire_policy($3, $4, $5, $6, $7)');
END $$;

CREATE FUNCTION rl_enforce(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	denied text[] := @extschema@._rl_enforce($1, $2, $3, $4, $5);
BEGIN
	IF denied IS NOT NULL THEN
		PERFORM @extschema@._rl_raise(denied[1], denied[2], denied[3], denied[4]);
	END IF;
END $$;
COMMENT ON FUNCTION rl_enforce(text, float8, float8, float8, text) IS
'As rl_enforce() of ratelimit, decided by the node that has the key.';

CREATE FUNCTION rl_acquire(key text, slots integer, weight integer DEFAULT 1, hold text DEFAULT 'transaction', timeout interval DEFAULT '0', limiter text DEFAULT 'default')
RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@._rl_check_hold($4);
	RETURN @extschema@._rl_acquire($1, $2, $3, $4, $5, $6);
END $$;
COMMENT ON FUNCTION rl_acquire(text, integer, integer, text, interval, text) IS
'As rl_acquire() of ratelimit, decided by the node that has the key. hold must be an interval: 0A000 transaction or session.';

CREATE FUNCTION rl_acquire_policy(policy text, key text, weight integer DEFAULT 1, hold text DEFAULT 'transaction', timeout interval DEFAULT '0')
RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@._rl_check_hold($4);
	RETURN @extschema@._rl_acquire_policy($1, $2, $3, $4, $5);
END $$;
COMMENT ON FUNCTION rl_acquire_policy(text, text, integer, text, interval) IS
'As rl_acquire_policy() of ratelimit, decided by the node that has the key. hold must be an interval: 0A000 transaction or session.';

CREATE FUNCTION _rl_check_hold(hold text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF lower(btrim($1)) IN ('transaction', 'session') THEN
		RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
			MESSAGE = format('slots cannot be held for a %s through a proxy', lower(btrim($1))),
			DETAIL = 'The node does not see when it ends.',
			HINT = 'Hold them for an interval, and call rl_release().';
	END IF;
END $$;
COMMENT ON FUNCTION _rl_check_hold(text) IS 'Raise an error if slots are to be held for a transaction or a session.';

CREATE FUNCTION rl_wait(key text, capacity float8, refill float8, cost float8 DEFAULT 1, timeout interval DEFAULT '1 min', limiter text DEFAULT 'default')
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	due interval := @extschema@.rl_book($1, $2, $3, $4, $5, $6);
BEGIN
	IF due > interval '0' THEN
		BEGIN
			PERFORM pg_sleep_for(due);
		EXCEPTION WHEN query_canceled THEN
			PERFORM @extschema@.rl_reward($1, $4, $6);
			RAISE;
		END;
	END IF;
	RETURN due IS NOT NULL;
END $$;
COMMENT ON FUNCTION rl_wait(text, float8, float8, float8, interval, text) IS
'As rl_wait() of ratelimit: takes its tokens on the node that has the key, and sleeps here.';

CREATE FUNCTION rl_postgrest_check() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
		MESSAGE = 'rl_postgrest_check() is not supported on a proxy',
		HINT = 'Call rl_enforce() in the function that db-pre-request names.';
END $$;
COMMENT ON FUNCTION rl_postgrest_check() IS 'Raises an error: not supported on a proxy.';
