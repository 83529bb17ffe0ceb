/*
 * The server: who gets in, what is refused, that nothing happens then, and that what comes
 * back is what the database says.
 */
'use strict';

const assert = require('node:assert');
const { join } = require('node:path');
const { test } = require('node:test');
const { CONSOLE, HOSTILE, HOSTILE_LIMITER, HOSTILE_POLICY, PASSWORD, ask, connect, fill, logIn, newConsole, newDatabase, newProxy, until } = require('./support');
const { newProcess } = require('./process');
const { Sessions } = require(join(CONSOLE, 'lib/sessions.js'));

const database = newDatabase('api');
const PAGES = ['now', 'throttled', 'offenders', 'review', 'policies', 'stores', 'thresholds', 'actions', 'session'];
const BLOCK = { action: 'block', limiter: 'user', key: 'somebody', details: { duration: '1 hour' }, reason: 'a test' };
const actions = () => database.value('SELECT count(*)::int FROM ratelimit_console.actions');
const isBlocked = async (key, limiter = 'user') => (await database.value('SELECT count(*)::int FROM rate_limit_status WHERE key = $1 AND limiter = $2 AND blocked_until IS NOT NULL', [key, limiter])) === 1;

/* A request after which nothing has happened. */
async function refused(console, status, method, path, options) {
	const before = await actions();
	const answer = await console.ask(method, path, options);

	assert.strictEqual(answer.status, status, `${path} ${JSON.stringify(options).slice(0, 200)}: ${answer.text}`);
	assert.strictEqual(typeof answer.json.message, 'string');
	assert.strictEqual(await actions(), before, 'nothing is written down');
	assert.strictEqual(await isBlocked('somebody'), false, 'nobody is blocked');
	return answer;
}

test('10,000 keys, hostile ones among them', () => fill(database, 10000));

test('without a session there are only the files and the login', async (t) => {
	const console = await newConsole(t, database);

	for (const page of PAGES) await refused(console, 401, 'GET', `/api/${page}`, {});
	await refused(console, 401, 'GET', '/api/key?key=a', { headers: { Cookie: 'ratelimit-console-1=x; __Host-ratelimit-console=y' } });
	await refused(console, 401, 'POST', '/api/actions', { body: BLOCK });
	await refused(console, 401, 'POST', '/api/simulate', { body: {} });
	for (const path of ['/', '/app.js', '/pages/now.js', '/style.css', '/icon.svg']) {
		const { status, headers } = await console.ask('GET', path);

		assert.strictEqual(status, 200, path);
		assert.match(headers['content-security-policy'], /default-src 'none'; script-src 'self'; style-src 'self'.*frame-ancestors 'none'/);
		assert.doesNotMatch(headers['content-security-policy'], /unsafe|\*/);
		assert.strictEqual(headers['x-content-type-options'], 'nosniff');
	}
	assert.strictEqual((await console.ask('GET', '/', { headers: { 'If-None-Match': (await console.ask('GET', '/')).headers.etag } })).status, 304);
});

test('nothing else of the disk can be read', async (t) => {
	const console = await newConsole(t, database);

	for (const path of ['/../package.json', '/..%2fpackage.json', '/pages/../../lib/server.js', '//etc/passwd', '/%2e%2e/lib/server.js', '/index.html', '/pages', '/__proto__', '/api/__proto__', '/api/', '/api/constructor', '/%00']) {
		const { status, text } = await console.ask('GET', path);

		assert.strictEqual(status, 404, path);
		assert.doesNotMatch(text, /root:|require\(/);
	}
	assert.strictEqual((await console.ask('DELETE', '/')).status, 405);
});

test('the markup has no script and no style of its own', async (t) => {
	const console = await newConsole(t, database);
	const { text } = await console.ask('GET', '/');

	assert.doesNotMatch(text, /<style|style=|<script(?! type="module" src="\/app.js"><\/script>)|\son\w+=|https?:/);
});

test('roles and passwords of PostgreSQL, and the right to look, let somebody in', async (t) => {
	const console = await newConsole(t, database);
	const logsIn = (role, password) => console.ask('POST', '/api/login', { body: { role, password } });

	for (const [role, password, status, message] of [
		['viola', 'wrong', 401, /role or the password is wrong/],
		['no such role', PASSWORD, 401, /role or the password is wrong/],
		['viola', '', 401, /wrong/],
		['viola\0options\0-c statement_timeout=0', PASSWORD, 401, /wrong/],
		['viola'.repeat(20), PASSWORD, 401, /wrong/],
		[{ a: 1 }, PASSWORD, 401, /wrong/],
		['nobody', PASSWORD, 403, /may not look/],
	]) {
		const answer = await logsIn(role, password);

		assert.strictEqual(answer.status, status, `${role}: ${answer.text}`);
		assert.match(answer.json.message, message);
		assert.strictEqual(answer.headers['set-cookie'], undefined);
	}

	const { status, headers, json } = await logsIn('viola', PASSWORD);

	assert.strictEqual(status, 200);
	assert.match(headers['set-cookie'][0], /^ratelimit-console-\d+=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict$/);
	assert.deepStrictEqual({ ...json, token: typeof json.token, server: typeof json.server }, { role: 'viola', database: 'api', server: 'string', mayAct: false, token: 'string' });
	assert.doesNotMatch(JSON.stringify(json), new RegExp(headers['set-cookie'][0].split(/[=;]/)[1]));

	// the token is told once
	const { token, ...others } = json;

	assert.deepStrictEqual((await console.ask('GET', '/api/session', { as: { cookie: headers['set-cookie'][0].split(';')[0], token } })).json, others);
});

test('a server that does not ask for the password lets nobody in', async (t) => {
	const console = await newConsole(t, database);
	const { status, json } = await console.ask('POST', '/api/login', { body: { role: 'trusting', password: 'whatever' } });

	assert.strictEqual(status, 403);
	assert.match(json.message, /has not asked for your password/);
});

test('a database that is not set up says so', async (t) => {
	const postgres = await connect({ database: 'postgres' });

	t.after(async () => {
		await postgres.query('DROP EXTENSION IF EXISTS ratelimit');
		await postgres.end();
	});

	const console = await newConsole(t, { name: 'postgres' });
	const answer = () => console.ask('POST', '/api/login', { body: { role: 'oscar', password: PASSWORD } });

	assert.match((await answer()).json.message, /Extension ratelimit does not exist in database postgres/);
	await postgres.query('CREATE EXTENSION ratelimit');
	assert.match((await answer()).json.message, /run ratelimit-console --setup/);
});

test('over TLS the cookie is for this host and TLS only', async (t) => {
	const console = await newConsole(t, database, { origin: 'https://console.example.com' });

	// what a proxy in front sends on
	const behind = { ask: (method, path, { headers, ...options } = {}) => ask(`http://127.0.0.1:${console.port}`, method, path,
		{ ...options, headers: { Host: 'console.example.com', ...(method === 'POST' ? { Origin: 'https://console.example.com' } : {}), ...headers } }) };
	const { status, headers, json } = await behind.ask('POST', '/api/login', { body: { role: 'viola', password: PASSWORD } });

	assert.strictEqual(status, 200);
	assert.match(headers['set-cookie'][0], /^__Host-ratelimit-console=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict; Secure$/);
	assert.strictEqual((await behind.ask('GET', '/api/now', { as: { cookie: headers['set-cookie'][0].split(';')[0], token: json.token } })).status, 200);
	assert.strictEqual((await behind.ask('GET', '/', { headers: { Host: `127.0.0.1:${console.port}` } })).status, 421);
	assert.strictEqual((await behind.ask('POST', '/api/login', { headers: { Origin: 'http://console.example.com' }, body: {} })).status, 403);
});

test('attempts to log in are limited, by address and by role', async (t) => {
	const console = await newConsole(t, database, { hops: 1 });
	const from = (address, role, password = 'wrong') => console.ask('POST', '/api/login', { headers: { 'X-Forwarded-For': `6.6.6.6, ${address}` }, body: { role, password } });
	const statuses = [];

	for (let i = 0; i < 12; i++) statuses.push((await from('192.0.2.1', 'viola')).status);
	assert.deepStrictEqual(statuses, [...Array(10).fill(401), 429, 429]);

	const denied = await from('192.0.2.1', 'viola', PASSWORD);

	assert.strictEqual(denied.status, 429, 'the right password does not help');
	assert.ok(Number(denied.headers['retry-after']) > 0);
	assert.strictEqual((await from('192.0.2.2', 'viola', PASSWORD)).status, 200, 'other addresses can');

	const others = [];

	for (let i = 0; i < 12; i++) others.push((await from(`198.51.100.${i}`, 'viola')).status);
	assert.deepStrictEqual([others[8], others[11]], [401, 429], 'but not very many of them');
	assert.strictEqual((await from('203.0.113.1', 'oscar', PASSWORD)).status, 200, 'another role can');
});

test('a role and a password that are no texts are wrong, and no mistake of the console', async (t) => {
	const console = await newConsole(t, database, { hops: 1 });

	for (const [i, role] of ['{"toString":1}', `${'['.repeat(7000)}${']'.repeat(7000)}`, '["viola"]', 'null', '7'].entries()) {
		const { status } = await console.ask('POST', '/api/login', { headers: { 'X-Forwarded-For': `192.0.2.${i}` }, body: `{"role":${role},"password":"x"}` });

		assert.strictEqual(status, 401, role.slice(0, 40));
	}
});

test('a login that there is no room for leaves no connection', () => {
	const sessions = new Sessions({ idle: 1000, session: 1000 }, 'http://127.0.0.1:1');
	const ended = [];
	const open = (role) => sessions.open({ facts: { role }, connections: { end: () => ended.push(role) } });

	for (let i = 0; i < 100; i++) open(`role${i % 10}`);
	assert.throws(() => open('other'), { status: 503, code: 'full' });
	assert.deepStrictEqual(ended, ['other']);
	// one more of the same role takes the place of its first
	open('role3');
	assert.deepStrictEqual(ended, ['other', 'role3']);
});

test('it says so if all who are behind a proxy share their attempts', async (t) => {
	for (const [hops, says] of [['0', true], ['1', false]]) {
		const { output } = await newProcess(t, database, { args: ['--origin', 'https://console.example.com', '--hops', hops] });

		assert.strictEqual(/--hops is 0/.test(output()), says);
	}
});

test('the Host header is a name of ours', async (t) => {
	const console = await newConsole(t, database);
	const oscar = await logIn(console, 'oscar');
	const { port } = new URL(console.origin);

	for (const host of ['evil.example.com', `evil.example.com:${port}`, '127.0.0.1', `127.0.0.1.evil.example.com:${port}`, `127.0.0.2:${port}`, '']) {
		await refused(console, 421, 'GET', '/', { headers: { Host: host } });
		await refused(console, 421, 'GET', '/api/now', { as: oscar, headers: { Host: host } });
		await refused(console, 421, 'POST', '/api/actions', { as: oscar, headers: { Host: host }, body: BLOCK });
	}
	for (const host of [`localhost:${port}`, `LOCALHOST:${port}`, `[::1]:${port}`]) assert.strictEqual((await console.ask('GET', '/', { headers: { Host: host } })).status, 200);
});

test('a request that changes something is from our own page', async (t) => {
	const console = await newConsole(t, database);
	const oscar = await logIn(console, 'oscar');
	const viola = await logIn(console, 'viola');

	for (const [status, headers] of [
		[403, { 'X-CSRF-Token': null }], [403, { 'X-CSRF-Token': '' }], [403, { 'X-CSRF-Token': 'x'.repeat(43) }], [403, { 'X-CSRF-Token': viola.token }],
		[403, { Origin: null }], [403, { Origin: 'null' }], [403, { Origin: 'https://evil.example.com' }], [403, { Origin: `${console.origin}0` }],
		[403, { 'Sec-Fetch-Site': 'cross-site' }], [403, { 'Sec-Fetch-Site': 'same-site' }],
		[415, { 'Content-Type': 'text/plain' }], [415, { 'Content-Type': 'application/x-www-form-urlencoded' }], [415, { 'Content-Type': null }],
		[401, { Cookie: null }],
	]) {
		await refused(console, status, 'POST', '/api/actions', { as: oscar, headers, body: BLOCK });
	}
	for (const headers of [{ Origin: 'https://evil.example.com' }, { Origin: null }, { 'Sec-Fetch-Site': 'cross-site' }]) {
		assert.strictEqual((await console.ask('POST', '/api/login', { headers, body: { role: 'oscar', password: PASSWORD } })).status, 403);
	}
	// nor is what only looks for other sites, or for who has only the cookie, which browsers send to other ports, too
	for (const path of [...PAGES.map((page) => `/api/${page}`), '/api/key?key=k', '/api/hours?key=k']) {
		await refused(console, 403, 'GET', path, { as: { cookie: oscar.cookie } });
		await refused(console, 403, 'GET', path, { as: { cookie: oscar.cookie, token: viola.token } });
	}
	await refused(console, 403, 'GET', '/api/now', { as: oscar, headers: { 'Sec-Fetch-Site': 'same-site' } });
	await refused(console, 403, 'GET', '/api/now', { as: oscar, headers: { Origin: 'http://localhost:1' } });
	assert.strictEqual((await console.ask('GET', '/api/now', { as: oscar })).headers['access-control-allow-origin'], undefined);
});

test('whoever may only look gets 403, and nothing happens', async (t) => {
	const console = await newConsole(t, database);
	const viola = await logIn(console, 'viola');
	const before = await database.query('SELECT * FROM rate_limit_policies ORDER BY policy, tier');

	for (const body of [BLOCK, { ...BLOCK, action: 'unblock', details: {} }, { ...BLOCK, action: 'reset', details: {} }, { ...BLOCK, action: 'clear_flag', details: {} },
		{ ...BLOCK, action: 'reward', details: { tokens: 1 } },
		{ action: 'shadow', limiter: 'user', details: { policy: 'user', tier: 'default', shadow: true }, reason: 'a test' },
		{ action: 'edit_policy', limiter: 'user', details: { policy: 'user', tier: 'default', set: { capacity: 1 } }, reason: 'a test' }]) {
		await refused(console, 403, 'POST', '/api/actions', { as: viola, body });
	}
	assert.deepStrictEqual(await database.query('SELECT * FROM rate_limit_policies ORDER BY policy, tier'), before);
});

test('a right that is taken away is gone at once', async (t) => {
	const console = await newConsole(t, database);
	const oscar = await logIn(console, 'oscar');

	t.after(() => database.query('GRANT ratelimit_operator TO oscar'));
	await database.query('REVOKE ratelimit_operator FROM oscar');
	await refused(console, 403, 'POST', '/api/actions', { as: oscar, body: BLOCK });
	await refused(console, 403, 'GET', '/api/now', { as: oscar });
});

test('each action is done, and written down', async (t) => {
	const console = await newConsole(t, database);
	const oscar = await logIn(console, 'oscar');
	const act = async (body) => {
		const { status, json } = await console.ask('POST', '/api/actions', { as: oscar, body: { reason: 'for <b>a</b> test', ...body } });

		assert.strictEqual(status, 200, json.message);

		const [row] = await database.query('SELECT who, action, limiter, key, reason, done, result, details FROM ratelimit_console.actions WHERE id = $1', [json.id]);

		assert.deepStrictEqual({ ...row, details: undefined }, { who: 'oscar', action: body.action, limiter: body.limiter, key: body.key ?? null, reason: 'for <b>a</b> test', done: true, result: json.result, details: undefined });
		return row.details;
	};
	const status = async (key, limiter) => (await database.query('SELECT tokens, blocked_until FROM rate_limit_status WHERE key = $1 AND limiter = $2 AND period IS NULL', [key, limiter]))[0];
	const policy = async (tier) => (await database.query("SELECT * FROM rate_limit_policies WHERE policy = 'user' AND tier = $1", [tier]))[0];

	for (const key of HOSTILE.slice(1)) {
		await act({ action: 'block', limiter: HOSTILE_LIMITER, key, details: { duration: '2 hours' } });
		assert.ok((await status(key, HOSTILE_LIMITER)).blocked_until - Date.now() > 7000000);
		await act({ action: 'unblock', limiter: HOSTILE_LIMITER, key });
		assert.strictEqual((await status(key, HOSTILE_LIMITER)).blocked_until, null);
		await act({ action: 'reward', limiter: HOSTILE_LIMITER, key, details: { tokens: 2 } });
		assert.strictEqual(Math.floor((await status(key, HOSTILE_LIMITER)).tokens), 2);
		await act({ action: 'reset', limiter: HOSTILE_LIMITER, key });
		assert.strictEqual(await status(key, HOSTILE_LIMITER), undefined);
		await act({ action: 'clear_flag', limiter: 'user', key });
		assert.strictEqual(await database.value("SELECT count(*)::int FROM rate_limit_flagged WHERE key = $1 AND limiter = 'user'", [key]), 0);
	}

	await database.query("SELECT rl_consume_period('monthly', 5, 'month', 5, 'quota')");
	await act({ action: 'reset', limiter: 'quota', key: 'monthly', details: { period: 'month' } });
	assert.strictEqual(await database.value("SELECT count(*)::int FROM rate_limit_status WHERE key = 'monthly'"), 0);

	const before = await policy('day');
	const { before: written } = await act({ action: 'edit_policy', limiter: 'user/day', details: { policy: 'user', tier: 'day', set: { capacity: 7, refill: 0.5, period: null, comment: 'edited' } } });

	assert.deepStrictEqual(await policy('day'), { ...before, capacity: 7, refill: 0.5, period: null, comment: 'edited' });
	assert.deepStrictEqual(written, before, 'with what it was before');
	await act({ action: 'shadow', limiter: 'user/day', details: { policy: 'user', tier: 'day', shadow: false } });
	assert.strictEqual((await policy('day')).shadow, false);
	await act({ action: 'shadow', limiter: HOSTILE_POLICY, details: { policy: HOSTILE_POLICY, tier: 'default', shadow: true } });
	assert.strictEqual(await database.value('SELECT shadow FROM rate_limit_policies WHERE policy = $1', [HOSTILE_POLICY]), true);

	// what the table of policies refuses
	const failed = await console.ask('POST', '/api/actions', { as: oscar, body: { action: 'edit_policy', limiter: 'user', reason: 'a test', details: { policy: 'user', tier: 'default', set: { refill: 0 } } } });

	assert.strictEqual(failed.status, 422);
	assert.match(failed.json.message, /refill_0_only_for_a_quota/);
	assert.strictEqual(await database.value("SELECT done FROM ratelimit_console.actions ORDER BY id DESC LIMIT 1"), false);
});

test('hostile input is an error, and nothing happens', async (t) => {
	const console = await newConsole(t, database);
	const oscar = await logIn(console, 'oscar');

	for (const body of [
		'', '{', 'null', '[]', '"text"', '{"action": {}}', {},
		{ ...BLOCK, action: '__proto__' }, { ...BLOCK, action: "block'; DROP TABLE x; --" }, { ...BLOCK, limiter: ['user'] }, { ...BLOCK, limiter: 'l'.repeat(64) },
		{ ...BLOCK, key: '' }, { ...BLOCK, key: { a: 1 } }, { ...BLOCK, key: 'a\0b' }, { ...BLOCK, key: 'k'.repeat(256) }, { ...BLOCK, key: undefined },
		{ ...BLOCK, reason: '' }, { ...BLOCK, reason: '  ' }, { ...BLOCK, reason: undefined }, { ...BLOCK, reason: 'r'.repeat(1001) },
		{ ...BLOCK, details: 'x' }, { ...BLOCK, details: { duration: '1 hour', more: 1 } }, { ...BLOCK, details: { duration: '\u0000' } }, { ...BLOCK, details: { duration: ['1 hour'] } },
		{ ...BLOCK, details: null },
	]) await refused(console, 400, 'POST', '/api/actions', { as: oscar, body });
	await refused(console, 413, 'POST', '/api/actions', { as: oscar, body: { ...BLOCK, reason: 'r'.repeat(20000) } });
	for (const path of ['/api/key', '/api/key?key=', `/api/key?key=${'k'.repeat(256)}`, '/api/key?key=%00', '/api/hours?key=']) await refused(console, 400, 'GET', path, { as: oscar });
	for (const rules of [undefined, [], [null], [{}], [{ limiter: 'user', capacity: '1', refill: 1 }], [{ limiter: 'user', capacity: -1, refill: 1 }], [{ limiter: 'user', capacity: 1, refill: 1, period: 'day' }], Array(101).fill({ limiter: 'a', capacity: 1, refill: 1 })]) {
		await refused(console, 400, 'POST', '/api/simulate', { as: oscar, body: { rules } });
	}
	assert.strictEqual((await console.ask('GET', '/api/session', { as: oscar })).status, 200, 'it still works');
});

test('each page has what the views say', async (t) => {
	const console = await newConsole(t, database);
	const viola = await logIn(console, 'viola');
	const pages = {};

	for (const page of PAGES) {
		// once in a while, the machine is slow
		for (let i = 0; ; i++) {
			const began = performance.now();
			const { status, json } = await console.ask('GET', `/api/${page}`, { as: viola });
			const took = performance.now() - began;

			assert.strictEqual(status, 200, `${page}: ${json?.message}`);
			pages[page] = json;
			if (took < 5000) break;
			assert.ok(i < 3, `${page} took ${took} ms`);
		}
	}

	const user = pages.now.limiters.find(({ limiter }) => limiter === 'user');

	assert.deepStrictEqual([user.allowed, user.denied], [10000, 10200]);
	assert.strictEqual(pages.throttled.rows.length, 200);
	assert.strictEqual(pages.offenders.rows.length, 500);
	assert.ok(pages.offenders.rows.some(({ key }) => key === HOSTILE[0]));
	assert.deepStrictEqual(pages.policies.rows.map(({ limiter, exceptions }) => [limiter, exceptions]), [[HOSTILE_POLICY, 0], ['trial', 0], ['user/day', 1], ['user', 1]]);
	assert.ok(pages.stores.partitions.length > 0 && pages.stores.workers.some(({ kind }) => kind === 'ratelimit launcher'));
	assert.ok(pages.stores.total.last_flush);
	assert.ok(pages.thresholds.rows.some(({ name, setting }) => name === 'ratelimit.flag_threshold' && setting === '1000'));
	assert.ok(pages.actions.rows.length > 100);

	for (const key of HOSTILE) {
		const query = new URLSearchParams({ key });
		const { json, status } = await console.ask('GET', `/api/key?${query}`, { as: viola });
		const hours = await console.ask('GET', `/api/hours?${query}`, { as: viola });

		assert.strictEqual(status, 200, json?.message);
		assert.ok(json.buckets.some(({ limiter }) => limiter === 'user'), key);
		assert.strictEqual(json.policies.length, 4);
		assert.strictEqual(hours.json.rows.filter(({ limiter }) => limiter === HOSTILE_LIMITER).reduce((sum, { count }) => sum + count, 0), 20);
		assert.strictEqual(hours.json.rows.filter(({ limiter }) => limiter === 'user').reduce((sum, { count }) => sum + count, 0), 2, 'with those that are pending');
	}
});

test('what a rule would have done to the violations, and to a log', async (t) => {
	const console = await newConsole(t, database);
	const viola = await logIn(console, 'viola');
	const simulate = async (body) => {
		const { status, json } = await console.ask('POST', '/api/simulate', { as: viola, body });

		assert.strictEqual(status, 200, json.message);
		return json.results;
	};

	// 20 violations of each hostile key within a flush
	const [few, many, wrong] = await simulate({ rules: [
		{ limiter: HOSTILE_LIMITER, capacity: 5, refill: 0 }, { limiter: HOSTILE_LIMITER, capacity: 20, refill: 0 }, { limiter: HOSTILE_LIMITER, capacity: 20, period: 'fortnight' }] });

	assert.deepStrictEqual([few.calls, few.denied, few.keys, few.recorded], [20 * HOSTILE.length, 15 * HOSTILE.length, HOSTILE.length, 20 * HOSTILE.length]);
	assert.deepStrictEqual([many.calls, many.denied], [20 * HOSTILE.length, 0]);
	assert.match(wrong.error, /unknown unit/);

	// those of the reference
	const log = 'time\tclient\n2026-01-01 12:00:00+00\t203.0.113.7\n2026-01-01 12:00:00+00\t203.0.113.7\r\n2026-01-01T12:00:01Z\t198.51.100.23\tGET\n\n' +
		`2026-01-01 12:00:09\t203.0.113.7\n2026-01-01 12:00:10\t203.0.113.7\n${Date.UTC(2026, 0, 1, 12, 0, 10) / 1000}\t203.0.113.7\t1\n`;
	const [result, daily] = await simulate({ log, rules: [{ limiter: 'x', capacity: 2, refill: 0.1 }, { limiter: 'x', capacity: 1, period: 'day' }] });

	assert.deepStrictEqual([result.calls, result.denied, result.keys, result.keysDenied], [6, 2, 2, 1]);
	assert.deepStrictEqual(result.mostDenied, [{ key: '203.0.113.7', denied: 2 }]);
	assert.deepStrictEqual(result.hours.map(({ allowed, denied }) => [allowed, denied]), [[4, 2]]);
	assert.deepStrictEqual([daily.denied, daily.keysDenied], [4, 1]);

	const hostile = HOSTILE.filter((key) => !/[\t\r\n,]/.test(key) && key.trim() === key);
	const [all] = await simulate({ log: hostile.map((key) => `2026-01-01T00:00:00Z\t${key}`).join('\n'), rules: [{ limiter: 'x', capacity: 0, refill: 1 }] });

	assert.strictEqual(all.denied, hostile.length);

	for (const [text, message] of [
		['', /no calls/], ['time,key', /no calls/], ['2026-01-01T00:00:00Z,a\nyesterday,b', /Line 2 of the log does not begin with a time/],
		['2026-01-01T00:00:00Z,a\n2026-01-01T00:00:00Z', /Line 2 of the log has no key/], [`2026-01-01T00:00:00Z,${'k'.repeat(256)}`, /Line 1 of the log has no key/],
		['2026-13-41T00:00:00Z,a', /out of range/], [`${'2026-01-01T00:00:00Z,a\n'.repeat(200001)}`, /at most 200000/], [42, /must be a text/],
	]) {
		const { status, json } = await console.ask('POST', '/api/simulate', { as: viola, body: { log: text, rules: [{ limiter: 'x', capacity: 1, refill: 1 }] } });
		const said = json.message ?? json.results[0].error;

		assert.ok(status === 400 || status === 200, said);
		assert.match(said, message);
	}
});

test('only so many simulations run at a time', async (t) => {
	const console = await newConsole(t, database);
	const viola = await logIn(console, 'viola');
	const body = { rules: [{ limiter: 'user', capacity: 1, refill: 1 }], log: '2026-01-01T12:00:00Z\t203.0.113.7\n'.repeat(50000) };
	const answers = await Promise.all(Array.from({ length: 6 }, () => console.ask('POST', '/api/simulate', { as: viola, body }).catch(({ code }) => ({ status: code }))));

	assert.ok(answers.filter(({ status }) => status === 200).length >= 1);
	assert.ok(answers.some(({ status, json }) => status === 503 && json.error === 'busy'), answers.map(({ status }) => status).join());
	assert.strictEqual((await console.ask('POST', '/api/simulate', { as: viola, body })).status, 200, 'afterwards it can');
});

test('a session ends: when its person logs out, does nothing, or has had it for long', async (t) => {
	// minutes, by a clock of this test
	const minutes = 60000;
	const console = await newConsole(t, database, { idle: 10 * minutes, session: 25 * minutes });
	const oscar = await logIn(console, 'oscar');
	const viola = await logIn(console, 'viola');
	const connections = (role) => database.value("SELECT count(*)::int FROM pg_stat_activity WHERE usename = $1 AND application_name = 'ratelimit-console' AND datname = current_database()", [role]);
	const now = performance.now.bind(performance);
	let passed = 0;

	t.mock.method(performance, 'now', () => now() + passed);

	const after = async (more) => {
		passed += more * minutes;
		return [(await console.ask('GET', '/api/session', { as: viola, headers: { 'X-Automatic': '1' } })).status,
			(await console.ask('GET', '/api/now', { as: oscar })).status];
	};

	assert.deepStrictEqual(await after(5), [200, 200]);
	assert.deepStrictEqual(await after(6), [401, 200], 'what the page asks by itself does not keep it');
	assert.deepStrictEqual([await after(4), await after(4)], [[401, 200], [401, 200]], 'whoever does something keeps it');
	assert.deepStrictEqual(await after(7), [401, 401], 'but not for ever');
	await refused(console, 401, 'POST', '/api/actions', { as: oscar, body: BLOCK });
	await until(async () => await connections('oscar') + await connections('viola') === 0, 'their connections end');

	const again = await logIn(console, 'oscar');
	const { status, headers } = await console.ask('POST', '/api/logout', { as: again, body: {} });

	assert.strictEqual(status, 200);
	assert.match(headers['set-cookie'][0], /=; .*Max-Age=0/);
	await refused(console, 401, 'GET', '/api/now', { as: again });
	await until(async () => await connections('oscar') === 0, 'its connections end');
});

test('a slow database is a clear message', async (t) => {
	const console = await newConsole(t, database, { timeout: 1000 });
	const oscar = await logIn(console, 'oscar');
	const other = await connect({ database: database.name });

	t.after(() => other.end());
	await other.query('BEGIN; LOCK "rate limits".rate_limit_violations, ratelimit_console.actions IN ACCESS EXCLUSIVE MODE');
	assert.match((await console.ask('GET', '/api/offenders', { as: oscar })).json.message, /lock|in time/);

	const { status, json } = await console.ask('POST', '/api/actions', { as: oscar, body: BLOCK });

	assert.deepStrictEqual([status, json.error], [504, 'timeout']);
	await until(async () => (await console.ask('GET', '/api/now', { as: oscar })).status === 200, 'what is not slow works');
	await other.query('ROLLBACK');
	assert.strictEqual(await isBlocked('somebody'), false);
	await until(async () => (await console.ask('GET', '/api/offenders', { as: oscar })).status === 200, 'it is quick again');
});

test('a lost database is a clear message, and the session goes on after it', async (t) => {
	const proxy = await newProxy(t);
	const console = await newProcess(t, database, { args: ['--timeout', '0.5'], env: { PGHOST: proxy.options.host, PGPORT: '5432' } });
	const oscar = await logIn(console, 'oscar');

	await proxy.stop();

	const { status, json } = await console.ask('GET', '/api/now', { as: oscar });

	assert.deepStrictEqual([status, json.error], [503, 'away']);
	assert.match(json.message, /cannot be reached/);
	assert.strictEqual((await console.ask('POST', '/api/login', { body: { role: 'viola', password: PASSWORD } })).status, 503);
	assert.strictEqual((await console.ask('GET', '/')).status, 200, 'the page itself is there');
	await proxy.start();
	await until(async () => (await console.ask('GET', '/api/now', { as: oscar })).status === 200, 'it is there');

	// one that takes connections and does not answer
	proxy.hang();

	const began = performance.now();
	const hung = await console.ask('GET', '/api/now', { as: oscar });

	assert.strictEqual(hung.status, 503);
	assert.ok(performance.now() - began < 20000);
	proxy.start();
	await until(async () => (await console.ask('GET', '/api/now', { as: oscar })).status === 200, 'it is back');
	assert.doesNotMatch(console.output(), new RegExp(PASSWORD.slice(2, 8)), 'the password is not in the log');
});

test('a role that may not log in any more, or has another password, has no session for long', async (t) => {
	const console = await newConsole(t, database, { lifetime: 1 });
	const viola = await logIn(console, 'viola');
	const isOver = async () => (await console.ask('GET', '/api/now', { as: viola })).status === 401;

	t.after(() => database.query('ALTER ROLE viola LOGIN'));
	assert.strictEqual(await isOver(), false);
	await database.query('ALTER ROLE viola NOLOGIN');
	// however often it is used
	await until(isOver, 'it ends');
});

test('a password that is changed ends the session', async (t) => {
	const console = await newConsole(t, database);
	const viola = await logIn(console, 'viola');

	t.after(() => database.query(`ALTER ROLE viola PASSWORD '${PASSWORD.replaceAll("'", "''")}'`));
	await database.query("ALTER ROLE viola PASSWORD 'another'");
	await database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'viola'");
	await until(async () => (await console.ask('GET', '/api/now', { as: viola })).status === 401, 'it ends');
});
