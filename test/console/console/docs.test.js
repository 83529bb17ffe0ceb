/*
 * What docs/console.md shows: the commands install the console, set it up and start it, and
 * nginx in front of it, with TLS and the lines of the page, lets somebody log in.  In the
 * full form only, as npm and nginx are needed.
 */
'use strict';

const assert = require('node:assert');
const { execFileSync, spawn } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync, writeFileSync, existsSync } = require('node:fs');
const https = require('node:https');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { test } = require('node:test');
const { TOP, ask, connect, until } = require('./support');
const { freePort } = require('../../../clients/node/test/support');

const full = process.env.RATELIMIT_CONSOLE_FULL === '1';
const page = readFileSync(join(TOP, 'docs/console.md'), 'utf8');
const [install, setUp, start, behindProxy] = [...page.matchAll(/```sh\n([^]*?)```/g)].map(([, lines]) => lines);
const [nginxLines] = /location \/ \{[^]*?\n\}/.exec(page);

const ORIGIN = 'http://127.0.0.1:8432';

test('the options of the page are those of the command', () => {
	const { HELP } = require(join(TOP, 'clients/console/lib/settings.js'));
	const documented = [...page.matchAll(/^\| `(--\w+)/gm)].map(([, option]) => option);

	assert.deepStrictEqual(documented, [...HELP.matchAll(/^ {2}(--\w+)/gm)].map(([, option]) => option).filter((option) => option !== '--help'));
});

test('each page and action of the console is in the document', () => {
	const read = (file) => readFileSync(join(TOP, 'clients/console/public', file), 'utf8');

	for (const name of ['now', 'throttled', 'offenders', 'review', 'policies', 'stores', 'thresholds', 'actions']) {
		assert.ok(page.includes(`| **${/title: '(\w+)', path/.exec(read(`pages/${name}.js`))[1]}** |`), name);
	}
	for (const [, title] of read('actions.js').matchAll(/title: '([^']+)', button/g)) assert.ok(page.includes(title), title);
});

test('the commands of the page', full ? {} : { skip: 'in the full form only' }, async (t) => {
	const folder = mkdtempSync(join(tmpdir(), 'console'));
	const postgres = await connect({ database: 'postgres' });
	// as the page says it, in one shell after the other
	const shell = (lines) => ['-c', `set -e; cd '${folder}'; export PGDATABASE=app\n${lines.replaceAll('/path/to/ratelimit', TOP)}`];
	const env = { ...process.env, NODE_PATH: '' };
	const starts = async (lines) => {
		const child = spawn('sh', shell(lines), { env, stdio: ['ignore', 'pipe', 'inherit'], detached: true });
		let output = '';

		child.stdout.on('data', (data) => {
			output += data;
		});

		const ended = new Promise((done) => {
			child.on('close', done);
		});
		const stop = () => {
			try {
				process.kill(-child.pid, 'SIGTERM');
			} catch {
				// it has ended
			}
			return ended;
		};

		t.after(stop);
		await until(() => /open \S+/.exec(output), 'the console starts');
		return { stop, output: () => output };
	};

	t.after(async () => {
		await postgres.end();
		rmSync(folder, { recursive: true });
	});
	await postgres.query('CREATE DATABASE app');

	const app = await connect({ database: 'app' });

	await app.query('CREATE SCHEMA ratelimit; CREATE EXTENSION ratelimit SCHEMA ratelimit');
	t.after(() => app.end());

	execFileSync('sh', shell(install), { env, stdio: 'pipe' });
	assert.ok(!existsSync(join(folder, 'node_modules/ratelimit-console/test')));
	execFileSync('sh', shell(setUp), { env, stdio: 'pipe' });

	const alone = await starts(start);
	const login = (origin, headers) => ask(origin, 'POST', '/api/login', { headers, body: { role: 'alice', password: 'correct horse' } });

	assert.match(alone.output(), /open http:\/\/127\.0\.0\.1:8432\//);

	const { status, json } = await login(ORIGIN);

	assert.strictEqual(status, 200, json.message);
	assert.strictEqual(json.mayAct, true);
	await alone.stop();

	// nginx with the lines of the page
	const port = await freePort();

	execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', '/CN=console.example.com', '-keyout', 'key.pem', '-out', 'cert.pem'], { cwd: folder, stdio: 'pipe' });
	writeFileSync(join(folder, 'nginx.conf'), `daemon off; pid ${folder}/nginx.pid; error_log stderr; events {}
		http { access_log off; ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${folder}/${kind};`).join(' ')}
		server { listen 127.0.0.1:${port} ssl; ssl_certificate ${folder}/cert.pem; ssl_certificate_key ${folder}/key.pem;\n${nginxLines}\n} }`);

	await starts(behindProxy);

	const nginx = spawn('/usr/sbin/nginx', ['-p', folder, '-c', join(folder, 'nginx.conf')], { stdio: ['ignore', 'ignore', 'inherit'] });
	const nginxEnded = new Promise((done) => {
		nginx.on('close', done);
	});

	t.after(async () => {
		nginx.kill();
		await nginxEnded;
	});

	const over = (method, path, headers = {}, body = undefined) => new Promise((done, failed) => {
		const request = https.request({ host: '127.0.0.1', port, method, path, servername: 'console.example.com', ca: readFileSync(join(folder, 'cert.pem')), checkServerIdentity: () => undefined,
			headers: { Host: 'console.example.com', ...headers } }, (response) => {
			let text = '';

			response.on('data', (data) => {
				text += data;
			});
			response.on('end', () => done({ status: response.statusCode, headers: response.headers, text }));
		});

		request.on('error', failed);
		request.end(body);
	});

	await until(() => over('GET', '/').then((response) => response.status === 200, () => false), 'nginx answers for the console');

	const proxied = await over('POST', '/api/login', { Origin: 'https://console.example.com', 'Content-Type': 'application/json' }, JSON.stringify({ role: 'alice', password: 'correct horse' }));

	assert.strictEqual(proxied.status, 200, proxied.text);
	assert.match(proxied.headers['set-cookie'][0], /^__Host-.*; Secure$/);
	assert.strictEqual((await over('GET', '/api/now', { Cookie: proxied.headers['set-cookie'][0].split(';')[0], 'X-CSRF-Token': JSON.parse(proxied.text).token })).status, 200);
	assert.strictEqual((await over('GET', '/', { Host: 'evil.example.com' })).status, 421);
	// the address that nginx has seen counts, whatever the client says
	for (let i = 0; i < 12; i++) await over('POST', '/api/login', { Origin: 'https://console.example.com', 'Content-Type': 'application/json', 'X-Forwarded-For': `192.0.2.${i}` }, JSON.stringify({ role: 'alice', password: 'wrong' }));
	assert.strictEqual((await over('POST', '/api/login', { Origin: 'https://console.example.com', 'Content-Type': 'application/json', 'X-Forwarded-For': '192.0.2.99' }, JSON.stringify({ role: 'alice', password: 'wrong' }))).status, 429);
});
