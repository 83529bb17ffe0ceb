
-- Making the functions

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
COMMENT ON TYPE rl_result IS 'As that of ratelimit: a decision with what an HTTP answer needs.';

-- The types of arguments that are written as in CREATE FUNCTION, without those after OUT.
CREATE FUNCTION _rl_types(arguments text) RETURNS text[] LANGUAGE sql
BEGIN ATOMIC
	SELECT coalesce(pg_catalog.array_agg(pg_catalog.split_part(a, ' ', 2) ORDER BY n), '{}')
	FROM pg_catalog.string_to_table(arguments, ', ') WITH ORDINALITY AS t (a, n)
	WHERE a OPERATOR(pg_catalog.!~) '^OUT ' AND a OPERATOR(pg_catalog.<>) '';
END;

-- What comes after OUT, as columns.
CREATE FUNCTION _rl_columns(arguments text) RETURNS text LANGUAGE sql
BEGIN ATOMIC
	SELECT pg_catalog.string_agg(pg_catalog.substr(a, 5), ', ' ORDER BY n)
	FROM pg_catalog.string_to_table(arguments, ', ') WITH ORDINALITY AS t (a, n)
	WHERE a OPERATOR(pg_catalog.~) '^OUT ';
END;

-- Make a function of ratelimit.  in_partition: its partition; on_node: what is called on the
-- node that has it, where $3 is $1 here, and so on.  allow, deny: statements for a call that
-- rate_limit_proxy.on_error decides; if they are null, its error is raised in any case.
--
-- A node answers with no row if it does not have the partition.  The function, in the list of
-- columns, is called only if there is a row.  The node plans the query for each call, so it has
-- one table, and a subquery only where columns need one.
CREATE FUNCTION _rl_define(name text, arguments text, result text, in_partition text,
	allow text DEFAULT NULL, deny text DEFAULT NULL, on_node text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $define$
DECLARE
	types text[] := @extschema@._rl_types(arguments);
	columns text := @extschema@._rl_columns(arguments);
	type text := pg_catalog.regexp_replace(result, '^rl_result', '@extschema@.rl_result');
	inner_name text := pg_catalog.regexp_replace(name, '^_?rl_', '_rl_at_');
	there text;
	here text;
BEGIN
	SELECT coalesce(pg_catalog.string_agg('$' OPERATOR(pg_catalog.||) (i OPERATOR(pg_catalog.+) 2), ', ' ORDER BY i), ''),
		coalesce(pg_catalog.string_agg(', $' OPERATOR(pg_catalog.||) i, '' ORDER BY i), '')
	INTO there, here
	FROM pg_catalog.generate_series(1, pg_catalog.cardinality(types)) i;
	here := pg_catalog.format('@extschema@.%I(its_partition, @extschema@._rl_gateway()%s)', inner_name, here);

	EXECUTE pg_catalog.format($inner$
		CREATE FUNCTION @extschema@.%1$I(%2$s) RETURNS %3$s LANGUAGE plproxy AS $plproxy$
			CLUSTER 'ratelimit';
			RUN ON $1;
			%4$s;
		$plproxy$$inner$,
		inner_name,
		pg_catalog.concat_ws(', ', 'integer, text', CASE WHEN types OPERATOR(pg_catalog.<>) '{}' THEN pg_catalog.array_to_string(types, ', ') END,
			'OUT ' OPERATOR(pg_catalog.||) pg_catalog.replace(columns, ', ', ', OUT ')),
		type,
		pg_catalog.format(CASE WHEN columns IS NOT NULL OR result OPERATOR(pg_catalog.=) 'rl_result' THEN 'SELECT (t.r).* FROM (%s OFFSET 0) t' ELSE '%s' END,
			pg_catalog.format($sql$SELECT %s AS r FROM @extschema@.rate_limit_node_partitions n
				WHERE n.partition OPERATOR(pg_catalog.=) $1 AND pg_catalog.set_config('ratelimit.gateway_name', $2, false) IS NOT NULL$sql$,
				coalesce(on_node, pg_catalog.format('@extschema@.%I(%s)', name, there)))));

	EXECUTE pg_catalog.format($outer$
		CREATE FUNCTION @extschema@.%1$I(%2$s) RETURNS %3$s
		LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $plpgsql$
		DECLARE
			its_partition integer := %4$s;
			began timestamptz := clock_timestamp();
			answer %5$s;
			message text;
			detail text;
			hint text;
		BEGIN
			LOOP
				BEGIN
					%6$s;
					EXIT;
				EXCEPTION WHEN OTHERS THEN
					GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
					CASE @extschema@._rl_failed(its_partition, began, SQLSTATE, message, detail, hint, %7$s)
						WHEN 'allow' THEN %8$s
						WHEN 'deny' THEN %9$s
						ELSE NULL;
					END CASE;
				END;
			END LOOP;
			RETURN%10$s;
		END $plpgsql$$outer$,
		name, arguments, type, in_partition,
		CASE WHEN columns IS NOT NULL THEN 'record' WHEN result OPERATOR(pg_catalog.=) 'void' THEN 'text' ELSE type END,
		CASE WHEN columns IS NOT NULL THEN pg_catalog.format('SELECT t.* INTO %s FROM %s t', pg_catalog.regexp_replace(columns, ' \w+(, |$)', '\1', 'g'), here)
			WHEN result OPERATOR(pg_catalog.=) 'void' THEN 'PERFORM ' OPERATOR(pg_catalog.||) here
			ELSE 'answer := ' OPERATOR(pg_catalog.||) here END,
		(allow IS NOT NULL)::text, coalesce(allow, 'NULL;'), coalesce(deny, 'NULL;'),
		CASE WHEN columns IS NULL AND result OPERATOR(pg_catalog.<>) 'void' THEN ' answer' ELSE '' END);

	EXECUTE pg_catalog.format('COMMENT ON FUNCTION @extschema@.%I IS %L; COMMENT ON FUNCTION @extschema@.%I IS %L',
		inner_name, pg_catalog.format('%s() on the node that has the partition.', name),
		name, pg_catalog.format('As %s() of ratelimit, decided by the node that has the key.', name));
END $define$;
