
-- Where a call goes

-- What a key is routed by: its part in braces, if it has one that is not empty, as in Redis
-- Cluster; or else the key together with its limiter.  The tiers of a policy have the policy's
-- name before a slash, and go together.  rl_node_partition() of ratelimit_node does the same.
CREATE FUNCTION _rl_route(key text, limiter text, seed bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
	SELECT CASE WHEN pg_catalog.strpos(key, '{') OPERATOR(pg_catalog.>) 0 AND pg_catalog.substring(key, '^[^{]*\{([^}]+)\}') IS NOT NULL
		THEN pg_catalog.hashtextextended(pg_catalog.substring(key, '^[^{]*\{([^}]+)\}'), seed)
		ELSE pg_catalog.hashtextextended(key, pg_catalog.hashtextextended(pg_catalog.split_part(limiter, '/', 1), seed)) END;
END;
COMMENT ON FUNCTION _rl_route(text, text, bigint) IS
'What the partition of a key of a limiter is made of: a hash. Null if the key or the limiter is.';

-- A key that is null has no bucket; any node raises the error.
CREATE FUNCTION _rl_partition(route bigint, partitions integer) RETURNS integer LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
	SELECT coalesce((route OPERATOR(pg_catalog.%) partitions OPERATOR(pg_catalog.+) partitions) OPERATOR(pg_catalog.%) partitions, 0)::integer;
END;
COMMENT ON FUNCTION _rl_partition(bigint, integer) IS 'The partition of keys with this route, if there are so many.';

-- The row is read first: a query that has the hash in it would be planned for each call.
CREATE FUNCTION _rl_partition(key text, limiter text) RETURNS integer
LANGUAGE plpgsql STABLE AS $$
DECLARE
	proxy @extschema@.rate_limit_proxy;
BEGIN
	SELECT * INTO STRICT proxy FROM @extschema@.rate_limit_proxy;
	RETURN @extschema@._rl_partition(@extschema@._rl_route($1, $2, proxy.seed), proxy.partitions);
END $$;
COMMENT ON FUNCTION _rl_partition(text, text) IS 'The partition of a key of a limiter.';

-- On a node, the connection's name would be that of the gateway.
CREATE FUNCTION _rl_gateway() RETURNS text LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT CASE
		WHEN pg_catalog.octet_length(pg_catalog.current_setting('ratelimit.gateway_name', true)) OPERATOR(pg_catalog.>) 0
			THEN pg_catalog."left"(pg_catalog.current_setting('ratelimit.gateway_name', true), 63)
		WHEN pg_catalog.octet_length(pg_catalog.current_setting('application_name')) OPERATOR(pg_catalog.>) 0
			THEN pg_catalog.current_setting('application_name')
		WHEN pg_catalog.octet_length(pg_catalog.current_setting('cluster_name')) OPERATOR(pg_catalog.>) 0
			THEN pg_catalog.current_setting('cluster_name')
		ELSE 'proxy' END;
END;
COMMENT ON FUNCTION _rl_gateway() IS 'The name of the application instance that makes the calls of this session.';

CREATE FUNCTION _rl_raise(state text, message text, detail text, hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF $3 <> '' AND $4 <> '' THEN
		RAISE EXCEPTION USING ERRCODE = $1, MESSAGE = $2, DETAIL = $3, HINT = $4;
	ELSIF $3 <> '' THEN
		RAISE EXCEPTION USING ERRCODE = $1, MESSAGE = $2, DETAIL = $3;
	ELSIF $4 <> '' THEN
		RAISE EXCEPTION USING ERRCODE = $1, MESSAGE = $2, HINT = $4;
	END IF;
	RAISE EXCEPTION USING ERRCODE = $1, MESSAGE = $2;
END $$;
COMMENT ON FUNCTION _rl_raise(text, text, text, text) IS 'Raise an error, with a detail and a hint if they are not empty.';

-- A call has failed.  Return what to do: "again", or, if rate_limit_proxy.on_error may decide
-- it, "allow" or "deny".  Or raise the error, as the node wrote it.
CREATE FUNCTION _rl_failed(partition integer, began timestamptz, state text, message text, detail text, hint text, decides boolean)
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	proxy @extschema@.rate_limit_proxy;
	node text;
	why text;
BEGIN
	SELECT * INTO STRICT proxy FROM @extschema@.rate_limit_proxy;
	IF state = 'P0002' THEN
		-- the node does not have the partition: it is being moved
		IF clock_timestamp() < began + proxy.move_wait THEN
			PERFORM pg_sleep(0.005);
			-- a statement that is parsed notices what other sessions have changed
			EXECUTE 'SELECT FROM @extschema@.rate_limit_proxy';
			RETURN 'again';
		END IF;
		why := 'its partition is being moved';
	ELSIF state ~ '^(08|53|58|XX|57P)' THEN
		SELECT format('node "%s" is away', n.node) INTO why
		FROM @extschema@.rate_limit_partitions n WHERE n.partition = _rl_failed.partition;
		why := coalesce(why, 'its node is away');
		-- may name hosts, which callers need not know
		RAISE LOG 'ratelimit: %: % %', why, state, message;
		IF state ~ '^(53|58|XX)' AND message ~ ' REMOTE ERROR: ' THEN
			-- it is there, and says why it cannot decide
			why := regexp_replace(message, '^.*? REMOTE ERROR: ', '');
		END IF;
	ELSE
		PERFORM @extschema@._rl_raise(state, regexp_replace(message, '^.*? REMOTE [^:]*: ', ''),
			regexp_replace(detail, '^Remote detail: ', ''), regexp_replace(hint, '^Remote hint: ', ''));
	END IF;
	IF proxy.on_error = 'error' OR NOT decides THEN
		RAISE EXCEPTION USING ERRCODE = 'connection_failure', MESSAGE = format('could not decide: %s', why);
	END IF;
	RAISE WARNING USING ERRCODE = 'connection_failure',
		MESSAGE = format('could not decide: %s: %s', why, CASE proxy.on_error WHEN 'allow' THEN 'allowed' ELSE 'denied' END);
	RETURN proxy.on_error;
END $$;
COMMENT ON FUNCTION _rl_failed(integer, timestamptz, text, text, text, text, boolean) IS
'What becomes of a call that has failed on its node.';
