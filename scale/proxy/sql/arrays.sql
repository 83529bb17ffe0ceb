
-- Calls on several keys

-- The keys of a call are divided into groups, each of which is decided on one node.  A node that
-- does not have all partitions of its group decides none of it.  Then each partition is asked for
-- separately, because one of them is being moved.  So a node that is away, or a partition that is
-- being moved, does not keep the others' keys from being decided, and no key is decided twice.
-- If an argument is bad, one node gets the whole call, and raises the error before anything is taken.
CREATE FUNCTION _rl_groups(places integer[], partitions integer[], apart boolean,
	OUT its_places integer[], OUT its_partitions integer[])
RETURNS SETOF record LANGUAGE sql STABLE ROWS 4
BEGIN ATOMIC
	SELECT pg_catalog.array_agg(u.place ORDER BY u.place), pg_catalog.array_agg(u.its_partition ORDER BY u.place)
	FROM ROWS FROM (pg_catalog.unnest(places), pg_catalog.unnest(partitions)) u (place, its_partition)
		LEFT JOIN rate_limit_partitions p ON p.partition OPERATOR(pg_catalog.=) u.its_partition
	GROUP BY p.node, CASE WHEN apart THEN u.its_partition END;
END;
COMMENT ON FUNCTION _rl_groups(integer[], integer[], boolean) IS
'Groups of the keys at these places of a call: those of a node, or, if apart, those of a partition.';

-- What is called on a node if it has all these partitions; else there is no row.
CREATE FUNCTION _rl_at_consume_each(integer[], text, text[], float8, float8, float8, text) RETURNS boolean[] LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit';
	RUN ON @extschema@._rl_first($1);
	SELECT @extschema@.rl_consume_each($3, $4, $5, $6, $7)
	WHERE @extschema@.rl_node_has($1) AND pg_catalog.set_config('ratelimit.gateway_name', $2, false) IS NOT NULL;
$$;
COMMENT ON FUNCTION _rl_at_consume_each(integer[], text, text[], float8, float8, float8, text) IS
'rl_consume_each() on the node that has the partitions.';

CREATE FUNCTION _rl_at_throttle_each(integer[], text, text[], float8[], float8[], float8[], text[]) RETURNS @extschema@.rl_result[] LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit';
	RUN ON @extschema@._rl_first($1);
	SELECT @extschema@.rl_throttle_each($3, $4, $5, $6, $7)
	WHERE @extschema@.rl_node_has($1) AND pg_catalog.set_config('ratelimit.gateway_name', $2, false) IS NOT NULL;
$$;
COMMENT ON FUNCTION _rl_at_throttle_each(integer[], text, text[], float8[], float8[], float8[], text[]) IS
'rl_throttle_each() on the node that has the partitions.';

CREATE FUNCTION _rl_first(partitions integer[]) RETURNS integer LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
	SELECT coalesce(partitions[1], 0);
END;
COMMENT ON FUNCTION _rl_first(integer[]) IS 'The first of some partitions, which leads to their node; without any, some node.';

-- bad: are the arguments such that a node raises an error?  Then no other one must have decided.
-- Elements are counted from 1 here, so arrays of another shape are made flat first, as
-- ratelimit reads them.
DO $define$
DECLARE
	f text[];
	flat text := 'IF array_ndims(%1$s) > 1 OR array_lower(%1$s, 1) <> 1 THEN %1$s := ARRAY(SELECT unnest(%1$s)); END IF;';
BEGIN
	FOREACH f SLICE 1 IN ARRAY ARRAY[
		['rl_consume_each',
			'keys text[], capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT ''default''', 'boolean',
			$bad$(SELECT coalesce(bool_or(k IS NULL OR k = '' OR octet_length(k) > 255), true) FROM unnest($1) k)$bad$,
			'$5',
			'array_agg($1[p] ORDER BY n), $2, $3, $4, $5',
			'true', 'false', pg_catalog.format(flat, 'keys')],
		['rl_throttle_each',
			'keys text[], capacities float8[], refills float8[], costs float8[] DEFAULT NULL, limiters text[] DEFAULT NULL', '@extschema@.rl_result',
			$bad$cardinality($2) <> cardinality($1) OR cardinality($3) <> cardinality($1)
					OR cardinality($4) <> cardinality($1) OR cardinality($5) <> cardinality($1)
					OR (SELECT coalesce(bool_or(k IS NULL OR k = '' OR octet_length(k) > 255), true) FROM unnest($1) k)
					OR (SELECT coalesce(bool_or(c IS NULL OR NOT (c >= 0 AND c < 'Infinity')), true) FROM unnest($2 || $3) c)
					OR (SELECT bool_or(c IS NULL OR NOT (c >= 0 AND c < 'Infinity')) FROM unnest($4) c) IS TRUE
					OR (SELECT bool_or(l IS NULL OR l = '' OR octet_length(l) > 63 OR strpos(l, ':') > 0) FROM unnest($5) l) IS TRUE$bad$,
			$$coalesce($5[n], 'default')$$,
			'array_agg($1[p] ORDER BY n), array_agg($2[p] ORDER BY n), array_agg($3[p] ORDER BY n),
								CASE WHEN $4 IS NOT NULL THEN array_agg($4[p] ORDER BY n) END, CASE WHEN $5 IS NOT NULL THEN array_agg($5[p] ORDER BY n) END',
			$$@extschema@._rl_undecided(true, $2[p], coalesce($5[p], 'default'))$$,
			$$@extschema@._rl_undecided(false, $2[p], coalesce($5[p], 'default'))$$,
			(SELECT pg_catalog.string_agg(pg_catalog.format(flat, a), ' ')
				FROM pg_catalog.unnest(ARRAY['keys', 'capacities', 'refills', 'costs', 'limiters']) a)]]
	LOOP
		EXECUTE pg_catalog.format($outer$
			CREATE FUNCTION @extschema@.%1$I(%2$s) RETURNS %3$s[]
			LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $plpgsql$
			DECLARE
				bad boolean;
				proxy @extschema@.rate_limit_proxy;
				places integer[];
				partitions integer[];
				apart boolean := false;
				began timestamptz := clock_timestamp();
				answers %3$s[];
				part %3$s[];
				later_places integer[];
				later_partitions integer[];
				a_group record;
				message text;
				detail text;
				hint text;
			BEGIN
				%10$s
				bad := %4$s;
				IF bad THEN
					BEGIN
						RETURN @extschema@.%5$I('{}', @extschema@._rl_gateway(), $1, $2, $3, $4, $5);
					EXCEPTION WHEN OTHERS THEN
						GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
						PERFORM @extschema@._rl_failed(0, began, SQLSTATE, message, detail, hint, false);
					END;
				END IF;
				SELECT * INTO STRICT proxy FROM @extschema@.rate_limit_proxy;
				places := ARRAY(SELECT generate_series(1, cardinality($1)));
				answers := array_fill(NULL::%3$s, ARRAY[cardinality(places)]);
				partitions := ARRAY(SELECT @extschema@._rl_partition(@extschema@._rl_route(k, %6$s, proxy.seed), proxy.partitions)
					FROM unnest($1) WITH ORDINALITY u (k, n) ORDER BY n);
				LOOP
					later_places := '{}';
					later_partitions := '{}';
					FOR a_group IN SELECT * FROM @extschema@._rl_groups(places, partitions, apart) LOOP
						BEGIN
							SELECT @extschema@.%5$I(ARRAY(SELECT DISTINCT unnest(a_group.its_partitions)), @extschema@._rl_gateway(),
								%7$s)
							INTO part
							FROM unnest(a_group.its_places) WITH ORDINALITY u (p, n);
						EXCEPTION WHEN OTHERS THEN
							GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
							CASE @extschema@._rl_failed(a_group.its_partitions[1], began, SQLSTATE, message, detail, hint, true)
								WHEN 'allow' THEN part := ARRAY(SELECT %8$s FROM unnest(a_group.its_places) p);
								WHEN 'deny' THEN part := ARRAY(SELECT %9$s FROM unnest(a_group.its_places) p);
								ELSE
									later_places := later_places || a_group.its_places;
									later_partitions := later_partitions || a_group.its_partitions;
									CONTINUE;
							END CASE;
						END;
						FOR i IN 1 .. cardinality(part) LOOP
							answers[a_group.its_places[i]] := part[i];
						END LOOP;
					END LOOP;
					EXIT WHEN later_places = '{}';
					places := later_places;
					partitions := later_partitions;
					apart := true;
				END LOOP;
				RETURN answers;
			END $plpgsql$$outer$,
			f[1], f[2], f[3], f[4], pg_catalog.regexp_replace(f[1], '^rl_', '_rl_at_'), f[5], f[6], f[7], f[8], f[9]);
		EXECUTE pg_catalog.format('COMMENT ON FUNCTION @extschema@.%I IS %L', f[1],
			pg_catalog.format('As %s() of ratelimit, each key decided by the node that has it.', f[1]));
	END LOOP;
END $define$;

-- All or nothing

-- All keys of a call must have one route.  Their partition may be the same by chance; that does
-- not count, so a call that works goes on working when there are more nodes.
CREATE FUNCTION _rl_common_partition(keys text[], limiters text[]) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	proxy @extschema@.rate_limit_proxy;
	routes bigint[];
	i integer;
BEGIN
	IF array_ndims(keys) > 1 OR array_lower(keys, 1) <> 1 THEN
		keys := ARRAY(SELECT unnest(keys));
	END IF;
	IF array_ndims(limiters) > 1 OR array_lower(limiters, 1) <> 1 THEN
		limiters := ARRAY(SELECT unnest(limiters));
	END IF;
	SELECT * INTO STRICT proxy FROM @extschema@.rate_limit_proxy;
	routes := ARRAY(SELECT @extschema@._rl_route(k, coalesce($2[n], 'default'), proxy.seed) FROM unnest($1) WITH ORDINALITY u (k, n) ORDER BY n);
	SELECT min(n) INTO i FROM unnest(routes) WITH ORDINALITY u (r, n) WHERE r <> routes[1];
	IF i IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
			MESSAGE = 'keys that may be on different nodes cannot be decided together',
			DETAIL = format('Key "%s" of "%s" and key "%s" of "%s" are not kept together.',
				$1[1], coalesce($2[1], 'default'), $1[i], coalesce($2[i], 'default')),
			HINT = 'Keys with the same part in braces are kept together, as "user:{42}:api" and "account:{42}".';
	END IF;
	RETURN @extschema@._rl_partition(routes[1], proxy.partitions);
END $$;
COMMENT ON FUNCTION _rl_common_partition(text[], text[]) IS
'The partition in which keys of limiters, or of policies, are kept together; an error if they are not.';

DO $$
BEGIN
	PERFORM @extschema@._rl_define('rl_consume_all', 'keys text[], capacities float8[], refills float8[], costs float8[] DEFAULT NULL, limiters text[] DEFAULT NULL', 'boolean',
		'@extschema@._rl_common_partition($1, $5)', 'RETURN true;', 'RETURN false;');
	PERFORM @extschema@._rl_define('rl_consume_policies', 'policies text[], keys text[], costs float8[] DEFAULT NULL', 'rl_result[]',
		'@extschema@._rl_common_partition($2, $1)',
		'RETURN ARRAY(SELECT @extschema@._rl_undecided(true, NULL, NULL) FROM unnest($1));',
		'RETURN ARRAY(SELECT @extschema@._rl_undecided(false, NULL, NULL) FROM unnest($1));');
END $$;
