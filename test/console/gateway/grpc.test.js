/*
 * Envoy's rate limit service, asked by a client with its own idea of the messages: what is
 * on the wire is read by field numbers too, so that our .proto files do not only agree with
 * themselves.
 */
'use strict';

const assert = require('node:assert');
const http2 = require('node:http2');
const net = require('node:net');
const { join } = require('node:path');
const { test } = require('node:test');
const { newProxy } = require('../../../clients/node/test/support');
const { FULL, TOP, needsPackage, newDatabase, startGateway, until } = require('./support');

const PACKAGES = needsPackage('@grpc/grpc-js');
const SERVICE = 'envoy.service.ratelimit.v3.RateLimitService';

function stubs(port, t) {
	const grpc = require('@grpc/grpc-js');
	const definition = require('@grpc/proto-loader').loadSync(['envoy/service/ratelimit/v3/rls.proto', 'grpc/health/v1/health.proto'],
		{ keepCase: true, longs: Number, enums: String, defaults: true, includeDirs: [join(TOP, 'clients/gateway/proto')] });
	const client = (name) => new (grpc.makeGenericClientConstructor(definition[name], name))(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
	const rls = client(SERVICE);
	const health = client('grpc.health.v1.Health');

	t.after(() => {
		rls.close();
		health.close();
	});

	const call = (stub, method, message) => new Promise((done, failed) => {
		stub[method](message, { deadline: Date.now() + 60000 }, (error, response) => (error ? failed(error) : done(response)));
	});

	return {
		health,
		check: (service = '') => call(health, 'Check', { service }),
		ask: (descriptors, more = {}) => call(rls, 'ShouldRateLimit', { domain: 'edge', ...more,
			descriptors: descriptors.map((descriptor) => (Array.isArray(descriptor) ? { entries: descriptor.map(([key, value]) => ({ key, value })) } : descriptor)) }),
	};
}

const CONFIG = { grpc: { domains: { edge: [
	{ key: 'remote_address', policy: 'ip' },
	{ key: 'path', value: '/login', policy: 'login', descriptors: [{ key: 'remote_address', policy: 'login_ip' }] },
	{ key: 'path', value: '/api/*', policy: 'api' },
	{ key: 'user', policy: 'user', lease: true },
	{ key: 'closed', policy: 'missing', away: 'deny' },
	{ key: 'generic_key', value: 'shadow', policy: 'shadow' },
	{ key: 'generic_key', value: 'month', policy: 'month' },
] } } };
const POLICIES = { ip: { capacity: 5, refill: 0.1 }, login: { capacity: 100 }, login_ip: { capacity: 2 }, api: { capacity: 10 }, user: { capacity: 1000 },
	shadow: { capacity: 1, shadow: true }, month: { capacity: 3, period: 'month' } };

test('Envoy: descriptors', PACKAGES, async (t) => {
	const database = await newDatabase(t, POLICIES);
	const gateway = await startGateway(t, CONFIG, { database });
	const { ask } = stubs(gateway.ports.grpc, t);
	const address = ['remote_address', '203.0.113.7'];

	await t.test('allowed, and denied', async () => {
		for (let i = 0; i < 5; i++) {
			const { overall_code: code, statuses: [status] } = await ask([[address]]);

			assert.strictEqual(code, 'OK');
			assert.strictEqual(status.code, 'OK');
			assert.deepStrictEqual(status.current_limit, { requests_per_unit: 5, unit: 'UNKNOWN', name: 'ip' });
			assert.strictEqual(status.limit_remaining, 4 - i);

			// exact: until the bucket is full, which is 10 s for each token
			const reset = status.duration_until_reset.seconds + status.duration_until_reset.nanos / 1e9;

			assert.ok(reset <= 10 * (i + 1) && reset > 10 * (i + 1) - 5, `${reset}`);
			assert.ok(status.duration_until_reset.nanos % 1000 === 0);
		}

		const { overall_code: code, statuses: [status], response_headers_to_add: headers } = await ask([[address]]);
		const wait = status.duration_until_reset.seconds + status.duration_until_reset.nanos / 1e9;

		assert.deepStrictEqual([code, status.code, status.limit_remaining], ['OVER_LIMIT', 'OVER_LIMIT', 0]);
		assert.ok(wait > 5 && wait < 10, `${wait}`);
		assert.notStrictEqual(status.duration_until_reset.nanos, 0, 'not rounded to seconds');

		const { RateLimit, 'RateLimit-Policy': policy, 'Retry-After': retryAfter } = Object.fromEntries(headers.map(({ key, value }) => [key, value]));

		assert.match(RateLimit, /^"ip";r=0;t=\d+$/);
		assert.strictEqual(policy, '"ip";q=5;w=50');
		assert.strictEqual(retryAfter, String(Math.ceil(wait)));
	});

	await t.test('nesting, prefixes, and what is not limited', async () => {
		const other = ['remote_address', '203.0.113.8'];
		const name = async (...descriptor) => (await ask([descriptor])).statuses[0].current_limit?.name;

		assert.strictEqual(await name(['path', '/login']), 'login');
		assert.strictEqual(await name(['path', '/login'], other), 'login_ip');
		assert.strictEqual(await name(['path', '/api/x']), 'api');
		assert.strictEqual(await name(['path', '/other']), undefined);
		assert.strictEqual(await name(other, ['path', '/login']), undefined);
		assert.strictEqual((await ask([[other]], { domain: 'elsewhere' })).statuses[0].current_limit, null);
		assert.strictEqual((await ask([[other]], { domain: 'elsewhere' })).overall_code, 'OK');

		// each value of a prefix has a bucket
		assert.strictEqual((await ask([[['path', '/api/x']]], { hits_addend: 9 })).overall_code, 'OK');
		assert.strictEqual((await ask([[['path', '/api/x']]])).overall_code, 'OVER_LIMIT');
		assert.strictEqual((await ask([[['path', '/api/y']]])).overall_code, 'OK');
	});

	await t.test('several descriptors are all or nothing, each with a status', async () => {
		const me = ['remote_address', '203.0.113.9'];
		const both = [[me], [['path', '/login'], me], [['unknown', 'x']]];

		for (let i = 0; i < 2; i++) assert.strictEqual((await ask(both)).overall_code, 'OK');

		const { overall_code: code, statuses } = await ask(both);

		assert.strictEqual(code, 'OVER_LIMIT');
		assert.deepStrictEqual(statuses.map((status) => status.code), ['OK', 'OVER_LIMIT', 'OK']);
		assert.strictEqual(statuses[1].duration_until_reset, null, 'it never comes back');

		const { statuses: [{ limit_remaining: left }] } = await ask([[me]]);

		assert.strictEqual(left, 2, 'the denied request took nothing from the other');
	});

	await t.test('hits_addend: of the request, of a descriptor, and none', async () => {
		const me = [['remote_address', '203.0.113.10']];
		const entries = me.map(([key, value]) => ({ key, value }));

		assert.strictEqual((await ask([me], { hits_addend: 3 })).statuses[0].limit_remaining, 2);
		assert.strictEqual((await ask([me], { hits_addend: 3 })).overall_code, 'OVER_LIMIT');
		assert.strictEqual((await ask([{ entries, hits_addend: { value: 2 } }], { hits_addend: 100 })).statuses[0].limit_remaining, 0);
		assert.strictEqual((await ask([{ entries, hits_addend: { value: 0 } }])).overall_code, 'OK', 'nothing is asked for');
		assert.strictEqual((await ask([me])).overall_code, 'OVER_LIMIT');
		await assert.rejects(ask([{ entries, is_negative_hits: true }]), { code: 3 });
	});

	await t.test('shadow, and a period', async () => {
		for (let i = 0; i < 3; i++) assert.strictEqual((await ask([[['generic_key', 'shadow']]])).overall_code, 'OK');
		for (let i = 0; i < 3; i++) assert.strictEqual((await ask([[['generic_key', 'month']]])).overall_code, 'OK');

		const { overall_code: code, statuses: [{ duration_until_reset: reset }] } = await ask([[['generic_key', 'month']]]);
		const { rows: [{ seconds }] } = await database.pool.query(
			"SELECT extract(epoch FROM date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month' - now() AT TIME ZONE 'UTC')::float8 AS seconds");

		assert.strictEqual(code, 'OVER_LIMIT');
		// it was asked before
		const since = reset.seconds + reset.nanos / 1e9 - seconds;

		assert.ok(since > -2 && since < 60, `${reset.seconds} ${seconds}`);

		const { rows: [{ count }] } = await database.pool.query("SELECT sum(count)::integer AS count FROM rate_limit_pending WHERE limiter = 'shadow'");

		assert.strictEqual(count, 2, 'shadow denies nothing, and records');
	});

	await t.test('leased', async () => {
		const results = await Promise.all(Array.from({ length: 200 }, () => ask([[['user', 'alice']]])));

		assert.ok(results.every(({ overall_code: code }) => code === 'OK'));
		assert.strictEqual(results[0].statuses[0].current_limit.requests_per_unit, 1000);
	});

	await t.test('a policy that does not exist, and one that is changed', async () => {
		assert.strictEqual((await ask([[['closed', 'x']]])).overall_code, 'OVER_LIMIT');
		await database.policy('ip', { capacity: 0 });
		assert.strictEqual((await ask([[['remote_address', '203.0.113.77']]])).overall_code, 'OVER_LIMIT');
	});

	await t.test('bad messages', async () => {
		await assert.rejects(ask([[address]], { domain: '' }), { code: 3, details: 'domain must not be empty' });
		await assert.rejects(ask([]), { code: 3, details: 'descriptors must not be empty' });
		await assert.rejects(ask(Array.from({ length: 65 }, () => [address])), { code: 3, details: /at most|more than 64/ });
		assert.strictEqual((await ask([[['remote_address', '\0\u{10ffff}'.repeat(1000)]]])).overall_code, 'OVER_LIMIT', 'capacity is 0');
		assert.strictEqual((await ask([[['path', '/api/\0']]])).overall_code, 'OK');
		assert.strictEqual((await ask([[]])).overall_code, 'OK');
		await assert.rejects(ask([[['path', 'x'.repeat(100000)]]]), { code: 8 });
		assert.strictEqual((await ask(Array.from({ length: 64 }, (_, i) => [['path', `/api/${i}`]]))).overall_code, 'OK');
		assert.ok(!gateway.ended);
	});
});

/* Varints and fields as protobuf's wire format has them. */
const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >>> 7)]);
const bytes = (field, content) => [(field << 3) | 2, ...varint(content.length), ...content];
const text = (field, value) => bytes(field, [...Buffer.from(value)]);

/* Of a message: [number, value] of all fields. */
function fieldsOf(buffer) {
	const fields = [];
	let at = 0;
	const next = () => {
		let value = 0;
		let shift = 1;

		for (;;) {
			const byte = buffer[at++];

			value += (byte & 127) * shift;
			if (byte < 128) return value;
			shift *= 128;
		}
	};

	while (at < buffer.length) {
		const tag = next();

		if ((tag & 7) === 0) {
			fields.push([tag >> 3, next()]);
		} else {
			const length = next();

			fields.push([tag >> 3, buffer.subarray(at, at += length)]);
		}
	}
	return fields;
}

/* One call over HTTP/2 with a body as it is: { headers, trailers, data }. */
function raw(port, path, body) {
	return new Promise((done) => {
		const session = http2.connect(`http://127.0.0.1:${port}`);
		const answer = { data: Buffer.alloc(0) };
		const finish = () => {
			session.destroy();
			done(answer);
		};

		session.on('error', finish);

		const stream = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' });

		stream.on('response', (headers) => {
			answer.headers = headers;
		});
		stream.on('trailers', (trailers) => {
			answer.trailers = trailers;
		});
		stream.on('data', (data) => {
			answer.data = Buffer.concat([answer.data, data]);
		});
		stream.on('close', finish);
		stream.on('error', finish);
		stream.end(body);
	});
}

const frame = (message) => Buffer.from([0, 0, 0, message.length >> 8, message.length & 255, ...message]);

test('Envoy: the numbers of fields are those of the public interface', PACKAGES, async (t) => {
	const database = await newDatabase(t, POLICIES);
	const gateway = await startGateway(t, CONFIG, { database });
	// RateLimitRequest: domain 1, descriptors 2, hits_addend 3; descriptor: entries 1, hits_addend 3 (UInt64Value: 1); entry: key 1, value 2
	const entry = bytes(1, [...text(1, 'remote_address'), ...text(2, '203.0.113.7')]);
	const message = [...text(1, 'edge'), ...bytes(2, entry), ...bytes(2, [...entry, ...bytes(3, [8, 1])]), 24, 3];
	const { data, headers, trailers } = await raw(gateway.ports.grpc, `/${SERVICE}/ShouldRateLimit`, frame(message));

	assert.strictEqual({ ...headers, ...trailers }['grpc-status'], '0');

	const response = fieldsOf(data.subarray(5));
	const all = (number, fields = response) => fields.filter(([n]) => n === number).map(([, value]) => value);

	assert.deepStrictEqual(all(1), [1], 'overall_code: OK');
	assert.strictEqual(all(2).length, 2, 'statuses');
	assert.ok(all(3).length >= 2, 'response_headers_to_add');

	const status = fieldsOf(all(2)[0]);

	assert.deepStrictEqual(all(1, status), [1], 'code');
	assert.deepStrictEqual(all(3, status), [1], 'limit_remaining: of 5, 3 and 1 are taken');

	const limit = fieldsOf(all(2, status)[0]);

	assert.deepStrictEqual(all(1, limit), [5], 'requests_per_unit');
	assert.strictEqual(all(3, limit)[0].toString(), 'ip', 'name');

	const reset = fieldsOf(all(4, status)[0]);

	assert.ok(all(1, reset)[0] >= 35 && all(1, reset)[0] <= 40, 'duration_until_reset: seconds');

	const header = fieldsOf(all(3)[0]);

	assert.strictEqual(all(1, header)[0].toString(), 'RateLimit');
	assert.match(all(2, header)[0].toString(), /^"ip";r=1/);
});

test('Envoy: what is malformed', PACKAGES, async (t) => {
	const database = await newDatabase(t, POLICIES);
	const gateway = await startGateway(t, CONFIG, { database });
	const { ask, check } = stubs(gateway.ports.grpc, t);
	const path = `/${SERVICE}/ShouldRateLimit`;
	const random = (n) => Array.from({ length: n }, () => Math.floor(Math.random() * 256));

	for (const body of [Buffer.alloc(0), Buffer.from([1]), Buffer.from([0, 255, 255, 255, 255]), Buffer.from([0, 0, 0, 0, 10, 1]), frame([255, 255, 255, 255, 255]),
		frame([10, 200]), frame(bytes(2, bytes(1, bytes(1, [255, 254])))), Buffer.from([1, 0, 0, 0, 1, 0]),
		...Array.from({ length: 50 }, () => frame(random(200))), ...Array.from({ length: 20 }, () => Buffer.from(random(500)))]) {
		const { headers, trailers } = await raw(gateway.ports.grpc, path, body);
		const status = { ...headers, ...trailers }['grpc-status'];

		assert.ok(status !== undefined || headers === undefined || headers[':status'] !== undefined);
	}
	await raw(gateway.ports.grpc, '/no.such/Service', frame([]));
	// bytes that are not HTTP/2
	for (let i = 0; i < 30; i++) {
		await new Promise((done) => {
			const socket = net.connect(gateway.ports.grpc, '127.0.0.1', () => socket.end(Buffer.from(random(1000))));

			socket.on('error', () => {});
			socket.on('data', () => {});
			socket.on('close', done);
		});
	}
	assert.strictEqual((await ask([[['remote_address', '203.0.113.7']]])).overall_code, 'OK');
	assert.strictEqual((await check()).status, 'SERVING');
	assert.ok(!gateway.ended, gateway.output);
});

test('Envoy: exactly capacity, of many calls at a time by two gateways', PACKAGES, async (t) => {
	const [capacity, calls] = FULL ? [10000, 30000] : [200, 500];
	const database = await newDatabase(t, { ip: { capacity } });
	const clients = [];

	for (let i = 0; i < 2; i++) {
		const gateway = await startGateway(t, { ...CONFIG, away: 'deny', timeout: 10000 }, { database });

		clients.push(stubs(gateway.ports.grpc, t));
	}

	const codes = {};
	let next = 0;

	await Promise.all(Array.from({ length: 64 }, async (_, i) => {
		while (next++ < calls) {
			const { overall_code: code } = await clients[i % 2].ask([[['remote_address', '203.0.113.7']]]);

			codes[code] = (codes[code] ?? 0) + 1;
		}
	}));
	assert.deepStrictEqual(codes, { OK: capacity, OVER_LIMIT: calls - capacity });
});

test('Envoy: health, the database away, and the end', PACKAGES, async (t) => {
	const database = await newDatabase(t, POLICIES);
	const proxy = await newProxy(t);
	const gateway = await startGateway(t, CONFIG, { database, env: { PGHOST: proxy.options.host, PGPORT: proxy.options.port } });
	const { ask, check, health } = stubs(gateway.ports.grpc, t);
	const seen = [];
	const watch = health.Watch({ service: SERVICE });

	watch.on('data', ({ status }) => seen.push(status));
	watch.on('error', () => {});
	await until(() => seen.length === 1, 'the first status');
	assert.deepStrictEqual([(await check()).status, (await check(SERVICE)).status], ['SERVING', 'SERVING']);
	await assert.rejects(check('other'), { code: 5 });

	await proxy.stop();
	await until(async () => (await check()).status === 'NOT_SERVING', 'not serving');

	const { overall_code: code, statuses } = await ask([[['remote_address', '203.0.113.7']], [['nothing', 'x']]]);

	assert.deepStrictEqual([code, statuses.map((status) => status.code)], ['OK', ['OK', 'OK']], 'open');
	assert.strictEqual((await ask([[['closed', 'x']]])).overall_code, 'OVER_LIMIT', 'closed');
	await proxy.start();
	await until(() => seen.length === 3, 'it is told');
	assert.deepStrictEqual(seen, ['SERVING', 'NOT_SERVING', 'SERVING']);

	gateway.kill('SIGTERM');
	assert.strictEqual(await gateway.end, 0);
	await until(() => seen.length === 4, 'it has been told');
	assert.deepStrictEqual(seen.slice(3), ['NOT_SERVING']);
});
