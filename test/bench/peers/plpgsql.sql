-- The token bucket in a table, as a PL/pgSQL function that locks its row.  Unlogged,
-- with room in each page for updates that touch no index.
CREATE UNLOGGED TABLE plpgsql_bucket (
	key text COLLATE "C" PRIMARY KEY,
	tokens float8 NOT NULL,
	updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION plpgsql_consume(p_key text, p_capacity float8, p_refill float8, p_cost float8 DEFAULT 1)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	bucket plpgsql_bucket;
	at timestamptz;
	available float8;
BEGIN
	SELECT * INTO bucket FROM plpgsql_bucket WHERE key = p_key FOR UPDATE;
	IF NOT FOUND THEN
		INSERT INTO plpgsql_bucket VALUES (p_key, p_capacity, clock_timestamp())
		ON CONFLICT (key) DO NOTHING;
		SELECT * INTO bucket FROM plpgsql_bucket WHERE key = p_key FOR UPDATE;
	END IF;
	at := clock_timestamp();
	available := least(p_capacity, bucket.tokens +
		p_refill * date_part('epoch', at - bucket.updated_at));
	IF available < p_cost THEN
		RETURN false;
	END IF;
	UPDATE plpgsql_bucket SET tokens = available - p_cost, updated_at = at
	WHERE key = p_key;
	RETURN true;
END
$$;

INSERT INTO plpgsql_bucket
SELECT 'user:' || i, 1e9, clock_timestamp() FROM generate_series(1, 10000) i;
VACUUM ANALYZE plpgsql_bucket;
