-- The token bucket in a table, moved by a single statement (pgbench/upsert.sql):
-- no row comes back when the call is denied.
CREATE UNLOGGED TABLE upsert_bucket (
	key text COLLATE "C" PRIMARY KEY,
	tokens float8 NOT NULL,
	updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);

INSERT INTO upsert_bucket
SELECT 'user:' || i, 1e9, clock_timestamp() FROM generate_series(1, 10000) i;
VACUUM ANALYZE upsert_bucket;
