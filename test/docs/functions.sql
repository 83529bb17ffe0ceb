-- The functions that begin with rl_, as a table for docs/reference.md: names of types as
-- people write them, no casts of defaults, and output columns as the result.
SELECT '| function | arguments | result | who may call it |'
UNION ALL
SELECT '| --- | --- | --- | --- |'
UNION ALL
(SELECT format('| [%s](#%1$s) | %s | `%s` | %s |', p.proname,
		coalesce('`' || nullif(array_to_string(ARRAY(
			SELECT a FROM unnest(string_to_array(arguments, ', ')) WITH ORDINALITY s (a, n)
			WHERE a NOT LIKE 'OUT %' ORDER BY n), ', '), '') || '`', ''),
		CASE WHEN result IN ('record', 'SETOF record')
			THEN regexp_replace(result, 'record', '')
				|| '(' || array_to_string(ARRAY(
					SELECT substr(a, 5) FROM unnest(string_to_array(arguments, ', ')) WITH ORDINALITY s (a, n)
					WHERE a LIKE 'OUT %' ORDER BY n), ', ') || ')'
			ELSE result END,
		CASE WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN 'every role'
			WHEN has_function_privilege('pg_monitor', p.oid, 'EXECUTE') THEN '`pg_monitor`'
			ELSE 'the extension''s owner' END)
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid,
LATERAL (SELECT replace(replace(pg_get_function_arguments(p.oid),
		'double precision', 'float8'), 'timestamp with time zone', 'timestamptz')) l (long),
LATERAL (SELECT regexp_replace(long, '::[a-z0-9]+(\[\])?', '', 'g'),
		replace(replace(pg_get_function_result(p.oid), 'double precision', 'float8'),
			'timestamp with time zone', 'timestamptz')) s (arguments, result)
WHERE e.extname = 'ratelimit' AND p.proname LIKE 'rl\_%' AND p.prorettype <> 'trigger'::regtype
ORDER BY p.proname);
