-- Several policies and several keys in one call: all or nothing, and an answer each.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

CREATE FUNCTION show(answers rl_result[]) RETURNS TABLE (n bigint, allowed boolean, capacity float8, remaining float8, retry_after interval, limiter text, shadowed boolean)
LANGUAGE sql AS 'SELECT a.n, a.allowed, a.capacity, a.remaining, a.retry_after, a.limiter, a.shadowed FROM unnest(answers) WITH ORDINALITY a (allowed, capacity, remaining, retry_after, reset_after, limiter, shadowed, period, n) ORDER BY n';

INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES
	('user', 'burst', 3, 0, true), ('user', 'day', 5, 0, true),
	('ip', 'default', 4, 0, true), ('all', 'default', 100, 0, true);

-- from all tiers of all policies, or from none; who is denied, and what the others have
SELECT a.* FROM generate_series(1, 4) i, show(rl_consume_policies(ARRAY['user', 'ip', 'all'], ARRAY['u' || i - i, '192.0.2.1', 'all'])) a ORDER BY i, n;
SELECT limiter, key, tokens FROM rate_limit_status ORDER BY limiter, key;
-- two refuse
SELECT * FROM show(rl_consume_policies(ARRAY['all', 'ip', 'user'], ARRAY['all', '192.0.2.1', 'u0'], ARRAY[1, 2, 0.5]));
-- violations are of the buckets that refused
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details GROUP BY limiter, key ORDER BY limiter, key;
-- the costs of each
SELECT * FROM show(rl_consume_policies(ARRAY['all', 'user'], ARRAY['all', 'v'], ARRAY[7, 2.5]));
SELECT * FROM show(rl_consume_policies(ARRAY['all', 'user'], ARRAY['all', 'v'], ARRAY[0, 0]));
SELECT * FROM show(rl_consume_policies(ARRAY['all', 'user'], ARRAY['all', 'v'], ARRAY[1, 1000]));
-- the same as by one policy
SELECT (rl_consume_policies(ARRAY['user'], ARRAY['one'], ARRAY[2]))[1] = rl_throttle_policy('user', 'one too', 2),
	(rl_consume_policies(ARRAY['user'], ARRAY['one'], ARRAY[2]))[1] = rl_throttle_policy('user', 'one too', 2);
SELECT (rl_consume_policies(ARRAY['ip'], ARRAY['one']))[1] = rl_throttle_policy('ip', 'one too');

-- one policy and several keys; a key given twice pays both costs
SELECT * FROM show(rl_consume_policies(ARRAY['ip', 'ip', 'ip'], ARRAY['a', 'b', 'a'], ARRAY[1, 2, 1.5]));
SELECT * FROM show(rl_consume_policies(ARRAY['ip', 'ip', 'ip'], ARRAY['a', 'b', 'a'], ARRAY[1, 2, 1]));
SELECT limiter, key, tokens FROM rate_limit_status WHERE key IN ('a', 'b') ORDER BY limiter, key;

-- a bucket of a period given twice pays both costs
INSERT INTO rate_limit_policies (policy, capacity, period) VALUES ('era', 10, '1000 years');
SELECT n, allowed, remaining, limiter FROM show(rl_consume_policies(ARRAY['era', 'era', 'era'], ARRAY['p', 'q', 'p'], ARRAY[1, 2, 1.5]));
SELECT n, allowed, remaining, limiter FROM show(rl_consume_policies(ARRAY['era', 'era'], ARRAY['p', 'p'], ARRAY[4, 4]));
SELECT n, allowed, remaining, limiter FROM show(rl_consume_policies(ARRAY['era', 'era'], ARRAY['p', 'p'], ARRAY[3, 4.5]));
SELECT limiter, key, tokens, period FROM rate_limit_status WHERE limiter = 'era' ORDER BY key;

-- blocked
SELECT rl_block('blocked', '1 day', 'ip');
SELECT n, allowed, remaining, retry_after > '23 hours' AS later, limiter FROM show(rl_consume_policies(ARRAY['all', 'ip'], ARRAY['all', 'blocked']));
-- nobody is allowed anything
INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('closed', 0, 1);
SELECT * FROM show(rl_consume_policies(ARRAY['closed', 'all'], ARRAY['x', 'all']));
SELECT tokens FROM rate_limit_status WHERE key = 'all';

-- a tier in shadow: decided, recorded, and never makes the others deny
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, shadow) VALUES
	('half', 'hard', 4, 0, true, false), ('half', 'soft', 1, 0, true, true), ('soft', 'default', 2, 0, true, true);
SELECT a.* FROM generate_series(1, 5) i, show(rl_consume_policies(ARRAY['half', 'soft', 'all'], ARRAY['s' || i - i, 's0', 'all'])) a ORDER BY i, n;
SELECT limiter, key, tokens FROM rate_limit_status WHERE key = 's0' ORDER BY limiter, key;
SELECT * FROM show(rl_consume_policies(ARRAY['soft', 'soft'], ARRAY['s1', 's1']));
SELECT * FROM show(rl_consume_policies(ARRAY['soft', 'soft'], ARRAY['s1', 's2']));
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details WHERE key ~ '^s\d' GROUP BY limiter, key ORDER BY limiter, key;
-- all in shadow
SET ratelimit.shadow = on;
SELECT * FROM show(rl_consume_policies(ARRAY['ip', 'all'], ARRAY['192.0.2.1', 'all'], ARRAY[2, 1]));
RESET ratelimit.shadow;
-- disabled: as if it were not there
UPDATE rate_limit_policies SET enabled = false WHERE policy = 'half' OR tier = 'burst';
SELECT * FROM show(rl_consume_policies(ARRAY['half', 'user'], ARRAY['d', 'd'], ARRAY[1000, 4]));
SELECT * FROM show(rl_consume_policies(ARRAY['half', 'user'], ARRAY['d', 'd'], ARRAY[1000, 4]));
SELECT * FROM show(rl_consume_policies(ARRAY['half'], ARRAY['d']));
SET ratelimit.enabled = off;
SELECT * FROM show(rl_consume_policies(ARRAY['user', 'nobody''s'], ARRAY['u0', 'u0'], ARRAY[1000, 1000]));
RESET ratelimit.enabled;

-- none of that name: nothing is taken, unless a setting says otherwise
SELECT rl_consume_policies(ARRAY['all', 'nobody''s'], ARRAY['all', 'u']);
SELECT tokens FROM rate_limit_status WHERE key = 'all';
SET ratelimit.on_error = 'deny';
SELECT * FROM show(rl_consume_policies(ARRAY['all', 'nobody''s', 'soft', 'ip'], ARRAY['all', 'u', 's3', '192.0.2.1'], ARRAY[1, 1, 3, 2]));
SELECT tokens FROM rate_limit_status WHERE key = 'all';
SELECT rl_flush() >= 0;
SELECT sum(count) FROM rate_limit_violation_details WHERE key = '192.0.2.1';
SET ratelimit.on_error = 'allow';
SELECT * FROM show(rl_consume_policies(ARRAY['all', 'nobody''s'], ARRAY['all', 'u']));
RESET ratelimit.on_error;
SELECT tokens FROM rate_limit_status WHERE key = 'all';

-- none, and as many as may be
SELECT rl_consume_policies('{}', '{}'), rl_consume_policies('{}', '{}', '{}');
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, shadow) SELECT 'wide', 'tier ' || i, 10, 1, i > 30 FROM generate_series(1, 32) i;
SELECT n, allowed, limiter FROM show(rl_consume_policies(ARRAY['wide', 'wide'], ARRAY['k', 'l']));
SELECT rl_consume_policies(ARRAY['wide', 'wide', 'all'], ARRAY['m', 'n', 'all']);
SELECT count(*), bool_and(allowed) FROM show((SELECT rl_consume_policies(array_agg('all'::text), array_agg('key ' || i)) FROM generate_series(1, 64) i));
SELECT rl_consume_policies(array_agg('all'::text), array_agg('key ' || i)) FROM generate_series(1, 65) i;
-- elements of arrays in arrays count one after the other
SELECT * FROM show(rl_consume_policies(ARRAY[['all', 'ip'], ['all', 'ip']], '[0:3]={e,e,f,f}'));

-- a rollback that gives back
BEGIN;
SET LOCAL ratelimit.refund_on_rollback = on;
SELECT n, allowed, remaining FROM show(rl_consume_policies(ARRAY['all', 'ip', 'ip'], ARRAY['r', 'r', 'r']));
ROLLBACK;
SELECT limiter, remaining FROM (VALUES ('all'), ('ip')) p (policy), rl_throttle_policy(policy, 'r', 0);

-- bad arguments: nothing is taken
SELECT rl_consume_policies(NULL, ARRAY['k']);
SELECT rl_consume_policies(ARRAY['all'], NULL);
SELECT rl_consume_policies(ARRAY['all', 'ip'], ARRAY['bad']);
SELECT rl_consume_policies(ARRAY['all'], ARRAY['bad', 'bad']);
SELECT rl_consume_policies(ARRAY['all'], ARRAY['bad'], '{}');
SELECT rl_consume_policies(ARRAY['all', NULL], ARRAY['bad', 'bad']);
SELECT rl_consume_policies(ARRAY['all', 'ip'], ARRAY['bad', NULL]);
SELECT rl_consume_policies(ARRAY['all', 'ip'], ARRAY['bad', 'bad'], ARRAY[1, NULL]);
SELECT rl_consume_policies(ARRAY['all', 'ip'], ARRAY['bad', '']);
SELECT rl_consume_policies(ARRAY['all', 'ip'], ARRAY['bad', repeat('x', 256)]);
SELECT rl_consume_policies(ARRAY['all', ''], ARRAY['bad', 'bad']);
SELECT rl_consume_policies(ARRAY['all', repeat('x', 64)], ARRAY['bad', 'bad']);
SELECT rl_consume_policies(ARRAY['all', 'ip'], ARRAY['bad', 'bad'], ARRAY[1, -1]);
SELECT rl_consume_policies(ARRAY['all', 'ip'], ARRAY['bad', 'bad'], ARRAY[1, 'NaN'::float8]);
SELECT count(*) FROM rate_limit_status WHERE key = 'bad';

DROP FUNCTION show(rl_result[]);
DROP EXTENSION ratelimit;
