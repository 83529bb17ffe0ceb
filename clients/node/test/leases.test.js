/* Leases: many decisions of one query, and never more than the bucket gives. */
'use strict';

const assert = require('node:assert');
const { spawn } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { test } = require('node:test');
const { fresh, needs, newLimiter, newPool, newPostgresJs, newProxy, optional, sleep, until } = require('./support');

/* By hand, RATELIMIT_LEASE_SECONDS=60: then the processes have to use what there is. */
const LONG = Number(process.env.RATELIMIT_LEASE_SECONDS || 0);
const SECONDS = LONG || 6;

test('many calls of a key are few queries, and all tokens are used', async (t) => {
	const pool = newPool(t);
	const limiter = newLimiter(pool, { capacity: 5000, refill: 0, limiter: fresh('few'), lease: true });
	let allowed = 0;

	for (let i = 0; i < 6000; i++) {
		if (await limiter.consume('a')) allowed++;
		else if (i > 5000) break;
	}
	assert.strictEqual(allowed, 5000);
	assert.ok(limiter.stats.queries < 200, `${limiter.stats.queries} queries`);
	assert.strictEqual(await limiter.consume('a', 5001), false);
	await limiter.close();
});

test('concurrent callers, several limiters, fractions: exactly what the bucket has', async (t) => {
	const pool = newPool(t);
	const options = { capacity: 400, refill: 0, limiter: fresh('exact'), lease: true };
	const limiters = [1, 2, 3].map(() => newLimiter(pool, options));
	let taken = 0;

	await Promise.all(limiters.flatMap((limiter) => Array.from({ length: 20 }, async () => {
		for (let i = 0; i < 20; i++) {
			if (await limiter.consume('a', 0.5)) taken += 0.5;
			if (await limiter.consume('a', 1)) taken += 1;
		}
	})));
	// the rest of each portion is still there, and goes back
	await Promise.all(limiters.map((limiter) => limiter.close()));

	const rest = newLimiter(pool, options);

	while (await rest.consume('a', 0.5)) taken += 0.5;
	await rest.close();

	const { rows: [{ remaining }] } = await pool.query('SELECT remaining FROM rl_peek($1, 400, 0, 0, $2)', ['a', options.limiter]);

	assert.strictEqual(taken + remaining, 400);
	assert.ok(remaining < 1, `${remaining}`);
});

test('what is not used goes back, when the key is idle and at close()', async (t) => {
	const pool = newPool(t);
	const name = fresh('idle');
	const events = [];
	const limiter = newLimiter(pool, { capacity: 1000, refill: 0, limiter: name, lease: { seconds: 10, idle: 0.2 },
		metrics: (event) => events.push(event) });
	const inBucket = async () => (await pool.query('SELECT remaining FROM rl_peek($1, 1000, 0, 0, $2)', ['a', name])).rows[0].remaining;
	let used = 0;

	for (; used < 100; used++) assert.strictEqual(await limiter.consume('a'), true);
	await until(async () => await inBucket() === 900, 'the rest is back');
	await until(() => events.some(({ event, keys, tokens }) => event === 'returned' && keys === 1 && tokens > 0), 'the hook is told');
	for (; used < 150; used++) assert.strictEqual(await limiter.consume('a'), true);
	await limiter.close();
	assert.strictEqual(await inBucket(), 850);
});

test('of a bucket that has plenty, the first portion is what other keys use, and what is too much goes back', async (t) => {
	const pool = newPool(t);
	const name = fresh('plenty');
	let asked = 0;
	const limiter = newLimiter(pool, { capacity: 1e6, refill: 0, limiter: name, lease: { idle: 0.2 },
		metrics: ({ event, kind, calls }) => {
			if (event === 'query' && kind === 'take') asked += calls;
		} });
	const used = new Map();
	const call = async (key) => {
		assert.strictEqual(await limiter.consume(key), true);
		used.set(key, (used.get(key) ?? 0) + 1);
	};
	const missing = async (key) => 1e6 - (await pool.query('SELECT remaining FROM rl_peek($1, 1e6, 0, 0, $2)', [key, name])).rows[0].remaining;

	const end = performance.now() + 1000;

	for (let n = 0; n < 300 || performance.now() < end; n++) {
		for (let i = 0; i < 10; i++) await call(`key ${i}`);
		await sleep(1);
	}
	asked = 0;
	for (let i = 0; i < 20; i++) {
		for (let j = 0; j < 16; j++) await call(`new ${i}`);
	}
	assert.ok(asked < 60, `${asked} portions for 20 keys with 16 calls; if they began with one token, they would be 100`);

	// much, and then little
	for (let i = 0; i < 5000; i++) await call('little');
	await until(async () => {
		await call('little');
		return await missing('little') - used.get('little') < 1000;
	}, 'what it does not use is back, though it is called');
	await limiter.close();
	for (const [key, n] of used) assert.strictEqual(await missing(key), n, key);
});

test('a role that may not give back uses what it has', async (t) => {
	const pool = newPool(t);
	const role = fresh('lessee');
	const name = fresh('lessee');

	await pool.query(`CREATE ROLE "${role}" LOGIN`);
	t.after(async () => {
		const { Client } = optional('pg');
		const client = new Client();

		await client.connect();
		await client.query(`DROP ROLE "${role}"`);
		await client.end();
	});

	const own = newPool(t, { user: role, database: 'postgres' });
	const lost = [];
	const limiter = newLimiter(own, { capacity: 100, refill: 0, limiter: name, lease: { seconds: 10, idle: 0.1 },
		metrics: (event) => event.event === 'lost' && lost.push(event) });
	const warned = new Promise((resolve) => {
		process.once('warning', resolve);
	});

	for (let i = 0; i < 30; i++) await limiter.consume('a');
	assert.match((await warned).message, /this role may not call rl_reward\(\)/);
	await sleep(300);

	let allowed = 30;

	while (await limiter.consume('a')) allowed++;
	assert.ok(allowed <= 100 && allowed + lost.reduce((sum, { tokens }) => sum + tokens, 0) >= 100, `${allowed}`);
	await limiter.close();
});

test('throttle() of a lease: what remains, and when to come again', async (t) => {
	const pool = newPool(t);
	const limiter = newLimiter(pool, { capacity: 20, refill: 0.001, limiter: fresh('throttle'), lease: true });
	let result;

	for (let i = 1; i <= 20; i++) {
		result = await limiter.throttle('a');
		assert.strictEqual(result.allowed, true);
		assert.strictEqual(Math.floor(result.remaining), 20 - i);
		assert.strictEqual(result.by, 'lease');
	}
	result = await limiter.throttle('a');
	assert.deepStrictEqual([result.allowed, result.capacity], [false, 20]);
	assert.ok(result.retryAfter > 900 && result.retryAfter <= 1000, `${result.retryAfter}`);
	assert.strictEqual((await limiter.throttle('a', 21)).retryAfter, null);
	await limiter.close();

	// and that is when it is allowed
	const soon = newLimiter(pool, { capacity: 1, refill: 0.5, limiter: fresh('soon'), lease: true });

	do {
		result = await soon.throttle('a');
	} while (result.allowed);
	assert.ok(result.retryAfter > 0 && result.retryAfter <= 2, `${result.retryAfter}`);
	await sleep(result.retryAfter * 1000);
	assert.strictEqual(await soon.consume('a'), true);
	await soon.close();
});

test('what is too little for a call is left to other processes', async (t) => {
	const pool = newPool(t);
	const options = { capacity: 100, refill: 0, limiter: fresh('little'), lease: { idle: 60 } };
	const [one, other] = [newLimiter(pool, options), newLimiter(pool, options)];

	assert.deepStrictEqual([await one.consume('a', 60), await one.consume('a', 60)], [true, false]);
	await until(() => other.consume('a', 40), 'the 40 tokens that one has got for nothing are back');
	await Promise.all([one.close(), other.close()]);
});

test('blocks, aborted calls, and postgres.js', needs('postgres'), async (t) => {
	const sql = newPostgresJs(t);
	const name = fresh('block');
	const limiter = newLimiter(sql, { capacity: 20, refill: 0.001, limiter: name, lease: true });

	await sql`SELECT rl_block('a', '1 hour', ${name})`;

	const denied = await limiter.throttle('a');

	assert.strictEqual(denied.allowed, false);
	assert.ok(denied.retryAfter > 3500 && denied.retryAfter <= 3600, `${denied.retryAfter}`);

	const controller = new AbortController();
	const aborted = limiter.consume('b', { signal: controller.signal });
	const other = limiter.consume('b');

	controller.abort();
	await assert.rejects(aborted, { name: 'AbortError' });
	assert.strictEqual(await other, true);
	await limiter.close();
	assert.strictEqual((await sql`SELECT floor(remaining) AS remaining FROM rl_peek('b', 20, 0.001, 0, ${name})`)[0].remaining, 19);
});

test('while the database is away, a lease goes on until it is used up', async (t) => {
	const proxy = await newProxy(t);
	let asked = false;
	const limiter = newLimiter(newPool(t, proxy.options), { capacity: 1000, refill: 0, limiter: fresh('away'), away: 'deny',
		lease: { seconds: 10, idle: 60 }, metrics: ({ event }) => {
			if (event === 'query') asked = true;
		} });

	// until a portion has come, of which little is used, so that no other is under way
	for (let i = 0; i < 60 || !asked; i++) {
		asked = false;
		await limiter.consume('a');
	}
	await proxy.stop();

	let allowed = 0;

	while (await limiter.consume('a')) allowed++;
	assert.ok(allowed > 10 && allowed < 250, `${allowed}`);
	assert.strictEqual(limiter.stats.away, true);
	await proxy.start();
	await until(() => limiter.consume('a'), 'it is back');
	await limiter.close();
});

test(`four processes on one bucket, killed at random: never above capacity + refill x t (${SECONDS} s)`, async (t) => {
	const pool = newPool(t);
	const folder = mkdtempSync(join(tmpdir(), 'ratelimit'));
	// in the short form, the bucket has room for what a busy machine does not use
	const capacity = LONG ? 1000 : 60000;
	const rule = { capacity, refill: 1000, limiter: fresh('killed'), lease: true };
	const files = [];
	const children = [];
	let kills = 0;
	const begin = (i) => {
		const file = join(folder, `${files.length}`);

		files.push(file);
		children[i] = spawn(process.execPath, [join(__dirname, 'lease_process.js'), JSON.stringify({ file, rule, callers: 8 })],
			{ stdio: ['ignore', 'inherit', 'inherit'] });
		children[i].ended = new Promise((resolve) => {
			children[i].on('close', resolve);
		});
	};
	const allowed = () => files.reduce((sum, file) => {
		let bytes = '';

		try {
			bytes = readFileSync(file);
		} catch (error) {
			if (error.code !== 'ENOENT') throw error;
		}
		return sum + (bytes.length === 8 ? Number(bytes.readBigInt64LE()) : 0);
	}, 0);

	t.after(() => {
		for (const child of children) child.kill('SIGKILL');
		rmSync(folder, { recursive: true });
	});

	const take = async () => (await pool.query('SELECT rl_consume_upto($1, $2, 1000, $2, $3) AS n', ['bucket', capacity, rule.limiter])).rows[0].n;

	// from when the bucket is empty on, all calls together have no more than the refill
	const empty = performance.now();
	let taken = await take() - capacity;

	assert.strictEqual(taken, 0);
	for (let i = 0; i < 4; i++) begin(i);
	await until(() => files.every((file) => {
		try {
			return readFileSync(file).length === 8;
		} catch {
			return false;
		}
	}), 'all of them call');

	// from here on they have all of it
	taken = await take();

	const began = performance.now();
	const before = allowed();

	for (let end = began + SECONDS * 1000; performance.now() < end;) {
		await sleep(700 + Math.random() * 900);

		const i = Math.floor(Math.random() * 4);

		children[i].kill('SIGKILL');
		await children[i].ended;
		kills++;
		begin(i);
	}

	const seconds = (performance.now() - began) / 1000;
	const used = allowed() - before;
	const left = async () => (await pool.query('SELECT remaining FROM rl_peek($1, $2, 1000, 0, $3)', ['bucket', capacity, rule.limiter])).rows[0].remaining;
	const unused = await left();

	for (const child of children) child.kill('SIGTERM');
	await Promise.all(children.map(({ ended }) => ended));

	const least = performance.now() - empty;
	const all = allowed() + taken + await left();
	const most = performance.now() - empty;

	t.diagnostic(`${kills} kills, ${used} calls allowed in ${seconds.toFixed(2)} s: ${(used / seconds / 10).toFixed(1)} %, ` +
		`${Math.floor(unused)} left; ${(100 - all / most * 100).toFixed(1)} % lost`);
	// what was used, taken here, and is left, is at most what has come
	assert.ok(all <= most, `${all} in ${most} ms`);
	if (LONG) assert.ok(used >= 0.97 * 1000 * seconds, `${used} in ${seconds} s`);
	// each kill loses a portion, which is large after a stall, and kills are a greater part of a short time
	else assert.ok(all >= 0.9 * least, `${all} in ${least} ms`);
});
