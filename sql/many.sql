-- Several calls at once: as many tokens as there are, each by itself, all or nothing.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

-- as many whole tokens as there are
SELECT rl_consume_upto('u', 10, 0, 4), rl_consume_upto('u', 10, 0, 100), rl_consume_upto('u', 10, 0, 1);
SELECT rl_consume_upto('half', 2.5, 0, 5), (rl_peek('half', 2.5, 0, 0)).remaining;
SELECT rl_consume_upto('wish', 10, 0, 2.9), rl_consume_upto('wish', 10, 0, 0.9), rl_consume_upto('wish', 10, 0, 0);
SELECT rl_consume_upto('large', 1e12, 0, 1e15), rl_consume_upto('larger', 1e300, 0, 1e299);
-- what became of these calls: one of them got nothing of what it wanted
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details GROUP BY limiter, key ORDER BY limiter, key;

-- each by itself, in order
SELECT rl_consume_each(ARRAY['a', 'b', 'a', 'a', 'b'], 2, 0);
SELECT rl_consume_each(ARRAY['a', 'b', 'c'], 2, 0, cost => 0.5, limiter => 'other');
SELECT rl_consume_each('{}', 2, 0), rl_consume_each(ARRAY[['d', 'e'], ['d', 'd']], 2, 0);
-- nothing is taken when one of the keys is bad
SELECT rl_consume_each(ARRAY['good', NULL], 2, 0);
SELECT rl_consume_each(ARRAY['good', ''], 2, 0);
SELECT rl_consume_each(ARRAY['good', repeat('x', 256)], 2, 0);
SELECT rl_consume_each(ARRAY['good'], 2, -1);
SELECT (rl_peek('good', 2, 0, 0)).remaining;

-- all or nothing
SELECT rl_consume_all(ARRAY['user', 'ip', 'all'], ARRAY[3, 5, 100], ARRAY[0, 0, 0]) FROM generate_series(1, 4);
SELECT key, tokens FROM rate_limit_status WHERE key IN ('user', 'ip', 'all') ORDER BY key;
SELECT rl_consume_all(ARRAY['user', 'ip'], ARRAY[3, 5], ARRAY[0, 0], ARRAY[0, 2], ARRAY['default', 'default']),
	rl_consume_all(ARRAY['user', 'ip'], ARRAY[3, 5], ARRAY[0, 0], limiters => ARRAY['x', 'y']);
-- given twice: both costs
SELECT rl_consume_all(ARRAY['twice', 'twice'], ARRAY[3, 3], ARRAY[0, 0], ARRAY[1, 1]), (rl_peek('twice', 3, 0, 0)).remaining;
SELECT rl_consume_all(ARRAY['twice', 'twice'], ARRAY[3, 3], ARRAY[0, 0], ARRAY[0.5, 1]), (rl_peek('twice', 3, 0, 0)).remaining;
SELECT rl_consume_all(ARRAY['twice', 'twice'], ARRAY[3, 4], ARRAY[0, 0]);
-- parameters change when tokens are taken, and only then
SELECT rl_consume_all(ARRAY['twice', 'no'], ARRAY[2, 1], ARRAY[0, 0], ARRAY[0, 2]);
SELECT capacity FROM rate_limit_status WHERE key = 'twice';
SELECT rl_consume_all(ARRAY['twice', 'no'], ARRAY[2, 1], ARRAY[0, 0], ARRAY[0, 1]);
SELECT capacity, tokens FROM rate_limit_status WHERE key = 'twice';
-- none at all, and as many as may be
SELECT rl_consume_all('{}', '{}', '{}');
SELECT rl_consume_all(array_agg('key ' || i), array_agg(1.0), array_agg(0.0)) FROM generate_series(1, 64) i;
SELECT rl_consume_all(array_agg('key ' || i), array_agg(1.0), array_agg(0.0)) FROM generate_series(1, 65) i;
-- who refuses is who is violated
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details GROUP BY limiter, key ORDER BY limiter, key;

-- bad arguments
SELECT rl_consume_all(NULL, ARRAY[1], ARRAY[0]);
SELECT rl_consume_all(ARRAY['k'], NULL, ARRAY[0]);
SELECT rl_consume_all(ARRAY['k'], ARRAY[1], NULL);
SELECT rl_consume_all(ARRAY['k', 'l'], ARRAY[1], ARRAY[0, 0]);
SELECT rl_consume_all(ARRAY['k'], ARRAY[1], ARRAY[0, 0]);
SELECT rl_consume_all(ARRAY['k'], ARRAY[1], ARRAY[0], ARRAY[1, 1]);
SELECT rl_consume_all(ARRAY['k'], ARRAY[1], ARRAY[0], ARRAY[1], '{}');
SELECT rl_consume_all(ARRAY['k', NULL], ARRAY[1, 1], ARRAY[0, 0]);
SELECT rl_consume_all(ARRAY['k', 'l'], ARRAY[1, NULL], ARRAY[0, 0]);
SELECT rl_consume_all(ARRAY['k'], ARRAY[-1], ARRAY[0]);
SELECT rl_consume_all(ARRAY['k'], ARRAY[1], ARRAY[0], ARRAY[-1]);
SELECT rl_consume_all(ARRAY['k'], ARRAY[1], ARRAY[0], NULL, ARRAY['a:b']);
SELECT rl_consume_upto('k', 1, 0, NULL);
SELECT rl_consume_upto('k', 1, 0, -1);
SELECT rl_consume_upto('k', 1, 0, 'NaN');
SELECT count(*) FROM rate_limit_status WHERE key IN ('k', 'l');

DROP EXTENSION ratelimit;
