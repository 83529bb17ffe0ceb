/*
 * The statements that the client sends.  Each decides a lot of calls, in order: its
 * parameters are the keys, what differs from call to call, and the rule.
 *
 * Whatever others have created in a schema of search_path, it does not match better than
 * what is used here: unnest() of several arrays is always PostgreSQL's, other functions are
 * qualified, and operators have exactly the types of PostgreSQL's.
 */
'use strict';

const { createHash } = require('node:crypto');

/*
 * A statement.  Its name is that of no other text: behind a pooler, what another program, or
 * another version of this one, has prepared under the same name would be run in its place.
 */
const statement = (text, row = false) => ({ name: `ratelimit_${createHash('sha256').update(text).digest('hex').slice(0, 24)}`, text, row });

/* The text of a PostgreSQL array of text, and of one of numbers. */
const textArray = (calls, name) => `{"${calls.map((call) => (/["\\]/.test(call[name]) ?
	call[name].replace(/["\\]/g, '\\$&') : call[name])).join('","')}"}`;
const keysArray = (calls) => textArray(calls, 'key');
const numbersArray = (calls, name) => `{${calls.map((call) => call[name]).join(',')}}`;

/* The numbers of such an array; NaN for null. */
const numbersOf = (array) => array.slice(1, -1).split(',').map(Number);

const quoted = (name) => `"${name.replace(/"/g, '""')}"`;

/* An rl_result r as columns.  Times are seconds. */
const RESULT = `r.allowed, r.capacity, r.remaining,
	extract(epoch FROM r.retry_after)::float8, extract(epoch FROM r.reset_after)::float8,
	r.limiter, r.shadowed`;

/* The same as an object. */
const result = ([allowed, capacity, remaining, retryAfter, resetAfter, limiter, shadowed]) => (
	{ allowed, capacity, remaining, retryAfter, resetAfter, limiter, shadowed, by: 'database' });

function settleStatement(f) {
	const settle = statement(`SELECT ${f('rl_settle')}(k.id, k.n) FROM unnest($1::bigint[], $2::float8[]) AS k (id, n)`);

	return {
		ask: (calls) => ({ statement: settle, values: [numbersArray(calls, 'id'), numbersArray(calls, 'cost')] }),
		answers: (rows) => rows.map(([tokens]) => tokens),
	};
}

/*
 * The answer to a call that names several policies: the result of the one that binds most, with
 * those of all of them.  That is the one to wait for longest if the call is denied, and
 * otherwise the one with the fewest tokens left.
 */
function together(results) {
	const denied = results.filter(({ allowed }) => !allowed);
	const wait = ({ retryAfter }) => retryAfter ?? Infinity;
	const left = ({ remaining }) => remaining ?? Infinity;
	const binding = denied.length > 0 ?
		denied.reduce((a, b) => (wait(b) > wait(a) ? b : a)) :
		results.reduce((a, b) => (left(b) < left(a) ? b : a));

	return { ...binding, shadowed: results.some(({ shadowed }) => shadowed), results };
}

/* Calls that name policies.  All their entries are in one array, of which each call has a part. */
function policiesStatements(f) {
	const several = (columns) => statement(`SELECT ${columns} FROM unnest($4::int[], $5::int[]) AS c (a, z),
			LATERAL unnest(${f('rl_consume_policies')}(($1::text[])[c.a:c.z], ($2::text[])[c.a:c.z], ($3::float8[])[c.a:c.z])) AS r`);
	const throttle = several(RESULT);
	const consume = several('r.allowed');

	function ask(text, calls) {
		const entries = calls.flatMap(({ key }) => key);
		const ends = [];
		let end = 0;

		for (const { key } of calls) ends.push(end += key.length);
		return {
			statement: text,
			values: [textArray(entries, 'policy'), keysArray(entries), numbersArray(entries, 'cost'),
				`{${calls.map(({ key }, i) => ends[i] - key.length + 1).join(',')}}`, `{${ends.join(',')}}`],
		};
	}

	function answers(rows, calls, each) {
		let at = 0;

		return calls.map(({ key }) => each(rows.slice(at, at += key.length)));
	}

	return {
		consume: {
			ask: (calls) => ask(consume, calls),
			answers: (rows, calls) => answers(rows, calls, (part) => part.every(([allowed]) => allowed)),
		},
		throttle: {
			ask: (calls) => ask(throttle, calls),
			answers: (rows, calls) => answers(rows, calls, (part) => together(part.map(result))),
		},
		nothing: { statement: consume, values: ['{}', '{}', '{}', '{}', '{}'] },
	};
}

/*
 * Of a rule, { capacity, refill, limiter }, { allowance, period, limiter }, { slots, limiter },
 * { policy } or { policies }, with the schema of the extension, or undefined if search_path finds it.
 * Each statement has
 *
 *	ask(calls)		gives { statement, values }
 *	answers(rows)	gives the answer for each call
 */
function statementsFor(rule, schema) {
	const f = (name) => (schema === undefined ? name : `${quoted(schema)}.${name}`);
	const { capacity, refill, allowance, period, slots, limiter, policy } = rule;
	const eachKey = 'unnest($1::text[], $2::float8[]) AS k (key, n)';
	const booleans = (rows) => rows.map(([allowed]) => allowed);
	const statements = {};

	if (rule.policies) return policiesStatements(f);
	if (capacity !== undefined) {
		const each = statement(`SELECT ${f('rl_consume_each')}($1, $2, $3, $4, $5)::text`, true);
		const consume = statement(`SELECT ${f('rl_consume')}(k.key, $3, $4, k.n, $5) FROM ${eachKey}`);
		const throttle = statement(
			`SELECT ${RESULT} FROM ${eachKey}, LATERAL ${f('rl_throttle')}(k.key, $3, $4, k.n, $5) AS r`);
		// rl_peek comes after rl_consume_upto: it needs its answer.  One row costs the least here
		const take = statement(`SELECT pg_catalog.array_agg(t.taken)::text, pg_catalog.array_agg((p.r).remaining)::text,
				pg_catalog.array_agg(pg_catalog.date_part('epoch', (p.r).retry_after))::text
			FROM ${eachKey}, LATERAL (SELECT ${f('rl_consume_upto')}(k.key, $3, $4, k.n, $5) OFFSET 0) AS t (taken),
				LATERAL (SELECT ${f('rl_peek')}(CASE WHEN t.taken IS NOT NULL THEN k.key END, $3, $4, 0, $5) OFFSET 0) AS p (r)`, true);
		const giveBack = statement(`SELECT ${f('rl_reward')}(k.key, k.n, $3) FROM ${eachKey}`);

		statements.consume = {
			ask(calls) {
				const { cost } = calls[0];

				// the server does the usual case in one call
				return calls.every((call) => call.cost === cost) ?
					{ statement: each, values: [keysArray(calls), capacity, refill, cost, limiter] } :
					{ statement: consume, values: [keysArray(calls), numbersArray(calls, 'cost'), capacity, refill, limiter] };
			},
			// one row of one array, {t,f}, or a row for each call
			answers: (rows, calls) => (typeof rows[0][0] === 'string' ?
				calls.map((_, i) => rows[0][0][1 + 2 * i] === 't') : booleans(rows)),
		};
		statements.throttle = {
			ask: (calls) => ({ statement: throttle, values: [keysArray(calls), numbersArray(calls, 'cost'), capacity, refill, limiter] }),
			answers: (rows) => rows.map(result),
		};
		statements.take = {
			ask: (calls) => ({ statement: take, values: [keysArray(calls), numbersArray(calls, 'wanted'), capacity, refill, limiter] }),
			answers([columns]) {
				const [taken, remaining, retryAfter] = columns.map(numbersOf);

				return taken.map((n, i) => ({ taken: n, remaining: remaining[i], retryAfter: retryAfter[i] }));
			},
		};
		statements.giveBack = {
			ask: (calls) => ({ statement: giveBack, values: [keysArray(calls), numbersArray(calls, 'tokens'), limiter] }),
			answers: (rows) => rows,
		};
		const reserve = statement(
			`SELECT ${f('rl_reserve')}(k.key, $3, $4, k.n, pg_catalog.make_interval(secs => k.expires), $5)
				FROM unnest($1::text[], $2::float8[], $6::float8[]) AS k (key, n, expires)`);

		statements.reserve = {
			ask: (calls) => ({ statement: reserve, values: [keysArray(calls), numbersArray(calls, 'cost'), capacity, refill, limiter, numbersArray(calls, 'expires')] }),
			answers: (rows) => rows.map(([id]) => id),
		};
		statements.settle = settleStatement(f);
		statements.nothing = { statement: each, values: ['{}', capacity, refill, 1, limiter] };
	} else if (period !== undefined) {
		const consume = statement(`SELECT ${f('rl_consume_period')}(k.key, $3, $4, k.n, $5) FROM ${eachKey}`);
		const throttle = statement(
			`SELECT ${RESULT} FROM ${eachKey}, LATERAL ${f('rl_throttle_period')}(k.key, $3, $4, k.n, $5) AS r`);
		const values = (calls) => [keysArray(calls), numbersArray(calls, 'cost'), allowance, period, limiter];

		statements.consume = { ask: (calls) => ({ statement: consume, values: values(calls) }), answers: booleans };
		statements.throttle = { ask: (calls) => ({ statement: throttle, values: values(calls) }), answers: (rows) => rows.map(result) };
		statements.nothing = { statement: consume, values: ['{}', '{}', allowance, period, limiter] };
	} else if (slots !== undefined) {
		const acquire = statement(
			`SELECT ${f('rl_acquire')}(k.key, $4, k.n::integer, pg_catalog.format('%s s', k.hold), '0', $5)
				FROM unnest($1::text[], $2::float8[], $3::float8[]) AS k (key, n, hold)`);
		const renew = statement(`SELECT ${f('rl_renew')}(k.id, pg_catalog.make_interval(secs => k.n)) FROM unnest($1::bigint[], $2::float8[]) AS k (id, n)`);
		const release = statement(`SELECT ${f('rl_release')}(k.id) FROM pg_catalog.unnest($1::bigint[]) AS k (id)`);

		statements.acquire = {
			ask: (calls) => ({ statement: acquire, values: [keysArray(calls), numbersArray(calls, 'cost'), numbersArray(calls, 'hold'), slots, limiter] }),
			answers: (rows) => rows.map(([id]) => id),
		};
		statements.renew = { ask: (calls) => ({ statement: renew, values: [numbersArray(calls, 'id'), numbersArray(calls, 'hold')] }), answers: booleans };
		statements.release = { ask: (calls) => ({ statement: release, values: [numbersArray(calls, 'id')] }), answers: booleans };
		statements.nothing = { statement: release, values: ['{}'] };
	} else {
		const reserve = statement(
			`SELECT ${f('rl_reserve_policy')}($3, k.key, k.n, pg_catalog.make_interval(secs => k.expires))
				FROM unnest($1::text[], $2::float8[], $4::float8[]) AS k (key, n, expires)`);

		statements.reserve = {
			ask: (calls) => ({ statement: reserve, values: [keysArray(calls), numbersArray(calls, 'cost'), policy, numbersArray(calls, 'expires')] }),
			answers: (rows) => rows.map(([id]) => id),
		};
		statements.settle = settleStatement(f);

		const consume = statement(`SELECT ${f('rl_consume_policy')}($3, k.key, k.n) FROM ${eachKey}`);
		const throttle = statement(
			`SELECT ${RESULT} FROM ${eachKey}, LATERAL ${f('rl_throttle_policy')}($3, k.key, k.n) AS r`);
		const values = (calls) => [keysArray(calls), numbersArray(calls, 'cost'), policy];

		statements.consume = { ask: (calls) => ({ statement: consume, values: values(calls) }), answers: booleans };
		statements.throttle = { ask: (calls) => ({ statement: throttle, values: values(calls) }), answers: (rows) => rows.map(result) };
		statements.nothing = { statement: consume, values: ['{}', '{}', policy] };
	}
	return statements;
}

module.exports = { statement, statementsFor };
