-- Bad arguments raise an error that names the parameter and the value, and
-- change nothing.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

CREATE FUNCTION try(call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT ' || call;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;

SELECT args, try('rl_consume(' || args || ')') FROM (VALUES
	(1, $$NULL, 1, 1$$), (2, $$'k', NULL, 1$$), (3, $$'k', 1, NULL$$),
	(4, $$'k', 1, 1, NULL$$), (5, $$'k', 1, 1, 1, NULL$$),
	(6, $$'', 1, 1$$), (7, $$'k', 1, 1, 1, ''$$),
	(8, $$repeat('k', 255), 1, 0$$), (9, $$repeat('k', 256), 1, 1$$),
	(10, $$repeat('é', 128), 1, 1$$),
	(11, $$'k', 1, 0, 1, repeat('l', 63)$$), (12, $$'k', 1, 1, 1, repeat('l', 64)$$),
	(13, $$'k', 1, 1, 1, 'a:b'$$), (14, $$'k', 1, 1, 1, ':'$$),
	(15, $$'k', 0, 1$$), (16, $$'k', -1, 1$$), (17, $$'k', 'NaN', 1$$),
	(18, $$'k', 'Infinity', 1$$), (19, $$'k', '-Infinity', 1$$),
	(20, $$'k', 1, -0.5$$), (21, $$'k', 1, 'NaN'$$), (22, $$'k', 1, 'Infinity'$$),
	(23, $$'k', 1, 1, -1e-9$$), (24, $$'k', 1, 1, 'NaN'$$), (25, $$'k', 1, 1, 'Infinity'$$)
) v (n, args) ORDER BY n;

-- the others check alike
SELECT call, try(call) FROM (VALUES
	(1, $$rl_throttle(NULL, 1, 1)$$), (2, $$rl_throttle('k', -1, 1)$$),
	(3, $$rl_peek('k', 1, 1, 1, 'a:b')$$), (4, $$rl_peek('k', 1, -1)$$),
	(5, $$rl_reset(NULL)$$), (6, $$rl_reset('k', NULL)$$), (7, $$rl_reset('')$$),
	(8, $$rl_reset('k', 'a:b')$$), (9, $$rl_reset_all('')$$), (10, $$rl_reset_all('a:b')$$),
	(11, $$rl_simulate(NULL, 1, 1) OVER ()$$), (12, $$rl_simulate('infinity', 1, 1) OVER ()$$),
	(13, $$rl_simulate('2026-01-01', -1, 1) OVER ()$$), (14, $$rl_simulate('2026-01-01', 1, 1, NULL) OVER ()$$),
	(15, $$rl_simulate('2026-01-01', 1, 1)$$)
) v (n, call) ORDER BY n;

-- only the two calls without an error made a bucket
SELECT length(key), length(limiter) FROM rate_limit_status ORDER BY 1;

-- a misspelt setting is an error, so is a value that is none
SELECT try($$set_config('ratelimit.overflw', 'table', false)$$);
SELECT try($$set_config('ratelimit.on_error', 'maybe', false)$$);

DROP FUNCTION try(text);
DROP EXTENSION ratelimit;
