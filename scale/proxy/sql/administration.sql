
-- What is done on all nodes, or on the one that knows

CREATE FUNCTION _rl_all_reset_all(text) RETURNS SETOF bigint LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON ALL; SELECT @extschema@.rl_reset_all($1);
$$;
COMMENT ON FUNCTION _rl_all_reset_all(text) IS 'rl_reset_all() on all nodes.';
CREATE FUNCTION rl_reset_all(limiter text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT sum(n) FROM @extschema@._rl_all_reset_all($1) n);
END $$;
COMMENT ON FUNCTION rl_reset_all(text) IS 'As rl_reset_all() of ratelimit, on all nodes.';

CREATE FUNCTION _rl_all_flush() RETURNS SETOF bigint LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON ALL; SELECT @extschema@.rl_flush();
$$;
COMMENT ON FUNCTION _rl_all_flush() IS 'rl_flush() on all nodes.';
CREATE FUNCTION rl_flush() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT sum(n) FROM @extschema@._rl_all_flush() n);
END $$;
COMMENT ON FUNCTION rl_flush() IS 'As rl_flush() of ratelimit, on all nodes; not undone by a rollback.';

CREATE FUNCTION _rl_all_stats_reset() RETURNS SETOF text LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON ALL; SELECT @extschema@.rl_stats_reset()::text;
$$;
COMMENT ON FUNCTION _rl_all_stats_reset() IS 'rl_stats_reset() on all nodes.';
CREATE FUNCTION rl_stats_reset() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM @extschema@._rl_all_stats_reset();
END $$;
COMMENT ON FUNCTION rl_stats_reset() IS 'As rl_stats_reset() of ratelimit, on all nodes; not undone by a rollback.';

CREATE FUNCTION rl_partitions(OUT partition integer, OUT slots bigint, OUT living bigint, OUT spilled boolean, OUT evicted bigint)
RETURNS SETOF record LANGUAGE plproxy VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 128 AS $$
	CLUSTER 'ratelimit'; RUN ON ALL; SELECT * FROM @extschema@.rl_partitions();
$$;
COMMENT ON FUNCTION rl_partitions() IS
'As rl_partitions() of ratelimit: the partitions of shared memory of all nodes, which are others than those of rate_limit_partitions.';

CREATE FUNCTION _rl_at_status_policy(integer, text, text, OUT tier text, OUT limiter text, OUT capacity float8, OUT refill float8, OUT tokens float8, OUT retry_after interval, OUT reset_after interval, OUT blocked_until timestamptz, OUT shadow boolean, OUT enabled boolean, OUT exception bigint, OUT period text)
RETURNS SETOF record LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT * FROM @extschema@.rl_status_policy($2, $3);
$$;
COMMENT ON FUNCTION _rl_at_status_policy(integer, text, text) IS 'rl_status_policy() on the node that has the partition.';
CREATE FUNCTION rl_status_policy(policy text, key text, OUT tier text, OUT limiter text, OUT capacity float8, OUT refill float8, OUT tokens float8, OUT retry_after interval, OUT reset_after interval, OUT blocked_until timestamptz, OUT shadow boolean, OUT enabled boolean, OUT exception bigint, OUT period text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY SELECT s.* FROM @extschema@._rl_at_status_policy(@extschema@._rl_partition($2, $1), $1, $2) s;
END $$;
COMMENT ON FUNCTION rl_status_policy(text, text) IS 'As rl_status_policy() of ratelimit, on the node that has the key.';

-- Reservations and tickets have random numbers, which do not say which node has them.  So
-- nodes are asked in turn, until one knows the number.
CREATE FUNCTION _rl_node_settle(integer, bigint, float8) RETURNS float8 LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_settle($2, $3);
$$;
COMMENT ON FUNCTION _rl_node_settle(integer, bigint, float8) IS 'rl_settle() on one node.';
CREATE FUNCTION _rl_node_release(integer, bigint) RETURNS boolean LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_release($2);
$$;
COMMENT ON FUNCTION _rl_node_release(integer, bigint) IS 'rl_release() on one node.';
CREATE FUNCTION _rl_node_renew(integer, bigint, interval) RETURNS boolean LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_renew($2, $3);
$$;
COMMENT ON FUNCTION _rl_node_renew(integer, bigint, interval) IS 'rl_renew() on one node.';

-- Ask nodes in turn.  If one of them is away and no other knows the number, its error is raised.
DO $define$
DECLARE
	f text[];
BEGIN
	FOREACH f SLICE 1 IN ARRAY ARRAY[
		['rl_settle', 'reservation bigint, used float8', 'float8', '_rl_node_settle(place, $1, $2)', 'answer IS NOT NULL'],
		['rl_release', 'ticket bigint', 'boolean', '_rl_node_release(place, $1)', 'answer'],
		['rl_renew', 'ticket bigint, hold interval', 'boolean', '_rl_node_renew(place, $1, $2)', 'answer']]
	LOOP
		EXECUTE pg_catalog.format($outer$
			CREATE FUNCTION @extschema@.%1$I(%2$s) RETURNS %3$s
			LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $plpgsql$
			DECLARE
				place integer;
				answer %3$s;
				its_state text;
				its_message text;
				its_detail text;
				its_hint text;
			BEGIN
				FOR place IN SELECT @extschema@._rl_place(n.node) FROM @extschema@.rate_limit_nodes n LOOP
					BEGIN
						answer := @extschema@.%4$s;
						IF %5$s THEN
							RETURN answer;
						END IF;
					EXCEPTION WHEN OTHERS THEN
						GET STACKED DIAGNOSTICS its_state = RETURNED_SQLSTATE, its_message = MESSAGE_TEXT,
							its_detail = PG_EXCEPTION_DETAIL, its_hint = PG_EXCEPTION_HINT;
					END;
				END LOOP;
				IF its_state IS NOT NULL THEN
					PERFORM @extschema@._rl_failed(NULL, NULL, its_state, its_message, its_detail, its_hint, false);
				END IF;
				RETURN answer;
			END $plpgsql$$outer$, f[1], f[2], f[3], f[4], f[5]);
		EXECUTE pg_catalog.format('COMMENT ON FUNCTION @extschema@.%I IS %L', f[1],
			pg_catalog.format('As %s() of ratelimit, on the node that has given the number.', f[1]));
	END LOOP;
END $define$;

-- Rejections that a gateway reports are counted on the nodes that have their keys.  What is not
-- well formed is counted as skipped by any node.
CREATE FUNCTION _rl_at_report_batch(integer, text, jsonb, OUT accepted bigint, OUT skipped bigint) RETURNS record LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit';
	RUN ON $1;
	SELECT (t.r).* FROM (SELECT @extschema@.rl_report_batch($3) AS r
		FROM pg_catalog.set_config('ratelimit.gateway_name', $2, false) OFFSET 0) t;
$$;
COMMENT ON FUNCTION _rl_at_report_batch(integer, text, jsonb) IS 'rl_report_batch() on the node that has the partition.';
CREATE FUNCTION rl_report_batch(entries jsonb, OUT accepted bigint, OUT skipped bigint)
RETURNS record LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part record;
	counted record;
	message text;
	detail text;
	hint text;
BEGIN
	accepted := 0;
	skipped := 0;
	FOR part IN
		SELECT min(its_partition) AS its_partition, jsonb_agg(entry) AS entries
		FROM (SELECT entry, @extschema@._rl_partition(entry ->> 'key', coalesce(entry ->> 'limiter', 'default')) AS its_partition
			FROM jsonb_array_elements(CASE jsonb_typeof($1) WHEN 'array' THEN $1 ELSE '[]' END) entry) e
			LEFT JOIN @extschema@.rate_limit_partitions p ON p.partition = its_partition
		GROUP BY p.node
		UNION ALL SELECT 0, $1 WHERE jsonb_typeof($1) IS DISTINCT FROM 'array'
	LOOP
		BEGIN
			SELECT * INTO counted FROM @extschema@._rl_at_report_batch(part.its_partition, @extschema@._rl_gateway(), part.entries);
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
			PERFORM @extschema@._rl_failed(part.its_partition, NULL, SQLSTATE, message, detail, hint, false);
		END;
		accepted := accepted + counted.accepted;
		skipped := skipped + counted.skipped;
	END LOOP;
END $$;
COMMENT ON FUNCTION rl_report_batch(jsonb) IS 'As rl_report_batch() of ratelimit, each entry counted by the node that has its key.';
