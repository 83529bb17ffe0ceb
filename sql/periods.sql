-- Allowances of periods: rl_consume_period, rl_throttle_period, rl_peek_period, rl_count.
-- The periods are 100 years, from 1970, so that none ends during the test.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
SET timezone = 'UTC';

-- three of an allowance of 3; also untyped, as drivers send them
SELECT i, rl_consume_period('alice', 3, '100 years') FROM generate_series(1, 4) i;
PREPARE untyped AS SELECT rl_consume_period($1, $2, $3);
EXECUTE untyped('bob', '1', '100 years');
EXECUTE untyped('bob', 1, '1200 months');
PREPARE untyped_count AS SELECT hits FROM rl_count($1, $2);
EXECUTE untyped_count('bob', '100 years');

-- each period, and rl_consume(), has a bucket of its own; so has each limiter
SELECT rl_consume_period('alice', 3, '200 years'), rl_consume('alice', 1, 0),
	rl_consume_period('alice', 1, '100 years', limiter => 'login'),
	rl_consume_period('alice', 3, '100 years');

-- cost 0 is always allowed, one above the allowance never, and takes nothing
SELECT rl_consume_period('erin', 2, '100 years', 0), rl_consume_period('erin', 2, '100 years', 3),
	rl_consume_period('erin', 2, '100 years', 2), rl_consume_period('erin', 2, '100 years', 0),
	rl_consume_period('erin', 2, '100 years', 1e-9);
-- an allowance of 0 denies everything
SELECT rl_consume_period('erin', 0, '100 years', 0), rl_consume_period('zero', 0, '100 years', 0);

-- fractions are exact
SELECT count(*) FILTER (WHERE rl_consume_period('frank', 1, '100 years', 0.1)) AS of_20 FROM generate_series(1, 20);
SELECT count(*) FILTER (WHERE rl_consume_period('grace', 0.3, '100 years', 0.1)) AS of_20 FROM generate_series(1, 20);
SELECT count(*) FILTER (WHERE rl_consume_period('third', 2, '100 years', 2.0 / 3)) AS of_20 FROM generate_series(1, 20);
SELECT count(*) FILTER (WHERE rl_consume_period('large', 1e12, '100 years', 1e11)) AS of_20 FROM generate_series(1, 20);
SELECT count(*) FILTER (WHERE rl_consume_period('long', 123456789, '100 years', 12345678.9)) AS of_20 FROM generate_series(1, 20);
SELECT hits FROM rl_count('long', '100 years', 0);

-- what has been used carries over when the allowance changes
SELECT count(*) FILTER (WHERE rl_consume_period('heidi', 3, '100 years')) AS of_3 FROM generate_series(1, 3);
SELECT count(*) FILTER (WHERE rl_consume_period('heidi', 5, '100 years')) AS of_5 FROM generate_series(1, 5);
SELECT rl_consume_period('heidi', 4, '100 years'), (rl_peek_period('heidi', 4, '100 years')).remaining;

-- the rest of the answer
SELECT allowed, capacity, remaining, retry_after = '0' AS now, reset_after > '1 year' AS reset, limiter, shadowed, period
FROM rl_throttle_period('ivan', 10, '100 years', 4, 'api');
SELECT allowed, remaining, retry_after = reset_after AS at_its_end, period
FROM rl_throttle_period('ivan', 10, '100 years', 7, 'api');
SELECT allowed, remaining, retry_after, reset_after FROM rl_peek_period('nobody', 10, '100 years', 11);
SELECT allowed, remaining FROM rl_peek_period('ivan', 10, '100 years', 6, 'api');
-- the fields: q is the allowance, w the period
SELECT h ->> 'RateLimit-Policy' AS policy, h ->> 'RateLimit' ~ '^"day";r=1;t=[0-9]+$' AS limit
FROM rl_headers(rl_throttle_period('judy', 2, 'day'), 'day') h;
SELECT rl_headers(rl_throttle_period('judy', 2, '100 years', 3)) ->> 'RateLimit-Policy';

-- counting, past any limit, and down, but not below 0
SELECT * FROM rl_count('kim', '100 years');
SELECT hits FROM rl_count('kim', '100 years', 2.5);
SELECT hits FROM rl_count('kim', '100 years', -1);
SELECT hits FROM rl_count('kim', '100 years', -10);
SELECT hits FROM rl_count('kim', '100 years', -1);
SELECT hits FROM rl_count('kim', '100 years', 1e15);
SELECT hits FROM rl_count('kim', '100 years', -1e15 + 1);
-- the same bucket, so each sees what the other has used
SELECT rl_consume_period('kim', 3, '100 years'), rl_consume_period('kim', 3, '100 years', 2),
	(rl_count('kim', '100 years')).hits;
SELECT remaining FROM rl_peek_period('kim', 2, '100 years');

-- what a person sees and does
SELECT limiter, key, tokens, capacity, refill, full_at, blocked_until, period FROM rate_limit_status
WHERE key IN ('alice', 'kim') ORDER BY limiter, key, period;
SELECT rl_block('kim', '1 hour'), rl_consume_period('kim', 100, '100 years');
SELECT hits FROM rl_count('kim', '100 years');
SELECT limiter, period, blocked_until > now() AS blocked FROM rate_limit_status WHERE key = 'kim' ORDER BY period;
SELECT rl_unblock('kim'), rl_consume_period('kim', 100, '100 years');
SELECT rl_reset('alice'), rl_consume_period('alice', 3, '100 years');
SELECT rl_reset('alice', period => '100 years'), rl_reset('alice', 'default', '100 years'), rl_consume_period('alice', 3, '100 years');
SELECT rl_consume_period('leo', 1, '100 years', 1, 'all'), rl_consume_period('leo', 1, '200 years', 1, 'all'), rl_consume('leo', 1, 0, 1, 'all'),
	rl_consume_period('leo', 1, '100 years', 1, 'al');
SELECT rl_reset_all('all'), rl_consume_period('leo', 1, '100 years', 1, 'all'), rl_consume_period('leo', 1, '100 years', 1, 'al');

-- violations are the limiter's
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details WHERE key IN ('alice', 'ivan') GROUP BY 1, 2 ORDER BY 1, 2;

-- settings
SET ratelimit.enabled = off;
SELECT rl_consume_period('mia', 1, '100 years', 5), * FROM rl_count('mia', '100 years');
RESET ratelimit.enabled;
SET ratelimit.shadow = on;
SELECT allowed, remaining, shadowed FROM rl_throttle_period('mia', 1, '100 years', 2);
RESET ratelimit.shadow;
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT rl_consume_period('nina', 5, '100 years', 3), (rl_count('nina', '100 years', 4)).hits;
SAVEPOINT s;
SELECT (rl_count('nina', '100 years', 10)).hits;
ROLLBACK TO s;
SELECT hits FROM rl_count('nina', '100 years', 0);
ROLLBACK;
SELECT hits FROM rl_count('nina', '100 years', 0);
RESET ratelimit.refund_on_rollback;

-- mistakes
SELECT rl_consume_period('a', 1, 'fortnight of mine');
SELECT rl_consume_period('a', 1, '');
SELECT rl_consume_period('a', 1, 'day Nowhere/Nothing');
SELECT rl_consume_period('a', -1, 'day');
SELECT rl_consume_period('a', 'Infinity', 'day');
SELECT rl_consume_period('a', 1, 'day', 'NaN');
SELECT rl_consume_period('a', 1, 'day', -1);
SELECT rl_consume_period('a', 1, NULL);
SELECT rl_consume_period(NULL, 1, 'day');
SELECT rl_throttle_period('a', NULL, 'day');
SELECT rl_consume_period('', 1, 'day');
SELECT rl_consume_period('a', 1, 'day', limiter => 'x:y');
SELECT rl_count('a', 'day', 'NaN');
SELECT rl_count('a', 'day', -2e18);
SELECT rl_count('a', NULL);

-- policies have a refill or a period; tiers of both kinds, all or nothing
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, period) VALUES
	('mixed', 'default', 3, NULL, '100 years'), ('mixed', 'burst', 2, 1e-9, NULL), ('plain', 'default', 2, NULL, '100 years');
SELECT rl_consume_policy('mixed', 'olga') FROM generate_series(1, 3);
SELECT hits FROM rl_count('olga', '100 years', 0, 'mixed');
SELECT tier, limiter, capacity, refill, round(tokens) AS tokens, period FROM rl_status_policy('mixed', 'olga');
SELECT rl_reset('olga', 'mixed/burst');
SELECT rl_consume_policy('mixed', 'olga') FROM generate_series(1, 2);
SELECT allowed, capacity, remaining, limiter, period FROM rl_throttle_policy('mixed', 'olga');
SELECT allowed, capacity, remaining, retry_after = reset_after AS at_its_end, limiter, period FROM rl_throttle_policy('plain', 'olga', 1);
SELECT rl_consume_policy('plain', 'olga') FROM generate_series(1, 2);
UPDATE rate_limit_policies SET period = '300 years' WHERE policy = 'plain';
SELECT rl_consume_policy('plain', 'olga');
INSERT INTO rate_limit_policies (policy, capacity, refill, period) VALUES ('bad', 1, 1, 'day');
INSERT INTO rate_limit_policies (policy, capacity) VALUES ('bad', 1);
INSERT INTO rate_limit_policies (policy, capacity, quota, period) VALUES ('bad', 1, true, 'day');
INSERT INTO rate_limit_policies (policy, capacity, period) VALUES ('bad', 1, 'someday');
UPDATE rate_limit_policies SET period = 'someday' WHERE policy = 'plain';

DROP EXTENSION ratelimit;
