-- Calls counted per window of time, each key under an advisory lock.
CREATE UNLOGGED TABLE advisory_counter (
	key text COLLATE "C" PRIMARY KEY,
	window_start bigint NOT NULL,
	calls bigint NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION advisory_consume(p_key text, p_limit bigint, p_seconds bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	this_window bigint;
	so_far bigint;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtextextended(p_key, 0));
	this_window := date_part('epoch', clock_timestamp())::bigint / p_seconds;
	UPDATE advisory_counter
	SET calls = CASE WHEN window_start = this_window THEN calls + 1 ELSE 1 END,
		window_start = this_window
	WHERE key = p_key
	RETURNING calls INTO so_far;
	IF NOT FOUND THEN
		INSERT INTO advisory_counter VALUES (p_key, this_window, 1);
		RETURN true;
	END IF;
	RETURN so_far <= p_limit;
END
$$;

INSERT INTO advisory_counter
SELECT 'user:' || i, 0, 0 FROM generate_series(1, 10000) i;
VACUUM ANALYZE advisory_counter;
