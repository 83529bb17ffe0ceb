-- Rows of rate_limit_tickets that a person has written, and code that a person has added.
SET client_min_messages = warning;
CREATE EXTENSION ratelimit;
RESET client_min_messages;

-- slots have no limiter with a prefix or a period
INSERT INTO rate_limit_tickets (ticket, limiter, key, places, slots, role, pid, since, until)
SELECT i, limiter, repeat('k', 255), '{0}', 1, current_user::regrole, 1, now(), now() + '1 h'
FROM unnest(ARRAY['good', ':', ':block', 'in:day', repeat('l', 63) || ':' || repeat('p', 127), repeat('l', 64), '']) WITH ORDINALITY x (limiter, i);
SELECT limiter, length(key), ticket, weight FROM rate_limit_slots;
SELECT array_agg(rl_release(i)) FROM generate_series(1, 8) i;
SELECT count(*) FROM rate_limit_tickets;
TRUNCATE rate_limit_tickets;

-- a trigger that names no schemas does not find what its caller has made
CREATE TABLE audit (what text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.audit VALUES (lower(tg_op) || ' ' || abs(1));
	RETURN coalesce(new, old);
END
$$;
CREATE TRIGGER audit BEFORE INSERT OR UPDATE OR DELETE ON rate_limit_tickets FOR EACH ROW EXECUTE FUNCTION audit();
CREATE ROLE regress_caller;
CREATE SCHEMA trap AUTHORIZATION regress_caller;
SET ROLE regress_caller;
CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'caught as ' || current_user $$;
CREATE FUNCTION trap.abs(integer) RETURNS text LANGUAGE sql AS $$ SELECT 'caught as ' || current_user $$;
SET search_path = trap, pg_catalog, public;
SELECT rl_acquire('k', 1, hold => '1 h') AS ticket \gset
SELECT rl_renew(:ticket, '2 h'), rl_release(:ticket);
RESET search_path;
RESET ROLE;
SELECT what FROM audit;

SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
DROP ROLE regress_caller;
-- more slots than there are without shared memory
SELECT rl_acquire('too many', 1000000);
BEGIN;
SELECT rl_acquire('shown', 2, 1, '1 hour') > 0 AS acquired;
SELECT hold, count(*) FROM rate_limit_slots WHERE key = 'shown' GROUP BY 1;
COMMIT;
-- what a session holds can be let go without us
SELECT rl_acquire('session', 2, 1, 'session') > 0 AS first, rl_acquire('session', 2, 1, '1 hour') > 0 AS second;
SELECT hold, count(*) FROM rate_limit_slots WHERE key = 'session' GROUP BY 1 ORDER BY 1;
SELECT pg_advisory_unlock_all();
SELECT rl_release(ticket) FROM rate_limit_slots WHERE key = 'session' AND hold = 'session';
SELECT rl_acquire('session', 2, 1, 'session') > 0 AS third, rl_acquire('session', 2, 1, 'session') IS NULL AS none_is_left;
DROP EXTENSION ratelimit;
DROP FUNCTION audit();
DROP TABLE audit;
