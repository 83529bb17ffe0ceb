\echo Use "CREATE EXTENSION ratelimit_node" to load this file. \quit

-- A node has partitions of the keys.  ratelimit_proxy sends each call together with the number of
-- its partition, and the call is decided only if the table here has it.  The call holds a lock
-- on that table until it has been decided.  So once a partition has been taken out of the table
-- under a lock that waits for all calls, nothing changes its buckets any more.
--
-- In statements that run as others call them, operators and functions are written with their schemas.

DO $$
BEGIN
	IF pg_catalog.to_regprocedure('@extschema@.rl_consume(text, float8, float8, float8, text)') IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_schema_name',
			MESSAGE = 'ratelimit_node must be in the schema of ratelimit, which is not @extschema@';
	END IF;
END $$;

CREATE TABLE rate_limit_node_partitions (
	partition integer PRIMARY KEY,
	moves bigint NOT NULL
);
COMMENT ON TABLE rate_limit_node_partitions IS
'The partitions of the keys that this node has. Written by ratelimit_proxy only.';
COMMENT ON COLUMN rate_limit_node_partitions.partition IS 'number of the partition';
COMMENT ON COLUMN rate_limit_node_partitions.moves IS 'how often the partition had been given to a node when this one got it';
SELECT pg_catalog.pg_extension_config_dump('rate_limit_node_partitions', '');

-- VOLATILE, so that the snapshot is taken after the lock.
CREATE FUNCTION rl_node_has(partitions integer[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN pg_catalog.cardinality($1) OPERATOR(pg_catalog.=)
		(SELECT pg_catalog.count(*) FROM @extschema@.rate_limit_node_partitions n WHERE n.partition OPERATOR(pg_catalog.=) ANY ($1));
END $$;
COMMENT ON FUNCTION rl_node_has(integer[]) IS 'Does this node have all these partitions, each of which is named once?';

CREATE FUNCTION rl_node_moves(partition integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN (SELECT n.moves FROM @extschema@.rate_limit_node_partitions n WHERE n.partition OPERATOR(pg_catalog.=) $1);
END $$;
COMMENT ON FUNCTION rl_node_moves(integer) IS
'How often the partition had been given to a node when this one got it; null if it does not have it.';

-- As _rl_partition(_rl_route(key, limiter)) of ratelimit_proxy.
CREATE FUNCTION rl_node_partition(key text, limiter text, partitions integer, seed bigint) RETURNS integer LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
	SELECT ((pg_catalog.hashtextextended(
		CASE WHEN pg_catalog.strpos(key, '{') OPERATOR(pg_catalog.>) 0 THEN coalesce(pg_catalog.substring(key, '^[^{]*\{([^}]+)\}'), key) ELSE key END,
		CASE WHEN pg_catalog.strpos(key, '{') OPERATOR(pg_catalog.>) 0 AND pg_catalog.substring(key, '^[^{]*\{([^}]+)\}') IS NOT NULL THEN seed
			ELSE pg_catalog.hashtextextended(pg_catalog.split_part(limiter, '/', 1), seed) END)
		OPERATOR(pg_catalog.%) partitions OPERATOR(pg_catalog.+) partitions) OPERATOR(pg_catalog.%) partitions)::integer;
END;
COMMENT ON FUNCTION rl_node_partition(text, text, integer, bigint) IS
'The partition of a key of a limiter, if there are so many, and the proxy has this seed.';

CREATE FUNCTION rl_node_take(partition integer, moves bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	INSERT INTO @extschema@.rate_limit_node_partitions (partition, moves) VALUES ($1, $2)
	ON CONFLICT ON CONSTRAINT rate_limit_node_partitions_pkey DO UPDATE SET moves = excluded.moves;
	RETURN true;
END $$;
COMMENT ON FUNCTION rl_node_take(integer, bigint) IS 'From now on this node has the partition.';

CREATE FUNCTION rl_node_leave(partition integer, partitions integer, seed bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	name text;
BEGIN
	-- calls that come meanwhile wait behind the lock, so they must not wait long
	PERFORM pg_catalog.set_config('lock_timeout', '1s', true);
	LOCK TABLE @extschema@.rate_limit_node_partitions IN ACCESS EXCLUSIVE MODE;
	DELETE FROM @extschema@.rate_limit_node_partitions n WHERE n.partition OPERATOR(pg_catalog.=) $1;
	-- a ticket is known only here
	SELECT s.key INTO name FROM @extschema@.rate_limit_slots s
	WHERE @extschema@.rl_node_partition(s.key, s.limiter, $2, $3) OPERATOR(pg_catalog.=) $1 LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = pg_catalog.format('partition %s cannot be moved while its keys hold slots', $1),
			DETAIL = pg_catalog.format('Key "%s" does.', name), HINT = 'Try again when they have been released.';
	END IF;
	RETURN true;
END $$;
COMMENT ON FUNCTION rl_node_leave(integer, integer, bigint) IS
'From now on this node does not have the partition, and nothing changes its buckets. Errors: 55006 a key of it holds slots; 55P03 a call takes longer than a second.';

-- Blocks are handed over with the time that is left of them.
CREATE FUNCTION rl_node_export(partition integer, partitions integer, seed bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	RETURN coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(b.limiter, b.key, b.capacity, b.refill, b.owed, b.owed_high))
		FROM @extschema@._rl_export() b
		WHERE @extschema@.rl_node_partition(b.key, pg_catalog.split_part(b.limiter, ':', 1), $2, $3) OPERATOR(pg_catalog.=) $1), '[]')
	OPERATOR(pg_catalog.||) coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(b.limiter, b.key, b.blocked_until OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp()))
		FROM @extschema@.rate_limit_status b
		WHERE b.blocked_until IS NOT NULL AND @extschema@.rl_node_partition(b.key, b.limiter, $2, $3) OPERATOR(pg_catalog.=) $1), '[]');
END $$;
COMMENT ON FUNCTION rl_node_export(integer, integer, bigint) IS
'The living buckets of the partition and its blocks, for rl_node_import().';

CREATE FUNCTION rl_node_forget(partition integer, partitions integer, seed bigint, moves bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	bucket record;
	n bigint := 0;
BEGIN
	DELETE FROM @extschema@.rate_limit_node_partitions p WHERE p.partition OPERATOR(pg_catalog.=) $1 AND p.moves OPERATOR(pg_catalog.<) $4;
	IF @extschema@.rl_node_has(ARRAY[$1]) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = pg_catalog.format('this node has partition %s', $1);
	END IF;
	FOR bucket IN SELECT s.limiter, s.key, s.period, s.blocked_until FROM @extschema@.rate_limit_status s
		WHERE @extschema@.rl_node_partition(s.key, s.limiter, $2, $3) OPERATOR(pg_catalog.=) $1
	LOOP
		PERFORM @extschema@.rl_reset(bucket.key, bucket.limiter, bucket.period);
		IF bucket.blocked_until IS NOT NULL THEN
			PERFORM @extschema@.rl_unblock(bucket.key, bucket.limiter);
		END IF;
		n := n OPERATOR(pg_catalog.+) 1;
	END LOOP;
	RETURN n;
END $$;
COMMENT ON FUNCTION rl_node_forget(integer, integer, bigint, bigint) IS
'Make the buckets of a partition full that another node has by now, after so many moves: how many there were.';

CREATE FUNCTION rl_node_import(partition integer, partitions integer, seed bigint, moves bigint, buckets jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	bucket jsonb;
	n bigint := 0;
BEGIN
	-- what it had when it had the partition before, or what a move has left that failed
	PERFORM @extschema@.rl_node_forget($1, $2, $3, $4);
	FOR bucket IN SELECT b FROM pg_catalog.jsonb_array_elements($5) b LOOP
		IF pg_catalog.jsonb_array_length(bucket) OPERATOR(pg_catalog.=) 3 THEN
			IF (bucket OPERATOR(pg_catalog.->>) 2)::interval OPERATOR(pg_catalog.>) interval '0' THEN
				PERFORM @extschema@.rl_block(bucket OPERATOR(pg_catalog.->>) 1, (bucket OPERATOR(pg_catalog.->>) 2)::interval, bucket OPERATOR(pg_catalog.->>) 0);
			END IF;
		ELSE
			PERFORM @extschema@._rl_import(bucket OPERATOR(pg_catalog.->>) 0, bucket OPERATOR(pg_catalog.->>) 1,
				(bucket OPERATOR(pg_catalog.->>) 2)::float8, (bucket OPERATOR(pg_catalog.->>) 3)::float8,
				(bucket OPERATOR(pg_catalog.->>) 4)::bigint, (bucket OPERATOR(pg_catalog.->>) 5)::bigint);
		END IF;
		n := n OPERATOR(pg_catalog.+) 1;
	END LOOP;
	PERFORM @extschema@.rl_node_take($1, $4);
	RETURN n;
END $$;
COMMENT ON FUNCTION rl_node_import(integer, integer, bigint, bigint, jsonb) IS
'Make the buckets that rl_node_export() returned, and no others of the partition, and have it from now on: how many there are.';

CREATE FUNCTION rl_node_enforce(key text, capacity float8, refill float8, cost float8, limiter text) RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	PERFORM @extschema@.rl_enforce($1, $2, $3, $4, $5);
	RETURN NULL;
EXCEPTION WHEN SQLSTATE 'PT429' OR SQLSTATE 'PGRST' THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN ARRAY[SQLSTATE, message, detail, hint];
END $$;
COMMENT ON FUNCTION rl_node_enforce(text, float8, float8, float8, text) IS
'rl_enforce() that returns the error of a denied call: its code, message, detail and hint. Null if the call is allowed.';

-- The role that proxies connect as may do all that they pass on, and nothing else.
CREATE FUNCTION rl_node_admit(role regrole) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	f regprocedure;
BEGIN
	FOR f IN SELECT d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e
			ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) ANY (ARRAY['ratelimit', 'ratelimit_node']::name[])
		WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass AND d.deptype OPERATOR(pg_catalog.=) 'e'
			AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::regclass
			AND d.objid OPERATOR(pg_catalog.<>) '@extschema@.rl_node_admit(regrole)'::regprocedure
	LOOP
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s', f, $1);
	END LOOP;
	EXECUTE pg_catalog.concat('GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON @extschema@.rate_limit_node_partitions TO ', $1);
	EXECUTE pg_catalog.concat('GRANT USAGE ON SCHEMA @extschema@ TO ', $1);
	EXECUTE pg_catalog.format('GRANT pg_monitor TO %s', $1);
END $$;
COMMENT ON FUNCTION rl_node_admit(regrole) IS
'Let proxies connect as this role: it gets all functions of ratelimit, what the table of partitions needs, and membership in pg_monitor.';

REVOKE ALL ON rate_limit_node_partitions FROM PUBLIC;
GRANT SELECT ON rate_limit_node_partitions TO pg_monitor;
REVOKE ALL ON FUNCTION rl_node_has(integer[]), rl_node_moves(integer), rl_node_partition(text, text, integer, bigint),
	rl_node_take(integer, bigint), rl_node_leave(integer, integer, bigint), rl_node_export(integer, integer, bigint),
	rl_node_forget(integer, integer, bigint, bigint), rl_node_import(integer, integer, bigint, bigint, jsonb),
	rl_node_enforce(text, float8, float8, float8, text), rl_node_admit(regrole) FROM PUBLIC;
