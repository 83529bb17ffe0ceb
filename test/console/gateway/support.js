/*
 * What the tests of the gateway share: a database of their own, the gateway, proxies with the very
 * recipes of clients/gateway/recipes, and an application behind them.
 *
 * Only port numbers of a recipe change: each "127.0.0.1:PORT" becomes a free one; and how long a
 * proxy waits for the gateway, and the gateway for the database, because a slow machine would
 * change what is decided.
 */
'use strict';

const { spawn, spawnSync } = require('node:child_process');
const { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const http = require('node:http');
const { tmpdir } = require('node:os');
const { join, resolve } = require('node:path');
const { Pool } = require('pg');
const { AMPLE, freePort, sleep, until } = require('../../../clients/node/test/support');

const TOP = resolve(__dirname, '../../..');
const RECIPES = join(TOP, 'clients/gateway/recipes');
const COMMAND = join(TOP, 'clients/gateway/bin/ratelimit-gateway.js');
const FULL = process.env.RATELIMIT_GATEWAY_FULL === '1';

/* The option of a test that needs a program. */
const needs = (program) => {
	const missing = spawnSync('sh', ['-c', `PATH=$PATH:/usr/sbin command -v ${program}`]).status !== 0;

	if (missing && FULL) throw new Error(`${program} is not installed`);
	return missing ? { skip: `${program} is not installed` } : {};
};

const needsPackage = (name) => {
	try {
		require(name);
		return {};
	} catch (error) {
		if (error.code !== 'MODULE_NOT_FOUND' || FULL) throw error;
		return { skip: `${name} is not installed` };
	}
};

function folder(t) {
	const path = mkdtempSync(join(tmpdir(), 'ratelimit'));

	t.after(() => rmSync(path, { recursive: true, force: true }));
	return path;
}

async function freePorts(n) {
	const ports = new Set();

	while (ports.size < n) ports.add(await freePort());
	return [...ports];
}

let databases = 0;

/* A database with the extension and policies: { name, pool, policy(name, columns) }. */
async function newDatabase(t, policies = {}, options = '') {
	const name = `gateway_${process.pid}_${++databases}`;
	const admin = new Pool({ max: 1 });

	await admin.query(`CREATE DATABASE ${name} ${options}`);

	const pool = new Pool({ database: name, max: 4 });

	pool.on('error', () => {});
	await pool.query('CREATE EXTENSION ratelimit');
	t.after(async () => {
		await pool.end();
		await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
		await admin.end();
	});

	const database = {
		name,
		pool,
		async policy(policy, { tier = 'default', capacity, refill = 0, shadow = false, period = null }) {
			await pool.query(`INSERT INTO rate_limit_policies (policy, tier, capacity, refill, quota, shadow, period) VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (policy, tier) DO UPDATE SET capacity = excluded.capacity, refill = excluded.refill, quota = excluded.quota,
					shadow = excluded.shadow, period = excluded.period`,
			[policy, tier, capacity, period === null ? refill : null, period === null && refill === 0, shadow, period]);
		},
	};

	for (const [policy, columns] of Object.entries(policies)) await database.policy(policy, columns);
	return database;
}

/* A process whose output is kept; it ends with the test. */
function run(t, command, args, options = {}) {
	const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options,
		env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin`, ...options.env } });
	const running = { child, output: '', ended: false, kill: (signal) => child.kill(signal) };

	running.end = new Promise((done) => {
		child.on('close', (code, signal) => {
			running.ended = true;
			done(code ?? signal);
		});
		child.on('error', (error) => {
			running.output += error.message;
			running.ended = true;
			done(error.message);
		});
	});
	for (const stream of [child.stdout, child.stderr]) {
		stream.on('data', (data) => {
			running.output = (running.output + data).slice(-100000);
		});
	}
	t.after(async () => {
		if (!running.ended) child.kill('SIGTERM');

		const timer = setTimeout(() => child.kill('SIGKILL'), 8000);

		await running.end;
		clearTimeout(timer);
	});
	return running;
}

/*
 * The gateway with a configuration, at free ports: { url, ports, write(config), ... }.
 */
async function startGateway(t, config, { database, env } = {}) {
	const file = join(folder(t), 'gateway.json');
	const listening = { timeout: AMPLE, ...structuredClone(config) };

	for (const name of ['http', 'grpc', 'reports']) {
		if (listening[name]) listening[name].listen = '127.0.0.1:0';
	}

	const write = (changed) => writeFileSync(file, typeof changed === 'string' ? changed : JSON.stringify(changed));

	write(listening);

	const gateway = run(t, process.execPath, [COMMAND, file], { env: { ...(database ? { PGDATABASE: database.name } : {}), ...env } });
	const port = (name) => Number(new RegExp(`${name} listens on \\S+:(\\d+)`).exec(gateway.output)?.[1] ?? 0);
	const names = ['http', 'grpc', 'reports'].filter((name) => listening[name]);

	await until(() => gateway.ended || names.every(port), 'the gateway listens');
	if (gateway.ended) throw new Error(gateway.output);
	return Object.assign(gateway, {
		file,
		write(changed) {
			write({ timeout: AMPLE, ...changed, ...Object.fromEntries(names.map((name) => [name, { ...changed[name], listen: '127.0.0.1:0' }])) });
		},
		writeText: write,
		ports: Object.fromEntries(names.map((name) => [name, port(name)])),
		url: `http://127.0.0.1:${port('http')}`,
	});
}

/* The text of a recipe with other ports: { 8080: 41234, ... }. */
function recipe(name, ports = {}) {
	return readFileSync(join(RECIPES, name), 'utf8').replace(/(127\.0\.0\.1)?:(\d{4})\b/g, (whole, host = '', port) => (ports[port] ? `${host}:${ports[port]}` : whole));
}

/* The text of a recipe with a proxy that waits for long. */
const patient = (text) => text.replace(/(timeout connect|proxy_connect_timeout|proxy_read_timeout|dial_timeout|response_header_timeout) [12]s\b/g, '$1 60s')
	.replace(/(TIMEOUT = )2000\b/, '$160000');

/* An application that says what it was asked: { port, requests }. */
async function startApplication(t) {
	const application = { requests: 0 };
	const server = http.createServer((request, response) => {
		let body = '';

		application.requests++;
		request.on('data', (data) => {
			body += data;
		});
		request.on('end', () => {
			const { method, url, headers } = request;

			if (url === '/forbidden') response.statusCode = 403;
			response.end(JSON.stringify({ method, url, headers, body }));
		});
	});

	application.port = await new Promise((done) => {
		server.listen(0, '127.0.0.1', () => done(server.address().port));
	});
	t.after(() => {
		server.closeAllConnections();
		return new Promise((done) => {
			server.close(done);
		});
	});
	return application;
}

const answers = (port) => fetch(`http://127.0.0.1:${port}/static/probe`).then((response) => response.status < 500, () => false);

/* What only a test needs around a recipe of nginx. */
const nginxMain = (dir, conf, workers) => `
worker_processes ${workers};
daemon off;
pid ${dir}/nginx.pid;
error_log ${dir}/error.log warn;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path ${dir}/body;
	proxy_temp_path ${dir}/proxy;
	fastcgi_temp_path ${dir}/fastcgi;
	uwsgi_temp_path ${dir}/uwsgi;
	scgi_temp_path ${dir}/scgi;
	include ${conf};
}
`;

/* Start a proxy with a text that listens at a port: what run() gives, with { dir, port }. */
const PROXIES = {
	nginx(t, text, { workers = 1 } = {}) {
		const dir = folder(t);

		writeFileSync(join(dir, 'ratelimit.conf'), text);
		writeFileSync(join(dir, 'nginx.conf'), nginxMain(dir, join(dir, 'ratelimit.conf'), workers));
		return Object.assign(run(t, 'nginx', ['-e', join(dir, 'error.log'), '-c', join(dir, 'nginx.conf')]), { dir });
	},
	caddy(t, text, { admin }) {
		const dir = folder(t);

		writeFileSync(join(dir, 'Caddyfile'), text);
		return Object.assign(run(t, 'caddy', ['run', '--config', join(dir, 'Caddyfile'), '--adapter', 'caddyfile'],
			{ env: { HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir, CADDY_ADMIN: `127.0.0.1:${admin}` } }), { dir });
	},
	haproxy(t, text, { ports = {} } = {}) {
		const dir = folder(t);

		mkdirSync(dir, { recursive: true });
		writeFileSync(join(dir, 'haproxy.cfg'), text);
		writeFileSync(join(dir, 'haproxy.lua'), patient(recipe('haproxy.lua', ports)));
		return Object.assign(run(t, 'haproxy', ['-db', '-f', join(dir, 'haproxy.cfg')]), { dir });
	},
};

const FILES = { nginx: 'nginx.conf', caddy: 'Caddyfile', haproxy: 'haproxy.cfg' };

/* A proxy with a recipe, in front of an application and with ports as recipe() takes them. */
async function startProxy(t, kind, ports, { file = FILES[kind], change = (text) => text, ...options } = {}) {
	const [site, admin] = await freePorts(2);
	const proxy = PROXIES[kind](t, change(patient(recipe(file, { ...ports, 8080: site }))), { admin, ports, ...options });

	await until(async () => proxy.ended || await answers(site), `${kind} answers`).catch((error) => {
		throw new Error(`${error.message}: ${proxy.output}`);
	});
	if (proxy.ended) throw new Error(`${kind}: ${proxy.output}`);
	return Object.assign(proxy, { port: site, url: `http://127.0.0.1:${site}` });
}

/*
 * A request as node:http sends it, with a path that is not changed: resolves to { status,
 * headers, body }.
 */
function request(port, path, { method = 'GET', headers = {}, body, agent } = {}) {
	return new Promise((done, failed) => {
		const outgoing = http.request({ host: '127.0.0.1', port, path, method, headers, agent }, (response) => {
			let text = '';

			response.setEncoding('utf8');
			response.on('data', (data) => {
				text += data;
			});
			response.on('end', () => done({ status: response.statusCode, headers: response.headers, body: text }));
			response.on('error', failed);
		});

		outgoing.on('error', failed);
		outgoing.end(body);
	});
}

/* n requests over so many connections: resolves to the statuses and how many there were of each. */
async function load(ports, path, n, connections) {
	const counts = {};
	let next = 0;

	await Promise.all(Array.from({ length: connections }, async (_, i) => {
		const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
		const port = ports[i % ports.length];

		while (next++ < n) {
			const status = await request(port, path, { agent }).then((response) => response.status, (error) => error.code);

			counts[status] = (counts[status] ?? 0) + 1;
		}
		agent.destroy();
	}));
	return counts;
}

module.exports = { FULL, RECIPES, TOP, folder, freePorts, load, needs, needsPackage, newDatabase, recipe, request, run, sleep, startApplication,
	startGateway, startProxy, until };
