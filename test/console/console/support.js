/*
 * What the tests share.  PGHOST and so on say where the server is, a throwaway one, whose
 * superuser postgres needs no password.  Each file of tests has a database of its own.
 */
'use strict';

const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const http = require('node:http');
const { join, resolve } = require('node:path');
const { after, before } = require('node:test');
const { Client } = require('pg');
const { newProxy, until, optional } = require('../../../clients/node/test/support');

const TOP = resolve(__dirname, '../../..');
const CONSOLE = join(TOP, 'clients/console');
const COMMAND = join(CONSOLE, 'bin/ratelimit-console.js');

const { startServer } = require(join(CONSOLE, 'lib/server.js'));

/* viola looks, oscar acts, nobody may do nothing, and the server trusts trusting. */
const PASSWORD = 'a "secret" of \'theirs\' \\ ü';
const ROLES = { viola: 'ratelimit_viewer', oscar: 'ratelimit_operator', nobody: null, trusting: 'ratelimit_operator' };

/* What somebody may have sent as a key. */
const HOSTILE = [
	'<script>alert(1)</script>',
	'"><img src=x onerror=alert(1)>',
	"'; DROP TABLE rate_limit_violations; --",
	"' OR '1'='1",
	'javascript:alert(1)',
	'</title></style></textarea><svg onload=alert(1)>',
	'{{7*7}}${7*7}#{7*7}',
	'%00%2e%2e%2f..%5c',
	'#/key?key=somebody',
	'&lt;b&gt;&amp;',
	'a\u202egnp.exe\u2066',
	'שלום עולם',
	'\u0001\u0002\u001b[31mred\u001b[0m\u007f\u0085',
	'line\nbreak\ttab\r',
	'zero\u200bwidth\ufeff',
	'__proto__',
	'constructor',
	' spaces ',
	'a:b:c::d',
	'2001:db8::1',
	'k'.repeat(255),
	'🙂'.repeat(63),
	'ا'.repeat(127),
	'$schema',
	'\\u0041\\x41',
	'null',
];
const HOSTILE_LIMITER = '<img src=x onerror=alert(2)>"\'&';
const HOSTILE_POLICY = '<b onclick=alert(3)>policy</b>';

const connect = async (options) => {
	const client = new Client(options);

	client.on('error', () => {});
	await client.connect();
	return client;
};

/*
 * A database with the extension in a schema of its own, and the console set up.  Gives
 * { name, query }, whose query runs as the superuser.
 */
function newDatabase(name) {
	const database = { name };
	let client;

	before(async () => {
		const postgres = await connect({ database: 'postgres' });

		await postgres.query(`CREATE DATABASE ${name}`);
		await postgres.end();
		client = await connect({ database: name });
		database.query = async (text, values) => (await client.query(text, values)).rows;
		database.value = async (text, values) => Object.values((await client.query(text, values)).rows[0])[0];
		await client.query('CREATE SCHEMA "rate limits"; CREATE EXTENSION ratelimit SCHEMA "rate limits"; SET search_path = "rate limits", public');
		setUp(name);
		for (const [role, group] of Object.entries(ROLES)) {
			await client.query(`DO $$ BEGIN CREATE ROLE ${role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$`);
			await client.query(`ALTER ROLE ${role} PASSWORD ${client.escapeLiteral(PASSWORD)}`);
			if (group) await client.query(`GRANT ${group} TO ${role}`);
		}
	});
	after(async () => {
		await client?.end();
	});
	return database;
}

const psql = (database, sql) => execFileSync('psql', ['-XqAt', '-d', database, '-v', 'ON_ERROR_STOP=1', '-f', '-'], { input: sql, stdio: 'pipe', encoding: 'utf8' });

function setUp(database) {
	psql(database, execFileSync(process.execPath, [COMMAND, '--setup']));
}

/* A busy machine may take long. */
const SETTINGS = { listen: { host: '127.0.0.1', port: 0 }, hops: 0, timeout: 30000, idle: 3600000, session: 3600000 };

/* A console of this process.  Gives it with ask(), and stops it after the test. */
async function newConsole(t, database, settings = {}) {
	const server = await startServer({ ...SETTINGS, database: database.name, ...settings });

	t.after(() => server.stop());
	return { ...server, ask: (method, path, options) => ask(server.origin, method, path, options) };
}

/*
 * One request.  as: a session of logIn().  Gives { status, headers, text, json }.  What a
 * browser would send is there unless headers say otherwise: a header that is null is left out.
 */
function ask(origin, method, path, { as, headers = {}, body } = {}) {
	const { hostname, port, host } = new URL(origin);
	const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
	const all = {
		Host: host,
		...(method === 'POST' ? { Origin: origin, 'Content-Type': 'application/json', 'Sec-Fetch-Site': 'same-origin' } : {}),
		...(as ? { Cookie: as.cookie } : {}),
		...(as ? { 'X-CSRF-Token': as.token ?? null } : {}),
		...headers,
	};

	for (const name of Object.keys(all)) if (all[name] === null) delete all[name];
	return new Promise((done, failed) => {
		const request = http.request({ hostname: hostname.replace(/^\[|\]$/g, ''), port, method, path, headers: all, agent: false, setHost: false }, (response) => {
			const chunks = [];

			response.on('data', (chunk) => chunks.push(chunk));
			response.on('end', () => {
				const answer = Buffer.concat(chunks).toString();
				let json;

				try {
					json = JSON.parse(answer);
				} catch {
					// it is something else
				}
				done({ status: response.statusCode, headers: response.headers, text: answer, json });
			});
			response.on('error', failed);
		});

		request.on('error', failed);
		request.end(text);
	});
}

/* Log in: gives { cookie, token }. */
async function logIn(console, role, password = PASSWORD) {
	// the database may be slower than a test wants it
	const { status, headers, json } = await until(async () => {
		const answer = await console.ask('POST', '/api/login', { body: { role, password } });

		return [503, 504].includes(answer.status) ? null : answer;
	}, `${role} logs in`);

	assert.strictEqual(status, 200, json?.message);
	return { cookie: headers['set-cookie'][0].split(';')[0], token: json.token };
}

/*
 * Fill a database: so many keys that were denied, hostile ones among them, some of them
 * flagged, and policies.
 */
async function fill(database, keys) {
	const names = [...HOSTILE, ...Array.from({ length: keys - HOSTILE.length }, (_, i) => `user:${i}`)];

	await database.query("SET ratelimit.gateway_name = 'api <1>'");
	await database.query("SELECT count(rl_consume(key, 1, 0.0001, limiter => 'user')) FROM unnest($1::text[]) key, generate_series(1, 2)", [names]);
	await database.query('SELECT count(rl_consume(key, 5, 0.001, limiter => $2)) FROM unnest($1::text[]) key, generate_series(1, 25)', [HOSTILE, HOSTILE_LIMITER]);
	await database.query('SELECT rl_flush()');
	await database.query("SELECT count(rl_consume(key, 1, 0.0001, limiter => 'user')) FROM unnest($1::text[]) key", [names.slice(0, 200)]);
	await database.query("SELECT count(rl_flag(key, 'user', 'it is <b>heavy</b>')) FROM unnest($1::text[]) key", [names.slice(0, 60)]);
	await database.query("SELECT rl_block($1, '1 hour', 'user')", [HOSTILE[0]]);
	await database.query(`INSERT INTO rate_limit_policies (policy, tier, capacity, refill, period, quota, shadow, comment) VALUES
		('user', 'default', 5, 0.1, NULL, false, false, 'a <i>comment</i>'), ('user', 'day', 100, NULL, 'day', false, true, NULL),
		('trial', 'default', 100, 0, NULL, true, false, NULL), ($1, 'default', 10, 1, NULL, false, false, NULL)`, [HOSTILE_POLICY]);
	await database.query("INSERT INTO rate_limit_exceptions (policy, key, action) VALUES ('user', $1, 'allow')", [HOSTILE[1]]);
}

module.exports = { TOP, CONSOLE, COMMAND, PASSWORD, HOSTILE, HOSTILE_LIMITER, HOSTILE_POLICY, connect, newDatabase, psql, setUp, newConsole, ask, logIn, fill, newProxy, until, optional };
