/*
 * The statements that the client sends.  Each decides a lot of calls, in order: its
 * parameters are the keys, what differs from call to call, and the rule.
 *
 * Whatever others have created in a schema of search_path, it does not match better than
 * what is used here: unnest() of several arrays is always PostgreSQL's, other functions are
 * qualified, and operators have exactly the types of PostgreSQL's.
 */
'use strict';

/* The text of a PostgreSQL array of text, and of one of numbers. */
const keysArray = (calls) => `{"${calls.map(({ key }) => (/["\\]/.test(key) ?
	key.replace(/["\\]/g, '\\$&') : key)).join('","')}"}`;
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

function settleStatement(statement, f) {
	const settle = statement('settle', `SELECT ${f('rl_settle')}(k.id, k.n) FROM unnest($1::bigint[], $2::float8[]) AS k (id, n)`);

	return {
		ask: (calls) => ({ statement: settle, values: [numbersArray(calls, 'id'), numbersArray(calls, 'cost')] }),
		answers: (rows) => rows.map(([tokens]) => tokens),
	};
}

/*
 * Of a rule, { capacity, refill, limiter }, { allowance, period, limiter }, { slots, limiter }
 * or { policy }, with the schema of the extension, or undefined if search_path finds it.
 * Each statement has
 *
 *	ask(calls)		gives { statement, values }
 *	answers(rows)	gives the answer for each call
 */
function statementsFor(rule, schema) {
	const f = (name) => (schema === undefined ? name : `${quoted(schema)}.${name}`);
	const statement = (name, text, row = false) => ({ name: `ratelimit ${name} ${schema ?? ''}`, text, row });
	const { capacity, refill, allowance, period, slots, limiter, policy } = rule;
	const eachKey = 'unnest($1::text[], $2::float8[]) AS k (key, n)';
	const booleans = (rows) => rows.map(([allowed]) => allowed);
	const statements = {};

	if (capacity !== undefined) {
		const each = statement('each', `SELECT ${f('rl_consume_each')}($1, $2, $3, $4, $5)::text`, true);
		const consume = statement('consume', `SELECT ${f('rl_consume')}(k.key, $3, $4, k.n, $5) FROM ${eachKey}`);
		const throttle = statement('throttle',
			`SELECT ${RESULT} FROM ${eachKey}, LATERAL ${f('rl_throttle')}(k.key, $3, $4, k.n, $5) AS r`);
		// rl_peek comes after rl_consume_upto: it needs its answer.  One row costs the least here
		const take = statement('take', `SELECT pg_catalog.array_agg(t.taken)::text, pg_catalog.array_agg((p.r).remaining)::text,
				pg_catalog.array_agg(pg_catalog.date_part('epoch', (p.r).retry_after))::text
			FROM ${eachKey}, LATERAL (SELECT ${f('rl_consume_upto')}(k.key, $3, $4, k.n, $5) OFFSET 0) AS t (taken),
				LATERAL (SELECT ${f('rl_peek')}(CASE WHEN t.taken IS NOT NULL THEN k.key END, $3, $4, 0, $5) OFFSET 0) AS p (r)`, true);
		const giveBack = statement('give back', `SELECT ${f('rl_reward')}(k.key, k.n, $3) FROM ${eachKey}`);

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
		const reserve = statement('reserve',
			`SELECT ${f('rl_reserve')}(k.key, $3, $4, k.n, pg_catalog.make_interval(secs => k.expires), $5)
				FROM unnest($1::text[], $2::float8[], $6::float8[]) AS k (key, n, expires)`);

		statements.reserve = {
			ask: (calls) => ({ statement: reserve, values: [keysArray(calls), numbersArray(calls, 'cost'), capacity, refill, limiter, numbersArray(calls, 'expires')] }),
			answers: (rows) => rows.map(([id]) => id),
		};
		statements.settle = settleStatement(statement, f);
		statements.nothing = { statement: each, values: ['{}', capacity, refill, 1, limiter] };
	} else if (period !== undefined) {
		const consume = statement('consume period', `SELECT ${f('rl_consume_period')}(k.key, $3, $4, k.n, $5) FROM ${eachKey}`);
		const throttle = statement('throttle period',
			`SELECT ${RESULT} FROM ${eachKey}, LATERAL ${f('rl_throttle_period')}(k.key, $3, $4, k.n, $5) AS r`);
		const values = (calls) => [keysArray(calls), numbersArray(calls, 'cost'), allowance, period, limiter];

		statements.consume = { ask: (calls) => ({ statement: consume, values: values(calls) }), answers: booleans };
		statements.throttle = { ask: (calls) => ({ statement: throttle, values: values(calls) }), answers: (rows) => rows.map(result) };
		statements.nothing = { statement: consume, values: ['{}', '{}', allowance, period, limiter] };
	} else if (slots !== undefined) {
		const acquire = statement('acquire',
			`SELECT ${f('rl_acquire')}(k.key, $4, k.n::integer, pg_catalog.format('%s s', k.hold), '0', $5)
				FROM unnest($1::text[], $2::float8[], $3::float8[]) AS k (key, n, hold)`);
		const renew = statement('renew', `SELECT ${f('rl_renew')}(k.id, pg_catalog.make_interval(secs => k.n)) FROM unnest($1::bigint[], $2::float8[]) AS k (id, n)`);
		const release = statement('release', `SELECT ${f('rl_release')}(k.id) FROM pg_catalog.unnest($1::bigint[]) AS k (id)`);

		statements.acquire = {
			ask: (calls) => ({ statement: acquire, values: [keysArray(calls), numbersArray(calls, 'cost'), numbersArray(calls, 'hold'), slots, limiter] }),
			answers: (rows) => rows.map(([id]) => id),
		};
		statements.renew = { ask: (calls) => ({ statement: renew, values: [numbersArray(calls, 'id'), numbersArray(calls, 'hold')] }), answers: booleans };
		statements.release = { ask: (calls) => ({ statement: release, values: [numbersArray(calls, 'id')] }), answers: booleans };
		statements.nothing = { statement: release, values: ['{}'] };
	} else {
		const reserve = statement('reserve policy',
			`SELECT ${f('rl_reserve_policy')}($3, k.key, k.n, pg_catalog.make_interval(secs => k.expires))
				FROM unnest($1::text[], $2::float8[], $4::float8[]) AS k (key, n, expires)`);

		statements.reserve = {
			ask: (calls) => ({ statement: reserve, values: [keysArray(calls), numbersArray(calls, 'cost'), policy, numbersArray(calls, 'expires')] }),
			answers: (rows) => rows.map(([id]) => id),
		};
		statements.settle = settleStatement(statement, f);

		const consume = statement('consume policy', `SELECT ${f('rl_consume_policy')}($3, k.key, k.n) FROM ${eachKey}`);
		const throttle = statement('throttle policy',
			`SELECT ${RESULT} FROM ${eachKey}, LATERAL ${f('rl_throttle_policy')}($3, k.key, k.n) AS r`);
		const values = (calls) => [keysArray(calls), numbersArray(calls, 'cost'), policy];

		statements.consume = { ask: (calls) => ({ statement: consume, values: values(calls) }), answers: booleans };
		statements.throttle = { ask: (calls) => ({ statement: throttle, values: values(calls) }), answers: (rows) => rows.map(result) };
		statements.nothing = { statement: consume, values: ['{}', '{}', policy] };
	}
	return statements;
}

module.exports = { statementsFor };
