/*
 * What docs/clients.md shows: the package is installed from its folder, and the lines of
 * the page limit an endpoint.  And its types are those of what it does.
 */
'use strict';

const assert = require('node:assert');
const { execFileSync, spawn, spawnSync } = require('node:child_process');
const { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { dirname, join, resolve } = require('node:path');
const { after, test } = require('node:test');
const { freePort, needs, newClient, until } = require('../../../clients/node/test/support');

const PACKAGE = resolve(__dirname, '../../../clients/node');
const page = readFileSync(resolve(__dirname, '../../../docs/clients.md'), 'utf8');
const hasNpm = spawnSync('npm', ['--version']).status === 0;

/* The folder of an application that has installed the package. */
const folder = mkdtempSync(join(tmpdir(), 'ratelimit'));

after(() => rmSync(folder, { recursive: true }));

test('the package is installed from its folder, and brings no other', () => {
	writeFileSync(join(folder, 'package.json'), '{"private": true}');
	if (hasNpm) {
		execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', PACKAGE], { cwd: folder, stdio: 'pipe' });
		assert.deepStrictEqual(readdirSync(join(folder, 'node_modules')).filter((name) => !name.startsWith('.')), ['ratelimit-postgresql']);
	} else {
		mkdirSync(join(folder, 'node_modules'));
		symlinkSync(PACKAGE, join(folder, 'node_modules/ratelimit-postgresql'));
	}
});

test('the lines of docs/clients.md limit an endpoint', async (t) => {
	const lines = /## An endpoint with a limit[^]*?```js\n([^]*?)```/.exec(page)[1];
	const port = await freePort();

	assert.ok(lines.split('\n').filter(Boolean).length <= 10, 'they are ten at most');
	writeFileSync(join(folder, 'server.js'), lines);

	const server = spawn(process.execPath, ['server.js'], { cwd: folder, env: { ...process.env, PORT: port }, stdio: 'inherit' });
	const ended = new Promise((done) => {
		server.on('close', done);
	});

	t.after(async () => {
		server.kill();
		await ended;
	});
	await until(() => fetch(`http://127.0.0.1:${port}`).then((response) => response.text(), () => false), 'the server answers');

	const client = await newClient(t);
	let responses;

	// what the database has not decided within the second that the page gives it has no fields
	await until(async () => {
		await client.query("SELECT rl_reset_all('ip')");
		responses = await Promise.all(Array.from({ length: 300 }, () => fetch(`http://127.0.0.1:${port}`)));
		return responses.every(({ headers }) => headers.has('ratelimit'));
	}, 'the database decides');

	const allowed = responses.filter(({ status }) => status === 200);
	const denied = responses.filter(({ status }) => status === 429);

	assert.ok(allowed.length >= 90 && allowed.length < 200, `${allowed.length} allowed`);
	assert.strictEqual(allowed.length + denied.length, 300);
	assert.match(allowed[0].headers.get('ratelimit'), /^"ip";r=\d+;t=1$/);
	assert.strictEqual(denied[0].headers.get('ratelimit-policy'), '"ip";q=100;w=10');
	assert.strictEqual(denied[0].headers.get('retry-after'), '1');
});

test('import, require, and nothing but what is documented', () => {
	const run = (file, code) => {
		writeFileSync(join(folder, file), code);
		return execFileSync(process.execPath, [file], { cwd: folder, encoding: 'utf8' });
	};

	assert.strictEqual(run('a.mjs', "import { RateLimiter } from 'ratelimit-postgresql'; console.log(typeof RateLimiter);"), 'function\n');
	assert.strictEqual(run('a.cjs', "console.log(typeof require('ratelimit-postgresql').RateLimiter);"), 'function\n');
	assert.strictEqual(run('b.cjs', "try { require('ratelimit-postgresql/lib/limiter'); } catch ({ code }) { console.log(code); }"),
		'ERR_PACKAGE_PATH_NOT_EXPORTED\n');

	const { dependencies, peerDependencies, files, scripts } = JSON.parse(readFileSync(join(PACKAGE, 'package.json'), 'utf8'));

	assert.strictEqual(dependencies, undefined);
	assert.deepStrictEqual(Object.keys(peerDependencies), ['pg', 'postgres']);
	assert.deepStrictEqual(Object.keys(scripts), ['test'], 'nothing is built');
	for (const file of files) assert.ok(existsSync(join(PACKAGE, file)), file);
});

test('the types', needs('typescript'), () => {
	const compiler = require.resolve('typescript').replace(/lib.typescript\.js$/, 'bin/tsc');
	const good = `
		const pool = { connect: async () => ({}), query: async () => ({ rows: [] }), totalCount: 0 };
		const limiter = new RateLimiter(pool, { capacity: 1, refill: per(1, 'hour'), away: 'local', lease: { seconds: 1 }, metrics: (event) => {
			if (event.event === 'query') console.log(event.milliseconds);
		} });
		new RateLimiter(pool, { policy: 'free', away: { capacity: 1, refill: 2 } });
		const allowed: Promise<boolean> = limiter.consume('a', { signal: new AbortController().signal });
		limiter.throttle('a', 3).then(({ retryAfter }) => Math.ceil(retryAfter ?? 0));
		createServer(async (request, response) => {
			if (await httpLimit(limiter, { hops: 1, cost: ({ method }) => (method === 'POST' ? 2 : 1) })(request, response)) response.end();
		});
		new RateLimiter(pool, { policies: true }).throttle([{ policy: 'user', key: 'a' }, { policy: 'ip', key: 'b', cost: 2 }]).then(({ results }) => results?.length);
		const typed: Options = { away: 'allow' };
	`;
	const names = 'RateLimiter, per, httpLimit, type Options';

	const bad = ['limiter.consume(42)', 'new RateLimiter(pool, { capacity: 1 })', "new RateLimiter(pool, { capacity: 1, refill: 1, away: 'open' })",
		"limiter.throttle('a').then(({ retryAfter }) => retryAfter + 1)", "new RateLimiter({}, { policy: 'free' })"];

	for (const name of ['types.mts', 'types.cts']) {
		writeFileSync(join(folder, name), `import { ${names} } from 'ratelimit-postgresql';\nimport { createServer } from 'node:http';\n${good}
			${bad.map((line) => `// @ts-expect-error\n${line};\n`).join('')}`);
	}

	const { status, stdout } = spawnSync(process.execPath, [compiler, '--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext',
		'--types', 'node', '--typeRoots', join(dirname(require.resolve('@types/node/package.json')), '..'), 'types.mts', 'types.cts'],
	{ cwd: folder, encoding: 'utf8' });

	assert.strictEqual(status, 0, stdout);

	// what the types say is there, and nothing else
	const declared = [...readFileSync(join(PACKAGE, 'index.d.ts'), 'utf8').matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);

	assert.deepStrictEqual(declared.sort(), Object.keys(require(PACKAGE)).sort());
});
