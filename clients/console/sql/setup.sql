-- What the console needs in a database that has the extension: three roles, and the schema
-- ratelimit_console with the table of actions.  ratelimit-console --setup prints this file
-- for psql.  Run it as a superuser.  It can be run again, and has to be after ALTER
-- EXTENSION ratelimit UPDATE or SET SCHEMA.
--
--	ratelimit_viewer	sees the extension's views and the table of actions, and changes nothing
--	ratelimit_operator	a viewer that may act
--	ratelimit_console	owns the schema; nobody logs in as this role
--
-- An operator has no right on the extension's functions nor on the table of actions.  It
-- calls ask(), which writes down who wants to do what, and why.  Once that is committed,
-- perform() does it.
--
-- Why two calls?  A rollback undoes neither a block nor a reset nor a reward, but it would
-- undo a row written in the same transaction.  So perform() takes only what a transaction
-- that has ended has asked for, and writes its result in the transaction of the action.
-- Each action is tried once: a bucket of the extension keeps count, as a rollback does not
-- give its token back.  (With ratelimit.enabled off, nothing does, as nothing is limited.)
-- Every role may take the tokens of a bucket whose name it knows, or fill it by a rule of its
-- own.  So nobody can know the name before the action is tried, and afterwards it is blocked.
--
-- Names: search_path has PostgreSQL's own schema only, so whatever others have created,
-- nothing of theirs runs with the rights of ratelimit_console.

\set ON_ERROR_STOP on
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
	role text;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'ratelimit') THEN
		RAISE EXCEPTION 'extension ratelimit does not exist in database %', current_database();
	END IF;
	-- roles are those of the whole server, so another database may have made them
	FOREACH role IN ARRAY ARRAY['ratelimit_console', 'ratelimit_viewer', 'ratelimit_operator'] LOOP
		IF to_regrole(role) IS NULL THEN
			EXECUTE format('CREATE ROLE %I', role);
		END IF;
	END LOOP;
	-- whoever is ratelimit_console can change what is written down
	IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ratelimit_console' AND rolcanlogin)
		OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE m.roleid = 'ratelimit_console'::regrole AND NOT r.rolsuper) THEN
		RAISE EXCEPTION 'role ratelimit_console exists, and may log in or has members';
	END IF;
	IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'ratelimit_console' AND nspowner <> 'ratelimit_console'::regrole) THEN
		RAISE EXCEPTION 'schema ratelimit_console exists, and is not role ratelimit_console''s';
	END IF;
END
$$;
GRANT ratelimit_viewer TO ratelimit_operator;
-- the processes of the extension's workers belong to no role that logs in
GRANT pg_read_all_stats TO ratelimit_console;
CREATE SCHEMA IF NOT EXISTS ratelimit_console AUTHORIZATION ratelimit_console;

-- What the roles may do with the extension's objects.  Viewers: the same as pg_monitor.
DO $$
DECLARE
	extension text := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'ratelimit');
	object record;
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA %I TO ratelimit_viewer, ratelimit_console', extension);
	FOR object IN
		SELECT CASE WHEN c.oid IS NULL THEN 'EXECUTE ON FUNCTION ' || p.oid::regprocedure ELSE 'SELECT ON ' || c.oid::regclass END AS right_on_it
		FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'ratelimit'
			LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('r', 'v')
			LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
		WHERE d.deptype = 'e'
			AND EXISTS (SELECT FROM aclexplode(coalesce(c.relacl, p.proacl)) a WHERE a.grantee = 'pg_monitor'::regrole)
	LOOP
		EXECUTE format('GRANT %s TO ratelimit_viewer', object.right_on_it);
	END LOOP;
	EXECUTE format('GRANT EXECUTE ON FUNCTION %1$I.rl_status_policy(text, text), %1$I.rl_simulate(timestamptz, float8, float8, float8),'
		' %1$I.rl_simulate_period(timestamptz, float8, text, float8) TO ratelimit_viewer', extension);
	EXECUTE format('GRANT EXECUTE ON FUNCTION %1$I.rl_consume(text, float8, float8, float8, text), %1$I.rl_unflag(text, text),'
		' %1$I.rl_block(text, interval, text), %1$I.rl_unblock(text, text), %1$I.rl_reset(text, text, text), %1$I.rl_reward(text, float8, text)'
		' TO ratelimit_console', extension);
	EXECUTE format('GRANT SELECT, UPDATE ON %I.rate_limit_policies TO ratelimit_console', extension);
END
$$;

SET LOCAL ROLE ratelimit_console;

CREATE TABLE IF NOT EXISTS ratelimit_console.actions (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	who text NOT NULL,
	action text NOT NULL,
	limiter text NOT NULL,
	key text,
	details jsonb NOT NULL,
	reason text NOT NULL,
	asked_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
	done_at timestamptz,
	done boolean,
	result text
);
CREATE INDEX IF NOT EXISTS actions_by_key ON ratelimit_console.actions (key, id);
COMMENT ON TABLE ratelimit_console.actions IS 'What operators have asked for by ratelimit-console, and what came of it. Only ask() and perform() write here.';
COMMENT ON COLUMN ratelimit_console.actions.id IS 'number of the action';
COMMENT ON COLUMN ratelimit_console.actions.asked_at IS 'when it was asked for';
COMMENT ON COLUMN ratelimit_console.actions.who IS 'the role that had logged in';
COMMENT ON COLUMN ratelimit_console.actions.action IS 'clear_flag, block, unblock, reset, reward, edit_policy or shadow';
COMMENT ON COLUMN ratelimit_console.actions.limiter IS 'which rule; of a tier of a policy, its limiter';
COMMENT ON COLUMN ratelimit_console.actions.key IS 'whose; null: it is about a policy';
COMMENT ON COLUMN ratelimit_console.actions.details IS 'duration, tokens, period; or policy, tier and the new values, and as "before" the row that they replaced';
COMMENT ON COLUMN ratelimit_console.actions.reason IS 'why, in the words of who asked for it';
COMMENT ON COLUMN ratelimit_console.actions.asked_in IS 'the transaction that asked for it';
COMMENT ON COLUMN ratelimit_console.actions.done_at IS 'when it was done or failed; null: perhaps it was not tried, or its transaction was rolled back';
COMMENT ON COLUMN ratelimit_console.actions.done IS 'false: it failed; result says why';
COMMENT ON COLUMN ratelimit_console.actions.result IS 'what came of it';

-- What the names of these buckets are made of.
CREATE TABLE IF NOT EXISTS ratelimit_console.secret (value text NOT NULL);
INSERT INTO ratelimit_console.secret SELECT gen_random_uuid()::text || gen_random_uuid() WHERE NOT EXISTS (SELECT FROM ratelimit_console.secret);
COMMENT ON TABLE ratelimit_console.secret IS 'For perform() only.';

-- Write down what is asked for: the number of the action.
CREATE OR REPLACE FUNCTION ratelimit_console.ask(action text, limiter text, key text, details jsonb, reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	about_policy boolean := action = ANY (ARRAY['edit_policy', 'shadow']);
	allowed text[] := CASE action
		WHEN 'block' THEN ARRAY['duration']
		WHEN 'reset' THEN ARRAY['period']
		WHEN 'reward' THEN ARRAY['tokens']
		WHEN 'edit_policy' THEN ARRAY['policy', 'tier', 'set']
		WHEN 'shadow' THEN ARRAY['policy', 'tier', 'shadow']
		ELSE ARRAY[]::text[] END;
	settable text[] := ARRAY['capacity', 'refill', 'period', 'quota', 'initial', 'enabled', 'comment'];
	asked bigint;
BEGIN
	IF action IS NULL OR action <> ALL (ARRAY['clear_flag', 'block', 'unblock', 'reset', 'reward', 'edit_policy', 'shadow']) THEN
		RAISE EXCEPTION 'there is no action "%"', left(action, 50);
	ELSIF reason IS NULL OR length(btrim(reason)) NOT BETWEEN 3 AND 1000 THEN
		RAISE EXCEPTION 'a reason of 3 to 1000 characters is needed';
	ELSIF limiter IS NULL OR octet_length(limiter) NOT BETWEEN 1 AND 63 THEN
		RAISE EXCEPTION 'limiter must have 1 to 63 bytes';
	ELSIF limiter = 'ratelimit_console' THEN
		RAISE EXCEPTION 'limiter ratelimit_console is the console''s own';
	ELSIF (key IS NULL) <> about_policy OR octet_length(key) NOT BETWEEN 1 AND 255 THEN
		RAISE EXCEPTION 'key must have 1 to 255 bytes, and an action on a policy has none';
	ELSIF octet_length(details::text) > 10000 THEN
		RAISE EXCEPTION 'details must not have more than 10000 bytes';
	ELSIF details IS NULL OR jsonb_typeof(details) <> 'object' OR details - allowed <> '{}'::jsonb THEN
		RAISE EXCEPTION 'details of action "%" are an object of %', action, coalesce(nullif(array_to_string(allowed, ', '), ''), 'nothing');
	ELSIF action = 'block' AND coalesce(jsonb_typeof(details -> 'duration') <> 'string' OR (details ->> 'duration')::interval <= '0'::interval, true) THEN
		RAISE EXCEPTION 'duration must be above 0';
	ELSIF action = 'reward' AND coalesce(NOT (details ->> 'tokens')::float8 BETWEEN 0 AND 1e15, true) THEN
		RAISE EXCEPTION 'tokens must be a number from 0 to 1e15';
	ELSIF about_policy AND (details ->> 'policy' IS NULL OR details ->> 'tier' IS NULL
		OR limiter <> CASE WHEN details ->> 'tier' = 'default' THEN details ->> 'policy' ELSE (details ->> 'policy') || '/' || (details ->> 'tier') END) THEN
		RAISE EXCEPTION 'limiter must be that of policy and tier';
	ELSIF action = 'shadow' AND (details ->> 'shadow')::boolean IS NULL THEN
		RAISE EXCEPTION 'shadow must be true or false';
	ELSIF action = 'edit_policy' AND coalesce(jsonb_typeof(details -> 'set') <> 'object'
		OR details -> 'set' = '{}'::jsonb OR (details -> 'set') - settable <> '{}'::jsonb OR length(details ->> 'set') > 2000, true) THEN
		RAISE EXCEPTION 'set must be an object of %', array_to_string(settable, ', ');
	END IF;
	INSERT INTO ratelimit_console.actions AS a (who, action, limiter, key, details, reason)
	VALUES (session_user::text, action, limiter, key, details, btrim(reason))
	RETURNING a.id INTO asked;
	RETURN asked;
END
$$;
COMMENT ON FUNCTION ratelimit_console.ask(text, text, text, jsonb, text) IS
'Write an action down in ratelimit_console.actions: its number. Once this is committed, perform() does it.';

-- Do what was asked for, and write down what came of it.
CREATE OR REPLACE FUNCTION ratelimit_console.perform(asked bigint, OUT done boolean, OUT result text) RETURNS record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	extension text := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'ratelimit');
	a ratelimit_console.actions;
	bucket text := (SELECT format('action %s %s', asked, left(encode(sha256(convert_to(s.value || ' ' || asked, 'UTF8')), 'hex'), 32)) FROM ratelimit_console.secret s);
	first boolean;
	yes boolean;
	tokens float8;
	before jsonb;
BEGIN
	SELECT * INTO a FROM ratelimit_console.actions t WHERE t.id = asked AND t.who = session_user::text FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'you have not asked for action %', asked;
	ELSIF a.done_at IS NOT NULL THEN
		RAISE EXCEPTION 'action % has been tried already', asked;
	ELSIF a.asked_in = pg_current_xact_id() THEN
		RAISE EXCEPTION 'action % is not written down yet', asked
			USING HINT = 'Commit what has asked for it.';
	ELSIF a.asked_at < clock_timestamp() - interval '5 minutes' THEN
		RAISE EXCEPTION 'action % was asked for too long ago', asked;
	END IF;
	EXECUTE format('SELECT %I.rl_consume($1, 1::float8, $2, 1::float8, $3)', extension) INTO first
		USING bucket, 1::float8 / 3600, 'ratelimit_console'::text;
	IF NOT first THEN
		RAISE EXCEPTION 'action % has been tried already', asked;
	END IF;
	EXECUTE format('SELECT %I.rl_block($1, $2, $3)', extension) USING bucket, interval '10 minutes', 'ratelimit_console'::text;

	BEGIN
		CASE a.action
			WHEN 'clear_flag' THEN
				EXECUTE format('SELECT %I.rl_unflag($1, $2)', extension) INTO yes USING a.key, a.limiter;
				result := CASE WHEN yes THEN 'the flag is cleared' ELSE 'there was no flag' END;
			WHEN 'block' THEN
				EXECUTE format('SELECT %I.rl_block($1, $2, $3)', extension) USING a.key, (a.details ->> 'duration')::interval, a.limiter;
				result := 'blocked for ' || (a.details ->> 'duration')::interval;
			WHEN 'unblock' THEN
				EXECUTE format('SELECT %I.rl_unblock($1, $2)', extension) INTO yes USING a.key, a.limiter;
				result := CASE WHEN yes THEN 'the block has ended' ELSE 'there was no block' END;
			WHEN 'reset' THEN
				EXECUTE format('SELECT %I.rl_reset($1, $2, $3)', extension) INTO yes USING a.key, a.limiter, a.details ->> 'period';
				result := CASE WHEN yes THEN 'the bucket is full' ELSE 'the bucket was full' END;
			WHEN 'reward' THEN
				EXECUTE format('SELECT %I.rl_reward($1, $2, $3)', extension) INTO tokens USING a.key, (a.details ->> 'tokens')::float8, a.limiter;
				result := format('there was room for %s tokens', tokens);
			ELSE
				EXECUTE format('SELECT to_jsonb(p) FROM %I.rate_limit_policies p WHERE p.policy = $1 COLLATE "C" AND p.tier = $2 COLLATE "C" FOR UPDATE', extension)
					INTO before USING a.details ->> 'policy', a.details ->> 'tier';
				IF before IS NULL THEN
					RAISE EXCEPTION 'the policy has no such tier';
				END IF;
				EXECUTE format('UPDATE %1$I.rate_limit_policies p SET capacity = n.capacity, refill = n.refill, period = n.period, quota = n.quota,'
					' initial = n.initial, shadow = n.shadow, enabled = n.enabled, comment = n.comment'
					' FROM jsonb_populate_record(NULL::%1$I.rate_limit_policies, $1) n WHERE p.policy = n.policy AND p.tier = n.tier', extension)
					USING before || CASE a.action WHEN 'shadow' THEN jsonb_build_object('shadow', (a.details ->> 'shadow')::boolean) ELSE a.details -> 'set' END;
				a.details := a.details || jsonb_build_object('before', before);
				result := 'the policy is changed';
		END CASE;
		done := true;
	EXCEPTION
		-- not a timeout or a cancel: these leave it open what came of it
		WHEN OTHERS THEN
			done := false;
			result := SQLERRM;
	END;
	UPDATE ratelimit_console.actions t SET done_at = clock_timestamp(), done = perform.done, result = perform.result, details = a.details WHERE t.id = asked;
END
$$;
COMMENT ON FUNCTION ratelimit_console.perform(bigint) IS
'Do what ask() has written down in a transaction that has ended: whether it was done, and what came of it. An action is tried once, within five minutes, by who has asked for it.';

CREATE OR REPLACE FUNCTION ratelimit_console.workers(OUT pid integer, OUT kind text, OUT database text, OUT since timestamptz, OUT waits_for text) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT a.pid, a.backend_type, a.datname::text, a.backend_start, a.wait_event FROM pg_stat_activity a WHERE a.backend_type LIKE 'ratelimit %' $$;
COMMENT ON FUNCTION ratelimit_console.workers() IS 'The background processes of the extension.';

REVOKE ALL ON FUNCTION ratelimit_console.ask(text, text, text, jsonb, text), ratelimit_console.perform(bigint), ratelimit_console.workers() FROM PUBLIC;
GRANT USAGE ON SCHEMA ratelimit_console TO ratelimit_viewer;
GRANT SELECT ON ratelimit_console.actions TO ratelimit_viewer;
GRANT EXECUTE ON FUNCTION ratelimit_console.workers() TO ratelimit_viewer;
GRANT EXECUTE ON FUNCTION ratelimit_console.ask(text, text, text, jsonb, text), ratelimit_console.perform(bigint) TO ratelimit_operator;

COMMIT;
