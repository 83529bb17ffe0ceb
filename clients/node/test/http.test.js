/* HTTP servers: exactly as many requests as there are tokens are allowed, and Retry-After holds. */
'use strict';

const assert = require('node:assert');
const http = require('node:http');
const { test } = require('node:test');
const { httpLimit, expressLimit, fastifyLimit, koaLimit } = require('..');
const { fresh, needs, newLimiter, newPool, optional, sleep } = require('./support');

/* Each starts a server that answers what is allowed with "ok", and gives its port. */
const SERVERS = {
	async 'node:http'(t, limiter, options) {
		const limit = httpLimit(limiter, options);

		return listen(t, http.createServer(async (request, response) => {
			if (!await limit(request, response)) return;
			response.end('ok');
		}));
	},
	async express(t, limiter, options) {
		const app = optional('express')();

		app.use(expressLimit(limiter, options));
		app.get('/', (request, response) => response.send('ok'));
		return listen(t, http.createServer(app));
	},
	async fastify(t, limiter, options) {
		const app = optional('fastify')();

		await app.register(fastifyLimit, { limiter, ...options });
		app.get('/', async () => 'ok');
		await app.listen({ host: '127.0.0.1', port: 0 });
		t.after(() => app.close());
		return app.server.address().port;
	},
	async koa(t, limiter, options) {
		const Koa = optional('koa');
		const app = new Koa();

		app.silent = true;
		app.use(koaLimit(limiter, options));
		app.use((context) => {
			context.body = 'ok';
		});
		return listen(t, http.createServer(app.callback()));
	},
};

async function listen(t, server) {
	await new Promise((resolve) => {
		server.listen(0, '127.0.0.1', resolve);
	});
	t.after(() => server.close());
	return server.address().port;
}

/* A real request: its status, header fields and body. */
const get = (port, headers = {}, agent = undefined) => new Promise((resolve, reject) => {
	http.get({ host: '127.0.0.1', port, headers, agent }, (response) => {
		let body = '';

		response.setEncoding('utf8');
		response.on('data', (data) => {
			body += data;
		});
		response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
	}).on('error', reject);
});

for (const [name, start] of Object.entries(SERVERS)) {
	const options = name === 'node:http' ? {} : needs(name);

	test(`${name}: of 200 concurrent requests exactly the capacity are allowed, and Retry-After holds`, options, async (t) => {
		const limiter = newLimiter(newPool(t), { capacity: 30, refill: 0.4, limiter: fresh(name.replace(':', ' ')) });
		const port = await start(t, limiter, { name: 'api' });
		const agent = new http.Agent({ keepAlive: false, maxSockets: Infinity });
		const began = performance.now();
		const responses = await Promise.all(Array.from({ length: 200 }, () => get(port, {}, agent)));
		const seconds = (performance.now() - began) / 1000;
		const allowed = responses.filter(({ status }) => status === 200);
		const denied = responses.filter(({ status }) => status === 429);

		assert.strictEqual(allowed.length + denied.length, 200);
		assert.ok(allowed.length >= 30 && allowed.length <= 30 + Math.floor(seconds * 0.4), `${allowed.length} in ${seconds} s`);
		for (const { headers, body } of allowed) {
			assert.strictEqual(body, 'ok');
			assert.match(headers.ratelimit, /^"api";r=\d+;t=[1-3]$/);
			assert.strictEqual(headers['ratelimit-policy'], '"api";q=30;w=75');
			assert.strictEqual(headers['retry-after'], undefined);
		}
		assert.strictEqual(Math.min(...allowed.map(({ headers }) => Number(/r=(\d+)/.exec(headers.ratelimit)[1]))), 0);
		for (const { headers, body } of denied) {
			assert.strictEqual(body, 'Too many requests\n');
			assert.match(headers['retry-after'], /^[123]$/);
			assert.match(headers.ratelimit, /^"api";r=0;t=[123]$/);
		}

		// whoever waits for as long as it says is allowed
		let last;

		do {
			last = await get(port);
		} while (last.status === 200);
		await sleep(Number(last.headers['retry-after']) * 1000);
		assert.strictEqual((await get(port)).status, 200);
	});

	test(`${name}: keys, costs, skipped requests, own answers, and a limiter that cannot decide`, options, async (t) => {
		const pool = newPool(t);
		const limiter = newLimiter(pool, { capacity: 3, refill: 0, limiter: fresh(name.replace(':', ' ')) });
		let port = await start(t, limiter, { hops: 1, cost: (request) => Number(request.headers['x-cost'] ?? 1),
			skip: (request) => request.headers['x-skip'] === 'yes' });
		const statuses = async (...all) => {
			const seen = [];

			for (const headers of all) seen.push((await get(port, headers)).status);
			return seen;
		};

		assert.deepStrictEqual(await statuses({ 'x-forwarded-for': '203.0.113.1', 'x-cost': '2' }, { 'x-forwarded-for': '203.0.113.1', 'x-cost': '2' },
			{ 'x-forwarded-for': '203.0.113.1' }, { 'x-forwarded-for': '203.0.113.1' }, { 'x-forwarded-for': '6.6.6.6, 203.0.113.1' }),
		[200, 429, 200, 429, 429]);
		assert.deepStrictEqual(await statuses({ 'x-forwarded-for': '2001:db8::1', 'x-cost': '3' }, { 'x-forwarded-for': '2001:db8::2' },
			{ 'x-forwarded-for': '2001:db8:0:1::1' }), [200, 429, 200]);

		const skipped = await get(port, { 'x-forwarded-for': '203.0.113.1', 'x-skip': 'yes' });

		assert.deepStrictEqual([skipped.status, skipped.headers.ratelimit], [200, undefined]);

		const never = await get(port, { 'x-forwarded-for': '203.0.113.2', 'x-cost': '4' });

		assert.deepStrictEqual([never.status, never.headers['retry-after']], [429, undefined], 'waiting does not help');

		// a key and an answer of its own
		port = await start(t, limiter, {
			key: (request) => `user:${request.headers.authorization}`,
			fields: false,
			denied: name === 'koa' ? (context) => {
				context.body = { error: 'slow down' };
			} : (request, response) => (response.send ? response.send({ error: 'slow down' }) : response.end('{"error":"slow down"}')),
		});
		assert.deepStrictEqual(await statuses(...Array(4).fill({ authorization: 'alice' }), { authorization: 'bob' }), [200, 200, 200, 429, 200]);

		const own = await get(port, { authorization: 'alice' });

		assert.deepStrictEqual([own.status, own.headers.ratelimit, own.body], [429, undefined, '{"error":"slow down"}']);

		// node:http has no way to answer an error but the application's own
		if (name === 'node:http') return;
		port = await start(t, newLimiter(pool, { policy: fresh('none') }), {});
		assert.strictEqual((await get(port)).status, 500);
	});
}

test('several limits of one request share the fields', async (t) => {
	const pool = newPool(t);
	const minute = httpLimit(newLimiter(pool, { capacity: 5, refill: 0, limiter: fresh('minute') }), { name: 'minute' });
	const day = httpLimit(newLimiter(pool, { capacity: 50, refill: 0, limiter: fresh('day') }), { name: 'day' });
	const port = await listen(t, http.createServer(async (request, response) => {
		if (await minute(request, response) && await day(request, response)) response.end('ok');
	}));
	const { headers } = await get(port);

	assert.deepStrictEqual([headers.ratelimit, headers['ratelimit-policy']], ['"minute";r=4, "day";r=49', '"minute";q=5, "day";q=50']);
});

test('options that are none', async (t) => {
	const limiter = newLimiter(newPool(t), { capacity: 5, refill: 0, limiter: fresh('options') });

	assert.throws(() => httpLimit(limiter, { hops: -1 }), /^RangeError: hops must be/);
	assert.throws(() => httpLimit(limiter, { ipv6Prefix: 129 }), /^RangeError: ipv6Prefix must be/);
	assert.throws(() => httpLimit(limiter, { key: 'ip' }), /^TypeError: key must be a function/);
});
