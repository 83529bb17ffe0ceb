
-- Who may do what, as ratelimit has it

-- The functions that only the others call.
DO $$
DECLARE
	f regprocedure;
BEGIN
	FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p
		WHERE p.pronamespace OPERATOR(pg_catalog.=) '@extschema@'::regnamespace
			AND p.proname OPERATOR(pg_catalog.~) '^_rl_(?!all_)'
			AND EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass AND d.objid OPERATOR(pg_catalog.=) p.oid
				AND d.deptype OPERATOR(pg_catalog.=) 'e' AND d.refobjid OPERATOR(pg_catalog.=) (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'ratelimit_proxy'))
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
	END LOOP;
END $$;
REVOKE ALL ON FUNCTION _rl_all_reset_all(text), _rl_all_flush(), _rl_all_stats_reset(),
	rl_create_partitions() FROM PUBLIC;
REVOKE ALL ON PROCEDURE rl_move_partition(integer, text, boolean, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION rl_reward(text, float8, text), rl_penalize(text, float8, float8, float8, text), rl_count(text, text, float8, text),
	rl_block(text, interval, text), rl_unblock(text, text),
	rl_reset(text, text, text), rl_reset_all(text), rl_status(text), rl_partitions(),
	rl_flush(), rl_report(text, text, bigint), rl_report_batch(jsonb), rl_flag(text, text, text),
	rl_unflag(text, text), rl_stats_reset() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rl_status(text), rl_partitions() TO pg_monitor;
REVOKE ALL ON rate_limit_proxy, rate_limit_nodes, rate_limit_partitions, rate_limit_policies, rate_limit_exceptions FROM PUBLIC;
GRANT SELECT ON rate_limit_nodes, rate_limit_partitions, rate_limit_policies, rate_limit_exceptions TO pg_monitor;

DROP FUNCTION _rl_define(text, text, text, text, text, text, text), _rl_types(text), _rl_columns(text), _rl_define_view(text, text, text);
