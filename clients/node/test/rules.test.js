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

		const third = await limiter.acquire('a');

		assert.strictEqual(await limiter.acquire('a'), null);
		await third.release();

		const began = performance.now();
		const short = await limiter.acquire('a', { hold: 0.2 });

		await until(() => limiter.acquire('a'), 'it is free by itself');
		assert.ok(performance.now() - began > 190, 'not before');
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
	const limiterWith = (away) => newLimiter(pool, { slots: 1, limiter: fresh('away'), away });
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

for (const [driver, options, make] of DRIVERS) {
	test(`${driver}: calls that name their policies`, options, async (t) => {
		const pool = newPool(t);

		if (await lacks(t, pool, 'rl_consume_policies')) return;

		const [user, ip] = [fresh('user'), fresh('ip')];

		await pool.query('INSERT INTO rate_limit_policies (policy, capacity, refill, quota) VALUES ($1, 2, 0, true), ($2, 100, 0, true)', [user, ip]);

		const limiter = newLimiter(await make(t), { policies: true });
		const both = (key, cost) => [{ policy: user, key, cost }, { policy: ip, key: '203.0.113.7' }];
		const key = 'a"b\\c {},';

		// of one turn, so of one query, each with another number of policies
		assert.deepStrictEqual(await Promise.all([limiter.consume(both(key)), limiter.consume([{ policy: ip, key: 'x' }]), limiter.consume(both(key, 2)),
			limiter.consume(both('b', 3)), limiter.consume(both('b'), { cost: 2 })]), [true, true, false, false, true]);

		const result = await limiter.throttle(both(key));

		assert.deepStrictEqual([result.allowed, result.limiter, result.remaining, result.by], [true, user, 0, 'database']);
		assert.deepStrictEqual(result.results.map((each) => [each.allowed, each.limiter, each.remaining]), [[true, user, 0], [true, ip, 96]]);

		const denied = await limiter.throttle(both(key));

		assert.deepStrictEqual([denied.allowed, denied.limiter, denied.retryAfter], [false, user, null]);
		assert.deepStrictEqual(denied.results.map(({ allowed }) => allowed), [false, true], 'the other one would have allowed it');

		const { rows } = await pool.query('SELECT key, tokens FROM rate_limit_status WHERE limiter = $1 ORDER BY key', [user]);

		assert.deepStrictEqual(rows, [{ key, tokens: 0 }, { key: 'b', tokens: 0 }]);
		await assert.rejects(limiter.consume('a'), { name: 'TypeError', message: 'policies must be an array, not string' });
		await assert.rejects(limiter.consume([]), { name: 'RangeError', message: 'policies must be from 1 to 64, not 0' });
		await assert.rejects(limiter.consume([{ policy: user, key: '' }]), RangeError);
		await assert.rejects(limiter.consume([{ policy: user }]), TypeError);
		await assert.rejects(limiter.consume([null]), TypeError);
		await assert.rejects(limiter.consume([{ policy: fresh('none'), key: 'a' }]), { code: '42704' });
		await assert.rejects(limiter.reserve('a', 1), TypeError);
	});
}

test('calls that name their policies, while the database is away', async (t) => {
	const proxy = await newProxy(t);
	const pool = newPool(t, proxy.options);

	await proxy.stop();
	for (const [away, allowed] of [['allow', true], ['deny', false]]) {
		const limiter = newLimiter(pool, { policies: true, away });

		assert.strictEqual(await limiter.consume([{ policy: 'p', key: 'a' }]), allowed);
		assert.strictEqual((await limiter.throttle([{ policy: 'p', key: 'a' }])).by, away);
	}
	await assert.rejects(newLimiter(pool, { policies: true }).consume([{ policy: 'p', key: 'a' }]), RateLimitUnavailableError);
	for (const away of ['local', { capacity: 1, refill: 1 }]) assert.throws(() => newLimiter(pool, { policies: true, away }), TypeError);
	assert.throws(() => newLimiter(pool, { policies: ['p'] }), { message: 'policies must be true: each call names its own' });
	assert.throws(() => newLimiter(pool, { policies: true, limiter: 'x' }), { message: 'limiter must not be given with policies' });
});
