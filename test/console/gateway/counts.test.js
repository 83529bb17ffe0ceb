/* Proxies that count by themselves: what they have denied becomes violations. */
'use strict';

const assert = require('node:assert');
const dgram = require('node:dgram');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');
const { newProxy } = require('../../../clients/node/test/support');
const { FULL, RECIPES, load, needs, newDatabase, startApplication, startGateway, startProxy, until } = require('./support');

const CONFIG = JSON.parse(readFileSync(join(RECIPES, 'counts_gateway.json'), 'utf8'));
const violations = async ({ pool }) => Object.fromEntries((await pool.query('SELECT limiter, key, count::integer FROM rate_limit_pending')).rows
	.map(({ limiter, key, count }) => [`${limiter} ${key}`, count]));

for (const [kind, file, limiter] of [['nginx', 'nginx_counts.conf', 'nginx_ip'], ['haproxy', 'haproxy_counts.cfg', 'haproxy_ip']]) {
	test(`${kind} counts: the recipe`, needs(kind), async (t) => {
		const database = await newDatabase(t);
		const gateway = await startGateway(t, CONFIG, { database });
		const application = await startApplication(t);
		const { port } = await startProxy(t, kind, { 8000: application.port, 8083: gateway.ports.reports }, { file });
		const counts = await load([port], '/', FULL ? 1000 : 200, 4);

		assert.ok(counts[429] > 0 && counts[200] > 0, JSON.stringify(counts));
		await until(async () => (await violations(database))[`${limiter} 127.0.0.1`] === counts[429], `${JSON.stringify(counts)} are known`)
			.catch(async (error) => {
				throw new Error(`${error.message}: ${JSON.stringify(await violations(database))}`);
			});
	});
}

test('reports: hostile datagrams, a database that is away, and the end', async (t) => {
	const database = await newDatabase(t);
	const proxy = await newProxy(t);
	const gateway = await startGateway(t, { reports: { seconds: 0.05 } }, { database, env: { PGHOST: proxy.options.host, PGPORT: proxy.options.port } });
	const socket = dgram.createSocket('udp4');
	const send = (data) => new Promise((done) => {
		socket.send(data, gateway.ports.reports, '127.0.0.1', done);
	});

	t.after(() => socket.close());
	for (const data of [Buffer.from([0, 255, 254]), 'x', '{', '{"key":"a\\u0000","limiter":"l"}', '{"key":"\\ud800","limiter":"l"}', `{"key":"${'x'.repeat(60000)}"}`]) await send(data);
	await send('{"key":"a\\"\\\\\'","limiter":"l"}\n{"key":"b","limiter":"l","rejected":7}');
	await until(async () => Object.keys(await violations(database)).length === 2, 'the good ones are counted');
	assert.deepStrictEqual(await violations(database), { 'l a"\\\'': 1, 'l b': 7 });

	await proxy.stop();
	for (let i = 0; i < 10; i++) await send('{"key":"c","limiter":"l"}');
	await until(() => gateway.output.includes('and tries again'), 'it cannot report');
	await proxy.start();
	await until(async () => (await violations(database))['l c'] === 10, 'it is made up for');

	await send('{"key":"d","limiter":"l"}');
	await new Promise((done) => {
		setImmediate(done);
	});
	gateway.kill('SIGTERM');
	assert.strictEqual(await gateway.end, 0);
	assert.doesNotMatch(gateway.output, /lost/);
});
