-- Capacity 0 means nobody: every call is denied, for ever, and no bucket is made or changed.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

SELECT rl_consume('k', 0, 1), rl_consume('k', 0, 0), rl_consume('k', 0, 1, 0), rl_consume('k', '-0', 1), rl_consume('k', 0, 1e300, 1e300);
SELECT * FROM rl_throttle('k', 0, 10);
SELECT * FROM rl_throttle('k', '-0', 10, 0);
SELECT * FROM rl_peek('k', 0, 10, 0);
SELECT rl_consume_upto('k', 0, 1, 5), rl_consume_each(ARRAY['k', 'l', 'k'], 0, 1), rl_wait('k', 0, 1000, timeout => '1 hour'), rl_wait('k', 0, 1000, 0, '1 hour');
SELECT rl_headers(rl_throttle('k', 0, 10), 'closed');
SELECT rl_enforce('e', 0, 10);
SELECT * FROM rate_limit_status;
SELECT rl_reset('k'), rl_reward('k', 5);
SELECT rl_penalize('k', 0, 1, 5);
SELECT rl_consume('k', -1, 1);

-- a bucket that there is stays as it is, and so does a block
SELECT rl_consume('b', 10, 0, 4), rl_consume('timed', 10, 0.0001, 4);
SELECT rl_consume('b', 0, 0), rl_consume('timed', 0, 5), rl_consume_each(ARRAY['b', 'timed'], 0, 0, 0), rl_consume_upto('b', 0, 1, 2), rl_wait('b', 0, 0);
SELECT remaining FROM rl_throttle('b', 0, 1);
SELECT key, tokens::int, capacity, refill FROM rate_limit_status ORDER BY key;
SELECT rl_consume('b', 10, 0, 7), rl_consume('b', 10, 0, 6), rl_consume('timed', 10, 0.0001, 6.5), rl_consume('timed', 10, 0.0001, 6);
SELECT rl_block('b', '1 hour'), rl_consume('b', 0, 0), rl_unblock('b'), rl_consume('b', 0, 0), rl_consume('b', 10, 0, 0);

-- all or nothing: nothing is taken from the others, and only those that refuse are violated
SELECT rl_consume_all(ARRAY['x', 'y'], ARRAY[10, 0], ARRAY[0, 0], limiters => ARRAY['open', 'closed']),
	rl_consume_all(ARRAY['x', 'y', 'b'], ARRAY[10, 0, 10], ARRAY[0, 0, 0], limiters => ARRAY['open', 'closed', 'default']),
	rl_consume_all(ARRAY['y', 'y'], ARRAY[0, 0], ARRAY[0, 0], ARRAY[0, 0]);
SELECT rl_consume_all(ARRAY['y', 'y'], ARRAY[0, 10], ARRAY[0, 0]);
SELECT key, tokens::int FROM rate_limit_status ORDER BY key;

-- policies
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('closed', 'default', 0, 1, false), ('part', 'default', 5, 0, true), ('part', 'none', 0, 0, true);
SELECT rl_consume_policy('closed', 'p'), rl_consume_policy('closed', 'p', 0), rl_consume_policy('part', 'p');
SELECT * FROM rl_throttle_policy('closed', 'p');
SELECT * FROM rl_throttle_policy('part', 'p');
SELECT * FROM rl_status_policy('part', 'p');
UPDATE rate_limit_policies SET shadow = true WHERE capacity = 0;
SELECT * FROM rl_throttle_policy('part', 'p');
SELECT * FROM rl_throttle_policy('closed', 'p');
UPDATE rate_limit_policies SET enabled = false WHERE capacity = 0;
SELECT * FROM rl_throttle_policy('closed', 'p');

-- settings
SET ratelimit.shadow = on;
SELECT * FROM rl_throttle('k', 0, 1);
SELECT * FROM rl_peek('k', 0, 1);
SELECT rl_consume('k', 0, 1), rl_consume_upto('k', 0, 1, 3), rl_wait('k', 0, 1);
RESET ratelimit.shadow;
SET ratelimit.enabled = off;
SELECT * FROM rl_throttle('k', 0, 1);
RESET ratelimit.enabled;
SET ratelimit.on_error = 'allow';
SELECT rl_consume('k', 0, 1), rl_consume('new', 0, 1);
RESET ratelimit.on_error;
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT rl_consume('r', 10, 0, 4), rl_consume('r', 0, 1), rl_consume('e', 0, 1);
ROLLBACK;
SELECT remaining FROM rl_peek('r', 10, 0, 0);
RESET ratelimit.refund_on_rollback;

-- without preloading, a rollback takes violations back
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details WHERE key NOT IN ('e', 'r') GROUP BY limiter, key ORDER BY limiter, key;

-- on recorded traffic, among calls of another capacity
SELECT n, rl_simulate(ts, capacity, refill) OVER (ORDER BY n) FROM (VALUES
	(1, '2026-01-01 00:00:00'::timestamptz, 0, 1), (2, '2026-01-01 00:00:00', 2, 1), (3, '2026-01-01 00:00:00', 2, 1), (4, '2026-01-01 00:00:00', 2, 1),
	(5, '2026-01-01 00:00:01', 0, 0), (6, '2026-01-01 00:00:00', 2, 1), (7, '2026-01-01 00:00:01', 2, 1), (8, '2026-01-01 00:00:01.999999', 0, 1),
	(9, '2026-01-01 00:00:01.999999', 2, 1), (10, '2026-01-01 00:00:02', 2, 1)) calls (n, ts, capacity, refill);

DROP EXTENSION ratelimit;
