-- Slots: how many at a time, as one session sees them.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

-- Tickets are random numbers: show only whether there is one.
CREATE FUNCTION got(ticket bigint) RETURNS text LANGUAGE sql AS
$$SELECT CASE WHEN ticket IS NULL THEN 'full' WHEN ticket > 0 THEN 'got' ELSE ticket::text END$$;
CREATE VIEW held AS
SELECT limiter, key, state, weight, hold, pid = pg_backend_pid() AS mine, role = current_user AS my_role,
	since <= clock_timestamp() AS since, until > clock_timestamp() AS until, slots
FROM rate_limit_slots ORDER BY limiter, key, weight, hold;

-- no more than there are, and free again when the transaction ends
BEGIN;
SELECT got(rl_acquire('job', 2)), got(rl_acquire('job', 2)), got(rl_acquire('job', 2)), got(rl_acquire('other', 2));
SELECT * FROM held;
COMMIT;
SELECT * FROM held;
BEGIN;
SELECT got(rl_acquire('job', 2, 2)), got(rl_acquire('job', 2));
ROLLBACK;
SELECT got(rl_acquire('job', 2, 2));
-- a statement by itself is a transaction
SELECT * FROM held;

-- another limiter has other slots
BEGIN;
SELECT got(rl_acquire('job', 1)), got(rl_acquire('job', 1, limiter => 'a')), got(rl_acquire('job', 1, limiter => 'a'));
COMMIT;

-- weight
BEGIN;
SELECT got(rl_acquire('w', 5, 3)), got(rl_acquire('w', 5, 3)), got(rl_acquire('w', 5, 2)), got(rl_acquire('w', 5));
SELECT * FROM held;
COMMIT;
-- more than there are: never, and nobody waits for that
SELECT got(rl_acquire('w', 5, 6)), got(rl_acquire('w', 5, 6, timeout => '1 hour')), got(rl_acquire('w', 0));

-- the number is that of the call
BEGIN;
SELECT got(rl_acquire('n', 3)), got(rl_acquire('n', 3)), got(rl_acquire('n', 2)), got(rl_acquire('n', 3)), got(rl_acquire('n', 4));
ROLLBACK;

-- released, and only once
BEGIN;
SELECT rl_acquire('r', 1) AS ticket \gset
SELECT got(rl_acquire('r', 1));
SELECT rl_release(:ticket), rl_release(:ticket);
SELECT got(rl_acquire('r', 1));
SELECT rl_release(:ticket), rl_release(1), rl_release(-1), rl_release(9223372036854775807), rl_release(-9223372036854775808);
COMMIT;
SELECT rl_release(:ticket);
-- in any order
BEGIN;
CREATE TEMP TABLE tickets AS SELECT i, rl_acquire('r', 10) AS ticket FROM generate_series(1, 10) i;
SELECT i, rl_release(ticket) FROM tickets WHERE i IN (1, 5, 10, 6) ORDER BY i = 5, i;
SELECT count(*), sum(weight) FROM held;
SELECT count(rl_acquire('r', 10)) FROM generate_series(1, 10);
SELECT count(*) FROM tickets WHERE rl_release(ticket);
SELECT count(*) FROM held;
COMMIT;
SELECT count(*) FROM held;

-- savepoints: what a rollback undoes is free, what is released into its parent is not
BEGIN;
SELECT got(rl_acquire('s', 3));
SAVEPOINT a;
SELECT got(rl_acquire('s', 3));
SAVEPOINT b;
SELECT got(rl_acquire('s', 3)), got(rl_acquire('s', 3));
ROLLBACK TO b;
SELECT count(*) FROM held;
SELECT got(rl_acquire('s', 3)), got(rl_acquire('s', 3));
RELEASE b;
SELECT count(*) FROM held;
RELEASE a;
SELECT count(*) FROM held;
SAVEPOINT c;
SELECT got(rl_acquire('s', 4));
RELEASE c;
SELECT count(*) FROM held;
COMMIT;
SELECT count(*) FROM held;
-- acquired in a savepoint, which becomes its parent's, and released there
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT rl_acquire('s', 1) AS ticket \gset
RELEASE b;
RELEASE a;
SAVEPOINT c;
SELECT rl_release(:ticket), got(rl_acquire('s', 1));
ROLLBACK TO c;
-- a release is not undone
SELECT count(*) FROM held;
SELECT got(rl_acquire('s', 1));
COMMIT;
-- errors, too
DO $$
BEGIN
	PERFORM rl_acquire('e', 2);
	BEGIN
		PERFORM rl_acquire('e', 2);
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
		RAISE NOTICE 'after the error: % held', (SELECT count(*) FROM held);
	END;
END $$;
SELECT count(*) FROM held;

-- the session's outlive transactions, and their rollback
SELECT rl_acquire('session', 2, 1, 'session') AS ticket \gset
BEGIN;
SELECT got(rl_acquire('session', 2, 1, 'session'));
SAVEPOINT a;
SELECT got(rl_acquire('session', 2, 1, 'session'));
ROLLBACK;
SELECT got(rl_acquire('session', 2));
SELECT * FROM held;
BEGIN;
SELECT rl_release(:ticket);
ROLLBACK;
SELECT * FROM held;
-- they end with it
\c -
SELECT got(rl_acquire('session', 2, 2, timeout => '1 min'));
SELECT * FROM held;

-- an interval outlives the session, and ends by itself
SELECT rl_acquire('interval', 2, 2, '1 hour') AS ticket \gset
SELECT * FROM held;
\c -
SELECT got(rl_acquire('interval', 2));
SELECT * FROM held;
SELECT rl_renew(:ticket, '2 hours');
SELECT until - clock_timestamp() BETWEEN '1 hour' AND '2 hours' AS renewed FROM rate_limit_slots;
SELECT rl_release(:ticket);
SELECT rl_release(:ticket), rl_renew(:ticket, '1 hour');
SELECT * FROM held;
SELECT got(rl_acquire('interval', 2, 1, '1 ms')), got(rl_acquire('interval', 2, 1, '50 ms'));
SELECT got(rl_acquire('interval', 2, 2, timeout => '1 hour'));
SELECT * FROM held;
-- renewed to end at once
SELECT rl_acquire('interval', 1, 1, '1 hour') AS ticket \gset
SELECT rl_renew(:ticket, '1 us');
SELECT got(rl_acquire('interval', 1, timeout => '1 hour'));
SELECT rl_renew(:ticket, '1 hour'), rl_release(:ticket);
-- only intervals can be renewed
SELECT rl_acquire('session', 1, 1, 'session') AS ticket \gset
\set VERBOSITY sqlstate
SELECT rl_renew(:ticket, '1 hour');
\set VERBOSITY default
SELECT rl_release(:ticket);

-- when a call has a timeout, and slots stay held
BEGIN;
SELECT got(rl_acquire('t', 1)), got(rl_acquire('t', 1, timeout => '10 ms'));
COMMIT;

-- PREPARE TRANSACTION is refused, and frees the slots
BEGIN;
SELECT got(rl_acquire('p', 1));
PREPARE TRANSACTION 'slots';
SELECT * FROM held;

-- a blocked key
SELECT rl_block('blocked', '1 hour'), got(rl_acquire('blocked', 1)), got(rl_acquire('blocked', 1, timeout => '1 hour')), rl_unblock('blocked'), got(rl_acquire('blocked', 1));

-- settings
SET ratelimit.enabled = off;
SELECT got(rl_acquire('off', 0)), rl_release(0), rl_renew(0, '1 hour');
SET ratelimit.enabled = on;
SET ratelimit.shadow = on;
SELECT got(rl_acquire('shadow', 0)), got(rl_acquire('shadow', 1, 2, timeout => '1 hour'));
BEGIN;
SELECT got(rl_acquire('shadow', 1)), got(rl_acquire('shadow', 1, timeout => '1 hour'));
COMMIT;
RESET ratelimit.shadow;

-- a denied call is a violation; those that were denied above are, too
SELECT rl_flush() >= 0;
SELECT limiter, key, sum(count) FROM rate_limit_violation_details WHERE key IN ('w', 'blocked', 'shadow', 'r', 'off') GROUP BY 1, 2 ORDER BY 1, 2;

-- what rl_reset() resets is the bucket
BEGIN;
SELECT got(rl_acquire('reset', 1)), rl_reset('reset'), got(rl_acquire('reset', 1));
COMMIT;

-- read-only transactions
BEGIN READ ONLY;
SELECT got(rl_acquire('ro', 1)), got(rl_acquire('ro', 1));
COMMIT;

-- by a policy: a tier with slots, which calls that take tokens skip
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, slots) VALUES ('plan', 'rate', 5, 1, false), ('plan', 'at once', 2, NULL, true), ('only', 'default', 1, NULL, true), ('tokens', 'default', 1, 1, false);
BEGIN;
SELECT got(rl_acquire_policy('plan', 'u')), got(rl_acquire_policy('plan', 'u')), got(rl_acquire_policy('plan', 'u')), got(rl_acquire_policy('plan', 'v', 2)), got(rl_acquire_policy('plan', 'v', 3, timeout => '1 hour'));
SELECT * FROM held;
SELECT rl_consume_policy('plan', 'u'), limiter FROM rl_throttle_policy('plan', 'u');
SELECT tier FROM rl_status_policy('plan', 'u');
COMMIT;
SELECT rl_acquire_policy('only', 'u', hold => '1 hour') AS ticket \gset
SELECT limiter, key, slots FROM held;
SELECT got(rl_acquire_policy('only', 'u')), rl_release(:ticket);
-- a change is obeyed at once
UPDATE rate_limit_policies SET capacity = 3 WHERE tier = 'at once';
SELECT got(rl_acquire_policy('plan', 'u', 3)), got(rl_acquire_policy('plan', 'u', 4));
-- exceptions
INSERT INTO rate_limit_exceptions (policy, tier, key, action, capacity, refill, factor) VALUES
	('plan', NULL, 'half', 'factor', NULL, NULL, 0.5), ('plan', NULL, 'none', 'deny', NULL, NULL, NULL), ('plan', 'at once', 'any', 'allow', NULL, NULL, NULL), ('plan', NULL, 'ten', 'rule', 10, 1, NULL);
SELECT got(rl_acquire_policy('plan', 'half', 1)), got(rl_acquire_policy('plan', 'half', 2)), got(rl_acquire_policy('plan', 'none')), got(rl_acquire_policy('plan', 'any', 1000)), got(rl_acquire_policy('plan', 'ten', 10)), got(rl_acquire_policy('plan', 'ten', 11));
UPDATE rate_limit_policies SET capacity = 100 WHERE tier = 'at once';
UPDATE rate_limit_exceptions SET factor = 1.15 WHERE key = 'half';
SELECT got(rl_acquire_policy('plan', 'half', 115)), got(rl_acquire_policy('plan', 'half', 116));
DELETE FROM rate_limit_exceptions;
-- in shadow, not enabled
UPDATE rate_limit_policies SET shadow = true WHERE policy = 'only';
BEGIN;
SELECT got(rl_acquire_policy('only', 'u')), got(rl_acquire_policy('only', 'u', timeout => '1 hour'));
COMMIT;
UPDATE rate_limit_policies SET enabled = false WHERE policy = 'only';
SELECT got(rl_acquire_policy('only', 'u'));
SET ratelimit.enabled = off;
SELECT got(rl_acquire_policy('nobody', 'u'));
RESET ratelimit.enabled;
-- what is wrong
SELECT rl_acquire_policy('tokens', 'u');
SELECT rl_consume_policy('only', 'u');
SELECT rl_reserve_policy('only', 'u', 1);
SELECT rl_acquire_policy('nobody', 'u');
SELECT rl_acquire_policy(NULL, 'u');
SELECT rl_acquire_policy('plan', NULL);
SELECT rl_acquire_policy('plan', '');
SELECT rl_acquire_policy('plan', 'u', 0);
SELECT rl_acquire_policy('plan', 'u', 1, 'sessions');
SELECT rl_acquire_policy('plan', 'u', 1, 'session', '-1 s');
SET ratelimit.on_error = allow;
SELECT got(rl_acquire_policy('tokens', 'u')), rl_consume_policy('only', 'u');
SET ratelimit.on_error = deny;
SELECT got(rl_acquire_policy('tokens', 'u')), rl_consume_policy('only', 'u');
RESET ratelimit.on_error;
\set VERBOSITY terse
INSERT INTO rate_limit_policies (policy, tier, capacity, slots) VALUES ('plan', 'more', 1, true);
INSERT INTO rate_limit_policies (policy, capacity, slots) VALUES ('x', 1.5, true);
INSERT INTO rate_limit_policies (policy, capacity, slots) VALUES ('x', 2147483648, true);
INSERT INTO rate_limit_policies (policy, capacity, refill, slots) VALUES ('x', 1, 1, true);
INSERT INTO rate_limit_policies (policy, capacity, period, slots) VALUES ('x', 1, 'day', true);
INSERT INTO rate_limit_policies (policy, capacity, quota, slots) VALUES ('x', 1, true, true);
INSERT INTO rate_limit_policies (policy, capacity, initial, slots) VALUES ('x', 1, 1, true);
\set VERBOSITY default
DELETE FROM rate_limit_policies;

-- arguments
SELECT rl_acquire(NULL, 1);
SELECT rl_acquire('k', NULL);
SELECT rl_acquire('k', 1, NULL);
SELECT rl_acquire('k', 1, 1, NULL);
SELECT rl_acquire('k', 1, 1, 'session', NULL);
SELECT rl_acquire('k', 1, 1, 'session', '0', NULL);
SELECT rl_acquire('', 1);
SELECT rl_acquire('k', 1, limiter => 'a:b');
SELECT rl_acquire('k', 1, limiter => '');
SELECT rl_acquire(repeat('k', 256), 1);
SELECT rl_acquire('k', -1);
SELECT rl_acquire('k', 1, 0);
SELECT rl_acquire('k', 1, -2147483648);
SELECT rl_acquire('k', 1, 1, 'sessions');
SELECT rl_acquire('k', 1, 1, '');
SELECT rl_acquire('k', 1, 1, '1 minutes ago hence');
SELECT rl_acquire('k', 1, 1, '99999999999999999 years');
SELECT rl_acquire('k', 1, 1, '0');
SELECT rl_acquire('k', 1, 1, '-1 s');
SELECT rl_acquire('k', 1, 1, 'session', '-1 s');
SELECT rl_release(NULL);
SELECT rl_renew(NULL, '1 s');
SELECT rl_renew(1, NULL);
SELECT rl_renew(1, '0');
SELECT count(*) FROM held;
-- the longest names and holds
SELECT got(rl_acquire(repeat('k', 255), 1, 1, '100000 years', limiter => repeat('l', 63)));
SELECT length(limiter), length(key), until > clock_timestamp() + interval '70 years' AS long FROM rate_limit_slots;
SELECT count(*) FROM rate_limit_slots WHERE rl_release(ticket);
-- untyped parameters resolve
PREPARE acquire AS SELECT got(rl_acquire($1, $2, $3, $4, $5, $6));
EXECUTE acquire('u', '1', '1', 'transaction', '0', 'default');
PREPARE release AS SELECT rl_release($1), rl_renew($1, $2);
EXECUTE release('1', '1 s');

-- a ticket of an interval belongs to a role
CREATE ROLE ratelimit_holder;
CREATE ROLE ratelimit_stranger;
CREATE ROLE ratelimit_member IN ROLE ratelimit_holder;
SET ROLE ratelimit_holder;
SELECT rl_acquire('role', 3, 1, '1 hour') AS ticket1, rl_acquire('role', 3, 1, '1 hour') AS ticket2, rl_acquire('role', 3, 1, '1 hour') AS ticket3 \gset
SET ROLE ratelimit_stranger;
SELECT rl_release(:ticket1), rl_renew(:ticket1, '2 hours');
SELECT * FROM rate_limit_slots;
SELECT * FROM rate_limit_tickets;
SET ROLE ratelimit_member;
SELECT rl_renew(:ticket1, '2 hours'), rl_release(:ticket1);
SET ROLE ratelimit_holder;
SELECT rl_release(:ticket2);
RESET ROLE;
SELECT role, key FROM rate_limit_slots;
SELECT rl_release(:ticket3);
SELECT count(*) FROM held;
DROP ROLE ratelimit_member;
DROP ROLE ratelimit_stranger;
SET ROLE ratelimit_holder;
SELECT rl_acquire('left', 1, 1, '1 hour') > 0, rl_reserve('left', 1, 0, 1) > 0;
RESET ROLE;
DROP ROLE ratelimit_holder;
SELECT role, key FROM rate_limit_slots WHERE key = 'left';
SELECT role, key FROM rate_limit_reservations;

-- gone with the extension
SELECT got(rl_acquire('gone', 1, 1, '1 hour'));
DROP VIEW held;
SET client_min_messages = warning;
DROP EXTENSION ratelimit;
CREATE EXTENSION ratelimit;
SELECT * FROM rate_limit_slots;
DROP EXTENSION ratelimit;
DROP FUNCTION got(bigint);
