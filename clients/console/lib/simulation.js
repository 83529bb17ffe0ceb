/*
 * What rules would have decided: on the violations of the last 24 hours, or on a log that
 * somebody has uploaded.  The extension's rl_simulate() decides; nothing here touches a
 * bucket.
 *
 * Violations are the calls that were denied, counted for each flush.  So they can only say
 * how many of these another rule would have let through.  A log has all calls.
 */
'use strict';

const { Refusal } = require('./errors');
const { object, rows } = require('./queries');

const MOST_CALLS = 200000;		// of a simulation
const MOST_RULES = 100;

/* The decision on a row of "calls", by a rule of $1 and $2: capacity and refill, or allowance and period. */
const decision = (rule, calls) => `SELECT key, at, ${rule.period === null ?
	'$schema.rl_simulate(at, $1::float8, $2::float8, cost)' :
	'$schema.rl_simulate_period(at, $1::float8, $2::text, cost)'} OVER (PARTITION BY key ORDER BY at, n) AS allowed FROM ${calls}`;

const RESULT = {
	calls: '(SELECT count(*) FROM decided)',
	denied: '(SELECT count(*) FROM decided WHERE NOT allowed)',
	keys: '(SELECT count(DISTINCT key) FROM decided)',
	keysDenied: '(SELECT count(DISTINCT key) FROM decided WHERE NOT allowed)',
	hours: rows(`SELECT date_trunc('hour', at) AS hour, count(*) FILTER (WHERE allowed) AS allowed, count(*) FILTER (WHERE NOT allowed) AS denied
		FROM decided GROUP BY 1 ORDER BY 1 DESC LIMIT 48`),
	mostDenied: rows('SELECT key, count(*) AS denied FROM decided WHERE NOT allowed GROUP BY key ORDER BY 2 DESC, 1 LIMIT 5'),
};

/*
 * $3: the limiter.  The calls of a flush are spread over the time since the one before.
 * Keys with few violations come first, so that what is left out is of as few keys as can be.
 */
const onViolations = (rule) => `
	WITH recorded AS (
		SELECT key, created_at AT TIME ZONE 'UTC' AS written, count FROM $schema.rate_limit_violation_details
		WHERE limiter = $3::text AND created_at > (now() AT TIME ZONE 'UTC') - interval '24 hours' AND key <> '(other)'),
	totals AS (SELECT key, sum(count) AS total, sum(sum(count)) OVER (ORDER BY sum(count), key) AS up_to FROM recorded GROUP BY key),
	taken AS (SELECT key FROM totals WHERE up_to <= ${MOST_CALLS}),
	calls AS (
		SELECT r.key, r.written - current_setting('ratelimit.flush_interval')::interval * ((r.count - n)::float8 / r.count::float8) AS at, n, 1::float8 AS cost
		FROM recorded r JOIN taken USING (key), generate_series(1::bigint, r.count) n),
	decided AS MATERIALIZED (${decision(rule, 'calls')})
	${object({ ...RESULT, recorded: '(SELECT coalesce(sum(total), 0) FROM totals)', recordedKeys: '(SELECT count(*) FROM totals)' })}`;

/* $3, $4, $5: times, keys and costs of the log. */
const onLog = (rule) => `
	WITH calls AS (SELECT at, key, cost, n FROM unnest($3::timestamptz[], $4::text[], $5::float8[]) WITH ORDINALITY c (at, key, cost, n)),
	decided AS MATERIALIZED (${decision(rule, 'calls')})
	${object(RESULT)}`;

function ruleOf(given) {
	const { limiter, capacity, refill = null, period = null } = given ?? {};
	const isNumber = (value) => typeof value === 'number' && Number.isFinite(value) && value >= 0;

	if (typeof limiter !== 'string' || !isNumber(capacity) || (period === null ? !isNumber(refill) : typeof period !== 'string' || refill !== null)) {
		throw new Refusal(400, 'argument', 'A rule has a limiter, a capacity, and either a refill or a period.');
	}
	return { limiter, capacity, refill, period };
}

const TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)? ?(Z|[+-]\d\d(:?\d\d)?)?$/;
const EPOCH = /^\d{9,10}(\.\d+)?$/;

/*
 * A log: a line for each call, with time, key and, if it is a number, cost, between tabs or
 * else commas.  Further columns, empty lines, and a first line of names are ignored.
 */
function readLog(log) {
	const times = [];
	const keys = [];
	const costs = [];

	if (typeof log !== 'string') throw new Refusal(400, 'argument', 'The log must be a text.');
	log.split(/\r?\n/).forEach((line, i) => {
		if (line === '') return;

		const wrong = (what) => new Refusal(400, 'argument', `Line ${i + 1} of the log ${what}.`);
		const [time, key, cost] = line.split(line.includes('\t') ? '\t' : ',').map((column) => column.trim());

		if (EPOCH.test(time)) times.push(new Date(1000 * Number(time)).toISOString());
		else if (TIME.test(time)) times.push(time.replace(',', '.'));
		else if (i === 0) return;
		else throw wrong('does not begin with a time, such as 2026-01-31T12:00:00Z');
		if (!key || Buffer.byteLength(key) > 255 || key.includes('\0')) throw wrong('has no key of 1 to 255 bytes in its second column');
		keys.push(key);
		costs.push(/^\d{1,9}(\.\d+)?$/.test(cost ?? '') ? Number(cost) : 1);
		if (keys.length > MOST_CALLS) throw wrong(`is too many: a log has at most ${MOST_CALLS} calls`);
	});
	if (keys.length === 0) throw new Refusal(400, 'argument', 'The log has no calls.');
	return [times, keys, costs];
}

/* isGone(): nobody waits for it any more.  Gives { results }: for each rule in order its result, or { error }, if it alone is wrong. */
async function simulate(session, { rules, log } = {}, answerFor, isGone = () => false) {
	if (!Array.isArray(rules) || rules.length < 1 || rules.length > MOST_RULES) {
		throw new Refusal(400, 'argument', `There must be 1 to ${MOST_RULES} rules.`);
	}

	const read = rules.map(ruleOf);
	const calls = log === undefined ? undefined : readLog(log);
	const results = [];

	// one after the other, as each of them may be long
	for (const rule of read) {
		if (isGone()) break;

		const numbers = [rule.capacity, rule.period ?? rule.refill];

		try {
			results.push(JSON.parse(calls ? await session.ask(onLog(rule), [...numbers, ...calls]) :
				await session.ask(onViolations(rule), [...numbers, rule.limiter])));
		} catch (error) {
			const answer = answerFor(error);

			if (answer.code !== 'argument' && answer.code !== 'timeout') throw error;
			results.push({ error: answer.message });
		}
	}
	return { results };
}

module.exports = { simulate };
