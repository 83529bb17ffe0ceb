-- Violations: reports from outside, flags by hand, and what the views make of rows.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;
SET ratelimit.gateway_name = 'gw-1';

-- exactly the table that others have built before
SELECT column_name, data_type, character_maximum_length, is_nullable, column_default
FROM information_schema.columns WHERE table_name = 'rate_limit_violations' ORDER BY ordinal_position;
SELECT pg_get_indexdef('idx_rlv_gateway_created'::regclass);

INSERT INTO rate_limit_violations (gateway_name, total_count, details, created_at) VALUES
	('gw-1', 12, '{"2001:db8::1:ip": 7, "alice:user": 5}', now() AT TIME ZONE 'UTC'),
	('gw-2', 3, '{"2001:db8::1:ip": 3}', now() AT TIME ZONE 'UTC' - interval '3 hours'),
	('gw-2', 2, '{"::1:ip": 2}', now() AT TIME ZONE 'UTC' - interval '3 days'),
	('odd', 1, '{"no limiter": 1, "text:user": "many", "half:user": 0.5}', '2020-01-01');
SELECT gateway_name, limiter, key, count FROM rate_limit_violation_details ORDER BY 1, 2, key COLLATE "C";
SELECT limiter, key, last_hour, last_day, total, flagged FROM rate_limit_top_offenders;
SELECT hour = date_trunc('hour', now() AT TIME ZONE 'UTC') AS this_hour, gateway_name, limiter, count, keys
FROM rate_limit_violations_hourly;
TRUNCATE rate_limit_violations;

-- flags by hand
SELECT rl_flag('alice', 'user', 'sells our data'), rl_flag('alice', 'user', 'again'), rl_flag('bob', 'user', 'asks');
SELECT limiter, key, rejected, reason FROM rate_limit_flagged ORDER BY key;
SELECT rl_consume('alice', 1, 0, limiter => 'user') AS a_flag_denies_nothing;
SELECT rl_unflag('alice', 'user'), rl_unflag('alice', 'user'), rl_unflag('nobody', 'user');
SELECT limiter, key, reason, cleared_at IS NOT NULL AS cleared, cleared_by = current_user AS by_me FROM rate_limit_flags ORDER BY key;
SELECT rl_flag('alice', 'user', 'once more');
SELECT count(*) FROM rate_limit_flagged;

-- reports: what is malformed is skipped, what is no array is an error
SELECT * FROM rl_report_batch('[
	{"limiter": "user", "key": "carol", "rejected": 3}, {"limiter": "user", "key": "carol", "rejected": 4},
	{"limiter": "ip", "key": "2001:db8::1", "rejected": 1},
	{"limiter": "", "key": "x", "rejected": 1}, {"limiter": "user", "key": "", "rejected": 1},
	{"limiter": "user", "key": "x", "rejected": 0}, {"limiter": "user", "key": "x", "rejected": -1},
	{"limiter": "user", "key": "x", "rejected": 1.5}, {"limiter": "user", "key": "x", "rejected": "1"},
	{"limiter": "user", "key": "x", "rejected": 1e30}, {"limiter": "a:b", "key": "x", "rejected": 1},
	{"limiter": "user", "key": 1, "rejected": 1}, {"limiter": "user", "rejected": 1}, {}, [], 1, "x", null]');
SELECT * FROM rl_report_batch('[]');
SELECT * FROM rl_report_batch('{"limiter": "user", "key": "x", "rejected": 1}');
SELECT * FROM rl_report_batch('1');
SELECT * FROM rl_report_batch(NULL);
SELECT rl_report('dave', 'user', 2), rl_report('dave', '', 2), rl_report('', 'user', 2), rl_report('dave', 'user', 0);
SELECT rl_report('dave', 'a:b', 2);
SELECT rl_report('dave', NULL, 2);
SELECT rl_report('dave', 'user', 1099511627777);
SELECT rl_report(repeat('x', 256), 'user', 1);
SELECT rl_flag('x', NULL, 'y');
SELECT rl_flag('x', '', 'y');
SELECT rl_unflag('', 'x');

-- however they are written: all of them are, but not twice
SELECT rl_flush() IS NOT NULL AS flushed;
SELECT key, limiter, sum(count) FROM rate_limit_violation_details GROUP BY 1, 2 ORDER BY key COLLATE "C";
SELECT count(*) FROM rate_limit_pending;

-- thresholds that make no sense
ALTER SYSTEM SET ratelimit.flag_threshold = 0;
SELECT set_config('ratelimit.gateway_name', repeat('g', 256), false);

DROP EXTENSION ratelimit;
