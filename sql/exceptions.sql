-- Keys and networks for which policies have exceptions.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES
	('free', 'default', 2, 0, true), ('pro', 'burst', 3, 0, true), ('pro', 'day', 5, 0, true);

-- what the actions do
INSERT INTO rate_limit_exceptions (policy, key, action, capacity, refill, quota, factor, comment) VALUES
	('free', 'friend', 'allow', NULL, NULL, false, NULL, 'a monitor of ours'),
	('free', 'foe', 'deny', NULL, NULL, false, NULL, NULL),
	('free', 'other', 'rule', 4, 0, true, NULL, NULL),
	('free', 'large', 'factor', NULL, NULL, false, 10, 'paid for more');
SELECT rl_consume_policy('free', 'friend') AS friend, rl_consume_policy('free', 'foe') AS foe, rl_consume_policy('free', 'other') AS other,
	rl_consume_policy('free', 'large') AS large, rl_consume_policy('free', 'anybody') AS anybody FROM generate_series(1, 5);
SELECT rl_throttle_policy('free', 'friend', 1000);
SELECT rl_throttle_policy('free', 'foe'), rl_throttle_policy('free', 'foe', 0);
SELECT rl_throttle_policy('free', 'other'), rl_throttle_policy('free', 'large');
SELECT k, s.tier, limiter, s.capacity, tokens, retry_after, reset_after, e.action, e.comment
FROM unnest(ARRAY['anybody', 'foe', 'friend', 'large', 'other']) k, rl_status_policy('free', k) s LEFT JOIN rate_limit_exceptions e ON e.id = s.exception ORDER BY 1;
-- who is allowed leaves no trace, who is denied a violation only
SELECT limiter, key, tokens FROM rate_limit_status ORDER BY key;
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details GROUP BY limiter, key ORDER BY limiter, key;
-- another policy has none of them
SELECT key, rl_consume_policy('pro', key, 4) FROM unnest(ARRAY['friend', 'large']) key;

-- tiers: all, or one
INSERT INTO rate_limit_exceptions (policy, tier, key, action, capacity, refill, quota, factor) VALUES
	('pro', NULL, 'a', 'factor', NULL, NULL, false, 2), ('pro', 'day', 'b', 'factor', NULL, NULL, false, 0.2),
	('pro', NULL, 'c', 'rule', 1, 0, true, NULL), ('pro', 'burst', 'd', 'allow', NULL, NULL, false, NULL),
	('pro', 'day', 'e', 'deny', NULL, NULL, false, NULL), ('pro', 'nothing', 'f', 'deny', NULL, NULL, false, NULL),
	('pro', NULL, 'g', 'deny', NULL, NULL, false, NULL), ('pro', 'day', 'g', 'allow', NULL, NULL, false, NULL),
	('pro', 'default', 'h', 'deny', NULL, NULL, false, NULL), ('pro', NULL, 'i', 'allow', NULL, NULL, false, NULL);
SELECT key, rl_throttle_policy('pro', key), rl_throttle_policy('pro', key, 3) FROM unnest(ARRAY['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i']) key;
SELECT k, s.tier, s.capacity, tokens, e.tier AS of_tier, e.action
FROM unnest(ARRAY['a', 'd', 'e', 'g']) k, rl_status_policy('pro', k) s LEFT JOIN rate_limit_exceptions e ON e.id = s.exception ORDER BY 1, 2;

-- networks: the longest prefix wins, and a key over all of them
DELETE FROM rate_limit_exceptions;
INSERT INTO rate_limit_exceptions (network, action) VALUES
	('0.0.0.0/0', 'allow'), ('10.0.0.0/8', 'deny'), ('10.1.0.0/16', 'allow'), ('10.1.2.0/24', 'deny'), ('10.1.2.3', 'allow'),
	('2001:db8::/32', 'deny'), ('2001:db8:1::/48', 'allow'), ('2001:db8:1:4000::/50', 'deny'), ('2001:db8:2::7', 'allow'), ('2001:db8::/29', 'deny'), ('ff00::/9', 'deny');
INSERT INTO rate_limit_exceptions (key, action) VALUES ('10.1.2.9', 'allow'), ('2001:db8::99', 'allow');
INSERT INTO rate_limit_exceptions (key, action, factor) VALUES ('2001:DB8:0::99', 'factor', 0.5);
SELECT k, masklen(e.network), e.key IS NOT NULL AS exact, e.action
FROM unnest(ARRAY['192.0.2.1', '10.2.0.1', '10.1.0.1', '10.1.2.1', '10.1.2.3', '10.1.2.9', '10.1.2.3/32', '10.1.2.0/24', '10.1.2.128/25', '10.1.0.0/20', '10.0.0.0/7',
	'::ffff:10.1.2.1', '0:0:0:0:0:ffff:10.2.0.1', '::FFFF:a01:203', '::ffff:10.1.0.0/112', '::ffff:0:0/96', '::ffff:0:0/95',
	'2001:db8::1', '2001:db8:1::', '2001:db8:1:4000::', '2001:db8:1:7fff:ffff:ffff:ffff:ffff', '2001:db8:1:8000::', '2001:db8:1:4000::/64', '2001:db8:1:4000::/49', '2001:db8:1:4000::/50',
	'2001:db8:2::7', '2001:db8:2::8', '2001:0db8:0002:0000:0000:0000:0000:0007', '2001:db8::99', '2001:DB8:0::99', '2001:db8:0:0::99', '2001:dbf:ffff::', '2001:dc0::', '2001:db7::', 'ff7f::1', 'ff80::1',
	'::1', '::', '1::', 'user:42', 'ip:10.2.0.1', '10.2.0.1:443', '[2001:db8::1]', '10.2.0.01', '10.2.0', '10.2.0.1.1', '10.2.0.256', '10.2.0.1 ', ' 10.2.0.1', '10.2.0.1/33', '10.2.0.1/', '10.2.0.1/08',
	'2001:db8', '2001:db8:::1', '2001:db8::1::2', '2001:db8::12345', '2001:db8::g', '2001:db8::1/129', '2001:db8::1%eth0', '2001:db8:1:2:3:4:5:6:7', '2001:db8:1:2:3:4:5', '2001:db8:1:2:3:4:5:', ':2001:db8::1',
	'2001:db8:0:0:0:0:0:1::', '2001:db8::192.0.2.1', '2001:db8:0:0:0:0:0:192.0.2.1', '2001:db8:0:0:0:0:192.0.2.1', 'a.b', '', 'a', '1', '1.', ':', '.', '/']) WITH ORDINALITY a (k, n)
	CROSS JOIN LATERAL rl_status_policy('free', coalesce(nullif(k, ''), 'empty')) s LEFT JOIN rate_limit_exceptions e ON e.id = s.exception ORDER BY n;

-- against PostgreSQL's own networks: random addresses and prefixes
DELETE FROM rate_limit_exceptions;
CREATE TABLE addresses AS
SELECT set_masklen(a, CASE WHEN random() < 0.5 THEN masklen(a) ELSE floor(random() * (1 + masklen(a)))::int END) AS a
FROM (SELECT CASE WHEN i % 2 = 0 THEN '10.0.0.0'::inet + floor(random() * power(2, random() * 24))::bigint
	ELSE '2001:db8::'::inet + (floor(random() * power(2, random() * 60))::bigint) END AS a FROM generate_series(1, 2000) i) r;
INSERT INTO rate_limit_exceptions (network, action)
SELECT DISTINCT network(a), 'deny' FROM (SELECT a FROM addresses LIMIT 700) s ON CONFLICT DO NOTHING;
INSERT INTO rate_limit_exceptions (network, action)
SELECT DISTINCT network(set_masklen(a, floor(random() * (1 + masklen(a)))::int)), 'deny' FROM (SELECT a FROM addresses OFFSET 1900) s ON CONFLICT DO NOTHING;
SELECT count(*), count(*) FILTER (WHERE found IS DISTINCT FROM expected) AS wrong, count(DISTINCT expected) > 100 AS many
FROM (SELECT a, (SELECT e.network FROM rl_status_policy('free', CASE WHEN random() < 0.5 THEN text(a) ELSE abbrev(a) END) s LEFT JOIN rate_limit_exceptions e ON e.id = s.exception) AS found,
	(SELECT e.network FROM rate_limit_exceptions e WHERE e.network >>= a ORDER BY masklen(e.network) DESC LIMIT 1) AS expected FROM addresses) c;
DROP TABLE addresses;

-- policy and tier decide between rows for the same key or network only
DELETE FROM rate_limit_exceptions;
INSERT INTO rate_limit_exceptions (policy, tier, key, network, action) VALUES
	(NULL, NULL, '10.0.0.1', NULL, 'allow'), ('pro', 'day', NULL, '10.0.0.0/24', 'deny'), ('pro', NULL, NULL, '10.0.0.0/24', 'allow'), (NULL, NULL, NULL, '10.0.0.0/24', 'deny');
SELECT p, k, s.tier, e.policy AS of_policy, e.tier AS of_tier, e.key AS of_key, e.action
FROM unnest(ARRAY['free', 'pro']) p, unnest(ARRAY['10.0.0.1', '10.0.0.2']) k, rl_status_policy(p, k) s JOIN rate_limit_exceptions e ON e.id = s.exception ORDER BY 1, 2, 3;

-- changes are obeyed at once, and those that are rolled back are not
DELETE FROM rate_limit_exceptions;
SELECT rl_reset_all(NULL) >= 0;
CREATE FUNCTION answers() RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(coalesce((SELECT (SELECT action FROM rate_limit_exceptions WHERE id = s.exception) FROM rl_status_policy('free', key) s), '-'), ' ' ORDER BY key COLLATE "C") FROM unnest(ARRAY['a', 'b', '10.0.0.1', '10.0.0.2', '::1']) key $$;
SELECT answers();
INSERT INTO rate_limit_exceptions (key, action) VALUES ('a', 'deny');
SELECT answers();
UPDATE rate_limit_exceptions SET key = 'b', action = 'allow';
SELECT answers();
UPDATE rate_limit_exceptions SET key = NULL, network = '10.0.0.0/31';
SELECT answers();
UPDATE rate_limit_exceptions SET network = '10.0.0.2';
SELECT answers();
BEGIN;
INSERT INTO rate_limit_exceptions (network, action) VALUES ('::/0', 'deny');
SELECT answers();
SAVEPOINT s;
DELETE FROM rate_limit_exceptions WHERE action = 'allow';
INSERT INTO rate_limit_exceptions (key, action) VALUES ('a', 'deny');
SELECT answers();
ROLLBACK TO s;
SELECT answers();
TRUNCATE rate_limit_exceptions;
INSERT INTO rate_limit_exceptions (key, action) VALUES ('b', 'deny');
SELECT answers();
ROLLBACK;
SELECT answers();
COPY rate_limit_exceptions (key, policy, action) FROM stdin;
a	free	allow
b	pro	allow
\.
SELECT answers();
TRUNCATE rate_limit_exceptions;
SELECT answers();
INSERT INTO rate_limit_exceptions (key, action) VALUES ('b', 'deny');
SELECT answers();
-- what a statement has changed when it fails
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF answers() = ''- - deny - -'' THEN RAISE ''looked''; END IF; RAISE ''not seen''; END';
CREATE TRIGGER a_look AFTER UPDATE ON rate_limit_exceptions FOR EACH ROW EXECUTE FUNCTION look();
UPDATE rate_limit_exceptions SET key = NULL, network = '::1';
SELECT answers();
DROP TRIGGER a_look ON rate_limit_exceptions;
DROP FUNCTION look();
BEGIN READ ONLY;
SELECT answers();
COMMIT;
-- without its triggers nobody is told, until the table is altered again
ALTER TABLE rate_limit_exceptions DISABLE TRIGGER ALL;
SELECT answers();
INSERT INTO rate_limit_exceptions (network, action) VALUES ('10.0.0.0/8', 'allow'), ('::1', 'deny');
ALTER TABLE rate_limit_exceptions ENABLE TRIGGER ALL;
SELECT answers();
ALTER TABLE rate_limit_exceptions ENABLE ALWAYS TRIGGER rate_limit_exceptions_changed;
ALTER TABLE rate_limit_exceptions ENABLE ALWAYS TRIGGER rate_limit_exceptions_truncated;
VACUUM FULL rate_limit_exceptions;
SELECT answers();
-- a table that cannot be followed by its pages
ALTER TABLE rate_limit_exceptions SET UNLOGGED;
INSERT INTO rate_limit_exceptions (key, action) VALUES ('a', 'deny');
SELECT answers();
ALTER TABLE rate_limit_exceptions SET LOGGED;
SELECT answers();

-- expired
TRUNCATE rate_limit_exceptions;
INSERT INTO rate_limit_exceptions (key, network, action, expires_at) VALUES
	('a', NULL, 'deny', now() - interval '1 s'), ('b', NULL, 'deny', 'infinity'), ('c', NULL, 'deny', '-infinity'), ('d', NULL, 'deny', now() + interval '1 hour'),
	('10.0.0.1', NULL, 'deny', now() - interval '1 s'), (NULL, '10.0.0.0/24', 'allow', NULL), (NULL, '10.0.0.1/32', 'deny', '2000-01-01');
SELECT key, allowed, capacity, remaining, date_trunc('minute', retry_after + interval '30 s') AS retry_after, reset_after, limiter
FROM unnest(ARRAY['a', 'b', 'c', 'd', '10.0.0.1']) key, rl_throttle_policy('free', key) ORDER BY key;
SELECT rl_headers(rl_throttle_policy('free', 'b'), 'free');

-- shadow, disabled tiers, and settings are as ever
TRUNCATE rate_limit_exceptions;
INSERT INTO rate_limit_exceptions (key, action) VALUES ('bad', 'deny'), ('good', 'allow');
UPDATE rate_limit_policies SET shadow = true WHERE policy = 'free';
SELECT rl_throttle_policy('free', 'bad'), rl_throttle_policy('free', 'good');
UPDATE rate_limit_policies SET shadow = tier = 'day' WHERE policy = 'pro';
SELECT rl_throttle_policy('pro', 'bad'), rl_throttle_policy('pro', 'good');
UPDATE rate_limit_policies SET enabled = false, shadow = false;
SELECT rl_throttle_policy('pro', 'bad'), rl_throttle_policy('pro', 'good');
UPDATE rate_limit_policies SET enabled = true;
SELECT rl_block('good', '1 hour', 'free');
SELECT rl_consume_policy('free', 'good'), rl_consume_policy('free', 'bad');
SET ratelimit.shadow = on;
SELECT rl_throttle_policy('free', 'bad');
RESET ratelimit.shadow;
SET ratelimit.enabled = off;
SELECT rl_consume_policy('free', 'bad');
RESET ratelimit.enabled;
SELECT rl_consume_policy('none', 'good');
SELECT rl_consume_policy('free', '');
SELECT rl_consume_policy('free', 'good', -1);

-- a row that makes no sense cannot be stored
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
SELECT n, try('INSERT INTO rate_limit_exceptions (policy, tier, key, network, action, capacity, refill, quota, factor) VALUES (' || v || ')') FROM (VALUES
	(1, $$NULL, NULL, NULL, NULL, 'deny', NULL, NULL, false, NULL$$), (2, $$NULL, NULL, 'k', '::/0', 'deny', NULL, NULL, false, NULL$$),
	(3, $$NULL, 't', 'k', NULL, 'deny', NULL, NULL, false, NULL$$), (4, $$'', NULL, 'k', NULL, 'deny', NULL, NULL, false, NULL$$),
	(5, $$'a:b', NULL, 'k', NULL, 'deny', NULL, NULL, false, NULL$$), (6, $$repeat('p', 64), NULL, 'k', NULL, 'deny', NULL, NULL, false, NULL$$),
	(7, $$'p', '', 'k', NULL, 'deny', NULL, NULL, false, NULL$$), (8, $$'p', 't:t', 'k', NULL, 'deny', NULL, NULL, false, NULL$$),
	(9, $$NULL, NULL, '', NULL, 'deny', NULL, NULL, false, NULL$$), (10, $$NULL, NULL, repeat('k', 256), NULL, 'deny', NULL, NULL, false, NULL$$),
	(11, $$NULL, NULL, NULL, '::ffff:192.0.2.0/120', 'deny', NULL, NULL, false, NULL$$), (12, $$NULL, NULL, 'k', NULL, 'block', NULL, NULL, false, NULL$$),
	(13, $$NULL, NULL, 'k', NULL, NULL, NULL, NULL, false, NULL$$), (14, $$NULL, NULL, 'k', NULL, 'deny', 1, NULL, false, NULL$$),
	(15, $$NULL, NULL, 'k', NULL, 'rule', 1, NULL, false, NULL$$), (16, $$NULL, NULL, 'k', NULL, 'rule', NULL, 1, false, NULL$$),
	(17, $$NULL, NULL, 'k', NULL, 'rule', -1, 1, false, NULL$$), (18, $$NULL, NULL, 'k', NULL, 'rule', 1, 'NaN', false, NULL$$),
	(19, $$NULL, NULL, 'k', NULL, 'rule', 1, 5/60, false, NULL$$), (20, $$NULL, NULL, 'k', NULL, 'rule', 1, 1, true, NULL$$),
	(21, $$NULL, NULL, 'k', NULL, 'factor', NULL, NULL, false, NULL$$), (22, $$NULL, NULL, 'k', NULL, 'factor', NULL, NULL, false, 0$$),
	(23, $$NULL, NULL, 'k', NULL, 'factor', NULL, NULL, false, 'Infinity'$$), (24, $$NULL, NULL, 'k', NULL, 'allow', NULL, NULL, false, 2$$),
	(25, $$NULL, NULL, 'k', NULL, 'deny', NULL, NULL, true, NULL$$), (26, $$NULL, NULL, 'bad', NULL, 'deny', NULL, NULL, false, NULL$$),
	(27, $$NULL, NULL, NULL, '192.0.2.1/24', 'deny', NULL, NULL, false, NULL$$), (28, $$'p', repeat('t', 63), repeat('k', 255), NULL, 'rule', 1e300, 1e300, false, NULL$$),
	(29, $$NULL, NULL, NULL, '::/0', 'rule', 0, 0, true, NULL$$), (30, $$NULL, NULL, NULL, '::/0', 'allow', NULL, NULL, false, NULL$$),
	(31, $$'p', NULL, NULL, '::/0', 'allow', NULL, NULL, false, NULL$$), (32, $$repeat('p', 63), NULL, 'bad', NULL, 'allow', NULL, NULL, false, NULL$$)
) s (n, v) ORDER BY n;
-- a factor that makes more than a number can be, and one that makes 0
UPDATE rate_limit_policies SET capacity = 1e300, refill = 1e300, quota = false WHERE policy = 'free';
INSERT INTO rate_limit_exceptions (key, action, factor) VALUES ('huge', 'factor', 1e300), ('tiny', 'factor', 1e-320);
SELECT rl_consume_policy('free', 'huge'), rl_consume_policy('free', 'tiny');

DROP FUNCTION try(text);
DROP FUNCTION answers();
DROP EXTENSION ratelimit;
