/* Periods, slots and reservations, where the extension has them. */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { RateLimitUnavailableError } = require('..');
const { fresh, lacks, needs, newLimiter, newPool, newPostgresJs, newProxy, until } = require('./support');

const DRIVERS = [['node-postgres', {}, newPool], ['postgres.js', needs('postgres'), newPostgresJs]];

for (const [driver, options, make] of DRIVERS) {
	test(`${driver}: an allowance in a period`, options, async (t) => {
		if (await lacks(t, newPool(t), 'rl_consume_period')) return;

		const limiter = newLimiter(await make(t), { allowance: 3, period: 'day Europe/Berlin', limiter: fresh('period') });

		assert.deepStrictEqual(await Promise.all([limiter.consume('a', 2), limiter.consume('a', 2), limiter.consume('a'), limiter.consume('b')]),
			[true, false, true, true]);

		const { allowed, capacity, remaining, retryAfter, resetAfter } = await limiter.throttle('a');

		assert.deepStrictEqual([allowed, capacity, remaining], [false, 3, 0]);
		assert.ok(retryAfter > 0 && retryAfter <= 90000 && Math.abs(resetAfter - retryAfter) < 1, `${retryAfter}`);
	});

	test(`${driver}: slots`, options, async (t) => {
		if (await lacks(t, newPool(t), 'rl_acquire')) return;

		const limiter = newLimiter(await make(t), { slots: 3, limiter: fresh('slots') });
		const [one, two, three] = await Promise.all([limiter.acquire('a'), limiter.acquire('a', { weight: 2 }), limiter.acquire('a')]);

		assert.strictEqual(three, null);
		assert.ok(one.id > 0n && two.id > 0n && one.id !== two.id);
		assert.strictEqual(await one.release(), true);
		assert.strictEqual(await one.release(), false, 'not any more');
		assert.strictEqual(await two.renew(60), true);

		const short = await limiter.acquire('a', { hold: 0.2 });

		assert.strictEqual(await limiter.acquire('a'), null);
		await until(() => limiter.acquire('a'), 'it is free by itself');
		assert.strictEqual(await short.renew(), false);
		await assert.rejects(limiter.consume('a'), /^TypeError: slots are acquired, not consumed/);
		await assert.rejects(limiter.reserve('a', 1), /^TypeError: reserve\(\) needs another rule/);
		await limiter.close();
		assert.strictEqual(await two.release(), true, 'what is held is released after close(), too');
		await assert.rejects(limiter.acquire('a'), /the limiter is closed/);
	});

	test(`${driver}: reservations`, options, async (t) => {
		if (await lacks(t, newPool(t), 'rl_reserve')) return;

		const limiter = newLimiter(await make(t), { capacity: 100, refill: 0, limiter: fresh('reserve') });
		const [one, two] = await Promise.all([limiter.reserve('a', 60), limiter.reserve('a', 60)]);

		assert.strictEqual(two, null);
		assert.ok(one.id > 0n);
		assert.strictEqual(await one.settle(25), 75, 'what was not used is back');
		assert.strictEqual(await one.settle(25), null, 'not any more');
		assert.ok(await limiter.reserve('a', 75, { expires: 0.5 }));
		await assert.rejects(limiter.acquire('a'), /^TypeError: acquire\(\) needs another rule/);
		await assert.rejects(limiter.reserve('a', -1), /^RangeError: tokens must be/);
	});
}

test('while the database is away, nothing is held, and the choice decides', async (t) => {
	if (await lacks(t, newPool(t), 'rl_acquire')) return;

	const proxy = await newProxy(t);
	const pool = newPool(t, proxy.options);
	const limiterWith = (away) => newLimiter(pool, { slots: 1, limiter: fresh('away'), timeout: 1000, away });
	const [allow, deny, throws] = ['allow', 'deny', 'throw'].map(limiterWith);
	const held = await allow.acquire('a');

	await proxy.stop();

	const free = await allow.acquire('a');

	assert.strictEqual(free.id, 0n);
	assert.deepStrictEqual([await free.release(), await free.renew()], [true, true]);
	assert.strictEqual(await deny.acquire('a'), null);
	await assert.rejects(throws.acquire('a'), RateLimitUnavailableError);
	await assert.rejects(held.release(), Error, 'it is not known whether it is free');
	await proxy.start();
	await until(() => !allow.stats.away, 'it is back');
	assert.strictEqual(await held.release(), true);
	assert.throws(() => limiterWith('local'), /^TypeError: away must be/);
});
