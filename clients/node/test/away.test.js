/* While the database is away, calls are decided as the application has chosen. */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { RateLimiter, RateLimitUnavailableError } = require('..');
const { AMPLE, fresh, needs, newClient, newPool, newPostgresJs, newProxy, patiently, until } = require('./support');

const RULE = { capacity: 3, refill: 0 };

/* The database decides: what is denied or allowed without it does not count. */
const decides = (limiter) => until(async () => (await limiter.throttle('a', 0)).by === 'database', 'the database decides');

const DRIVERS = [
	['node-postgres', {}, newPool],
	['postgres.js', needs('postgres'), (t, options) => newPostgresJs(t, { ...options, backoff: () => 0.05 })],
];

for (const [driver, options, make] of DRIVERS) {
	for (const way of ['stop', 'hang']) {
		test(`${driver}, ${way}: throw, allow, deny, a bucket of its own; and back`, options, async (t) => patiently(async ({ timeout, events, there, hook }) => {
			const proxy = await newProxy(t);
			const db = await make(t, proxy.options);
			const limit = fresh(way);
			const limiters = Object.fromEntries([['throw', 'throw'], ['allow', 'allow'], ['deny', 'deny'], ['local', 'local'],
				['other', { capacity: 1, refill: 0 }]].map(([name, away]) => [name,
				new RateLimiter(db, { ...RULE, limiter: limit, timeout, away, metrics: hook(name) })]));
			const { throw: throws, allow, deny, local, other } = limiters;
			const queries = () => Object.values(limiters).reduce((sum, { stats }) => sum + stats.queries, 0);

			// one of the three tokens
			assert.strictEqual(await allow.consume('a'), true);
			there(false);
			await proxy[way]();
			// each finds out by itself
			await Promise.all([
				assert.rejects(throws.consume('a'), (error) => error instanceof RateLimitUnavailableError &&
					error.code === 'RATELIMIT_UNAVAILABLE' && error.cause instanceof Error),
				...[allow, deny, local, other].map((limiter) => limiter.consume('b')),
			]);
			for (const [name, limiter] of Object.entries(limiters)) assert.strictEqual(limiter.stats.away, true, name);

			const asked = queries();

			await assert.rejects(throws.consume('a'), RateLimitUnavailableError);
			assert.deepStrictEqual(await Promise.all([1, 2, 3, 4].map(() => allow.consume('a'))), [true, true, true, true]);
			assert.strictEqual(await deny.consume('a'), false);
			assert.deepStrictEqual(await Promise.all([1, 2, 3, 4].map(() => local.consume('a'))), [true, true, true, false]);
			assert.deepStrictEqual(await Promise.all([1, 2].map(() => other.consume('a'))), [true, false]);
			assert.deepStrictEqual(await allow.throttle('a'), { allowed: true, capacity: null, remaining: null, retryAfter: 0, resetAfter: null,
				limiter: limit, shadowed: false, by: 'allow' });
			assert.deepStrictEqual(await local.throttle('a'), { allowed: false, capacity: 3, remaining: 0, retryAfter: null, resetAfter: null,
				limiter: limit, shadowed: false, by: 'local' });
			assert.strictEqual(queries(), asked, 'they are decided at once');

			await proxy.start();
			for (const [name, limiter] of Object.entries(limiters)) await until(() => !limiter.stats.away, `${name} is back`);
			there(true);
			// what was decided here took nothing
			assert.strictEqual(await throws.consume('a'), true);
			assert.strictEqual((await deny.throttle('a')).by, 'database');
			assert.strictEqual(await local.consume('a'), false, 'three tokens have been taken');
			for (const name of Object.keys(limiters)) {
				assert.deepStrictEqual(events.filter((event) => event.name === name && ['away', 'back'].includes(event.event)).map(({ event }) => event),
					['away', 'back'], `${name}: the hook is told once`);
			}
			await Promise.all(Object.values(limiters).map((limiter) => limiter.close()));
		}));
	}
}

test('without a hook, a warning says that the database is away', async (t) => {
	const proxy = await newProxy(t);
	const limiter = new RateLimiter(newPool(t, proxy.options), { ...RULE, limiter: fresh('warned'), away: 'allow' });
	const warnings = [];
	const warned = (warning) => warnings.push(warning);

	process.on('warning', warned);
	t.after(() => process.off('warning', warned));
	await proxy.stop();
	assert.strictEqual(await limiter.consume('a'), true);
	assert.strictEqual(await limiter.consume('a'), true);
	await until(() => warnings.some(({ code }) => code === 'RATELIMIT_AWAY'), 'it is there');
	assert.match(warnings.filter(({ code }) => code === 'RATELIMIT_AWAY').map(({ message }) => message).join(), /^the database of limiter "warned [^,]* is away: [^,]+$/);
	await limiter.close();
});

test('calls that wait for one that hangs are decided with it', async (t) => {
	const proxy = await newProxy(t);
	const limiter = new RateLimiter(newPool(t, { ...proxy.options, max: 1 }), { ...RULE, limiter: fresh('wait'), timeout: 1000, away: 'deny' });

	await decides(limiter);

	const { queries } = limiter.stats;

	proxy.hang();

	const first = limiter.consume('a');

	await new Promise((resolve) => {
		setTimeout(resolve, 100);
	});

	const began = performance.now();

	assert.deepStrictEqual(await Promise.all([first, ...Array.from({ length: 50 }, () => limiter.consume('a'))]), Array(51).fill(false));
	assert.strictEqual(limiter.stats.queries, queries + 1, 'they are not sent');
	assert.ok(performance.now() - began < AMPLE, 'one timeout, not one after the other');
	await limiter.close();
	await proxy.start();
});

test('connections that hang are closed, so that the pool has room when the database is back', async (t) => {
	const proxy = await newProxy(t);
	const pool = newPool(t, { ...proxy.options, max: 2, connectionTimeoutMillis: 200 });
	const limiter = new RateLimiter(pool, { ...RULE, limiter: fresh('room'), timeout: 100, away: 'allow' });

	await decides(limiter);
	proxy.hang();
	await limiter.consume('a');
	await new Promise((resolve) => {
		setTimeout(resolve, 800);		// some probes have hung as well
	});
	assert.strictEqual(limiter.stats.away, true);
	// the old connections stay as they are: new ones are let through
	const other = await newProxy(t);

	pool.options.host = other.options.host;
	await until(() => !limiter.stats.away, 'it is back');
	await decides(limiter);
	assert.strictEqual(pool.waitingCount, 0);
	await limiter.close();
	await proxy.start();
});

test('a client that has lost its connection stays away', async (t) => {
	const proxy = await newProxy(t);
	const client = await newClient(t, proxy.options);
	const limiter = new RateLimiter(client, { ...RULE, limiter: fresh('client'), timeout: 1000, away: 'allow' });

	await limiter.consume('a');
	await proxy.stop();
	assert.strictEqual(await limiter.consume('a'), true);
	assert.strictEqual(limiter.stats.away, true);
	await limiter.close();
});

test('an error that concerns some calls only does not send the others away', async (t) => {
	const pool = newPool(t);
	const slow = newPool(t, { statement_timeout: 50, max: 1 });
	const name = fresh('slow');
	const limiter = new RateLimiter(slow, { ...RULE, limiter: name, timeout: AMPLE, away: 'deny' });

	// a function that takes too long, in a schema of its own
	await pool.query(`CREATE SCHEMA slow; CREATE FUNCTION slow.rl_consume_each(text[], float8, float8, float8, text) RETURNS boolean[]
		LANGUAGE sql AS $$SELECT pg_sleep(60); SELECT '{t}'::boolean[]$$`);
	try {
		const late = new RateLimiter(slow, { ...RULE, limiter: name, timeout: AMPLE, away: 'deny', schema: 'slow' });

		assert.strictEqual(await late.consume('a'), false, 'cancelled by statement_timeout');
		assert.deepStrictEqual([late.stats.away, late.stats.errors], [false, 1]);
	} finally {
		await pool.query('DROP SCHEMA slow CASCADE');
	}
	// other calls have time, on a slow machine as well
	await slow.query('SET statement_timeout = 0');
	assert.strictEqual(await limiter.consume('a'), true);
});
