-- Reservations: rl_reserve(), rl_reserve_policy(), rl_settle(); and rl_book().
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

-- numbers are random, so they are kept by name
CREATE TABLE kept (name text PRIMARY KEY, number bigint);
CREATE FUNCTION keep(name text, number bigint) RETURNS boolean LANGUAGE sql AS
$$ INSERT INTO kept VALUES (name, number) ON CONFLICT (name) DO UPDATE SET number = excluded.number RETURNING number IS NOT NULL $$;
CREATE FUNCTION settle(name text, used float8) RETURNS float8 LANGUAGE sql AS
$$ SELECT rl_settle((SELECT k.number FROM kept k WHERE k.name = settle.name), used) $$;
CREATE FUNCTION tokens(key text, capacity float8, refill float8 DEFAULT 0, limiter text DEFAULT 'default') RETURNS float8 LANGUAGE sql AS
$$ SELECT (rl_peek(key, capacity, refill, 0, limiter)).remaining $$;

-- the estimate is taken; the difference goes back
SELECT keep('a', rl_reserve('k', 10, 0, 6)), tokens('k', 10);
SELECT limiter, key, tokens, expires_at BETWEEN now() + '50 s' AND now() + '61 s' AS in_a_minute, role = current_user AS mine
FROM rate_limit_reservations;
SELECT settle('a', 2), tokens('k', 10);
SELECT count(*) FROM rate_limit_reservations;
-- once
SELECT settle('a', 2), settle('a', 0), tokens('k', 10);
-- all used, nothing used
SELECT keep('a', rl_reserve('k', 10, 0, 8)), settle('a', 8), keep('b', rl_reserve('k', 10, 0, 0)), settle('b', 0);
SELECT rl_reset('k'), keep('a', rl_reserve('k', 10, 0, 8)), settle('a', 0), rl_reset('k');
-- more used than reserved: debt
SELECT keep('a', rl_reserve('k', 10, 0, 6)), settle('a', 13), rl_consume('k', 10, 0), rl_reset('k');
-- of a bucket that is full: it is made
SELECT keep('a', rl_reserve('k', 10, 0, 6)), rl_reset('k'), settle('a', 7.5), tokens('k', 10), rl_reset('k');
SELECT keep('a', rl_reserve('k', 10, 0, 0)), settle('a', 3), tokens('k', 10), rl_reset('k');
-- denied: null, and nothing taken
SELECT rl_reserve('k', 10, 0, 11), rl_reserve('k', 0, 0, 1), keep('a', rl_reserve('k', 10, 0, 6)), rl_reserve('k', 10, 0, 6), tokens('k', 10);
-- several at a time, settled in any order
SELECT keep('b', rl_reserve('k', 10, 0, 1)), keep('c', rl_reserve('k', 10, 0, 2)), tokens('k', 10);
SELECT settle('c', 1), settle('a', 1), settle('b', 1), tokens('k', 10);
-- exact: as if what was used had been taken in the first place
SELECT rl_consume('exact', 1, 0, 0.1), keep('a', rl_reserve('exact', 1, 0, 0.9)), settle('a', 0.7), rl_consume('exact', 1, 0, 0.2), rl_consume('exact', 1, 0, 1e-9);
SELECT keep('a', rl_reserve('third', 1, 0, 2.0 / 3)), settle('a', 1.0 / 3), rl_consume('third', 1, 0, 1.0 / 3), rl_consume('third', 1, 0, 1.0 / 3), rl_consume('third', 1, 0, 1e-9);
SELECT keep('a', rl_reserve('slow', 1, 1e-9, 0.7)), round(settle('a', 0.3)::numeric, 6), rl_consume('slow', 1, 1e-9, 0.7), rl_consume('slow', 1, 1e-9, 1e-3);

-- the bucket's parameters have changed: its own count, so many tokens are so many tokens
SELECT rl_reset('k'), keep('a', rl_reserve('k', 10, 0, 6)), rl_consume('k', 20, 0, 1), settle('a', 2), tokens('k', 20);
SELECT rl_reset('k'), keep('a', rl_reserve('k', 10, 0, 6)), rl_consume('k', 100, 1e-9, 1), round(settle('a', 2)::numeric, 4), rl_consume('k', 100, 1e-9, 6.9), rl_consume('k', 100, 1e-9, 0.2);
-- nothing beyond full
SELECT rl_reset('k'), keep('a', rl_reserve('k', 10, 0, 6)), rl_reset('k'), rl_consume('k', 10, 0, 1), settle('a', 2), tokens('k', 10);
SELECT keep('a', rl_reserve('k', 10, 0, 6)), rl_reset_all('default') > 0, settle('a', 2), tokens('k', 10);
SELECT keep('a', rl_reserve('k', 10, 0, 6)), rl_reset_all(NULL) > 0, settle('a', 2), settle('a', 2);
-- blocks: a blocked key gets none; one that is blocked afterwards can be settled
SELECT keep('a', rl_reserve('k', 10, 0, 6)), rl_block('k', '1 hour'), rl_reserve('k', 10, 0, 1), settle('a', 2), tokens('k', 10), rl_unblock('k'), rl_reset('k');

-- expired: settled at the full price
SELECT keep('a', rl_reserve('k', 10, 0, 6, '1 us'));
DO $$ BEGIN WHILE EXISTS (SELECT FROM rate_limit_reservations) LOOP PERFORM pg_sleep(0.001); END LOOP; END $$;
SELECT settle('a', 2), tokens('k', 10), rl_reset('k');
-- the longest time
SELECT keep('a', rl_reserve('k', 10, 0, 6, '1 day')), settle('a', 6), rl_reset('k');
SELECT rl_reserve('k', 10, 0, 6, '1 day 1 us');
SELECT rl_reserve('k', 10, 0, 6, '0');
SELECT rl_reserve('k', 10, 0, 6, '-1 s');

-- transactions: neither reserving nor settling is undone by a rollback
BEGIN;
SELECT rl_reserve('k', 10, 0, 6, '1 us') IS NOT NULL AS reserved;
ROLLBACK;
SELECT tokens('k', 10), rl_reset('k');
SELECT keep('a', rl_reserve('k', 10, 0, 6));
BEGIN;
SELECT settle('a', 2);
SAVEPOINT s;
SELECT settle('a', 1);
ROLLBACK;
SELECT settle('a', 2), tokens('k', 10), rl_reset('k');
-- with refunds, both are; but what another transaction has reserved stays so
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT rl_reserve('k', 10, 0, 6) IS NOT NULL AS reserved;
ROLLBACK;
SELECT tokens('k', 10), count(*) FROM rate_limit_reservations;
BEGIN;
SELECT keep('a', rl_reserve('k', 10, 0, 6)), settle('a', 2);
ROLLBACK;
SELECT tokens('k', 10);
BEGIN;
SELECT keep('a', rl_reserve('k', 10, 0, 6)), settle('a', 12);
ROLLBACK;
SELECT tokens('k', 10);
-- settled in a savepoint that is rolled back: what was used comes back, and only then
BEGIN;
SELECT keep('a', rl_reserve('k', 10, 0, 6));
SAVEPOINT s;
SELECT settle('a', 2);
ROLLBACK TO s;
SELECT tokens('k', 10), settle('a', 2);
ROLLBACK;
SELECT tokens('k', 10);
-- reserved in a savepoint
BEGIN;
SELECT rl_consume('k', 10, 0, 1);
SAVEPOINT s;
SELECT keep('a', rl_reserve('k', 10, 0, 3)), keep('b', rl_reserve('k', 10, 0, 2));
SAVEPOINT t;
SELECT keep('c', rl_reserve('k', 10, 0, 1));
RELEASE t;
SELECT settle('b', 1), tokens('k', 10);
ROLLBACK TO s;
SELECT tokens('k', 10);
SELECT keep('a', rl_reserve('k', 10, 0, 3));
COMMIT;
SELECT tokens('k', 10), settle('a', 1), tokens('k', 10), count(*) FROM rate_limit_reservations;
RESET ratelimit.refund_on_rollback;
SELECT rl_reset('k');

-- policies: all tiers or none, settled in all
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('llm', 'minute', 10, 0, true), ('llm', 'day', 15, 0, true);
SELECT keep('a', rl_reserve_policy('llm', 'u', 8)), tokens('u', 10, 0, 'llm/minute'), tokens('u', 15, 0, 'llm/day');
SELECT limiter, key, tokens FROM rate_limit_reservations ORDER BY limiter;
SELECT rl_reserve_policy('llm', 'u', 8), tokens('u', 15, 0, 'llm/day');
SELECT settle('a', 3), settle('a', 3), tokens('u', 10, 0, 'llm/minute'), tokens('u', 15, 0, 'llm/day');
-- by the tiers that it was made of
SELECT keep('a', rl_reserve_policy('llm', 'u', 5));
DELETE FROM rate_limit_policies WHERE tier = 'minute';
SELECT settle('a', 20), tokens('u', 10, 0, 'llm/minute'), tokens('u', 15, 0, 'llm/day');
-- a tier in shadow gives tokens if it has them
UPDATE rate_limit_policies SET shadow = true;
SELECT rl_reserve_policy('llm', 'u', 5), keep('a', rl_reserve_policy('llm', 'v', 5)), tokens('v', 15, 0, 'llm/day'), settle('a', 1), tokens('v', 15, 0, 'llm/day');
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota) VALUES ('llm', 'minute', 10, 0, true);
SELECT keep('a', rl_reserve_policy('llm', 'v', 10)), tokens('v', 15, 0, 'llm/day'), tokens('v', 10, 0, 'llm/minute');
SELECT rl_reserve_policy('llm', 'v', 1), settle('a', 8), keep('b', rl_reserve_policy('llm', 'v', 2)), settle('b', 1), tokens('v', 15, 0, 'llm/day'), tokens('v', 10, 0, 'llm/minute');
UPDATE rate_limit_policies SET enabled = false;
SELECT rl_reserve_policy('llm', 'v', 1);
INSERT INTO rate_limit_policies (policy, tier, capacity, refill) SELECT 'many', 't' || i, 10, 1 FROM generate_series(1, 9) i;
SELECT rl_reserve_policy('many', 'v', 1);
SELECT count(*) FROM rate_limit_status WHERE limiter LIKE 'many/%';
UPDATE rate_limit_policies SET enabled = tier <> 't9' WHERE policy = 'many';
SELECT keep('a', rl_reserve_policy('many', repeat('k', 255), 1)), floor(settle('a', 2));
SELECT rl_reserve_policy('nobody', 'v', 1);
-- a tier with a period; the bucket may be made by settling, and may come into debt
INSERT INTO rate_limit_policies (policy, tier, capacity, refill, period, quota) VALUES ('budget', 'default', 100, NULL, '100 years', false), ('budget', 'burst', 10, 0, NULL, true);
SELECT keep('a', rl_reserve_policy('budget', 'u', 8)), keep('b', rl_reserve_policy('budget', 'w', 0));
SELECT limiter, key, tokens, period FROM rate_limit_reservations ORDER BY limiter, key;
SELECT settle('a', 3), (rl_count('u', '100 years', 0, 'budget')).hits, tokens('u', 10, 0, 'budget/burst');
SELECT settle('b', 102.5), (rl_count('w', '100 years', 0, 'budget')).hits, tokens('w', 10, 0, 'budget/burst'), rl_consume_policy('budget', 'w');
SELECT rl_reserve_policy('budget', 'u', 11), (rl_count('u', '100 years', 0, 'budget')).hits;
-- names of the greatest length
INSERT INTO rate_limit_policies (policy, tier, capacity, period) SELECT repeat('p', 60), 't' || i, 10, '100 years from 1970-01-01 00:00 America/North_Dakota/New_Salem' FROM generate_series(1, 8) i;
SELECT keep('a', rl_reserve_policy(repeat('p', 60), repeat('k', 255), 8)), (SELECT count(DISTINCT period) FROM rate_limit_reservations), settle('a', 3);

-- settings
SET ratelimit.enabled = off;
SELECT rl_reserve('k', 10, 0, 6), rl_reserve_policy('llm', 'v', 1), rl_settle(0, 5), tokens('k', 10);
RESET ratelimit.enabled;
SET ratelimit.shadow = on;
SELECT keep('a', rl_reserve('k', 10, 0, 6)), rl_reserve('k', 10, 0, 6), settle('a', 1), rl_reset('k');
RESET ratelimit.shadow;

-- bad arguments
SELECT rl_reserve(NULL, 10, 0, 6);
SELECT rl_reserve('k', NULL, 0, 6);
SELECT rl_reserve('k', 10, NULL, 6);
SELECT rl_reserve('k', 10, 0, NULL);
SELECT rl_reserve('k', 10, 0, 6, NULL);
SELECT rl_reserve('k', 10, 0, 6, '1 s', NULL);
SELECT rl_reserve('', 10, 0, 6);
SELECT rl_reserve('k', 10, 0, 6, '1 s', 'a:b');
SELECT rl_reserve('k', 10, 0, -1);
SELECT rl_reserve('k', 10, 0, 'Infinity');
SELECT rl_reserve_policy(NULL, 'k', 1);
SELECT rl_reserve_policy('llm', NULL, 1);
SELECT rl_reserve_policy('llm', 'k', NULL);
SELECT rl_reserve_policy('llm', 'k', 1, NULL);
SELECT rl_reserve_policy('llm', 'k', 'NaN');
SELECT rl_settle(NULL, 1);
SELECT rl_settle(1, NULL);
SELECT rl_settle(1, -1);
SELECT rl_settle(1, 'NaN');
-- numbers that nobody was given
SELECT rl_settle(n, 1) FROM unnest(ARRAY[0, 1, 2, 3, -1, -2, 9223372036854775807, 9223372036854775806, -9223372036854775808]) n;

-- names of the greatest length, odd bytes
SELECT keep('a', rl_reserve(repeat('k', 255), 1, 0, 1, '1 min', repeat('l', 63))), settle('a', 0.5), tokens(repeat('k', 255), 1, 0, repeat('l', 63));
SELECT keep('a', rl_reserve(E':\x01{"''\\', 1, 0, 1)), settle('a', 0.5);

-- rl_book: how long to wait, in the order of the calls
SELECT rl_book('b', 1, 0.001), round(extract(epoch FROM rl_book('b', 1, 0.001, timeout => '1 day'))), round(extract(epoch FROM rl_book('b', 1, 0.001, timeout => '1 day')));
-- later than the timeout: nothing taken
SELECT rl_book('b', 1, 0.001), rl_book('b', 1, 0.001, 1, '1000 s'), round(tokens('b', 1, 0.001)), rl_book('b', 1, 0.001, 2, '1000 years');
-- the same queue as rl_wait's; given back by hand
SELECT rl_wait('b', 1, 0.001, timeout => '2900 s'), rl_reward('b', 1), round(extract(epoch FROM rl_book('b', 1, 0.001, 1, '1 day')), -1) AS round;
SELECT rl_book('q', 1, 0, timeout => '1 day'), rl_book('q', 1, 0, timeout => '1 day'), rl_book('q', 0, 0);
SELECT rl_block('q2', '1 hour'), rl_book('q2', 1, 1000, timeout => '1 day'), rl_unblock('q2');
SET ratelimit.enabled = off;
SELECT rl_book('b', 1, 0.001);
RESET ratelimit.enabled;
SET ratelimit.shadow = on;
SELECT rl_book('b', 1, 0.001);
RESET ratelimit.shadow;
SELECT rl_book('b', 1, 0.001, 1, '-1 s');
SELECT rl_book('b', 1, 0.001, 1, NULL);
SELECT rl_book('b', 1, 0.001, NULL);

-- a reservation that is over before its transaction is rolled back has used its tokens
SET ratelimit.refund_on_rollback = on;
BEGIN;
SELECT rl_reserve('over', 10, 0, 4, '1 us') > 0 AS reserved, rl_reserve('not over', 10, 0, 4, '1 day') > 0 AS reserved;
ROLLBACK;
SELECT (rl_peek('over', 10, 0, 0)).remaining AS over, (rl_peek('not over', 10, 0, 0)).remaining AS not_over;
RESET ratelimit.refund_on_rollback;

-- nothing is left, and what was denied was counted
SELECT count(*) FROM rate_limit_reservations;
DROP TABLE kept;
DROP FUNCTION keep(text, bigint);
DROP FUNCTION settle(text, float8);
DROP FUNCTION tokens(text, float8, float8, text);
DROP EXTENSION ratelimit;
