/*
 * Stores for other packages: each does what the package's own store in memory does, within
 * one window.  What cannot hold is in docs/clients.md, and raises an error here.
 */
'use strict';

const assert = require('node:assert');
const http = require('node:http');
const { before, test } = require('node:test');
const { rateLimitStore } = require('../adapters/fastify-rate-limit');
const { RateLimitStore } = require('../adapters/express-rate-limit');
const { ThrottlerStorage } = require('../adapters/nestjs-throttler');
const { rateLimiterRatelimit } = require('../adapters/rate-limiter-flexible');
const { AMPLE, fresh, lacks, needs, newPool, optional, sleep, until } = require('./support');

/* A day, so that no test meets the end of a window but the one of midnight, for which they wait. */
const DAY = 86400000;

before(async () => {
	const left = DAY - Date.now() % DAY;

	if (left < 60000) await sleep(left);
});

async function statuses(port, requests, path = '/') {
	const seen = [];

	for (const headers of requests) {
		seen.push(await new Promise((resolve, reject) => {
			http.get({ host: '127.0.0.1', port, path, headers, agent: false }, (response) => {
				response.resume();
				response.on('end', () => resolve(response.statusCode));
			}).on('error', reject);
		}));
	}
	return seen;
}

async function listen(t, server) {
	await new Promise((resolve) => {
		server.listen(0, '127.0.0.1', resolve);
	});
	t.after(() => server.close());
	return server.address().port;
}

test('express-rate-limit: the store does what its MemoryStore does', needs('express-rate-limit'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const { MemoryStore } = optional('express-rate-limit');
	const ours = new RateLimitStore(pool, { limiter: fresh('erl'), timeout: AMPLE, prefix: 'p:' });
	const theirs = new MemoryStore();

	t.after(() => theirs.shutdown());
	for (const store of [ours, theirs]) store.init({ windowMs: DAY });
	for (const [method, key] of [['get', 'a'], ['increment', 'a'], ['increment', 'a'], ['increment', 'b'], ['get', 'a'], ['decrement', 'a'],
		['get', 'a'], ['decrement', 'a'], ['decrement', 'a'], ['increment', 'a'], ['resetKey', 'a'], ['get', 'a'], ['get', 'b'], ['increment', 'a']]) {
		const [one, other] = await Promise.all([ours[method](key), theirs[method](key)]);

		// a key that has come down to 0 hits is as good as none
		assert.strictEqual(one?.totalHits, other?.totalHits || undefined, `${method} ${key}`);
		if (one) assert.ok(one.resetTime > new Date() && one.resetTime <= new Date(Date.now() + DAY + 1000));
	}
	assert.strictEqual(ours.localKeys, false);
	assert.strictEqual((await ours.increment('k'.repeat(1000))).totalHits, 1, 'a long key');
	assert.strictEqual((await ours.increment('k'.repeat(1000))).totalHits, 2);
	await ours.shutdown();
});

test('express-rate-limit: as a store of the middleware, concurrent requests too', needs('express-rate-limit', 'express'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const { rateLimit } = optional('express-rate-limit');
	const app = optional('express')();
	const store = new RateLimitStore(pool, { limiter: fresh('erl'), timeout: AMPLE });

	app.use(rateLimit({ windowMs: DAY, limit: 20, store, keyGenerator: (request) => request.headers.key, standardHeaders: 'draft-8', validate: true }));
	app.get('/', (request, response) => response.send('ok'));

	const port = await listen(t, http.createServer(app));
	const all = (await Promise.all(Array.from({ length: 50 }, () => statuses(port, [{ key: 'a' }])))).flat();

	assert.deepStrictEqual([all.filter((status) => status === 200).length, all.filter((status) => status === 429).length], [20, 30]);
	assert.deepStrictEqual(await statuses(port, [{ key: 'b' }]), [200]);
});

test('express-rate-limit: what its Store documents', needs('express-rate-limit', 'express'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const { rateLimit } = optional('express-rate-limit');
	const name = fresh('erl');
	const store = (options) => new RateLimitStore(pool, { limiter: name, timeout: AMPLE, ...options });
	const [one, other, prefixed] = [store(), store(), store({ prefix: 'p:' })];

	for (const each of [one, other, prefixed]) assert.strictEqual(each.init({ windowMs: DAY }), undefined);
	assert.strictEqual(await one.get('a'), undefined, 'nothing is known of it');
	assert.strictEqual((await one.increment('a')).totalHits, 1);
	assert.strictEqual((await other.increment('a')).totalHits, 2, 'keys are not local');
	assert.strictEqual((await prefixed.increment('a')).totalHits, 1, 'a key with a prefix is another one');
	assert.strictEqual(prefixed.prefix, 'p:');

	const { totalHits, resetTime } = await one.get('a');

	assert.deepStrictEqual([totalHits, resetTime instanceof Date], [2, true]);
	assert.ok(Math.abs((await one.increment('a')).resetTime - resetTime) < 60000, 'a hit does not change when the window ends');
	await one.decrement('a');
	assert.strictEqual((await one.get('a')).totalHits, 2);
	await one.resetKey('a');
	assert.strictEqual((await one.increment('a')).totalHits, 1);
	assert.strictEqual((await prefixed.get('a')).totalHits, 1, 'resetKey is of one key');
	await Promise.all([one, other, prefixed].map((each) => each.shutdown()));

	// with the middleware: its handler has resetKey and getKey, and decides when the store fails
	for (const [passOnStoreError, status] of [[true, 200], [false, 500]]) {
		const app = optional('express')();
		const limiter = rateLimit({ windowMs: DAY, limit: 1, store: new RateLimitStore(pool, { schema: 'none' }), passOnStoreError,
			validate: false, logger: { error() {}, warn() {} }, keyGenerator: () => 'a' });

		app.use(limiter);
		app.get('/', (request, response) => response.send('ok'));
		// eslint-disable-next-line no-unused-vars -- Express knows it by its four arguments
		app.use((error, request, response, next) => response.status(500).end());
		assert.deepStrictEqual(await statuses(await listen(t, http.createServer(app)), [{}]), [status]);
	}

	const app = optional('express')();
	// what has failed is given back after its answer, so there is room for both of them
	const limiter = rateLimit({ windowMs: DAY, limit: 4, store: store({ limiter: fresh('erl') }), keyGenerator: () => 'a', skipFailedRequests: true });

	app.use(limiter);
	app.get('/', (request, response) => response.send('ok'));
	app.get('/bad', (request, response) => response.status(400).end());

	const port = await listen(t, http.createServer(app));

	assert.deepStrictEqual(await statuses(port, [{}, {}]), [200, 200]);
	assert.deepStrictEqual(await statuses(port, [{}, {}], '/bad'), [400, 400]);
	await until(async () => (await limiter.getKey('a')).totalHits === 2, 'what has failed is not counted');
	await limiter.resetKey('a');
	assert.strictEqual(await limiter.getKey('a'), undefined);
});

test('@fastify/rate-limit: as a store of the plugin, routes with limits of their own too', needs('@fastify/rate-limit', 'fastify'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const app = optional('fastify')();
	const Store = rateLimitStore(pool, { limiter: fresh('fastify'), timeout: AMPLE });

	t.after(() => app.close());
	await app.register(optional('@fastify/rate-limit'), { max: 3, timeWindow: DAY, store: Store, keyGenerator: (request) => request.headers.key });
	app.get('/', async () => 'ok');
	app.get('/own', { config: { rateLimit: { max: 1, timeWindow: DAY } } }, async () => 'ok');
	app.get('/peek', { config: { rateLimit: false } }, async (request) => app.createRateLimit()(request, { increment: false }));
	await app.listen({ host: '127.0.0.1', port: 0 });

	const { port } = app.server.address();

	assert.deepStrictEqual(await statuses(port, Array(4).fill({ key: 'a' })), [200, 200, 200, 429]);
	assert.deepStrictEqual(await statuses(port, Array(2).fill({ key: 'a' }), '/own'), [200, 429]);
	assert.deepStrictEqual(await statuses(port, [{ key: 'b' }]), [200]);

	const { current, ttl } = await new Promise((resolve, reject) => {
		new Store({ timeWindow: DAY }).read('b', (error, result) => (error ? reject(error) : resolve(result)), DAY);
	});

	assert.strictEqual(current, 1);
	assert.ok(ttl > 0 && ttl <= DAY);
	for (const option of ['continueExceeding', 'exponentialBackoff']) {
		assert.throws(() => new Store({ [option]: true }), new RegExp(`TypeError: ${option} is not supported by this store`));
	}

	const failing = new (rateLimitStore(pool, { schema: 'none' }))({ timeWindow: DAY });

	await assert.rejects(new Promise((resolve, reject) => {
		failing.incr('a', (error, result) => (error ? reject(error) : resolve(result)), DAY);
	}), { code: '3F000' });
});

test('@nestjs/throttler: the storage does what its own does', needs('@nestjs/throttler'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const { ThrottlerStorageService } = optional('@nestjs/throttler');
	const theirs = new ThrottlerStorageService();
	const ours = new ThrottlerStorage(pool, { limiter: fresh('nest'), timeout: AMPLE });

	t.after(() => theirs.onApplicationShutdown());
	for (const [key, blockDuration, name] of [...Array(4).fill(['a', DAY, 'default']), ['b', DAY, 'default'], ['b', DAY, 'other'],
		...Array(4).fill(['c', 2 * DAY, 'default'])]) {
		const [one, other] = await Promise.all([ours, theirs].map((storage) => storage.increment(key, DAY, 2, blockDuration, name)));
		const what = `${key} ${JSON.stringify(one)} ${JSON.stringify(other)}`;

		assert.strictEqual(one.isBlocked, other.isBlocked, what);
		// theirs does not count what it blocks
		assert.strictEqual(Math.min(one.totalHits, 3), other.totalHits, what);
		assert.ok(one.timeToExpire > 0 && one.timeToExpire <= other.timeToExpire, what);
		if (blockDuration > DAY) assert.ok(Math.abs(one.timeToBlockExpire - Math.max(0, other.timeToBlockExpire)) <= 60, what);
		else assert.ok(one.isBlocked ? one.timeToBlockExpire > 0 && one.timeToBlockExpire <= other.timeToBlockExpire : one.timeToBlockExpire === 0, what);
	}
	await ours.onApplicationShutdown();
});

test('@nestjs/throttler: as the storage of its guard', needs('@nestjs/throttler', '@nestjs/core', '@nestjs/platform-express'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;
	require('reflect-metadata');

	const { Controller, Get, Module } = require('@nestjs/common');
	const { APP_GUARD, NestFactory } = require('@nestjs/core');
	const { ThrottlerGuard, ThrottlerModule } = require('@nestjs/throttler');

	class Hello {
		hello() {
			return 'hello';
		}
	}
	Get()(Hello.prototype, 'hello', Object.getOwnPropertyDescriptor(Hello.prototype, 'hello'));
	Controller()(Hello);

	class App {
	}
	Module({
		imports: [ThrottlerModule.forRoot({ throttlers: [{ ttl: DAY, limit: 3 }], storage: new ThrottlerStorage(pool, { limiter: fresh('nest'), timeout: AMPLE }) })],
		controllers: [Hello],
		providers: [{ provide: APP_GUARD, useClass: ThrottlerGuard }],
	})(App);

	const app = await NestFactory.create(App, { logger: false });

	t.after(() => app.close());
	await app.listen(0, '127.0.0.1');
	assert.deepStrictEqual(await statuses(app.getHttpServer().address().port, Array(5).fill({})), [200, 200, 200, 429, 429]);
});

test('rate-limiter-flexible: the limiter does what RateLimiterMemory does', needs('rate-limiter-flexible'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const flexible = optional('rate-limiter-flexible');
	const RateLimiterRatelimit = rateLimiterRatelimit(flexible);
	const options = { points: 5, duration: 86400, keyPrefix: fresh('flexible'), timeout: AMPLE };
	const ours = new RateLimiterRatelimit({ ...options, storeClient: pool });
	const theirs = new flexible.RateLimiterMemory(options);
	// what is rejected is a result, too
	const settle = (promise) => promise.then((value) => ['resolved', value], (reason) => ['rejected', reason]);

	for (const [method, ...args] of [['get', 'a'], ['consume', 'a'], ['consume', 'a', 3], ['get', 'a'], ['reward', 'a', 2], ['penalty', 'a', 1],
		['consume', 'a', 2], ['consume', 'a', 1], ['consume', 'a', 1], ['get', 'a'], ['delete', 'a'], ['delete', 'a'], ['consume', 'a', 6],
		['set', 'b', 4, 86400], ['consume', 'b'], ['consume', 'b'], ['block', 'c', 2 * 86400], ['consume', 'c'], ['get', 'c'], ['delete', 'c'],
		['consume', 'c'], ['consume', 'd', 0]]) {
		const [[how, one], [as, other]] = await Promise.all([ours, theirs].map((limiter) => settle(limiter[method](...args))));
		const what = `${method} ${args}: ${one} ${other}`;

		assert.strictEqual(how, as, what);
		if (other === null || typeof other !== 'object') {
			assert.strictEqual(one, other, what);
			continue;
		}
		assert.ok(!(one instanceof Error), what);
		assert.strictEqual(one.remainingPoints, other.remainingPoints, what);
		// a key that is blocked has more than it may
		if (args[0] !== 'c') assert.strictEqual(one.consumedPoints, other.consumedPoints, what);
		assert.ok(one.msBeforeNext > 0 && one.msBeforeNext <= other.msBeforeNext + 60000, what);
	}
	await assert.rejects(ours.set('a', 1, 60), /RangeError: set\(\) can say how many points there are in a window of 86400 s only, not in 60 s/);
	assert.throws(() => new RateLimiterRatelimit({ storeClient: pool, points: 1, duration: 0 }), /duration must be above 0/);
});

test('rate-limiter-flexible: a block lasts as long as it says, however long the window is', needs('rate-limiter-flexible'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const flexible = optional('rate-limiter-flexible');
	const RateLimiterRatelimit = rateLimiterRatelimit(flexible);
	const options = { points: 2, duration: 86400, keyPrefix: fresh('block'), timeout: AMPLE };
	const both = (more) => [new RateLimiterRatelimit({ ...options, ...more, storeClient: pool }), new flexible.RateLimiterMemory({ ...options, ...more })];
	const outcome = (promise) => promise.then(({ consumedPoints }) => consumedPoints, ({ msBeforeNext }) => `denied for ${Math.ceil(msBeforeNext / 1000)} s`);

	const seconds = (denied) => Number(/^denied for (-?\d+) s$/.exec(denied)[1]);

	for (const limiter of both({ blockDuration: 600 })) {
		const seen = [];

		for (let i = 0; i < 4; i++) seen.push(await outcome(limiter.consume('d')));
		assert.deepStrictEqual(seen.slice(0, 3), [1, 2, 'denied for 600 s']);
		assert.ok(seconds(seen[3]) > 540 && seconds(seen[3]) <= 600, 'what is denied does not make it longer');
	}
	for (const limiter of both({ blockDuration: 1 })) {
		const seen = [];

		for (let i = 0; i < 3; i++) seen.push(await outcome(limiter.consume('a')));
		assert.deepStrictEqual(seen, [1, 2, 'denied for 1 s']);
		// however often it is denied, and then the key begins again
		await until(async () => {
			const now = await outcome(limiter.consume('a'));

			assert.ok(now === 1 || seconds(now) <= 1, now);
			return now === 1;
		}, 'the block has ended');
		assert.strictEqual(await outcome(limiter.consume('a')), 2);
	}
	for (const limiter of both({})) {
		// as long as a window, which may end before
		await limiter.block('b', 86400);
		await assert.rejects(limiter.consume('b'), ({ msBeforeNext }) => msBeforeNext > DAY - 60000 && msBeforeNext <= DAY);
		assert.strictEqual((await limiter.get('b')).remainingPoints, 0);
		assert.strictEqual((await limiter.get('b')).isFirstInDuration, false);
	}

	// only the limiters with a store know this option
	const [limiter] = both({ blockOnConsumed: 4, blockDuration: 2 * 86400 });
	const seen = [];

	for (let i = 0; i < 6; i++) seen.push(await limiter.consume('c').then(() => 'allowed', ({ msBeforeNext }) => (msBeforeNext > DAY ? 'blocked' : 'denied')));
	assert.deepStrictEqual(seen, ['allowed', 'allowed', 'denied', 'blocked', 'blocked', 'blocked']);
});

test('rate-limiter-flexible: together with its other classes', needs('rate-limiter-flexible'), async (t) => {
	const pool = newPool(t);

	if (await lacks(t, pool, 'rl_count')) return;

	const flexible = optional('rate-limiter-flexible');
	const RateLimiterRatelimit = rateLimiterRatelimit(flexible);
	const limiter = (options) => new RateLimiterRatelimit({ storeClient: pool, points: 2, duration: 86400, keyPrefix: fresh('with'), timeout: AMPLE, ...options });

	const shared = limiter({ points: 20 });
	const all = await Promise.allSettled(Array.from({ length: 50 }, () => shared.consume('a')));

	assert.strictEqual(all.filter(({ status }) => status === 'fulfilled').length, 20);

	const union = new flexible.RateLimiterUnion(limiter({ keyPrefix: fresh('one') }), limiter({ keyPrefix: fresh('two'), points: 1 }));

	await union.consume('a');
	await assert.rejects(union.consume('a'));

	const listed = new flexible.RLWrapperBlackAndWhite({ limiter: limiter(), blackList: ['bad'] });

	await listed.consume('good');
	await assert.rejects(listed.consume('bad'));

	const insured = limiter({ schema: 'none', insuranceLimiter: new flexible.RateLimiterMemory({ points: 1, duration: 60 }) });

	await insured.consume('a');
	await assert.rejects(insured.consume('a'), ({ consumedPoints }) => consumedPoints === 2);

	const blocking = limiter({ points: 1, blockDuration: 2 * 86400 });

	await blocking.consume('a');
	await assert.rejects(blocking.consume('a'), ({ msBeforeNext }) => msBeforeNext === 2 * DAY);
	await assert.rejects(blocking.consume('a'), ({ msBeforeNext }) => msBeforeNext > 1.9 * DAY);
});
