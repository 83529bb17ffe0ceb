-- Buckets that do not begin full: the column initial of rate_limit_policies.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, initial) VALUES
	('new', 'default', 10, 0, true, 3), ('none', 'default', 5, 0.001, false, 0), ('full', 'default', 4, 0, true, 4),
	('two', 'few', 10, 0.001, false, 2), ('two', 'many', 100, 0, true, NULL), ('one', 'default', 2, 0, true, NULL);

-- before the first call
SELECT limiter, capacity, tokens, retry_after, reset_after FROM rl_status_policy('new', 'u');
SELECT tier, round(tokens) AS tokens, retry_after > '0' AS later FROM rl_status_policy('two', 'u');
SELECT round(tokens) AS tokens, round(extract(epoch FROM retry_after)) AS retry_after, round(extract(epoch FROM reset_after)) AS reset_after FROM rl_status_policy('none', 'u');
SELECT count(*) FROM rate_limit_status;
-- from then on it is a bucket like any other
SELECT r.allowed, r.remaining, r.retry_after FROM generate_series(1, 4) i, rl_throttle_policy('new', 'u' || i - i) r;
SELECT rl_reward('u0', 100, 'new'), (rl_throttle_policy('new', 'u0', 0)).remaining;
SELECT rl_consume_policy('full', 'u', 4), rl_consume_policy('full', 'u', 1);
-- a call of cost 0, and one that is denied, begin it too: then it refills
SELECT allowed, remaining FROM rl_throttle_policy('new', 'v', 0);
SELECT allowed, remaining FROM rl_throttle_policy('new', 'w', 4);
SELECT allowed, remaining >= 0 AND remaining < 1 AS little, retry_after BETWEEN '0' AND '1000 s' AS later FROM rl_throttle_policy('none', 'v');
SELECT limiter, key, round(tokens) AS tokens FROM rate_limit_status WHERE key IN ('v', 'w') ORDER BY limiter, key;
-- the same where another tier denies: its bucket is not made, as nothing is taken
SELECT allowed, limiter, round(remaining) AS remaining FROM rl_throttle_policy('two', 'v', 2.5);
SELECT limiter, key, round(tokens) AS tokens FROM rate_limit_status WHERE limiter ~ 'two' ORDER BY limiter, key;
SELECT n.limiter, n.allowed, round(n.remaining) AS remaining FROM unnest(rl_consume_policies('{two,new,one}', '{w,x,x}', '{1,1,3}')) n;
SELECT limiter, key, round(tokens) AS tokens FROM rate_limit_status WHERE limiter ~ 'two' OR key = 'x' ORDER BY limiter, key;
SELECT n.limiter, n.allowed, round(n.remaining) AS remaining FROM unnest(rl_consume_policies('{two,new,one}', '{w,x,x}', '{1,1,1}')) n;
-- one that is blocked does not begin
SELECT rl_block('blocked', '1 day', 'new');
SELECT allowed, remaining FROM rl_throttle_policy('new', 'blocked');
SELECT rl_unblock('blocked', 'new'), count(*) FROM rate_limit_status WHERE key = 'blocked' AND tokens IS NOT NULL;
-- given twice
SELECT n.allowed, n.remaining FROM unnest(rl_consume_policies('{new,new}', '{twice,twice}', '{1,1.5}')) n;
SELECT n.allowed, n.remaining FROM unnest(rl_consume_policies('{new,new}', '{more,more}', '{1,2.5}')) n;
-- it fills up to its capacity
INSERT INTO rate_limit_policies (policy, capacity, refill, initial) VALUES ('fast', 1000, 1e9, 10);
DO $$ BEGIN WHILE (rl_throttle_policy('fast', 'u', 0)).remaining < 1000 LOOP END LOOP; END $$;
SELECT allowed, remaining FROM rl_throttle_policy('fast', 'u', 900);
-- a change is for buckets that begin later
UPDATE rate_limit_policies SET initial = 8 WHERE policy = 'new';
SELECT (rl_throttle_policy('new', 'v', 0)).remaining, (rl_throttle_policy('new', 'y', 0)).remaining;
UPDATE rate_limit_policies SET initial = NULL WHERE policy = 'new';
SELECT (rl_throttle_policy('new', 'y', 0)).remaining, (rl_throttle_policy('new', 'z', 0)).remaining;
-- after a reset it is full
UPDATE rate_limit_policies SET initial = 3 WHERE policy = 'new';
SELECT rl_consume_policy('new', 'r'), rl_reset('r', 'new'), rl_reset('nobody', 'new');
-- in shadow, and with settings
UPDATE rate_limit_policies SET shadow = true WHERE policy = 'new';
SELECT r.allowed, r.remaining, r.shadowed FROM generate_series(1, 2) i, rl_throttle_policy('new', 's' || i - i, 2) r;
UPDATE rate_limit_policies SET shadow = false WHERE policy = 'new';
SET ratelimit.shadow = on;
SELECT allowed, remaining, shadowed FROM rl_throttle_policy('new', 't', 4);
SET ratelimit.enabled = off;
SELECT allowed FROM rl_throttle_policy('new', 'off', 4);
RESET ratelimit.enabled;
RESET ratelimit.shadow;
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details GROUP BY limiter, key ORDER BY limiter, key;
-- a rollback that gives back
BEGIN;
SET LOCAL ratelimit.refund_on_rollback = on;
SELECT rl_consume_policy('new', 'refund', 2);
ROLLBACK;
SELECT (rl_throttle_policy('new', 'refund', 0)).remaining;

-- what cannot be stored
INSERT INTO rate_limit_policies (policy, capacity, refill, initial) VALUES ('bad', 10, 1, -1);
INSERT INTO rate_limit_policies (policy, capacity, refill, initial) VALUES ('bad', 10, 1, 11);
INSERT INTO rate_limit_policies (policy, capacity, refill, initial) VALUES ('bad', 10, 1, 'NaN');
INSERT INTO rate_limit_policies (policy, capacity, refill, initial) VALUES ('bad', 10, 1, 'Infinity');

DROP EXTENSION ratelimit;
