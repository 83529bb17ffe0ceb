-- Decisions as HTTP answers, waiting, settings that have a say.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

SELECT rl_headers(rl_throttle('h', 2, 0)) FROM generate_series(1, 3);
SELECT rl_headers(r, 'api') FROM (VALUES
	(1, (true, 100, 57.9, '0', '4.2 s', 'l', false, NULL)::rl_result), (2, (false, 100, 0.99, '2.001 s', '1 day', 'l', false, NULL)::rl_result),
	(3, (false, 100, -5, '1 month', '2 months', 'l', false, NULL)::rl_result), (4, (false, 100, 3, NULL, '10 s', 'l', false, NULL)::rl_result),
	(5, (true, 1e300, 1e299, '0', '0', 'l', false, NULL)::rl_result), (6, (true, 0.5, 0.2, '0', '0.1 s', 'l', false, NULL)::rl_result), (7, (true, NULL, NULL, NULL, NULL, 'l', false, NULL)::rl_result),
	(8, (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::rl_result)) v (n, r) ORDER BY n;
SELECT rl_headers((true, 1, 1, '0', '0', 'l', false, NULL)::rl_result, e'a"b\\c \u00e9\u0001') ->> 'RateLimit';
SELECT rl_headers((false, 100, 40, '1 hour', '1 min', 'l', false, NULL)::rl_result, 'api', 'content-bytes', '\x00ff');
SELECT rl_headers((true, 1, 0, '0', '1 s', 'l', false, NULL)::rl_result, quota_unit => '');
SELECT rl_headers(NULL);
SELECT rl_headers((true, 1, 1, '0', '0', 'l', false, NULL)::rl_result, NULL);

-- the error that says no
SELECT rl_enforce('e', 1, 0);
SELECT rl_penalize('slow "key"', 5, 0.0001, 5.5, 'a "limiter"') < 0;
DO $$
DECLARE
	s text; m text; d text; h text;
BEGIN
	FOR i IN 1..5 LOOP
		PERFORM set_config('ratelimit.postgrest_headers', CASE WHEN i > 2 THEN 'on' ELSE 'off' END, false);
		BEGIN
			IF i % 2 = 1 THEN
				PERFORM rl_enforce('e', 1, 0, 1);
			ELSE
				PERFORM rl_enforce('slow "key"', 5, 0.0001, 1, 'a "limiter"');
			END IF;
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
			-- it refills, slowly
			RAISE NOTICE '%', regexp_replace(regexp_replace(concat_ws(' | ', s, m, d, h), '-0\.\d+', '-0.x'), '\m1[45]\d{3}\M', 'N', 'g');
		END;
	END LOOP;
END $$;

-- what is due is waited for, what is due too late is not
SELECT rl_wait('w', 1, 50, timeout => '1 min') FROM generate_series(1, 3);
SELECT rl_penalize('w', 1, 0.01, 1) < 0.5;
SELECT rl_wait('w', 1, 0.01, timeout => '1 s'), rl_wait('w', 1, 0.01, timeout => '0'), rl_wait('w', 1, 1, 2);
SELECT rl_wait('q', 1, 0), rl_wait('q', 1, 0), rl_wait('q', 1, 0, 0);
SELECT rl_block('b', '1 day'), rl_wait('b', 1, 100);
SELECT rl_enforce('b', 1, 100);
SET ratelimit.postgrest_headers = problem;
SELECT rl_enforce('b', 1, 100);
SET ratelimit.postgrest_headers = on;
SELECT rl_wait('w', 1, 1, timeout => '-1 s');
SELECT rl_wait('w', 1, 1, timeout => NULL);
SELECT rl_wait(NULL, 1, 1);
SELECT rl_wait('w', -1, 1);
-- a cancelled wait gives its tokens back
SELECT rl_consume('c', 1, 0.001);
BEGIN;
SET LOCAL statement_timeout = '50ms';
SELECT rl_wait('c', 1, 0.001, timeout => '1 day');
ROLLBACK;
SELECT round(remaining::numeric, 1) FROM rl_peek('c', 1, 0.001, 0);

-- off: everything is allowed and nothing is counted
SELECT rl_consume('o', 1, 0), rl_consume('o', 1, 0);
SET ratelimit.enabled = off;
SELECT rl_consume('o', 1, 0), rl_consume_upto('o', 1, 0, 5.5), rl_consume_each(ARRAY['o', 'o'], 1, 0),
	rl_consume_all(ARRAY['o'], ARRAY[1], ARRAY[0]), rl_wait('o', 1, 0), rl_enforce('o', 1, 0), rl_consume('b', 1, 0);
SELECT rl_throttle('o', 1, 0, 7), rl_peek('o', 1, 0, 7);
SELECT rl_consume_policy('none', 'o'), rl_throttle_policy('none', 'o');
SELECT rl_consume('o', 1, 'NaN');
RESET ratelimit.enabled;
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details WHERE key = 'o' GROUP BY limiter, key ORDER BY limiter, key;

-- in shadow: decided and recorded, but allowed
SET ratelimit.shadow = on;
SELECT rl_consume('o', 1, 0), rl_throttle('o', 1, 0), rl_peek('o', 1, 0), rl_consume_upto('o', 1, 0, 5), rl_consume_each(ARRAY['o', 'p', 'p'], 1, 0),
	rl_consume_all(ARRAY['o', 's'], ARRAY[1, 1], ARRAY[0, 0]), rl_wait('o', 1, 0), rl_enforce('o', 1, 0), rl_consume('b', 1, 0);
RESET ratelimit.shadow;
SELECT rl_consume('p', 1, 0), rl_consume('s', 1, 0);
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details WHERE key IN ('o', 'p') GROUP BY limiter, key ORDER BY limiter, key;

-- tokens come back on rollback
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT rl_consume('r', 10, 0, 3), rl_consume('r', 10, 0, 20);
SAVEPOINT a;
SELECT rl_consume('r', 10, 0, 2), rl_consume_upto('r', 10, 0, 2), rl_consume_each(ARRAY['r'], 10, 0), rl_consume_all(ARRAY['r', 'r2'], ARRAY[10, 10], ARRAY[0, 0]);
SAVEPOINT b;
SELECT rl_consume('r', 10, 0);
RELEASE b;
SELECT (rl_peek('r', 10, 0, 0)).remaining;
ROLLBACK TO a;
SELECT (rl_peek('r', 10, 0, 0)).remaining;
SELECT rl_consume('r', 10, 0);
ROLLBACK;
SELECT (rl_peek('r', 10, 0, 0)).remaining;
DO $$
BEGIN
	PERFORM rl_consume('r', 10, 0, 4);
	BEGIN
		PERFORM rl_consume('r', 10, 0, 5), 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
		NULL;
	END;
END $$;
SELECT (rl_peek('r', 10, 0, 0)).remaining;
RESET ratelimit.refund_on_rollback;

DROP EXTENSION ratelimit;
