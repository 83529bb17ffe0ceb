
-- Views over all nodes

-- Make the function that reads a relation of all nodes, and, if no query is given, the view.
CREATE FUNCTION _rl_define_view(name text, columns text, query text DEFAULT 'SELECT * FROM %s')
RETURNS void LANGUAGE plpgsql AS $define$
DECLARE
	reader text := pg_catalog.format('@extschema@.%I', pg_catalog.replace(name, 'rate_limit_', '_rl_all_'));
BEGIN
	EXECUTE pg_catalog.format($inner$
		CREATE FUNCTION %1$s() RETURNS TABLE (%2$s)
		LANGUAGE plproxy VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $plproxy$
			CLUSTER 'ratelimit';
			RUN ON ALL;
			SELECT * FROM @extschema@.%3$I;
		$plproxy$;
		COMMENT ON FUNCTION %1$s() IS %4$L;
		REVOKE ALL ON FUNCTION %1$s() FROM PUBLIC;
		GRANT EXECUTE ON FUNCTION %1$s() TO pg_monitor$inner$,
		reader, columns, name, pg_catalog.format('%s of all nodes; read the view instead.', name));
	EXECUTE pg_catalog.format($view$
		CREATE VIEW @extschema@.%1$I AS %2$s;
		COMMENT ON VIEW @extschema@.%1$I IS %3$L;
		REVOKE ALL ON @extschema@.%1$I FROM PUBLIC;
		GRANT SELECT ON @extschema@.%1$I TO pg_monitor$view$,
		name, pg_catalog.replace(query, '%s', reader OPERATOR(pg_catalog.||) '()'),
		pg_catalog.format('As %s of ratelimit, over all nodes. An error if one of them is away.', name));
END $define$;

DO $$
BEGIN
	PERFORM @extschema@._rl_define_view('rate_limit_status',
		'limiter text, key text, tokens float8, capacity float8, refill float8, full_at timestamptz, blocked_until timestamptz, store text, period text');
	PERFORM @extschema@._rl_define_view('rate_limit_slots',
		'limiter text, key text, state text, ticket bigint, weight integer, hold text, pid integer, role text, since timestamptz, until timestamptz, slots integer, held bigint, waiting bigint');
	PERFORM @extschema@._rl_define_view('rate_limit_reservations',
		'limiter text, key text, tokens float8, expires_at timestamptz, role text, store text, period text');
	PERFORM @extschema@._rl_define_view('rate_limit_violations',
		'id bigint, gateway_name varchar, total_count bigint, details jsonb, created_at timestamp');
	PERFORM @extschema@._rl_define_view('rate_limit_flags',
		'limiter text, key text, flagged_at timestamptz, rejected bigint, reason text, cleared_at timestamptz, cleared_by text');
	PERFORM @extschema@._rl_define_view('rate_limit_pending',
		'gateway_name text, limiter text, key text, count bigint, last_at timestamptz');
	PERFORM @extschema@._rl_define_view('rate_limit_violation_details',
		'id bigint, gateway_name varchar, limiter text, key text, count bigint, created_at timestamp');
	PERFORM @extschema@._rl_define_view('rate_limit_episodes',
		'limiter text, key text, first_seen timestamptz, last_seen timestamptz, rejected bigint',
		'SELECT * FROM %s ORDER BY last_seen DESC');
	PERFORM @extschema@._rl_define_view('rate_limit_flagged',
		'limiter text, key text, flagged_at timestamptz, rejected bigint, reason text',
		'SELECT * FROM %s ORDER BY flagged_at DESC');

	-- a key that has been moved has rows on more than one node
	PERFORM @extschema@._rl_define_view('rate_limit_top_offenders',
		'limiter text, key text, last_hour bigint, last_day bigint, total bigint, last_seen timestamptz, flagged boolean',
		'SELECT limiter, key, pg_catalog.sum(last_hour)::bigint AS last_hour, pg_catalog.sum(last_day)::bigint AS last_day,
			pg_catalog.sum(total)::bigint AS total, pg_catalog.max(last_seen) AS last_seen, pg_catalog.bool_or(flagged) AS flagged
		FROM %s GROUP BY limiter, key ORDER BY last_hour DESC, last_day DESC, total DESC');
	PERFORM @extschema@._rl_define_view('rate_limit_violations_hourly',
		'hour timestamp, gateway_name varchar, limiter text, count bigint, keys bigint',
		'SELECT hour, gateway_name, limiter, pg_catalog.sum(count)::bigint AS count, pg_catalog.sum(keys)::bigint AS keys
		FROM %s GROUP BY hour, gateway_name, limiter ORDER BY hour DESC, count DESC');
	PERFORM @extschema@._rl_define_view('rate_limit_stats',
		'limiter text, allowed bigint, denied bigint, shadowed bigint, buckets_used bigint, buckets_free bigint, buckets_in_table bigint, decided_in_table bigint, buckets_evicted bigint, violations_pending bigint, violations_flushed bigint, violations_lost bigint, flush_failures bigint, last_flush timestamptz, last_error_at timestamptz, last_error text, stats_since timestamptz',
		'SELECT limiter, pg_catalog.sum(allowed)::bigint AS allowed, pg_catalog.sum(denied)::bigint AS denied, pg_catalog.sum(shadowed)::bigint AS shadowed,
			pg_catalog.sum(buckets_used)::bigint AS buckets_used, pg_catalog.sum(buckets_free)::bigint AS buckets_free,
			pg_catalog.sum(buckets_in_table)::bigint AS buckets_in_table, pg_catalog.sum(decided_in_table)::bigint AS decided_in_table,
			pg_catalog.sum(buckets_evicted)::bigint AS buckets_evicted, pg_catalog.sum(violations_pending)::bigint AS violations_pending,
			pg_catalog.sum(violations_flushed)::bigint AS violations_flushed, pg_catalog.sum(violations_lost)::bigint AS violations_lost,
			pg_catalog.sum(flush_failures)::bigint AS flush_failures, pg_catalog.max(last_flush) AS last_flush, pg_catalog.max(last_error_at) AS last_error_at,
			(pg_catalog.array_agg(last_error ORDER BY last_error_at DESC NULLS LAST))[1] AS last_error, pg_catalog.min(stats_since) AS stats_since
		FROM %s GROUP BY limiter');
	PERFORM @extschema@._rl_define_view('rate_limit_decisions',
		'limiter text, allowed bigint, denied bigint, shadowed bigint, decided_in_table bigint, stats_since timestamptz',
		'SELECT limiter, pg_catalog.sum(allowed)::bigint AS allowed, pg_catalog.sum(denied)::bigint AS denied, pg_catalog.sum(shadowed)::bigint AS shadowed,
			pg_catalog.sum(decided_in_table)::bigint AS decided_in_table, pg_catalog.min(stats_since) AS stats_since
		FROM %s GROUP BY limiter');
END $$;

CREATE FUNCTION rl_status(key text) RETURNS SETOF rate_limit_status
LANGUAGE plproxy VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 5 AS $$
	CLUSTER 'ratelimit'; RUN ON ALL; SELECT * FROM @extschema@.rl_status($1);
$$;
COMMENT ON FUNCTION rl_status(text) IS 'As rl_status() of ratelimit, on all nodes: they may have the key of different limiters.';
