-- Blocks, debt and rewards.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

-- a block denies every call and leaves the tokens alone
SELECT rl_consume('b', 10, 0, 4);
SELECT rl_block('b', '1 hour');
SELECT rl_consume('b', 10, 0), rl_consume('b', 10, 0, 0), rl_consume_upto('b', 10, 0, 5),
	rl_consume_each(ARRAY['b', 'c'], 10, 0), rl_consume_all(ARRAY['b', 'c'], ARRAY[10, 10], ARRAY[0, 0]);
SELECT allowed, capacity, remaining, round(extract(epoch FROM retry_after) / 60) AS minutes, reset_after FROM rl_throttle('b', 10, 0);
SELECT allowed, remaining, round(extract(epoch FROM retry_after) / 60) AS minutes FROM rl_peek('b', 10, 0);
-- whichever is later, the block or the token; never stays never
SELECT rl_block('late', '1 s'), round(rl_penalize('late', 1, 0.001, 1)), rl_block('never', '1 day');
SELECT round(extract(epoch FROM retry_after), -1) AS round FROM rl_throttle('late', 1, 0.001);
SELECT allowed, retry_after FROM rl_throttle('never', 1, 0, 2);
-- of one limiter only
SELECT rl_consume('b', 10, 0, limiter => 'other');
SELECT limiter, key, tokens, capacity, refill, full_at, round(extract(epoch FROM blocked_until - now()) / 60) AS minutes
FROM rate_limit_status WHERE key IN ('b', 'never') ORDER BY limiter, key;
-- a reset is none of its business
SELECT rl_reset('b'), rl_consume('b', 10, 0), rl_reset_all('default') > 0, rl_reset_all(NULL) > 0, rl_consume('b', 10, 0);
-- another block takes its place
SELECT rl_block('b', '1 day'), rl_block('b', '2 hours');
SELECT round(extract(epoch FROM retry_after) / 60) AS minutes FROM rl_peek('b', 10, 0);
SELECT rl_unblock('b'), rl_unblock('b'), rl_consume('b', 10, 0);
-- for ever, as far as that goes; months have 30 days
SELECT rl_block('b', '100000000 years'), rl_consume('b', 10, 0), rl_unblock('b');
SELECT rl_block('b', '1 month 1 day'), round(extract(epoch FROM (rl_peek('b', 10, 0)).retry_after) / 86400) AS days, rl_unblock('b');
-- names of the greatest length
SELECT rl_block(repeat('k', 255), '1 day', repeat('l', 63)), rl_consume(repeat('k', 255), 1, 0, 1, repeat('l', 63)),
	rl_consume(repeat('k', 254), 1, 0, 1, repeat('l', 63)), rl_unblock(repeat('k', 255), repeat('l', 63));
-- bad arguments
SELECT rl_block('b', '0');
SELECT rl_block('b', '-1 s');
SELECT rl_block('b', NULL);
SELECT rl_block(NULL, '1 s');
SELECT rl_block('', '1 s');
SELECT rl_block('b', '1 s', 'a:b');
SELECT rl_unblock(NULL);
SELECT rl_unblock('b', '');

-- debt
SELECT rl_penalize('d', 10, 0, 4), rl_penalize('d', 10, 0, 10), rl_consume('d', 10, 0), rl_consume('d', 10, 0, 0);
SELECT * FROM rl_throttle('d', 10, 0);
SELECT key, tokens FROM rate_limit_status WHERE key = 'd';
SELECT rl_reward('d', 3), rl_consume('d', 10, 0), rl_reward('d', 2), rl_consume('d', 10, 0), rl_consume('d', 10, 0);
-- refilling pays it off first
SELECT rl_penalize('slow', 10, 0.001, 15);
SELECT round(extract(epoch FROM retry_after), -1) AS round, round(extract(epoch FROM reset_after), -1) AS round FROM rl_throttle('slow', 10, 0.001);
-- it carries over when the parameters change
SELECT round(remaining::numeric, 2) FROM rl_peek('slow', 20, 0.002, 0);
SELECT rl_penalize('slow', 20, 0.002, 0) BETWEEN -5.01 AND -4.9;
-- rewards: never above capacity, and nothing for a full bucket
SELECT rl_consume('r', 10, 0, 6), rl_reward('r', 2), (rl_peek('r', 10, 0, 0)).remaining, rl_reward('r', 100), rl_reward('r', 1);
SELECT rl_reward('nobody', 5), rl_reward('r', 0);
-- and what was taken comes back to the unit
SELECT rl_consume('third', 1, 0, 1.0 / 3), rl_consume('third', 1, 0, 1.0 / 3), rl_reward('third', 1.0 / 3), rl_reward('third', 1.0 / 3);
SELECT count(*) FROM rate_limit_status WHERE key = 'third';
-- bad arguments
SELECT rl_penalize('d', 10, 0, -1);
SELECT rl_penalize('d', 10, 0, 'NaN');
SELECT rl_penalize('d', 10, 0, NULL);
SELECT rl_penalize('d', 0, 0, 1);
SELECT rl_reward('d', -1);
SELECT rl_reward('d', 'Infinity');
SELECT rl_reward(NULL, 1);
SELECT rl_reward('d', 1, 'a:b');

DROP EXTENSION ratelimit;
