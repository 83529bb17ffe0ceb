-- The token bucket in a table, computed by the application in a transaction of
-- three statements (pgbench/three_statements.sql).  An ordinary table, as applications'
-- limiters make; row three_unlogged makes it unlogged.
CREATE TABLE three_bucket (
	key text COLLATE "C" PRIMARY KEY,
	tokens float8 NOT NULL,
	updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);

INSERT INTO three_bucket
SELECT 'user:' || i, 1e9, clock_timestamp() FROM generate_series(1, 10000) i;
VACUUM ANALYZE three_bucket;
