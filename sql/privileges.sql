-- Who may do what; and every public object says what it is.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
CREATE ROLE ratelimit_app;
CREATE ROLE ratelimit_watcher IN ROLE pg_monitor;

SELECT p.oid::regprocedure AS function,
	has_function_privilege('ratelimit_app', p.oid, 'EXECUTE') AS app,
	has_function_privilege('ratelimit_watcher', p.oid, 'EXECUTE') AS monitor
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
ORDER BY p.proname;
SELECT c.relname,
	has_table_privilege('ratelimit_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') AS app,
	has_table_privilege('ratelimit_watcher', c.oid, 'SELECT') AS monitor,
	has_table_privilege('ratelimit_watcher', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS monitor_writes
FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
WHERE c.relkind IN ('r', 'v') ORDER BY 1;

-- an application role has no rights on the table its calls may write
SET ROLE ratelimit_app;
SELECT rl_consume('app', 1, 0), rl_consume('app', 1, 0);
SELECT rl_reset('app');
SELECT * FROM rate_limit_status;
SELECT * FROM rate_limit_buckets;
SET ROLE ratelimit_watcher;
SELECT key, tokens FROM rate_limit_status;
RESET ROLE;

-- names that mislead change nothing
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.equal(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 0';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.equal);
CREATE TEMP TABLE rate_limit_buckets (limiter text);
SET search_path = hostile, pg_catalog, public;
SELECT rl_consume('app', 1, 0), rl_consume('new', 1, 0), rl_consume('new', 1, 0);
RESET search_path;
DROP TABLE pg_temp.rate_limit_buckets;
DROP SCHEMA hostile CASCADE;

-- everything has a comment
SELECT pg_describe_object(d.classid, d.objid, 0) AS lacks_a_comment
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
WHERE d.deptype = 'e' AND obj_description(d.objid, d.classid::regclass::name) IS NULL
	AND pg_describe_object(d.classid, d.objid, 0) !~ '^(sequence|type .*(\[\]|rate_limit_))';
-- so has every column
CREATE VIEW columns_without_comment AS
SELECT c.oid::regclass AS relation, a.attname
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE (c.relname LIKE 'rate\_limit\_%' OR c.relname = 'rl_result') AND c.relkind IN ('r', 'v', 'c')
	AND coalesce(col_description(c.oid, a.attnum), '') = '';
SELECT * FROM columns_without_comment;
BEGIN;
COMMENT ON COLUMN rate_limit_stats.denied IS NULL;
COMMENT ON COLUMN rl_result.shadowed IS NULL;
SELECT * FROM columns_without_comment ORDER BY relation::text;
ROLLBACK;
DROP VIEW columns_without_comment;
SELECT c.relkind, count(*) AS columns FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE (c.relname LIKE 'rate\_limit\_%' OR c.relname = 'rl_result') AND c.relkind IN ('r', 'v', 'c') GROUP BY 1 ORDER BY 1;

-- arguments are in one order: a key before its limiter, which is "default" unless given
SELECT p.oid::regprocedure AS out_of_order, pg_get_function_arguments(p.oid) FROM pg_proc p
WHERE proname LIKE 'rl\_%' AND (array_position(proargnames, 'key') > array_position(proargnames, 'limiter')
	OR (array_position(proargnames, 'key') IS NOT NULL AND array_position(proargnames[1:pronargs], 'limiter') IS NOT NULL
		AND pg_get_function_arguments(p.oid) !~ 'limiter text DEFAULT ''default''::text'));
-- what only views and triggers use does not look like a function for everybody
SELECT proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
WHERE proname NOT LIKE 'rl\_%' ORDER BY 1;

-- no two functions of the same number of arguments share a name
SELECT proname FROM pg_proc WHERE proname LIKE 'rl\_%' GROUP BY proname HAVING count(*) > 1;

DROP EXTENSION ratelimit;
DROP ROLE ratelimit_app, ratelimit_watcher;
