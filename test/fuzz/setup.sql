-- What the fuzzers find in their database
CREATE EXTENSION ratelimit;
CREATE FUNCTION fuzz(name text, log text, arguments text[]) RETURNS void
AS '$libdir/ratelimit' LANGUAGE C;

INSERT INTO rate_limit_policies (policy, tier, capacity, refill) VALUES
	('api', 'default', 5, 1), ('byip', 'default', 1000000, 0.001), ('many', 'second', 10, 10), ('many', 'hour', 1000, 1), ('nobody', 'default', 0, 1);
INSERT INTO rate_limit_postgrest_rules (position, role, claim, claim_value, methods, path, policy, key_from, key_name, proxies) VALUES
	(1, NULL, NULL, NULL, NULL, '/health*', NULL, 'address', NULL, 1),
	(2, NULL, 'role', 'admin', NULL, NULL, NULL, 'address', NULL, 1),
	(3, NULL, 'app_metadata.plan', NULL, '{GET,HEAD}', '/items*/a*b', 'many', 'claim', 'app_metadata.user', 1),
	(4, NULL, NULL, NULL, '{POST}', '/rpc/*', 'api', 'header', 'x-api-key', 1),
	(5, NULL, NULL, NULL, NULL, '*', 'byip', 'address', NULL, 1),
	(6, NULL, NULL, NULL, NULL, '/far*', 'byip', 'address', 'x-forwarded-for', 3),
	(7, 'nobody', NULL, NULL, NULL, NULL, 'nobody', 'address', NULL, 1),
	(8, NULL, 'banned', NULL, NULL, NULL, 'nobody', 'claim', 'banned', 1);
