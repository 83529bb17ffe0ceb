/* Decisions: one for each call, whatever is gathered into a query, with every driver. */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { per } = require('..');
const { fresh, needs, newClient, newLimiter, newPool, newPostgresJs, until } = require('./support');

const DRIVERS = [
	['a pool of node-postgres', {}, newPool],
	['a client of node-postgres', {}, newClient],
	['postgres.js', needs('postgres'), newPostgresJs],
];

const KEYS = ['a', 'a', 'a"', 'a\\', '{a,b}', 'NULL', 'null', ' a ', "it's", 'é€😀', 'a\n', 'a"', ',', '""', '\\"'];

for (const [name, options, make] of DRIVERS) {
	test(`${name}: few calls of a turn are one query, in their order, each key by itself`, options, async (t) => {
		const db = await make(t);
		const limiter = newLimiter(db, { capacity: 1, refill: 0, limiter: fresh('order') });
		const calls = (keys) => Promise.all(keys.map((key) => limiter.consume(key)));

		assert.deepStrictEqual(await calls(KEYS.slice(0, 8)), KEYS.slice(0, 8).map((key, i, keys) => keys.indexOf(key) === i));
		assert.deepStrictEqual(await calls(KEYS.slice(8)), KEYS.slice(8).map((key, i) => KEYS.indexOf(key) === 8 + i));
		assert.deepStrictEqual([limiter.stats.queries, limiter.stats.allowed, limiter.stats.denied], [2, KEYS.length - 2, 2]);
	});

	test(`${name}: many calls are few queries, and each bucket gives what it has`, options, async (t) => {
		const db = await make(t);
		const limiter = newLimiter(db, { capacity: 7, refill: 0, limiter: fresh('many') });
		const decisions = await Promise.all(Array.from({ length: 3000 }, (_, i) => limiter.consume(`key ${i % 100}`)));

		for (let key = 0; key < 100; key++) {
			assert.strictEqual(decisions.filter((allowed, i) => allowed && i % 100 === key).length, 7);
		}
		assert.ok(limiter.stats.queries < 20, `${limiter.stats.queries} queries`);
	});

	test(`${name}: costs that differ, in one query`, options, async (t) => {
		const db = await make(t);
		const limiter = newLimiter(db, { capacity: 10, refill: 0, limiter: fresh('costs'), cost: 2 });

		assert.deepStrictEqual(await Promise.all([limiter.consume('a', 7), limiter.consume('a'), limiter.consume('a', { cost: 0.5 }),
			limiter.consume('a', { cost: 0.75 }), limiter.consume('a', 0)]), [true, true, true, false, true]);
	});

	test(`${name}: throttle() says what an answer needs`, options, async (t) => {
		const db = await make(t);
		const limit = fresh('throttle');
		const limiter = newLimiter(db, { capacity: 2, refill: per(6, 'hour'), limiter: limit });
		const [first, second, third] = await Promise.all([1, 2, 3].map(() => limiter.throttle('a"b')));

		assert.deepStrictEqual({ ...first, remaining: Math.floor(first.remaining), resetAfter: Math.round(first.resetAfter) },
			{ allowed: true, capacity: 2, remaining: 1, retryAfter: 0, resetAfter: 600, limiter: limit, shadowed: false, by: 'database' });
		assert.strictEqual(second.allowed, true);
		assert.strictEqual(third.allowed, false);
		assert.ok(third.retryAfter > 540 && third.retryAfter <= 600, `${third.retryAfter}`);

		const never = await limiter.throttle('a"b', 3);

		assert.deepStrictEqual([never.allowed, never.retryAfter], [false, null], 'waiting does not help');
	});

	test(`${name}: policies`, options, async (t) => {
		const db = await make(t);
		const policy = fresh('policy');
		const text = `INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota)
			VALUES ('${policy}', 'default', 3, 1, false), ('${policy}', 'day', 2, 0, true)`;

		await (db.unsafe ? db.unsafe(text) : db.query(text));

		const limiter = newLimiter(db, { policy });

		assert.deepStrictEqual(await Promise.all([limiter.consume('a'), limiter.consume('b', 3), limiter.consume('a')]), [true, false, true]);

		const denied = await limiter.throttle('a');

		assert.deepStrictEqual([denied.allowed, denied.limiter, denied.retryAfter], [false, `${policy}/day`, null]);
		await assert.rejects(newLimiter(db, { policy: fresh('none') }).consume('a'), { code: '42704' });
	});

	test(`${name}: statements that are discarded do no harm`, options, async (t) => {
		const db = await make(t, { max: 1 });
		const limiter = newLimiter(db, { capacity: 5, refill: 0, limiter: fresh('discard') });

		for (const allowed of [true, true, true, true, true, false]) {
			assert.strictEqual(await limiter.consume('a'), allowed);
			await (db.unsafe ? db.unsafe('DEALLOCATE ALL') : db.query('DEALLOCATE ALL'));
		}
		assert.strictEqual(limiter.stats.errors, 0);
	});

	test(`${name}: without prepared statements, and with the schema named`, options, async (t) => {
		const db = await make(t);
		const limiter = newLimiter(db, { capacity: 1, refill: 0, limiter: fresh('schema'), prepare: false, schema: 'public' });

		assert.deepStrictEqual(await Promise.all([limiter.consume('a'), limiter.consume('a')]), [true, false]);
		await assert.rejects(newLimiter(db, { capacity: 1, refill: 0, schema: 'no "such"' }).consume('a'), { code: '3F000' });
	});
}

test('what is not an argument is refused at once, and fails no other call', async (t) => {
	const pool = newPool(t);
	const limiter = newLimiter(pool, { capacity: 5, refill: 0, limiter: fresh('arguments') });
	const good = limiter.consume('a');

	await assert.rejects(limiter.consume(''), /^RangeError: key must not be empty/);
	await assert.rejects(limiter.consume('€'.repeat(86)), /^RangeError: key must not be longer than 255 bytes, not "€{32}..." of 258 bytes/);
	await assert.rejects(limiter.consume('a\0'), /^RangeError: key must not contain a zero byte/);
	await assert.rejects(limiter.consume(42), /^TypeError: key must be a string, not number/);
	await assert.rejects(limiter.consume('a', -1), /^RangeError: cost must be a finite number not below 0, not -1/);
	await assert.rejects(limiter.consume('a', { cost: NaN }), /^RangeError: cost must be/);
	await assert.rejects(limiter.throttle('a', { cost: '1' }), /^TypeError: cost must be a number/);
	assert.strictEqual(await limiter.consume('k'.repeat(255)), true);
	assert.strictEqual(await good, true);

	const wrong = (options, message) => assert.throws(() => newLimiter(pool, options), message);

	wrong({}, /^TypeError: capacity must be a number, not undefined/);
	wrong({ capacity: -1, refill: 1 }, /^RangeError: capacity must be/);
	wrong({ capacity: 1, refill: Infinity }, /^RangeError: refill must be/);
	wrong({ capacity: 1, refill: 1, limiter: 'a:b' }, /^RangeError: limiter must not contain ":"/);
	wrong({ capacity: 1, refill: 1, limiter: 'l'.repeat(64) }, /^RangeError: limiter must not be longer than 63 bytes/);
	wrong({ policy: 'free', capacity: 1 }, /^TypeError: capacity must not be given with policy/);
	wrong({ policy: 'free', lease: true }, /^TypeError: lease must be given with capacity and refill only/);
	wrong({ policy: 'free', away: 'local' }, /^TypeError: away must be/);
	wrong({ capacity: 1, refill: 1, away: 'open' }, /^TypeError: away must be/);
	assert.throws(() => newLimiter({}, { capacity: 1, refill: 1 }), /^TypeError: db must be a Pool or a Client/);
	assert.throws(() => per(1, 0), /^RangeError: span must be/);
	assert.strictEqual(per(90, 'minute'), 1.5);
	assert.strictEqual(per(90, 45), 2);
});

test('an error of the server fails the calls of its query, and is the server\'s', async (t) => {
	const pool = newPool(t, { options: '-c search_path=pg_catalog' });
	const limiter = newLimiter(pool, { capacity: 1, refill: 0, away: 'allow' });

	await assert.rejects(limiter.consume('a'), { code: '42883' });
	await assert.rejects(limiter.throttle('a'), { code: '42883' });
	assert.strictEqual(limiter.stats.away, false, 'it does not mean that the database is away');
});

test('a call that is aborted is not sent', async (t) => {
	const pool = newPool(t);
	const limiter = newLimiter(pool, { capacity: 2, refill: 0, limiter: fresh('abort') });
	const controller = new AbortController();
	const aborted = limiter.consume('a', { signal: controller.signal });
	const other = limiter.consume('a');
	const reason = new Error('the client has gone');

	controller.abort(reason);
	await assert.rejects(aborted, reason);
	assert.strictEqual(await other, true);
	await assert.rejects(limiter.consume('a', { signal: controller.signal }), reason);
	assert.strictEqual((await limiter.throttle('a', 0)).remaining, 1, 'only the other one has taken');

	// under way: the caller is told, and the tokens are taken
	const late = new AbortController();
	const sent = limiter.consume('a', { signal: late.signal });

	setImmediate(() => late.abort());
	await assert.rejects(sent, { name: 'AbortError' });
	await until(async () => (await limiter.throttle('a', 0)).remaining === 0, 'the query that was under way took the token');

	const kept = new AbortController();

	assert.strictEqual(await limiter.consume('b', { signal: kept.signal }), true);
	kept.abort();
});

test('connections of a pool are shared with others, and are back once there is nothing to ask', { timeout: 60000 }, async (t) => {
	const pool = newPool(t, { max: 1 });
	const limiter = newLimiter(pool, { capacity: 1e6, refill: 0, limiter: fresh('kept') });
	const turn = () => new Promise(setImmediate);
	let ended = false;

	assert.strictEqual(await limiter.consume('a'), true);
	for (let i = 0; i < 4; i++) await turn();
	assert.deepStrictEqual([pool.totalCount, pool.idleCount], [1, 1]);

	const callers = Promise.all(Array.from({ length: 20 }, async () => {
		while (!ended) await limiter.consume('a');
	}));

	for (let i = 0; i < 20; i++) assert.strictEqual((await pool.query('SELECT 1 AS one')).rows[0].one, 1);
	ended = true;
	await callers;

	// one that breaks while it is kept is not used again, and is no error that nobody handles
	const query = limiter.consume('b');
	const broken = pool.query("SELECT pg_terminate_backend(pg_backend_pid())").then(() => null, (error) => error);

	assert.strictEqual(await query, true);
	assert.ok(await broken instanceof Error);
	await until(() => limiter.consume('b').catch(() => false), 'there is another connection');
	await limiter.close();
	for (let i = 0; i < 4; i++) await turn();
	assert.strictEqual(pool.idleCount, pool.totalCount);
});

test('the hook is told of queries and decisions, and its errors are not those of calls', async (t) => {
	const pool = newPool(t);
	const events = [];
	const limiter = newLimiter(pool, { capacity: 1, refill: 0, limiter: fresh('hook'), metrics: (event) => events.push(event) });

	await Promise.all([limiter.consume('a'), limiter.consume('a')]);
	assert.deepStrictEqual(events.filter(({ event }) => event === 'decision').map(({ allowed, key, by }) => [allowed, key, by]),
		[[true, 'a', 'database'], [false, 'a', 'database']]);
	assert.strictEqual(events.filter(({ event }) => event === 'query').reduce((sum, { calls }) => sum + calls, 0), 2);
	assert.ok(events[0].milliseconds > 0);

	const warned = new Promise((resolve) => {
		process.once('warning', resolve);
	});
	const broken = newLimiter(pool, { capacity: 1, refill: 0, limiter: fresh('hook'), metrics() { throw new Error('broken hook'); } });

	assert.strictEqual(await broken.consume('a'), true);
	assert.match((await warned).message, /broken hook/);
});

test('close() waits for what is under way, and takes no more', async (t) => {
	const pool = newPool(t);
	const limiter = newLimiter(pool, { capacity: 1, refill: 0, limiter: fresh('close') });
	const last = limiter.consume('a');
	let answered = false;

	last.then(() => {
		answered = true;
	});
	await limiter.close();
	assert.strictEqual(answered, true);
	await assert.rejects(limiter.consume('a'), /the limiter is closed/);
	await limiter.close();
	assert.strictEqual((await pool.query('SELECT 1 AS one')).rows[0].one, 1, 'the pool stays open');
});

test('the same with import', async () => {
	const required = require('..');
	const imported = await import('../index.mjs');

	assert.deepStrictEqual(Object.keys(imported).filter((name) => name !== 'default').sort(), Object.keys(required).sort());
	for (const [name, value] of Object.entries(required)) assert.strictEqual(imported[name], value, name);
});
