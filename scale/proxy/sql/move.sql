
-- Partitions given to nodes, and moved

CREATE FUNCTION _rl_node_take(integer, integer, bigint) RETURNS boolean LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_node_take($2, $3);
$$;
COMMENT ON FUNCTION _rl_node_take(integer, integer, bigint) IS 'rl_node_take() on one node.';
CREATE FUNCTION _rl_node_leave(integer, integer, integer, bigint) RETURNS boolean LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_node_leave($2, $3, $4);
$$;
COMMENT ON FUNCTION _rl_node_leave(integer, integer, integer, bigint) IS 'rl_node_leave() on one node.';
CREATE FUNCTION _rl_node_moves(integer, integer) RETURNS bigint LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_node_moves($2);
$$;
COMMENT ON FUNCTION _rl_node_moves(integer, integer) IS 'rl_node_moves() on one node.';
CREATE FUNCTION _rl_node_export(integer, integer, integer, bigint) RETURNS jsonb LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_node_export($2, $3, $4);
$$;
COMMENT ON FUNCTION _rl_node_export(integer, integer, integer, bigint) IS 'rl_node_export() on one node.';
CREATE FUNCTION _rl_node_import(integer, integer, integer, bigint, bigint, jsonb) RETURNS bigint LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_node_import($2, $3, $4, $5, $6);
$$;
COMMENT ON FUNCTION _rl_node_import(integer, integer, integer, bigint, bigint, jsonb) IS 'rl_node_import() on one node.';
CREATE FUNCTION _rl_node_forget(integer, integer, integer, bigint, bigint) RETURNS bigint LANGUAGE plproxy AS $$
	CLUSTER 'ratelimit'; RUN ON $1; SELECT @extschema@.rl_node_forget($2, $3, $4, $5);
$$;
COMMENT ON FUNCTION _rl_node_forget(integer, integer, integer, bigint, bigint) IS 'rl_node_forget() on one node.';

CREATE FUNCTION rl_create_partitions() RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	nodes text[] := ARRAY(SELECT node FROM @extschema@.rate_limit_nodes ORDER BY node);
	n integer := (SELECT partitions FROM @extschema@.rate_limit_proxy);
BEGIN
	IF EXISTS (SELECT FROM @extschema@.rate_limit_partitions) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'there are partitions already',
			HINT = 'To give some of them to another node, call rl_move_partition().';
	ELSIF nodes = '{}' THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'there is no node',
			HINT = 'Insert one into rate_limit_nodes.';
	END IF;
	PERFORM @extschema@._rl_node_take(@extschema@._rl_place(nodes[1 + p % cardinality(nodes)]), p, 1) FROM generate_series(0, n - 1) p;
	INSERT INTO @extschema@.rate_limit_partitions (partition, node)
	SELECT p, nodes[1 + p % cardinality(nodes)] FROM generate_series(0, n - 1) p;
	RETURN n;
END $$;
COMMENT ON FUNCTION rl_create_partitions() IS
'Divide all partitions among the nodes in rate_limit_nodes, once: how many there are. Errors: 55000 there are partitions already, or no node.';

-- First the source leaves the partition, so that nothing changes its buckets any more.  Then the
-- target makes them, and has the partition from the moment when all of them are there.  That is
-- recorded here last, and committed before the source forgets them.
--
-- Whatever fails on the way, the same call does the rest: "moves" says whether the target has the
-- partition by this move already.  A call that names the node that is recorded undoes a move that
-- was not.  It counts as two moves, so what the target may have is out of date.
CREATE FUNCTION _rl_check_moves(present rate_limit_partitions, lost boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	other text;
	its_moves bigint;
BEGIN
	FOR other IN SELECT n.node FROM @extschema@.rate_limit_nodes n WHERE NOT lost OR n.node <> present.node LOOP
		BEGIN
			its_moves := @extschema@._rl_node_moves(@extschema@._rl_place(other), present.partition);
		EXCEPTION WHEN OTHERS THEN
			-- it is away; if it has to do with this move, that will be noticed
			its_moves := NULL;
		END;
		-- one move may not have been recorded here, and an undone one at the node that is
		IF its_moves > present.moves + (CASE WHEN other = present.node THEN 2 ELSE 1 END) THEN
			RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
				MESSAGE = format('table rate_limit_partitions does not know the last moves of partition %s', present.partition),
				DETAIL = format('It has node "%s" and moves %s. Node "%s" has the partition since moves were %s.', present.node, present.moves, other, its_moves),
				HINT = 'If the table is from an older dump, write node and moves into it as the nodes have them.';
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION _rl_check_moves(rate_limit_partitions, boolean) IS
'An error if a node has got a partition by a move that this proxy does not know.';

CREATE FUNCTION _rl_move(partition integer, node text, lost boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	proxy @extschema@.rate_limit_proxy;
	old @extschema@.rate_limit_partitions;
	target integer := @extschema@._rl_place($2);
	moved bigint := 0;
	next_move bigint;
BEGIN
	SELECT * INTO STRICT proxy FROM @extschema@.rate_limit_proxy;
	SELECT * INTO old FROM @extschema@.rate_limit_partitions p WHERE p.partition = $1 FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('partition %s does not exist', $1);
	END IF;
	PERFORM @extschema@._rl_check_moves(old, $3);
	next_move := old.moves + CASE WHEN old.node = $2 THEN 2 ELSE 1 END;
	IF old.node = $2 THEN
		IF @extschema@._rl_node_moves(target, $1) = old.moves THEN
			RETURN 0;
		END IF;
		PERFORM @extschema@._rl_node_take(target, $1, next_move);
	ELSIF @extschema@._rl_node_moves(target, $1) IS DISTINCT FROM next_move THEN
		IF $3 THEN
			moved := @extschema@._rl_node_import(target, $1, proxy.partitions, proxy.seed, next_move, '[]');
		ELSE
			PERFORM @extschema@._rl_node_leave(@extschema@._rl_place(old.node), $1, proxy.partitions, proxy.seed);
			moved := @extschema@._rl_node_import(target, $1, proxy.partitions, proxy.seed, next_move,
				@extschema@._rl_node_export(@extschema@._rl_place(old.node), $1, proxy.partitions, proxy.seed));
		END IF;
	END IF;
	UPDATE @extschema@.rate_limit_partitions p SET node = $2, moves = next_move WHERE p.partition = $1;
	RETURN moved;
END $$;
COMMENT ON FUNCTION _rl_move(integer, text, boolean) IS 'Move a partition: how many buckets it had. Call rl_move_partition() instead.';

CREATE FUNCTION _rl_forget(partition integer) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	proxy @extschema@.rate_limit_proxy;
	present @extschema@.rate_limit_partitions;
	other text;
BEGIN
	SELECT * INTO STRICT proxy FROM @extschema@.rate_limit_proxy;
	SELECT * INTO STRICT present FROM @extschema@.rate_limit_partitions p WHERE p.partition = $1;
	FOR other IN SELECT n.node FROM @extschema@.rate_limit_nodes n WHERE n.node <> present.node LOOP
		BEGIN
			PERFORM @extschema@._rl_node_forget(@extschema@._rl_place(other), $1, proxy.partitions, proxy.seed, present.moves);
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING USING MESSAGE = format('node "%s" may still show buckets of partition %s', other, $1), DETAIL = SQLERRM;
		END;
	END LOOP;
END $$;
COMMENT ON FUNCTION _rl_forget(integer) IS 'Have all nodes but the one that has a partition forget its buckets.';

CREATE PROCEDURE rl_move_partition(partition integer, node text, lost boolean DEFAULT false, INOUT buckets bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
	buckets := @extschema@._rl_move($1, $2, $3);
	COMMIT;
	PERFORM @extschema@._rl_forget($1);
END $$;
COMMENT ON PROCEDURE rl_move_partition(integer, text, boolean, bigint) IS
'Move a partition to another node, with its buckets and blocks: buckets says how many there were. Meanwhile calls on its keys wait, see rate_limit_proxy.move_wait. lost: the node that has it is lost, and all its buckets are full. To finish a move that has failed, call it again; to undo it, name the node in rate_limit_partitions. Errors: 42704 no such partition or node; 55000 a node has got it by a move that this proxy does not know; 55006 a key of the partition holds slots; 55P03 a call takes longer than a second.';
