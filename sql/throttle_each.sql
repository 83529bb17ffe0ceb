-- Several calls at once, each by a rule of its own.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

CREATE FUNCTION show(answers rl_result[]) RETURNS TABLE (n bigint, allowed boolean, capacity float8, remaining float8, retry_after interval, limiter text, shadowed boolean)
LANGUAGE sql AS 'SELECT a.n, a.allowed, a.capacity, a.remaining, a.retry_after, a.limiter, a.shadowed FROM unnest(answers) WITH ORDINALITY a (allowed, capacity, remaining, retry_after, reset_after, limiter, shadowed, period, n) ORDER BY n';

-- an answer each, in order
SELECT * FROM show(rl_throttle_each(ARRAY['u', 'ip', 'u', 'u'], ARRAY[2, 5, 2, 2], ARRAY[0, 0, 0, 0]));
SELECT * FROM show(rl_throttle_each(ARRAY['u', 'ip', 'v'], ARRAY[3, 5, 0], ARRAY[0, 0, 1], ARRAY[1, 4.5, 1], ARRAY['login', 'default', 'login']));
-- one bucket by two rules: the second changes its parameters
SELECT * FROM show(rl_throttle_each(ARRAY['w', 'w', 'w'], ARRAY[10, 3, 10], ARRAY[0, 0, 0]));
-- the same as rl_throttle()
SELECT (rl_throttle_each(ARRAY['same'], ARRAY[10], ARRAY[0], ARRAY[3]))[1] = rl_throttle('same too', 10, 0, 3);
-- none, and as many as may be
SELECT rl_throttle_each('{}', '{}', '{}'), rl_throttle_each('{}', '{}', '{}', '{}', '{}');
SELECT count(*), bool_and(a.allowed) FROM unnest((SELECT rl_throttle_each(array_agg('many ' || i), array_agg(1.0), array_agg(0.0)) FROM generate_series(1, 1000) i)) a;
SELECT cardinality(rl_throttle_each(array_fill('k'::text, ARRAY[100000]), array_fill(1::float8, ARRAY[100000]), array_fill(0::float8, ARRAY[100000]), array_fill(0::float8, ARRAY[100000])));
SELECT rl_throttle_each(array_fill('k'::text, ARRAY[100001]), array_fill(1::float8, ARRAY[100001]), array_fill(0::float8, ARRAY[100001]));
-- elements of arrays in arrays count one after the other
SELECT * FROM show(rl_throttle_each(ARRAY[['d', 'e'], ['d', 'd']], ARRAY[2, 2, 2, 2], ARRAY[[0, 0, 0, 0]]));
SELECT * FROM show(rl_throttle_each('[5:6]={f,g}', '[0:1]={1,2}', ARRAY[0, 0]));
-- blocked
SELECT rl_block('blocked', '1 day');
SELECT n, allowed, remaining, retry_after > '23 hours' AS later FROM show(rl_throttle_each(ARRAY['blocked', 'not'], ARRAY[2, 2], ARRAY[1, 0]));
-- settings
SET ratelimit.shadow = on;
SELECT * FROM show(rl_throttle_each(ARRAY['u', 'x'], ARRAY[2, 2], ARRAY[0, 0]));
RESET ratelimit.shadow;
SET ratelimit.enabled = off;
SELECT * FROM show(rl_throttle_each(ARRAY['u', 'x'], ARRAY[2, 2], ARRAY[0, 0]));
RESET ratelimit.enabled;
-- violations
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details GROUP BY limiter, key ORDER BY limiter, key;

-- bad arguments: nothing is taken
SELECT rl_throttle_each(NULL, ARRAY[1], ARRAY[0]);
SELECT rl_throttle_each(ARRAY['k'], NULL, ARRAY[0]);
SELECT rl_throttle_each(ARRAY['k'], ARRAY[1], NULL);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1], ARRAY[0, 0]);
SELECT rl_throttle_each(ARRAY['k'], ARRAY[1], ARRAY[0, 0]);
SELECT rl_throttle_each(ARRAY['k'], ARRAY[1], ARRAY[0], '{}');
SELECT rl_throttle_each(ARRAY['k'], ARRAY[1], ARRAY[0], NULL, ARRAY['a', 'b']);
SELECT rl_throttle_each(ARRAY['k', NULL], ARRAY[1, 1], ARRAY[0, 0]);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, NULL], ARRAY[0, 0]);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, 1], ARRAY[0, 0], ARRAY[1, NULL]);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, 1], ARRAY[0, 0], NULL, ARRAY['a', NULL]);
SELECT rl_throttle_each(ARRAY['k', ''], ARRAY[1, 1], ARRAY[0, 0]);
SELECT rl_throttle_each(ARRAY['k', repeat('x', 256)], ARRAY[1, 1], ARRAY[0, 0]);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, -1], ARRAY[0, 0]);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, 1], ARRAY[0, 'NaN'::float8]);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, 1], ARRAY[0, 0], ARRAY[1, 'Infinity'::float8]);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, 1], ARRAY[0, 0], NULL, ARRAY['a', 'a:b']);
SELECT rl_throttle_each(ARRAY['k', 'l'], ARRAY[1, 1], ARRAY[0, 0], NULL, ARRAY['a', '']);
SELECT count(*) FROM rate_limit_status WHERE key IN ('k', 'l');

DROP FUNCTION show(rl_result[]);
DROP EXTENSION ratelimit;
