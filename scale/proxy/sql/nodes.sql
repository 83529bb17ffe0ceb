\echo Use "CREATE EXTENSION ratelimit_proxy" to load this file. \quit

-- This file is made of the files in scale/proxy/sql.
--
-- Functions that other roles may call are SECURITY DEFINER, because only the owner of the
-- extension may use the connections to the nodes.  They have a search_path of their own, so
-- operators and functions in them are PostgreSQL's, and extra_float_digits, as numbers go to
-- the nodes as text: a caller could have those of a rule rounded.  What runs while the extension is made,
-- and what runs on a node, is written with its schema.

-- Nodes, and who has which partition

CREATE TABLE rate_limit_proxy (
	one boolean PRIMARY KEY DEFAULT true
		CONSTRAINT there_is_one_row CHECK (one),
	partitions integer NOT NULL DEFAULT 64
		CONSTRAINT partitions_is_from_64_to_1024 CHECK (partitions OPERATOR(pg_catalog.>=) 64 AND partitions OPERATOR(pg_catalog.<=) 1024),
	seed bigint NOT NULL,
	on_error text NOT NULL DEFAULT 'error'
		CONSTRAINT on_error_is_error_allow_or_deny CHECK (on_error OPERATOR(pg_catalog.=) ANY (ARRAY['error', 'allow', 'deny']::text[])),
	move_wait interval NOT NULL DEFAULT '5s'
		CONSTRAINT move_wait_is_not_below_0 CHECK (move_wait OPERATOR(pg_catalog.>=) interval '0'),
	away_after interval NOT NULL DEFAULT '3s'
		CONSTRAINT away_after_is_a_second_or_more CHECK (away_after OPERATOR(pg_catalog.>=) interval '1s')
);
COMMENT ON TABLE rate_limit_proxy IS
'How this proxy works, one row. All proxies of the same nodes have the same row.';
COMMENT ON COLUMN rate_limit_proxy.one IS 'true: there is one row';
COMMENT ON COLUMN rate_limit_proxy.partitions IS 'how many partitions all keys are divided into; may be changed only before rl_create_partitions()';
COMMENT ON COLUMN rate_limit_proxy.seed IS 'secret that the partition of a key depends on, so that nobody who chooses keys can aim at one node';
COMMENT ON COLUMN rate_limit_proxy.on_error IS 'what becomes of a call whose node is away: error, allow or deny';
COMMENT ON COLUMN rate_limit_proxy.move_wait IS 'how long a call waits for a partition that is being moved, before on_error decides';
COMMENT ON COLUMN rate_limit_proxy.away_after IS 'how long a node is silent on the network before it is away';

-- The row of a dump, or of the first proxy, takes the place of the one made here.
CREATE FUNCTION _rl_replace_proxy() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM @extschema@.rate_limit_proxy;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION _rl_replace_proxy() IS 'Trigger of rate_limit_proxy: there is one row, the last that was inserted.';
CREATE TRIGGER rate_limit_proxy_replaced BEFORE INSERT ON rate_limit_proxy
FOR EACH ROW EXECUTE FUNCTION _rl_replace_proxy();
ALTER TABLE rate_limit_proxy ENABLE ALWAYS TRIGGER rate_limit_proxy_replaced;

INSERT INTO rate_limit_proxy (seed)
SELECT ('x' OPERATOR(pg_catalog.||) pg_catalog.left(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint;

CREATE TABLE rate_limit_nodes (
	node text COLLATE pg_catalog."C" PRIMARY KEY
		CONSTRAINT node_not_empty CHECK (node OPERATOR(pg_catalog.<>) ''),
	connection text NOT NULL
		CONSTRAINT connection_has_no_user_and_no_password CHECK (connection OPERATOR(pg_catalog.!~) '(user|password|passfile|options) *=')
);
COMMENT ON TABLE rate_limit_nodes IS
'The servers with ratelimit that keys are spread over. A change is obeyed by every session''s next call once it is committed.';
COMMENT ON COLUMN rate_limit_nodes.node IS 'name of the node';
COMMENT ON COLUMN rate_limit_nodes.connection IS 'where it is, as libpq reads it: host=... port=... dbname=...; the role and its password are in the user mapping of the server "ratelimit"';

CREATE TABLE rate_limit_partitions (
	partition integer PRIMARY KEY,
	node text COLLATE pg_catalog."C" NOT NULL REFERENCES rate_limit_nodes ON UPDATE CASCADE,
	moves bigint NOT NULL DEFAULT 1
);
COMMENT ON TABLE rate_limit_partitions IS
'Which node has which partition of the keys. Written by rl_create_partitions() and rl_move_partition() only.';
COMMENT ON COLUMN rate_limit_partitions.partition IS 'number of the partition, from 0';
COMMENT ON COLUMN rate_limit_partitions.node IS 'the node that has its buckets';
COMMENT ON COLUMN rate_limit_partitions.moves IS 'how often the partition has been given to a node';

SELECT pg_catalog.pg_extension_config_dump('rate_limit_proxy', '');
SELECT pg_catalog.pg_extension_config_dump('rate_limit_nodes', '');
SELECT pg_catalog.pg_extension_config_dump('rate_limit_partitions', '');

-- PL/Proxy reads from a server's options where partition 0, 1, ... is.  After the partitions
-- come the nodes, in the order of their names, so that one can be asked that has no partition.
-- Options that are equal share a connection.  There is at least one place, so that one leads
-- nowhere until there is a node.
CREATE SERVER ratelimit FOREIGN DATA WRAPPER plproxy OPTIONS (modular_mapping '1', p0 'host=/nowhere');
COMMENT ON SERVER ratelimit IS 'Where the partitions and the nodes are. Written by triggers of rate_limit_nodes and rate_limit_partitions only.';

CREATE FUNCTION _rl_nodes_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	changes text;
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.rate_limit_nodes) THEN
		RETURN NULL;
	END IF;
	WITH located AS (SELECT node, connection || format(' options=%L', '-cdatestyle=ISO -cintervalstyle=postgres -cextra_float_digits=1')
			|| CASE WHEN connection ~ 'host(addr)? *= *''?[^/'']' THEN
				format(' tcp_user_timeout=%s keepalives_idle=1 keepalives_interval=1 keepalives_count=%s',
					floor(extract(epoch FROM away_after) * 1000), greatest(floor(extract(epoch FROM away_after)) - 1, 1)) ELSE '' END AS location,
			partitions + rank() OVER (ORDER BY node) - 1 AS place
		FROM @extschema@.rate_limit_nodes, @extschema@.rate_limit_proxy),
	wanted AS (SELECT 'p' || i AS name, coalesce(n.location, (SELECT min(location) FROM located)) AS value
			FROM @extschema@.rate_limit_proxy, generate_series(0, partitions - 1) i
				LEFT JOIN @extschema@.rate_limit_partitions p ON p.partition = i
				LEFT JOIN located n ON n.node = p.node
		UNION ALL SELECT 'p' || place, location FROM located
		UNION ALL SELECT 'modular_mapping', '1'),
	present AS (SELECT o.option_name AS name, o.option_value AS value
		FROM pg_foreign_server, pg_options_to_table(srvoptions) o WHERE srvname = 'ratelimit')
	SELECT string_agg(CASE WHEN w.name IS NULL THEN format('DROP %I', p.name)
		ELSE format('%s %I %L', CASE WHEN p.name IS NULL THEN 'ADD' ELSE 'SET' END, w.name, w.value) END, ', ')
	INTO changes
	FROM wanted w FULL JOIN present p ON p.name = w.name
	WHERE w.value IS DISTINCT FROM p.value;

	IF changes IS NOT NULL THEN
		EXECUTE format('ALTER SERVER ratelimit OPTIONS (%s)', changes);
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION _rl_nodes_changed() IS
'Trigger of rate_limit_nodes, rate_limit_partitions and rate_limit_proxy: tells PL/Proxy where partitions are.';
-- Rows that are replicated fire row triggers only, and only those enabled always.
CREATE TRIGGER rate_limit_nodes_changed AFTER INSERT OR UPDATE OR DELETE ON rate_limit_nodes
FOR EACH ROW EXECUTE FUNCTION _rl_nodes_changed();
ALTER TABLE rate_limit_nodes ENABLE ALWAYS TRIGGER rate_limit_nodes_changed;
CREATE TRIGGER rate_limit_partitions_changed AFTER INSERT OR UPDATE OR DELETE ON rate_limit_partitions
FOR EACH ROW EXECUTE FUNCTION _rl_nodes_changed();
ALTER TABLE rate_limit_partitions ENABLE ALWAYS TRIGGER rate_limit_partitions_changed;
CREATE TRIGGER rate_limit_proxy_changed AFTER INSERT OR UPDATE ON rate_limit_proxy
FOR EACH ROW EXECUTE FUNCTION _rl_nodes_changed();
ALTER TABLE rate_limit_proxy ENABLE ALWAYS TRIGGER rate_limit_proxy_changed;

-- The place of a node behind the partitions.
CREATE FUNCTION _rl_place(node text) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM @extschema@.rate_limit_nodes n WHERE n.node = $1) THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('node "%s" does not exist', $1);
	END IF;
	RETURN (SELECT partitions FROM @extschema@.rate_limit_proxy)
		+ (SELECT count(*) FROM @extschema@.rate_limit_nodes n WHERE n.node < $1);
END $$;
COMMENT ON FUNCTION _rl_place(text) IS 'Where PL/Proxy finds a node: behind all partitions.';
