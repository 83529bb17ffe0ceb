/* The gateway by itself: what changes while it runs, what fails, and how it ends. */
'use strict';

const assert = require('node:assert');
const { execFileSync, spawnSync } = require('node:child_process');
const dgram = require('node:dgram');
const { readFileSync, readdirSync, rmSync } = require('node:fs');
const net = require('node:net');
const { join } = require('node:path');
const { test } = require('node:test');
const { Client } = require('pg');
const { newProxy } = require('../../../clients/node/test/support');
const { FULL, RECIPES, TOP, folder, newDatabase, request, startGateway, until } = require('./support');

const COMMAND = join(TOP, 'clients/gateway/bin/ratelimit-gateway.js');
const rules = (...list) => ({ http: { hops: 1, rules: list } });
const check = (gateway, headers = {}, path = '/check') => request(gateway.ports.http, path, { headers: { 'X-Forwarded-For': '203.0.113.7', ...headers } });
const statuses = async (n, ask) => {
	const all = [];

	for (let i = 0; i < n; i++) all.push((await ask()).status);
	return all;
};

test('a policy changes, and the next request obeys', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 2 } });
	const gateway = await startGateway(t, rules({ policy: 'web' }), { database });

	assert.deepStrictEqual(await statuses(3, () => check(gateway)), [200, 200, 429]);
	await database.policy('web', { capacity: 2, shadow: true });
	assert.strictEqual((await check(gateway)).status, 200, 'in shadow');
	await database.policy('web', { capacity: 0 });
	assert.strictEqual((await check(gateway, { 'X-Forwarded-For': '203.0.113.8' })).status, 429, 'nobody');
	await database.policy('web', { capacity: 5, refill: 1000 });
	await until(async () => (await check(gateway)).status === 200, 'it refills');
});

test('the file changes, and holds without a restart', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1 }, api: { capacity: 2 } });
	const gateway = await startGateway(t, rules({ policy: 'web' }), { database });

	assert.deepStrictEqual(await statuses(2, () => check(gateway)), [200, 429]);
	gateway.write(rules({ policy: 'api' }));
	await until(() => gateway.output.includes('is in force'), 'it is read');
	assert.deepStrictEqual(await statuses(3, () => check(gateway)), [200, 200, 429]);

	// one that is wrong changes nothing
	gateway.writeText('{"http": {"rules": [{"policy": "a:b"}]}}');
	await until(() => /gateway\.json: http\.rules\[0\]\.policy must be .*, not "a:b"; the configuration stays as it was/.test(gateway.output), 'it is refused');
	assert.strictEqual((await check(gateway)).status, 429);
	gateway.writeText('{"timeout": 30000, "http": {"listen": "127.0.0.1:1", "rules": []}}');
	gateway.kill('SIGHUP');
	await until(() => gateway.output.includes('a change of http.listen needs a restart'), 'it says so');
	assert.strictEqual((await check(gateway)).status, 200);
});

test('several policies are all or nothing', async (t) => {
	const database = await newDatabase(t, { a: { capacity: 5 }, b: { capacity: 2, refill: 1 / 3600 } });
	const gateway = await startGateway(t, rules({ policy: 'a' }, { policy: 'b', key: ['address', 'path'] }), { database });
	const ask = () => check(gateway, { 'X-Forwarded-Uri': '/x y' });

	assert.deepStrictEqual(await statuses(4, ask), [200, 200, 429, 429]);

	const { rows } = await database.pool.query('SELECT limiter, key, floor(tokens) AS tokens FROM rate_limit_status ORDER BY limiter');

	assert.deepStrictEqual(rows, [{ limiter: 'a', key: '203.0.113.7', tokens: 3 }, { limiter: 'b', key: '203.0.113.7 /x%20y', tokens: 0 }]);
});

test('cost, denied, and requests that no rule concerns', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 10 } });
	const gateway = await startGateway(t, rules({ match: { headers: { 'x-limit': '*' } }, policy: 'web', cost: 4 }), { database });

	assert.deepStrictEqual(await statuses(3, () => check(gateway, { 'X-Limit': '1' })), [200, 200, 429]);
	assert.strictEqual((await check(gateway, { 'X-Limit': '1' }, '/check?denied=403')).status, 403);
	assert.strictEqual((await check(gateway)).status, 200);
	assert.strictEqual((await check(gateway, { 'X-Limit': '1' }, '/check?denied=200')).status, 429);
	assert.strictEqual((await check(gateway, {}, '/checks')).status, 404);
	assert.strictEqual((await request(gateway.ports.http, '/check', { headers: { 'X-Limit': '1' } })).status, 400, 'the proxy does not say who');
});

test('leases', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1000, refill: 0.001 } });
	const gateway = await startGateway(t, rules({ policy: 'web', lease: true }), { database });
	const calls = async () => Number((await database.pool.query("SELECT allowed FROM rate_limit_stats WHERE limiter = 'web'")).rows[0]?.allowed ?? 0);
	const counts = {};

	await Promise.all(Array.from({ length: 8 }, async () => {
		for (let i = 0; i < 50; i++) {
			const { status } = await check(gateway);

			counts[status] = (counts[status] ?? 0) + 1;
		}
	}));
	assert.deepStrictEqual(counts, { 200: 400 });
	assert.ok(await calls() < 200, `${await calls()} calls of the database for 400 requests`);

	// another rule takes the place of the portions
	await database.policy('web', { capacity: 0 });
	await until(async () => (await check(gateway)).status === 429, 'the change holds');
	await database.policy('web', { capacity: 1000, refill: 0.001 });
	await until(async () => (await check(gateway)).status === 200, 'and back');

	// what cannot be leased is decided by the buckets
	await database.policy('web', { tier: 'day', capacity: 1000, period: 'day' });
	await until(async () => {
		await check(gateway);
		return gateway.output.includes('"web" cannot be leased');
	}, 'it says so');
});

test('at the end, leases go back', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1000 } });
	const gateway = await startGateway(t, rules({ policy: 'web', lease: true }), { database });

	const tokens = async () => (await database.pool.query("SELECT tokens FROM rate_limit_status WHERE limiter = 'web'")).rows[0]?.tokens;
	let n = 0;

	await until(async () => {
		await check(gateway);
		n++;
		return await tokens() < 1000 - n;
	}, 'the gateway has more than it has used');
	gateway.kill('SIGTERM');
	assert.strictEqual(await gateway.end, 0);
	assert.strictEqual(await tokens(), 1000 - n);
});

test('at the end, what has been asked is answered', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1000 } });
	const proxy = await newProxy(t);
	const gateway = await startGateway(t, { ...rules({ policy: 'web' }), timeout: 8000 }, { database, env: { PGHOST: proxy.options.host, PGPORT: proxy.options.port } });

	assert.strictEqual((await check(gateway)).status, 200);
	proxy.hang();

	const waiting = Promise.all(Array.from({ length: 5 }, () => check(gateway)));

	// what came after them is answered, so they are there
	for (let i = 0; i < 3; i++) await request(gateway.ports.http, '/healthz');
	gateway.kill('SIGTERM');
	await until(() => gateway.output.includes('SIGTERM: stopping'), 'it stops');
	await until(() => check(gateway).then(() => false, () => true), 'nothing more is taken');
	await proxy.start();
	assert.deepStrictEqual((await waiting).map(({ status }) => status), Array(5).fill(200));
	assert.strictEqual(await gateway.end, 0);

	const { rows: [{ tokens }] } = await database.pool.query("SELECT tokens FROM rate_limit_status WHERE limiter = 'web'");

	assert.strictEqual(tokens, 994, 'by the database');
});

test('health and readiness', async (t) => {
	const database = await newDatabase(t, { open: { capacity: 1 }, closed: { capacity: 1 } });
	const proxy = await newProxy(t);
	const gateway = await startGateway(t, { ...rules({ match: { headers: { 'x-login': '*' } }, policy: 'closed', away: 'deny', stop: true }, { policy: 'open' }), timeout: 200 },
		{ database, env: { PGHOST: proxy.options.host, PGPORT: proxy.options.port } });
	const get = async (path) => (await request(gateway.ports.http, path)).status;

	// in time, which a slow machine does not always do
	await until(async () => await get('/readyz') === 200, 'ready');
	assert.deepStrictEqual([await get('/healthz'), await get('/')], [200, 404]);
	await until(async () => (await check(gateway)).status === 429, 'the database decides');
	for (const away of ['stop', 'hang']) {
		await proxy[away]();
		await until(async () => await get('/readyz') === 503, `not ready after ${away}`);
		assert.strictEqual(await get('/healthz'), 200);

		const began = performance.now();

		assert.deepStrictEqual(await statuses(20, () => check(gateway)), Array(20).fill(200), 'open');
		assert.deepStrictEqual(await statuses(20, () => check(gateway, { 'X-Login': '1' })), Array(20).fill(429), 'closed');
		assert.ok(performance.now() - began < 40 * 200, 'they do not wait each');
		await proxy.start();
		await until(async () => await get('/readyz') === 200, 'ready again');
		await until(async () => (await check(gateway)).status === 429, 'the database decides again');
	}
	await until(() => /not ready: the database is away[^]*ready/.test(gateway.output), 'it says so');
});

test('it starts without a database, and finds it later', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1 } });
	const proxy = await newProxy(t);

	await proxy.stop();

	const gateway = await startGateway(t, { ...rules({ policy: 'web' }), timeout: 200 }, { database, env: { PGHOST: proxy.options.host, PGPORT: proxy.options.port } });

	assert.deepStrictEqual(await statuses(3, () => check(gateway)), [200, 200, 200]);
	assert.strictEqual((await request(gateway.ports.http, '/readyz')).status, 503);
	await proxy.start();
	await until(async () => (await request(gateway.ports.http, '/readyz')).status === 200, 'ready');
	await until(async () => (await check(gateway)).status === 429, 'it decides');
});

test('a policy that does not exist does as away says, and only its own requests', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1000 } });
	const gateway = await startGateway(t, rules({ match: { headers: { 'x-open': '*' } }, policy: 'missing', stop: true },
		{ match: { headers: { 'x-closed': '*' } }, policy: 'gone', away: 'deny', stop: true }, { policy: 'web' }), { database });
	const all = () => Promise.all(Array.from({ length: 30 }, (_, i) => check(gateway, [{}, { 'X-Open': '1' }, { 'X-Closed': '1' }][i % 3])));

	assert.deepStrictEqual((await all()).map(({ status }) => status), Array.from({ length: 30 }, (_, i) => [200, 200, 429][i % 3]));
	await until(() => /policy "missing" does not exist, so away decides: allow/.test(gateway.output), 'it says so');
	await database.policy('gone', { capacity: 1000 });
	await until(async () => (await check(gateway, { 'X-Closed': '1' })).status === 200, 'it exists');
	// it goes again while others are decided
	await database.pool.query("DELETE FROM rate_limit_policies WHERE policy = 'gone'");
	assert.deepStrictEqual((await all()).map(({ status }) => status), Array.from({ length: 30 }, (_, i) => [200, 200, 429][i % 3]));
});

test('a key that the database cannot hold does not decide the requests of others', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 3 } }, "ENCODING 'LATIN1' TEMPLATE template0");
	const gateway = await startGateway(t, { ...rules({ policy: 'web', key: 'header:x-key' }), timeout: 10000, reports: { seconds: 0.05 } }, { database });
	const ask = (key) => check(gateway, { 'X-Key': Buffer.from(key).toString('latin1') }).then(({ status }) => status);
	const allowed = async (keys) => (await Promise.all(keys.map(ask))).filter((status) => status === 200).length;

	// in the same queries
	assert.strictEqual(await allowed(Array.from({ length: 100 }, (_, i) => ['good', '\u65e5\u672c', '\u00e4'][i % 3])), 9);

	const socket = dgram.createSocket('udp4');

	t.after(() => socket.close());
	socket.send('{"key":"\u65e5","limiter":"l"}\n{"key":"good","limiter":"l"}', gateway.ports.reports, '127.0.0.1');
	await until(async () => (await database.pool.query("SELECT FROM rate_limit_pending WHERE limiter = 'l'")).rows.length === 2, 'both are reported');

	// a limiter is not the client's; one that the database cannot hold does not stay in the way of others
	socket.send('{"key":"k","limiter":"\u65e5"}', gateway.ports.reports, '127.0.0.1');
	await until(() => gateway.output.includes('reports of 1 keys are lost'), 'it says so');
	socket.send('{"key":"next","limiter":"l"}', gateway.ports.reports, '127.0.0.1');
	await until(async () => (await database.pool.query("SELECT FROM rate_limit_pending WHERE key = 'next'")).rows.length === 1, 'the next one is reported');
});

test('a role with the rights of the page, and one without', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 4 } });
	const role = `gateway_role_${process.pid}`;

	await database.pool.query(`CREATE ROLE ${role} LOGIN`);
	// after the database with its rights
	t.after(async () => {
		const client = new Client();

		await client.connect();
		await client.query(`DROP ROLE ${role}`);
		await client.end();
	});

	const config = rules({ policy: 'web', lease: true });
	const without = await startGateway(t, config, { database, env: { PGUSER: role } });

	assert.strictEqual((await check(without)).status, 200, 'it decides');
	assert.strictEqual((await request(without.ports.http, '/readyz')).status, 200);
	await until(() => /cannot read rate_limit_policies: permission denied/.test(without.output), 'it says so');

	const page = readFileSync(join(TOP, 'docs/gateway.md'), 'utf8');
	const grants = [...page.matchAll(/^GRANT .*;$/gm)]
		.map(([grant]) => grant.replace(/TO gateway;/, `TO ${role};`).replace('SCHEMA ratelimit', 'SCHEMA public'));

	assert.ok(grants.length >= 2, 'the page has them');
	for (const grant of grants) await database.pool.query(grant);

	const allowed = await startGateway(t, { ...config, reports: {} }, { database, env: { PGUSER: role } });

	assert.deepStrictEqual(await statuses(4, () => check(allowed)), [200, 200, 200, 429]);
	assert.doesNotMatch(allowed.output, /denied/);
});

test('what is sent to it: no crash, and memory stays bounded', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1e9 } });
	const gateway = await startGateway(t, rules({ policy: 'web', key: ['address', 'header:x-key', 'path'] }), { database });
	const memory = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${gateway.child.pid}/status`, 'utf8'))[1]) / 1024;
	const send = (bytes, end = true) => new Promise((done) => {
		const socket = net.connect(gateway.ports.http, '127.0.0.1');
		let text = '';

		socket.on('error', () => {});
		socket.on('data', (data) => {
			text += data;
		});
		socket.on('close', () => done(text));
		socket.write(bytes);
		if (end) socket.end();
	});
	const random = (n) => Buffer.from(Array.from({ length: n }, () => Math.floor(Math.random() * 256)));

	for (let i = 0; i < 20; i++) await send(random(1000));
	for (const line of ['GET /check HTTP/1.1\r\n\r\n', 'GET http://x/check HTTP/1.1\r\nHost: x\r\n\r\n', 'CONNECT /check HTTP/1.1\r\nHost: x\r\n\r\n',
		'GET /check HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n', 'GET /check HTTP/9.9\r\n\r\n',
		'POST /check HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n', 'POST /check HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx',
		`GET /check?${'x'.repeat(30000)} HTTP/1.1\r\nHost: x\r\n\r\n`, `GET /check HTTP/1.1\r\nX: ${'x'.repeat(200000)}\r\n\r\n`]) {
		const text = await send(line);

		assert.match(text, /^HTTP\/1\.1 [45]\d\d |^$/, line.slice(0, 80));
	}
	for (const path of ['', '/%', '/%00', '/%ff', '%', '/..', '/../../..', '//', '/\u00ff\u00fe', '*', '?', '#', 'http://', `/${'a/../'.repeat(2000)}`, `/${'%2e'.repeat(5000)}`,
		`/${'x'.repeat(40000)}`]) {
		const { status } = await check(gateway, { 'X-Key': 'k', 'X-Forwarded-Uri': path });

		assert.ok([200, 400, 431].includes(status), `${path.slice(0, 20)}: ${status}`);
	}
	for (const [address, status] of [['x', 200], [',,,', 200], ['999.1.1.1', 200], ['::1%eth0', 200], ['1'.repeat(10000), 200], ["'; DROP TABLE x; --", 200]]) {
		assert.strictEqual((await check(gateway, { 'X-Forwarded-For': address, 'X-Key': address, 'X-Forwarded-Uri': '/' })).status, status);
	}

	const before = memory();
	const many = FULL ? 20000 : 500;
	let next = 0;

	// each with a new key of the largest size
	await Promise.all(Array.from({ length: 16 }, async () => {
		const agent = new (require('node:http').Agent)({ keepAlive: true, maxSockets: 1 });

		while (next++ < many) {
			const { status } = await request(gateway.ports.http, '/check', { agent, headers: { 'X-Forwarded-For': '203.0.113.7', 'X-Key': `${next}${'ä\\"'.repeat(2000)}`, 'X-Forwarded-Uri': '/' } })
				.catch((error) => ({ status: error.code }));

			assert.ok(status === 200, `${status}`);
		}
		agent.destroy();
	}));

	const { rows: [{ bytes }] } = await database.pool.query('SELECT max(octet_length(key)) AS bytes FROM rate_limit_status');

	assert.ok(bytes <= 255, `${bytes}`);
	assert.ok(memory() < before + 150, `from ${before} to ${memory()} MB`);

	// clients that send nothing more are not waited for when it ends
	const open = Array.from({ length: 200 }, () => send('GET /check HTTP/1.1\r\nHost: x\r\n', false));

	assert.strictEqual((await check(gateway, { 'X-Key': 'k', 'X-Forwarded-Uri': '/' })).status, 200);
	gateway.kill('SIGTERM');
	assert.strictEqual(await gateway.end, 0);
	await Promise.all(open);
	assert.doesNotMatch(gateway.output, /Error:|at .*\.js:/);
});

test('more requests than it holds while the database hangs', async (t) => {
	const database = await newDatabase(t, { web: { capacity: 1e9 } });
	const proxy = await newProxy(t);
	const gateway = await startGateway(t, { ...rules({ policy: 'web', away: 'deny' }), timeout: 300 }, { database, env: { PGHOST: proxy.options.host, PGPORT: proxy.options.port } });

	proxy.hang();

	const denied = await Promise.all(Array.from({ length: FULL ? 2000 : 500 }, () => check(gateway).catch(({ code }) => ({ status: code }))));

	assert.ok(denied.every(({ status }) => status === 429));
	await proxy.start();
	await until(async () => (await check(gateway)).status === 200, 'it decides again');
});

test('the command', async (t) => {
	const file = join(folder(t), 'gateway.json');
	const command = (...args) => spawnSync(process.execPath, [COMMAND, ...args], { encoding: 'utf8' });

	assert.deepStrictEqual([command().status, command('a', 'b').status, command('--what').status], [2, 2, 2]);
	assert.match(command('--help').stdout, /^usage: ratelimit-gateway FILE/);
	assert.match(command('--version').stdout, /^ratelimit-gateway \d/);

	const { status, stderr } = command(file);

	assert.strictEqual(status, 1);
	assert.match(stderr, /^ratelimit-gateway: .*gateway\.json: ENOENT[^\n]*\n$/);
	assert.strictEqual(command('--check', join(RECIPES, 'gateway.json')).status, 0);
});

test('without gRPC, its packages are not needed', async (t) => {
	const config = join(folder(t), 'gateway.json');

	require('node:fs').writeFileSync(config, '{"grpc": {"listen": "127.0.0.1:0", "domains": {}}}');

	// a folder with what is needed otherwise, in place of that of the tests
	const modules = folder(t);
	const { symlinkSync } = require('node:fs');

	symlinkSync(join(TOP, 'clients/node'), join(modules, 'ratelimit-postgresql'));
	for (const path of (process.env.NODE_PATH ?? '').split(':').filter(Boolean)) {
		let names = [];

		try {
			names = readdirSync(path);
		} catch {
			continue;
		}
		for (const name of names) {
			if (!name.startsWith('@') && !name.startsWith('.')) {
				try {
					symlinkSync(join(path, name), join(modules, name));
				} catch (error) {
					assert.strictEqual(error.code, 'EEXIST');
				}
			}
		}
	}
	rmSync(join(modules, '@grpc'), { recursive: true, force: true });

	const { status, stderr } = spawnSync(process.execPath, [COMMAND, config], { encoding: 'utf8', env: { ...process.env, NODE_PATH: modules } });

	assert.strictEqual(status, 1);
	assert.match(stderr, /"grpc" in the configuration needs the packages @grpc\/grpc-js and @grpc\/proto-loader/);

	const database = await newDatabase(t, { web: { capacity: 1 } });
	const gateway = await startGateway(t, rules({ policy: 'web' }), { database, env: { NODE_PATH: modules } });

	assert.deepStrictEqual(await statuses(2, () => check(gateway)), [200, 429]);
});

test('the package is installed as the page says', async (t) => {
	if (!FULL) {
		t.skip('only in the full form');
		return;
	}

	const app = folder(t);

	// with no other package, so that no network is needed
	execFileSync('npm', ['install', '--offline', '--install-links', '--legacy-peer-deps', '--no-audit', '--no-fund', join(TOP, 'clients/node'), join(TOP, 'clients/gateway')],
		{ cwd: app, stdio: 'pipe' });
	assert.match(execFileSync(join(app, 'node_modules/.bin/ratelimit-gateway'), ['--check', join(app, 'node_modules/ratelimit-gateway/recipes/gateway.json')],
		{ encoding: 'utf8' }), /is right/);
});
