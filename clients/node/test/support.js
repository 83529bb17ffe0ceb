/*
 * What the tests share.  PGHOST and so on say where the server is, which has the extension
 * and is a throwaway one; NODE_PATH where the peers' packages are.
 */
'use strict';

const { mkdtempSync, rmSync } = require('node:fs');
const net = require('node:net');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { Pool, Client } = require('pg');
const { RateLimiter } = require('..');

/* A package, or undefined if it is not installed. */
function optional(name) {
	try {
		return require(name);
	} catch (error) {
		if (error.code !== 'MODULE_NOT_FOUND') throw error;
		return undefined;
	}
}

const NODE = Number(process.versions.node.split('.')[0]);
const NEEDS_NODE = { fastify: 20, '@fastify/rate-limit': 20, '@nestjs/throttler': 20, '@nestjs/core': 20, '@nestjs/platform-express': 20 };

/* The option of a test that needs a package. */
const needs = (...names) => {
	const old = names.filter((name) => NODE < (NEEDS_NODE[name] ?? 18));
	const missing = names.filter((name) => !old.includes(name) && !optional(name));

	return old.length + missing.length > 0 ? { skip: `${[...old, ...missing].join(', ')} not installed, or not for Node ${NODE}` } : {};
};

/* Skip a test, and return true, if the extension does not have a function. */
async function lacks(t, pool, name) {
	const { rows: [{ exists }] } = await pool.query('SELECT EXISTS (SELECT FROM pg_proc WHERE proname = $1)', [name]);

	if (!exists) t.skip(`the extension has no ${name}()`);
	return !exists;
}

function newPool(t, options) {
	const pool = new Pool({ max: 10, ...options });

	pool.on('error', () => {});
	t.after(() => pool.end());
	return pool;
}

async function newClient(t, options) {
	const client = new Client(options);

	client.on('error', () => {});
	await client.connect();
	t.after(() => client.end());
	return client;
}

function newPostgresJs(t, options) {
	const sql = optional('postgres')({ host: process.env.PGHOST, port: process.env.PGPORT ?? 5432, username: process.env.PGUSER,
		database: process.env.PGDATABASE ?? 'postgres', max: 10, ...options });

	t.after(() => sql.end({ timeout: 1 }));
	return sql;
}

/* Milliseconds that a slow machine does not need. */
const AMPLE = 30000;

/* A limiter that waits for as long as it takes. */
const newLimiter = (db, options) => new RateLimiter(db, { timeout: AMPLE, ...options });

let counter = 0;

/* A name that no other test uses. */
const fresh = (name) => `${name} ${process.pid} ${++counter}`;

/* Wait for a condition, for a minute at most. */
async function until(condition, what) {
	const end = performance.now() + 60000;

	for (;;) {
		const value = await condition();

		if (value) return value;
		if (performance.now() > end) throw new Error(`not within a minute: ${what}`);
		await new Promise((resolve) => {
			setTimeout(resolve, 10);
		});
	}
}

/* A port that is free.  Connections do not get it by chance meanwhile: theirs have other numbers. */
async function freePort() {
	for (;;) {
		const port = 10000 + Math.floor(Math.random() * 20000);
		const server = net.createServer();
		const free = await new Promise((resolve) => {
			server.on('error', () => resolve(false));
			server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
		});

		if (free) return port;
	}
}

/*
 * Run scenario({ timeout, events, there, hook }), where limiters have this timeout, and this hook
 * is told of their events.  A machine may stall for longer than the timeout while the database is
 * there, which the scenario says with there(true) and there(false): then it is run again, with more
 * time.
 */
async function patiently(scenario) {
	for (const timeout of [1000, 5000, AMPLE]) {
		const events = [];
		let isThere = true;
		let stalled = false;

		try {
			await scenario({
				timeout,
				events,
				there(is) {
					isThere = is;
				},
				hook: (name) => (event) => {
					events.push({ name, ...event });
					if (isThere && event.event === 'away') stalled = true;
				},
			});
			return;
		} catch (error) {
			if (!stalled || timeout === AMPLE) throw error;
		}
	}
}

// At least so long: setTimeout() cuts fractions off, and may be a millisecond early.
const sleep = (milliseconds) => new Promise((resolve) => {
	setTimeout(resolve, Math.ceil(milliseconds) + 1);
});

/*
 * A way to the server that can be cut: stop() ends all connections and refuses new ones,
 * hang() leaves them without an answer, start() lets them through again.
 */
async function newProxy(t) {
	const folder = mkdtempSync(join(tmpdir(), 'ratelimit'));
	const path = join(folder, '.s.PGSQL.5432');
	const sockets = new Set();
	let hangs = false;
	let server;
	const proxy = {
		options: { host: folder, port: 5432 },
		async start() {
			hangs = false;
			for (const socket of sockets) socket.resume();
			if (server) return;
			server = net.createServer((down) => {
				const up = net.connect(join(process.env.PGHOST, `.s.PGSQL.${process.env.PGPORT ?? 5432}`));

				for (const [from, to] of [[down, up], [up, down]]) {
					sockets.add(from);
					from.on('data', (data) => to.write(data));
					from.on('error', () => {});
					from.on('close', () => {
						sockets.delete(from);
						to.destroy();
					});
					if (hangs) from.pause();
				}
			});
			await new Promise((resolve) => {
				server.listen(path, resolve);
			});
		},
		hang() {
			hangs = true;
			for (const socket of sockets) socket.pause();
		},
		async stop() {
			const stopped = new Promise((resolve) => {
				server.close(resolve);
			});

			server = undefined;
			for (const socket of sockets) socket.destroy();
			await stopped;
		},
	};

	await proxy.start();
	t.after(async () => {
		if (server) await proxy.stop();
		rmSync(folder, { recursive: true });
	});
	return proxy;
}

module.exports = { AMPLE, newLimiter, needs, lacks, optional, newPool, newClient, newPostgresJs, newProxy, fresh, freePort, patiently, until, sleep };
