/*
 * Behind PgBouncer, in transaction and in statement mode: 200 connections of clients over 10 to
 * the server.  test_poolers.py says what RATELIMIT_PGBOUNCERS names, and tests what is the same
 * for all clients.
 */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { fresh, lacks, needs, newClient, newLimiter, newPool, newPostgresJs } = require('../../../clients/node/test/support');

const [PLAIN, KEEPS] = process.env.RATELIMIT_PGBOUNCERS.split(' ').map(Number);
const PORTS = process.env.RATELIMIT_PGBOUNCER_KEEPS ? [PLAIN, KEEPS] : [PLAIN];
const MODES = ['transaction', 'statement'];

/* How many there have to be, so that limiters have 200 connections. */
const DRIVERS = [
	['pools of node-postgres', {}, 25, (t, options) => newPool(t, { ...options, max: 16 })],
	['clients of node-postgres', {}, 200, newClient],
	['postgres.js', needs('postgres'), 200, (t, { user, ...options }) => newPostgresJs(t, { ...options, username: user, max: 1 })],
];

const times = (n, f) => Promise.all(Array.from({ length: n }, (_, i) => f(i)));

for (const [name, options, databases, make] of DRIVERS) {
	for (const mode of MODES) {
		for (const port of PORTS) {
			const where = `${name}, ${mode} mode${port === KEEPS ? ', prepared statements are kept' : ''}`;
			const at = { host: process.env.PGHOST, port, database: mode, user: 'postgres' };

			test(`${where}: exactly capacity over 200 connections`, options, async (t) => {
				const dbs = await times(databases, () => make(t, at));
				const limiter = fresh('pooled');
				const limiters = dbs.map((db) => newLimiter(db, { capacity: 500, refill: 0, limiter }));
				// several turns, so that pools use all of their connections
				const decide = async (key) => {
					const decisions = [];

					for (let turn = 0; turn < 5; turn++) {
						decisions.push(...await times(200, (i) => limiters[i % databases].throttle(key)));
					}
					return decisions;
				};
				const decisions = [...await times(1000, (i) => limiters[i % databases].consume('a')), ...await decide('b')];

				assert.strictEqual(decisions.filter((decision) => decision === true).length, 500);
				assert.strictEqual(decisions.filter(({ allowed }) => allowed).length, 500);
				assert.ok(decisions.every(({ by }) => by === undefined || by === 'database'));
			});

			test(`${where}: all methods, on connections that are others each time`, options, async (t) => {
				const db = await make(t, at);
				// somebody else uses the connections to the server as well
				const others = await times(10, () => make(t, at));
				const limit = fresh('all');
				const noise = others.map((other) => newLimiter(other, { capacity: 1e9, refill: 0, limiter: limit }));
				const stir = () => times(50, (i) => noise[i % 10].throttle(`noise ${i}`));

				for (const prepare of [undefined, false]) {
					const limiter = newLimiter(db, { capacity: 6, refill: 0, limiter: fresh('all'), prepare });
					const slots = newLimiter(db, { slots: 2, limiter: fresh('slots'), prepare });
					const lease = newLimiter(db, { capacity: 100, refill: 0, limiter: fresh('lease'), prepare, lease: true });
					const period = newLimiter(db, { allowance: 2, period: 'day', limiter: fresh('period'), prepare });

					for (let round = 0; round < 2; round++) {
						const stirred = stir();

						assert.strictEqual(await limiter.consume('a'), true);
						assert.strictEqual((await limiter.throttle('a')).allowed, true);
						await stirred;
					}

					const reservation = await limiter.reserve('a', 2);

					assert.strictEqual(await limiter.reserve('a', 2), null);
					await stir();
					assert.strictEqual(await reservation.settle(1), 1);

					const held = [await slots.acquire('a'), await slots.acquire('a')];

					assert.strictEqual(await slots.acquire('a'), null);
					await stir();
					assert.deepStrictEqual([await held[0].renew(5), await held[0].release(), await held[0].release()], [true, true, false]);
					assert.deepStrictEqual([await period.consume('a'), await period.consume('a'), await period.consume('a')], [true, true, false]);

					let allowed = 0;

					for (let i = 0; i < 30; i++) allowed += (await times(5, () => lease.consume('a'))).filter(Boolean).length;
					await lease.close();
					assert.strictEqual(allowed, 100);
				}
			});

			test(`${where}: a store of another package`, options, async (t) => {
				const { Counter } = require('../../../clients/node/lib/counter');
				const db = await make(t, at);

				if (await lacks(t, newPool(t), 'rl_count')) return;

				const counters = (await times(20, () => make(t, at))).concat(db).map((one) => new Counter(one, { limiter: 'pooled', timeout: 30000 }));
				const key = fresh('count');
				const hits = (await times(100, (i) => counters[i % counters.length].count(key, 86400000))).map((answer) => answer.hits);

				assert.deepStrictEqual(hits.sort((a, b) => a - b), Array.from({ length: 100 }, (_, i) => i + 1));
			});
		}
	}
}
