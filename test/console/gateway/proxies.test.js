/* nginx, Caddy and HAProxy with their recipes, and Traefik's way to ask. */
'use strict';

const assert = require('node:assert');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');
const { RECIPES, freePorts, needs, newDatabase, request, startApplication, startGateway, startProxy } = require('./support');

const CONFIG = JSON.parse(readFileSync(join(RECIPES, 'gateway.json'), 'utf8'));

/* web: 20 and no more.  login: 2, then one a minute.  api: 3. */
const POLICIES = { web: { capacity: 20 }, login: { capacity: 2, refill: 1 / 60 }, api: { capacity: 3 } };

const statusesOf = async (n, ask) => {
	const statuses = [];

	for (let i = 0; i < n; i++) statuses.push((await ask(i)).status);
	return statuses;
};

for (const kind of ['nginx', 'caddy', 'haproxy']) {
	test(`${kind}: the recipe`, needs(kind), async (t) => {
		const database = await newDatabase(t, POLICIES);
		const gateway = await startGateway(t, CONFIG, { database });
		const application = await startApplication(t);
		const { port } = await startProxy(t, kind, { 8000: application.port, 8081: gateway.ports.http });
		const ask = (path, options) => request(port, path, options);

		await t.test('a request and its body reach the application, and the fields the client', async () => {
			const { status, headers, body } = await ask('/a/b?c=d', { method: 'POST', body: 'whatever' });

			assert.strictEqual(status, 200);

			const seen = JSON.parse(body);

			assert.deepStrictEqual([seen.method, seen.url, seen.body], ['POST', '/a/b?c=d', 'whatever']);
			assert.match(headers.ratelimit, /^"web";r=19$/);
			assert.match(headers['ratelimit-policy'], /^"web";q=20$/);
			assert.strictEqual(headers['retry-after'], undefined);
		});

		await t.test('a denial', async () => {
			// a page is written in many ways
			const ways = ['/login', '//login', '/%6cogin', '/x/../login?a=b'];
			const replies = [];

			for (const path of ways) replies.push(await ask(path, { method: 'POST' }));
			assert.deepStrictEqual(replies.map(({ status }) => status), [200, 200, 429, 429]);

			const { headers, body } = replies[2];

			assert.match(headers['retry-after'], /^(5\d|60)$/);
			assert.match(headers.ratelimit, /"login";r=0;t=(5\d|60)/);
			assert.match(headers['ratelimit-policy'], /"login";q=2;w=120/);
			assert.match(body, /Too many requests/);
			assert.strictEqual((await ask('/login')).status, 200, 'GET is not limited there');
		});

		await t.test('nothing that the client says changes who it is or what it asks for', async () => {
			const { rows: [{ tokens: before }] } = await database.pool.query("SELECT tokens FROM rate_limit_status WHERE limiter = 'web' AND key = '127.0.0.1'");

			for (const headers of [{ 'X-Forwarded-For': '203.0.113.1' }, { 'X-Forwarded-For': '203.0.113.1, 203.0.113.2' },
				{ 'X-Forwarded-Uri': '/static/x' }, { 'X-Forwarded-Method': 'GET', 'X-Forwarded-Host': 'x' },
				{ Forwarded: 'for=203.0.113.1', 'X-Real-IP': '203.0.113.1' }]) {
				assert.strictEqual((await ask('/', { headers })).status, 200);
			}

			const { rows } = await database.pool.query("SELECT key, tokens FROM rate_limit_status WHERE limiter = 'web'");

			assert.deepStrictEqual(rows, [{ key: '127.0.0.1', tokens: before - 5 }]);
		});

		await t.test('a header as the key', async () => {
			const [a, b] = [{ headers: { 'X-Api-Key': 'a' } }, { headers: { 'X-Api-Key': 'b' } }];

			assert.deepStrictEqual(await statusesOf(4, () => ask('/api/x', a)), [200, 200, 200, 429]);
			assert.strictEqual((await ask('/api/x', b)).status, 200);
		});

		await t.test('exactly what is left in the bucket is let through', async () => {
			const { rows: [{ tokens }] } = await database.pool.query("SELECT tokens FROM rate_limit_status WHERE limiter = 'web'");
			const before = application.requests;
			const statuses = await statusesOf(tokens + 5, () => ask('/'));

			assert.deepStrictEqual(statuses, [...Array(tokens).fill(200), ...Array(5).fill(429)]);
			assert.strictEqual(application.requests - before, tokens, 'the application is not asked');
			assert.deepStrictEqual(await statusesOf(3, () => ask('/static/a.css')), [200, 200, 200], 'free');

			const { headers } = await ask('/');

			assert.strictEqual(headers['retry-after'], undefined, 'waiting does not help');
			assert.strictEqual(headers.ratelimit, '"web";r=0');
		});

		if (kind === 'nginx') {
			await t.test('a 403 of the application stays one', async () => {
				await database.pool.query("SELECT rl_reset_all('web')");
				assert.strictEqual((await ask('/forbidden')).status, 403);
			});
		}

		await t.test('huge headers', async () => {
			for (const bytes of [3000, 6000, 12000, 30000, 100000]) {
				const headers = { 'X-Api-Key': 'k'.repeat(bytes) };
				const status = await ask('/api/x', { headers }).then((response) => response.status, (error) => error.code);

				assert.ok([200, 400, 413, 429, 431, 'ECONNRESET', 'EPIPE'].includes(status), `${bytes}: ${status}`);
			}
			assert.ok(!gateway.ended);
		});

		await t.test('while the gateway is away, the recipe allows', async () => {
			gateway.kill('SIGKILL');
			await gateway.end;

			const began = performance.now();

			assert.strictEqual((await ask('/', { method: 'POST', body: 'whatever' })).status, 200);
			assert.ok(performance.now() - began < 10000, 'not for ever');
		});
	});
}

test('Traefik: what its ForwardAuth sends, and what it passes on', async (t) => {
	const database = await newDatabase(t, POLICIES);
	const gateway = await startGateway(t, CONFIG, { database });
	// https://doc.traefik.io/traefik/middlewares/http/forwardauth/: a GET with these, beside the client's own
	const ask = (method, uri, headers = {}) => request(gateway.ports.http, '/check', { headers: {
		'X-Forwarded-Method': method, 'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'example.com', 'X-Forwarded-Uri': uri,
		'X-Forwarded-For': '203.0.113.7', ...headers,
	} });

	// from 200 to 299, Traefik asks the application; else the answer is the client's, with its fields
	assert.deepStrictEqual(await statusesOf(3, () => ask('POST', '/login')), [200, 200, 429]);

	const { headers, body } = await ask('POST', '/login');

	assert.match(headers['retry-after'], /^(5\d|60)$/);
	assert.match(headers.ratelimit, /^"login";r=0;t=(5\d|60), "web";r=\d+$/);
	assert.match(headers['ratelimit-policy'], /^"login";q=2;w=120, "web";q=20$/);
	assert.strictEqual(body, 'Too many requests\n');
	assert.strictEqual((await ask('GET', '/login')).status, 200);

	const { rows } = await database.pool.query("SELECT key, tokens FROM rate_limit_status WHERE limiter = 'web'");

	// the denied calls took nothing from the other policy
	assert.deepStrictEqual(rows, [{ key: '203.0.113.7', tokens: 17 }]);
});

test('two nginx with one database: exactly capacity', needs('nginx'), async (t) => {
	const { FULL, load } = require('./support');
	const [capacity, requests] = FULL ? [20000, 50000] : [300, 600];
	const database = await newDatabase(t, { web: { capacity } });
	const application = await startApplication(t);
	const ports = [];

	for (let i = 0; i < 2; i++) {
		const gateway = await startGateway(t, { http: { rules: [{ policy: 'web', away: 'deny' }] } }, { database });
		// a probe of the start asks for a token
		const { port } = await startProxy(t, 'nginx', { 8000: application.port, 8081: gateway.ports.http }, { workers: 2 });

		ports.push(port);
	}
	await database.pool.query("SELECT rl_reset_all('web')");
	application.requests = 0;
	assert.deepStrictEqual(await load(ports, '/', requests, 16), { 200: capacity, 429: requests - capacity });
	assert.strictEqual(application.requests, capacity);

	const { rows: [{ count }] } = await database.pool.query('SELECT sum(count)::integer AS count FROM rate_limit_pending');

	assert.strictEqual(count, requests - capacity, 'all denials are violations');
});

test('leases and killed gateways never let more through', needs('nginx'), async (t) => {
	const { FULL, load } = require('./support');
	const [capacity, requests] = FULL ? [20000, 50000] : [300, 600];
	const database = await newDatabase(t, { web: { capacity } });
	const application = await startApplication(t);
	const config = { http: { rules: [{ policy: 'web', away: 'deny', lease: true }] } };
	const gateways = [await startGateway(t, config, { database }), await startGateway(t, config, { database })];
	const ports = [];

	for (const gateway of gateways) {
		// without the recipe's way out, so that a gateway that is away denies
		const { port } = await startProxy(t, 'nginx', { 8000: application.port, 8081: gateway.ports.http },
			{ change: (text) => text.replace(/\t+error_page 502.*\n/, '').replace('error_page 403', 'error_page 403 500') });

		ports.push(port);
	}
	await database.pool.query("SELECT rl_reset_all('web')");
	application.requests = 0;

	// as many at each, as a gateway that is away denies them faster
	const half = Promise.all(ports.map((port) => load([port], '/', requests / 2, 8)));

	while (application.requests < capacity / 4) {
		await new Promise((done) => {
			setTimeout(done, 1);
		});
	}
	gateways[0].kill('SIGKILL');

	const counts = await half;

	assert.ok(counts.reduce((sum, each) => sum + (each[200] ?? 0), 0) <= capacity, JSON.stringify(counts));
	assert.ok(application.requests <= capacity && application.requests > capacity / 2, `${application.requests}`);
});

test('the ports of a recipe are all that a test changes', async () => {
	const [one] = await freePorts(1);
	const { recipe } = require('./support');

	assert.strictEqual(recipe('nginx.conf', { 8081: one }).replace(`127.0.0.1:${one}`, '127.0.0.1:8081'), readFileSync(join(RECIPES, 'nginx.conf'), 'utf8'));
});
