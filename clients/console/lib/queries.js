/*
 * What the pages ask.  Each query answers with one JSON text, which goes to the browser as
 * it is.  They read the extension's views and functions that are for everybody with the
 * right, and PostgreSQL's own.
 *
 * search_path has PostgreSQL's own schema only; $schema is the extension's.
 */
'use strict';

/* Before anybody knows the extension's schema: who has logged in, and to what. */
const facts = `
	SELECT json_build_object(
		'role', session_user, 'database', current_database(), 'schema', e.schema,
		'server', current_setting('server_version'),
		'setUp', p.oid IS NOT NULL,
		'mayLook', coalesce(has_schema_privilege(e.oid, 'USAGE') AND has_table_privilege(v.oid, 'SELECT')
			AND has_schema_privilege(s.oid, 'USAGE') AND has_table_privilege(t.oid, 'SELECT'), false),
		'mayAct', coalesce(has_function_privilege(p.oid, 'EXECUTE'), false))::text
	FROM (SELECT) one
		LEFT JOIN (SELECT n.oid, n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'ratelimit') e ON true
		LEFT JOIN pg_class v ON v.relnamespace = e.oid AND v.relname = 'rate_limit_stats'
		LEFT JOIN pg_namespace s ON s.nspname = 'ratelimit_console'
		LEFT JOIN pg_class t ON t.relnamespace = s.oid AND t.relname = 'actions'
		LEFT JOIN pg_proc p ON p.pronamespace = s.oid AND p.proname = 'perform'`;

const rows = (query) => `(SELECT coalesce(json_agg(r), '[]') FROM (${query}) r)`;
const object = (parts) => `SELECT json_build_object(${Object.entries(parts).map(([name, part]) => `'${name}', ${part}`).join(', ')})::text`;

const ACTIONS = 'id, asked_at, who, action, limiter, key, details, reason, done_at, done, result';

/* The most rows of a list; a page says when there are more. */
const MOST = 500;

const queries = {
	now: object({
		at: 'extract(epoch FROM clock_timestamp())::float8',
		limiters: rows('SELECT limiter, allowed, denied, shadowed, buckets_used, buckets_in_table, violations_pending, stats_since FROM $schema.rate_limit_stats'),
	}),

	throttled: object({
		rows: rows(`SELECT limiter, key, first_seen, last_seen, rejected FROM $schema.rate_limit_episodes ORDER BY last_seen DESC LIMIT ${MOST}`),
	}),

	offenders: object({
		rows: rows(`SELECT limiter, key, last_hour, last_day, total, last_seen, flagged FROM $schema.rate_limit_top_offenders
			ORDER BY last_hour DESC, last_day DESC, total DESC, limiter, key LIMIT ${MOST}`),
	}),

	review: object({
		total: '(SELECT count(*) FROM $schema.rate_limit_flagged)',
		rows: rows(`SELECT f.limiter, f.key, f.flagged_at, f.rejected, f.reason, e.last_seen, e.rejected AS recently
			FROM (SELECT * FROM $schema.rate_limit_flagged ORDER BY flagged_at DESC LIMIT ${MOST}) f
				LEFT JOIN $schema.rate_limit_episodes e ON e.limiter = f.limiter AND e.key = f.key
			ORDER BY f.flagged_at DESC`),
	}),

	// $1: the key
	key: object({
		buckets: rows(`SELECT limiter, tokens, capacity, refill, full_at, blocked_until, store, period FROM $schema.rate_limit_status
			WHERE key = $1 ORDER BY limiter, period NULLS FIRST LIMIT ${MOST}`),
		policies: rows(`SELECT p.policy, s.tier, s.limiter, s.tokens, s.capacity, s.refill, s.period, s.blocked_until, s.shadow, s.enabled, s.exception
			FROM (SELECT DISTINCT policy FROM $schema.rate_limit_policies ORDER BY policy LIMIT ${MOST}) p, $schema.rl_status_policy(p.policy, $1) s`),
		flags: rows(`SELECT limiter, flagged_at, rejected, reason, cleared_at, cleared_by FROM $schema.rate_limit_flags
			WHERE key = $1 ORDER BY flagged_at DESC LIMIT 50`),
		episodes: rows('SELECT limiter, first_seen, last_seen, rejected FROM $schema.rate_limit_episodes WHERE key = $1'),
		pending: rows('SELECT limiter, gateway_name, count, last_at FROM $schema.rate_limit_pending WHERE key = $1 ORDER BY count DESC LIMIT 100'),
		actions: rows(`SELECT ${ACTIONS} FROM ratelimit_console.actions WHERE key = $1 ORDER BY id DESC LIMIT 50`),
	}),

	// $1: the key; those that are not written yet are of this hour
	hours: object({
		now: "date_trunc('hour', now())",
		rows: rows(`SELECT hour, limiter, sum(count) AS count FROM (
				SELECT date_trunc('hour', created_at AT TIME ZONE 'UTC') AS hour, limiter, count FROM $schema.rate_limit_violation_details
				WHERE key = $1 AND created_at > (now() AT TIME ZONE 'UTC') - interval '47 hours'
				UNION ALL SELECT date_trunc('hour', last_at), limiter, count FROM $schema.rate_limit_pending WHERE key = $1) v
			GROUP BY hour, limiter ORDER BY hour, limiter`),
	}),

	policies: object({
		rows: rows(`SELECT policy, tier, CASE tier WHEN 'default' THEN policy ELSE policy || '/' || tier END AS limiter,
				capacity, refill, period, quota, initial, shadow, enabled, comment,
				(SELECT count(*) FROM $schema.rate_limit_exceptions e
				WHERE (e.policy = p.policy OR e.policy IS NULL) AND (e.tier = p.tier OR e.tier IS NULL)
					AND (e.expires_at > now() OR e.expires_at IS NULL)) AS exceptions
			FROM $schema.rate_limit_policies p ORDER BY policy, tier LIMIT ${MOST}`),
	}),

	stores: object({
		total: '(SELECT row_to_json(s) FROM $schema.rate_limit_stats s WHERE limiter IS NULL)',
		partitions: rows('SELECT partition, slots, living, spilled, evicted FROM $schema.rl_partitions() ORDER BY partition'),
		workers: rows('SELECT pid, kind, database, since, waits_for FROM ratelimit_console.workers() ORDER BY since, pid'),
	}),

	thresholds: object({
		rows: rows(`SELECT name, setting, unit, short_desc, context, source, boot_val, pending_restart FROM pg_settings
			WHERE name LIKE 'ratelimit.%' ORDER BY name`),
	}),

	actions: object({
		rows: rows(`SELECT ${ACTIONS} FROM ratelimit_console.actions ORDER BY id DESC LIMIT ${MOST}`),
	}),

	ask: 'SELECT ratelimit_console.ask($1, $2, $3, $4::jsonb, $5)::text',
	perform: 'SELECT row_to_json(p)::text FROM ratelimit_console.perform($1::bigint) p',
};

const quoted = (name) => `"${name.replace(/"/g, '""')}"`;

/* The text of a query, for an extension in that schema. */
const withSchema = (text, schema) => text.replaceAll('$schema', () => quoted(schema));

module.exports = { facts, queries, rows, object, withSchema, MOST };
