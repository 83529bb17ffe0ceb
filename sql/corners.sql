-- What is rare: names from compressed columns, calls that a setting decides, savepoints that give back, policies
-- whose tiers are of different kinds.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
SET timezone = 'UTC';

-- a key that is stored compressed is the key
CREATE TABLE stored (key text, pad text);
ALTER TABLE stored ALTER pad SET STORAGE PLAIN;
INSERT INTO stored VALUES (repeat('k', 255), repeat('p', 3000));
SELECT pg_column_size(key) < 100 AS compressed, rl_consume(key, 1, 0), rl_consume(repeat('k', 255), 1, 0) FROM stored;
DROP TABLE stored;

-- numbers beyond what a period counts exactly, and names beyond what one may be
SELECT rl_consume_period('k', 1e300, '100 years', 3), rl_consume_period('k', 2, '100 years'), rl_consume_upto('k', 1e300, 0, 7);
SELECT rl_consume_period('k', 1, repeat('d', 128));
INSERT INTO rate_limit_policies (policy, capacity, period) VALUES ('long', 1, '100000000 days from 1970-01-01 12:34:56.123456+12:34:56' || repeat(' ', 80));

-- tiers of different kinds, and keys with exceptions
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, period, quota) VALUES
	('mixed', 'all', 5, 0, NULL, true), ('mixed', 'period', 4, NULL, '100 years', false), ('other', 'default', 100, 1, NULL, false);
INSERT INTO rate_limit_exceptions (policy, key, action, factor) VALUES ('mixed', 'half', 'factor', 0.5);
INSERT INTO rate_limit_exceptions (network, action) VALUES ('2001:db8::/48', 'deny');
SELECT limiter, capacity, tokens, exception IS NOT NULL AS exception FROM rl_status_policy('mixed', 'half') ORDER BY 1;
SELECT r.limiter, r.allowed, r.capacity, floor(r.remaining) AS remaining FROM unnest(rl_consume_policies('{mixed,other}', '{half,half}')) r ORDER BY 1;
SELECT rl_reserve_policy('mixed', 'half', 0.5) > 0 AS reserved;
SELECT key, rl_consume_policy('other', key) FROM unnest(ARRAY['2001:db8::1', '2001:db8:0:1', '20010:db8::1', '2001:db8', '2001:', 'abcd']) key;
DELETE FROM rate_limit_exceptions;

-- a setting decides
SET ratelimit.on_error = 'allow';
SELECT rl_reserve('undecided', 10, 0, 4) > 0 AS reserved, rl_reserve_policy('nobody', 'k', 1);
SET ratelimit.on_error = 'deny';
SELECT rl_reserve_policy('nobody', 'k', 1) IS NULL AS denied;
BEGIN;
ALTER TABLE rate_limit_postgrest_rules RENAME TO elsewhere;
SELECT rl_postgrest_check();
ROLLBACK;
SET ratelimit.on_error = 'allow';
BEGIN;
ALTER TABLE rate_limit_postgrest_rules RENAME TO elsewhere;
SELECT rl_postgrest_check();
ROLLBACK;
RESET ratelimit.on_error;

-- requests of PostgREST: a policy with a period, claims that are no text, paths and addresses of all kinds
INSERT INTO rate_limit_postgrest_rules (position, claim, claim_value, path, policy, key_from, key_name) VALUES
	(1, 'admin', 'true', '/a/*', 'mixed', 'claim', 'sub'), (2, NULL, NULL, '/K', 'mixed', 'address', 'x-from');
SELECT set_config('request.jwt.claims', '{"admin": true, "sub": "s"}', false), set_config('request.method', 'GET', false), set_config('request.path', '/a/b', false);
SELECT rl_postgrest_check(), rl_postgrest_check(), rl_postgrest_check(), rl_postgrest_check();
SET ratelimit.postgrest_headers = 'problem';
\set VERBOSITY sqlstate
SELECT rl_postgrest_check();
\set VERBOSITY default
SELECT set_config('request.path', '/%4B', false), set_config('request.headers', '{"x-from": "[2001:db8::1"}', false);
SELECT rl_postgrest_check();
SELECT limiter, key FROM rate_limit_status WHERE limiter ~ 'mixed' AND period IS NOT NULL ORDER BY key;
SET ratelimit.enabled = off;
SELECT rl_postgrest_check();
RESET ratelimit.enabled;

-- what savepoints give back, whether or not they were released
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT rl_consume('a', 10, 0, 1);
SAVEPOINT one;
SELECT rl_consume('a', 10, 0, 2), rl_consume('b', 10, 0, 2);
RELEASE one;
SAVEPOINT two;
SELECT rl_consume('a', 10, 0, 4);
ROLLBACK TO two;
SELECT count(*) FROM _rl_export() WHERE key IN ('a', 'b');
SELECT count(*) >= 1 AS living FROM _rl_living();
SELECT (rl_peek('a', 10, 0, 0)).remaining;
ROLLBACK;
SELECT (rl_peek('a', 10, 0, 0)).remaining, (rl_peek('b', 10, 0, 0)).remaining;
BEGIN;
SELECT rl_consume_all(array_agg('many' || i), array_agg(5::float8), array_agg(0::float8)) FROM generate_series(1, 64) i;
ROLLBACK;
SELECT count(*) FROM rate_limit_status WHERE key ~ 'many' AND tokens < 5;
RESET ratelimit.refund_on_rollback;

-- without a name, violations are those of the server
SET application_name = '';
SELECT rl_consume('nobody', 0, 0), rl_report('nobody');

DROP EXTENSION ratelimit;
