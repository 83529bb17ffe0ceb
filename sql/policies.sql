-- Rules by name.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, comment) VALUES
	('free', 'default', 2, 0, true, 'one tier'),
	('pro', 'burst', 3, 0, true, NULL), ('pro', 'day', 5, 0, true, NULL);
SELECT rl_consume_policy('free', 'u') FROM generate_series(1, 3);
-- the tier that binds most: fewest tokens left; when denied, the one that refuses
SELECT rl_throttle_policy('pro', 'u') FROM generate_series(1, 4);
SELECT rl_reset('u', 'pro/burst'), rl_throttle_policy('pro', 'u', 2), rl_throttle_policy('pro', 'u');
-- from all tiers or from none
SELECT limiter, key, tokens FROM rate_limit_status ORDER BY limiter;
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details GROUP BY limiter, key ORDER BY limiter, key;

-- a change is obeyed at once, one that is rolled back is not
UPDATE rate_limit_policies SET capacity = 100 WHERE policy = 'free';
SELECT rl_throttle_policy('free', 'v', 0);
BEGIN;
UPDATE rate_limit_policies SET capacity = 50 WHERE policy = 'free';
SELECT rl_throttle_policy('free', 'v', 0);
SAVEPOINT s;
DELETE FROM rate_limit_policies;
SELECT rl_consume_policy('free', 'v');
ROLLBACK TO s;
SELECT rl_throttle_policy('free', 'v', 0);
ROLLBACK;
SELECT rl_throttle_policy('free', 'v', 0);
BEGIN;
TRUNCATE rate_limit_policies;
SELECT rl_consume_policy('free', 'v');
ROLLBACK;
SELECT rl_consume_policy('free', 'v');

-- none of that name
SELECT rl_consume_policy('nobody''s', 'u');
SET ratelimit.on_error = 'allow';
SELECT rl_consume_policy('nobody''s', 'u'), rl_throttle_policy('nobody''s', 'u');
SET ratelimit.on_error = 'deny';
SELECT rl_consume_policy('nobody''s', 'u'), rl_throttle_policy('nobody''s', 'u');
RESET ratelimit.on_error;

-- in shadow: decided, recorded, allowed; other tiers do as they do
UPDATE rate_limit_policies SET shadow = true WHERE policy = 'pro' AND tier = 'burst';
SELECT rl_throttle_policy('pro', 'w') FROM generate_series(1, 6);
UPDATE rate_limit_policies SET shadow = true WHERE policy = 'pro';
SELECT rl_consume_policy('pro', 'w'), rl_throttle_policy('pro', 'w');
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details WHERE key = 'w' GROUP BY limiter, key ORDER BY limiter, key;
-- disabled: as if it were not there
UPDATE rate_limit_policies SET shadow = false, enabled = tier = 'day' WHERE policy = 'pro';
SELECT rl_throttle_policy('pro', 'x', 4);
UPDATE rate_limit_policies SET enabled = false WHERE policy = 'pro';
SELECT rl_throttle_policy('pro', 'x', 1000), rl_consume_policy('pro', 'x', 1000);

-- the cost of all tiers
UPDATE rate_limit_policies SET enabled = true WHERE policy = 'pro';
SELECT rl_throttle_policy('pro', 'y', 4), rl_throttle_policy('pro', 'y', 2.5), rl_throttle_policy('pro', 'y', 0);

-- a bad rule cannot be stored
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	name text;
BEGIN
	EXECUTE statement;
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS name = CONSTRAINT_NAME;
	RETURN concat_ws(' ', SQLSTATE, nullif(name, ''));
END $$;
SELECT n, try('INSERT INTO rate_limit_policies (policy, tier, capacity, refill) VALUES (' || v || ')') FROM (VALUES
	(1, $$'p', 't', 1, 0$$), (2, $$'p', 't', -1, 1$$), (3, $$'p', 't', 'NaN', 1$$), (4, $$'p', 't', 'Infinity', 1$$),
	(5, $$'p', 't', NULL, 1$$), (6, $$'p', 't', 1, -1$$), (7, $$'p', 't', 1, 'NaN'$$), (8, $$'p', 't', 1, 'Infinity'$$),
	(9, $$'p', 't', 1, NULL$$), (10, $$'', 't', 1, 1$$), (11, $$'p', '', 1, 1$$), (12, $$'p:q', 't', 1, 1$$),
	(13, $$'p', 't:u', 1, 1$$), (14, $$NULL, 't', 1, 1$$), (15, $$repeat('p', 64), 'default', 1, 1$$),
	(16, $$repeat('p', 63), 'default', 1, 1$$), (17, $$repeat('p', 62), 't', 1, 1$$), (18, $$repeat('p', 61), 't', 1, 1$$),
	(19, $$'pro/day', 'default', 1, 1$$), (20, $$'pro', 'day', 1, 1$$), (21, $$'a', 'b/c', 1, 1$$), (22, $$'a/b', 'c', 1, 1$$)
) s (n, v) ORDER BY n;
SELECT rl_consume_policy(repeat('p', 63), 'u'), rl_consume_policy(repeat('p', 61), 'u');

-- a refill of 0 is a quota, and a quota has no refill
SELECT n, try('INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES (' || v || ')') FROM (VALUES
	(1, $$'q', 'a', 3, 0, false$$), (2, $$'q', 'b', 3, '-0', false$$), (3, $$'q', 'c', 3, 1, true$$), (4, $$'q', 'd', 3, 1e-300, true$$),
	(5, $$'q', 'e', 3, 0, NULL$$), (6, $$'q', 'default', 3, 0, true$$), (7, $$'q', 'f', 3, rl_per(5, '1 day'), false$$), (8, $$'q', 'g', 3, 5/60, false$$)
) s (n, v) ORDER BY n;
SELECT try('UPDATE rate_limit_policies SET refill = 0 WHERE tier = ''f'''), try('UPDATE rate_limit_policies SET quota = false WHERE policy = ''q''');

-- a row per tier, which changes nothing
SELECT tier, limiter, capacity, refill = rl_per(5, '1 day') AS refill, tokens, retry_after, reset_after, blocked_until, shadow, enabled FROM rl_status_policy('q', 'u');
SELECT rl_consume_policy('q', 'u', 3), rl_block('u', '1 day', 'q');
SELECT limiter, allowed, shadowed FROM rl_throttle_policy('q', 'u', 2);
UPDATE rate_limit_policies SET shadow = tier = 'f', enabled = tier = 'f' WHERE policy = 'q';
SELECT tier, limiter, capacity, round(tokens) AS tokens, round(extract(epoch FROM retry_after) / 3600) AS hours, round(extract(epoch FROM reset_after) / 3600) AS full_hours,
	round(extract(epoch FROM blocked_until - now()) / 3600) AS blocked_hours, shadow, enabled FROM rl_status_policy('q', 'u');
SELECT rl_unblock('u', 'q'), count(*) FROM rl_status_policy('q', 'nobody') WHERE tokens = capacity;
SELECT count(*) FROM rate_limit_status WHERE key = 'nobody';
-- in shadow: which tier would have denied
SELECT allowed, limiter, shadowed FROM rl_throttle_policy('q', 'u', 2);
UPDATE rate_limit_policies SET enabled = true WHERE policy = 'q';
SELECT allowed, limiter, shadowed FROM rl_throttle_policy('q', 'v', 3);
SELECT rl_reset('v', 'q'), (rl_throttle_policy('q', 'v', 2)).shadowed;
SELECT * FROM rl_status_policy('nobody''s', 'u');
SET ratelimit.on_error = 'allow';
SELECT * FROM rl_status_policy('nobody''s', 'u');
RESET ratelimit.on_error;
SELECT * FROM rl_status_policy(NULL, 'u');
SELECT * FROM rl_status_policy('q', NULL);
SELECT * FROM rl_status_policy('q', '');

-- bad arguments
SELECT rl_consume_policy(NULL, 'u');
SELECT rl_consume_policy('free', NULL);
SELECT rl_consume_policy('free', 'u', NULL);
SELECT rl_consume_policy('free', '');
SELECT rl_consume_policy('free', 'u', -1);
SELECT rl_consume_policy('', 'u');
SELECT rl_consume_policy(repeat('p', 64), 'u');
SELECT rl_throttle_policy('free', repeat('u', 256));
SELECT _rl_policies_changed();

DROP FUNCTION try(text);
DROP EXTENSION ratelimit;
