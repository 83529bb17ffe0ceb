/*
 * node load.js ROUNDS SECONDS MODE...: one process, 32 callers at a time, 10,000 keys.
 * Measures the modes in turn, round after round, and prints "mode round calls/s".
 *
 * node load.js --rate N ROUNDS SECONDS MODE...: N calls/s, each begun when it is due
 * whether or not others have been answered.  Prints "mode round p50 p99 p99.9", in
 * microseconds from when a call was due.
 *
 * Servers: PGHOST, PGPORT and so on; REDIS_SOCKET.
 */
'use strict';

const assert = require('node:assert');
const { Pool } = require('pg');
const Redis = require('ioredis');
const { RateLimiterPostgres, RateLimiterRedis } = require('rate-limiter-flexible');
const { RateLimiter } = require('../../../clients/node');

const CALLERS = 32;
const KEYS = 10000;
const POOL = { max: 10 };	// node-postgres's default
const WARM_UP = 0.5;		// seconds

const FLOOR = { name: 'floor', text: 'SELECT $1::text' };
const CONSUME = { name: 'rl_consume', text: 'SELECT rl_consume($1, $2, $3)' };

/* Each: make() resolves to { call(key), close() }; call resolves when decided. */
const modes = {
	floor: async () => query(FLOOR, (key) => [key]),
	single: async () => query(CONSUME, (key) => [key, 1e9, 1]),
	batched: () => client({}),
	leased: () => client({ lease: true }),
	async leased_hot() {
		const { call, close } = await client({ lease: true });
		return { call: () => call('one key'), close };
	},
	/* The table that the package would create, but unlogged and with free room. */
	async flexible_postgres() {
		const pool = new Pool(POOL);
		await pool.query(`CREATE UNLOGGED TABLE IF NOT EXISTS flexible (
			key varchar(255) PRIMARY KEY, points integer NOT NULL DEFAULT 0, expire bigint
		) WITH (fillfactor = 50)`);
		const limiter = new RateLimiterPostgres({
			storeClient: pool, tableName: 'flexible', tableCreated: true,
			points: 1e9, duration: 60,
		});
		return { call: (key) => limiter.consume(key), close: () => pool.end() };
	},
	flexible_redis: () => flexibleRedis({}),
	flexible_redis_pipelining: () => flexibleRedis({ enableAutoPipelining: true }),
};

/* A query a call. */
function query(prepared, values) {
	const pool = new Pool(POOL);

	return {
		call: (key) => pool.query({ ...prepared, values: values(key) }),
		close: () => pool.end(),
	};
}

/* The package of clients/node, as it is by default. */
async function client(options) {
	const pool = new Pool(POOL);
	const limiter = new RateLimiter(pool, { capacity: 1e9, refill: 1, ...options });
	await check(pool, options);
	return {
		call: (key) => limiter.consume(key),
		async close() {
			await limiter.close();
			await pool.end();
		},
	};
}

let checks = 0;

/* That what is measured decides rightly: each key once. */
async function check(pool, options) {
	const keys = ['a', 'a', 'a"', 'a\\', '{a,b}', 'NULL', 'null', ' a ', "it's", 'é€😀', 'a\n', 'a"'];
	const limiter = new RateLimiter(pool, { capacity: 1, refill: 0, limiter: `check ${process.pid} ${++checks}`, ...options });
	const decisions = await Promise.all(keys.map((key) => limiter.consume(key)));

	for (const key of keys) {
		assert.strictEqual(decisions.filter((allowed, i) => allowed && keys[i] === key).length, 1, key);
	}
	await limiter.close();
}

async function flexibleRedis(options) {
	const redis = new Redis({ path: process.env.REDIS_SOCKET, ...options });
	const limiter = new RateLimiterRedis({ storeClient: redis, points: 1e9, duration: 60 });
	return { call: (key) => limiter.consume(key), close: () => redis.quit() };
}

const keys = Array.from({ length: KEYS }, (_, i) => `user:${i}`);
const anyKey = () => keys[Math.floor(Math.random() * KEYS)];

/* Calls a second, of callers that call again as soon as they are answered. */
async function throughput(mode, seconds) {
	const begin = performance.now();
	const end = begin + seconds * 1000;
	let calls = 0;

	await Promise.all(Array.from({ length: CALLERS }, async () => {
		while (performance.now() < end) {
			await mode.call(anyKey());
			calls++;
		}
	}));
	return [(calls / (performance.now() - begin)) * 1000];
}

/* Percentiles at a rate. */
async function latencies(mode, seconds, rate) {
	const begin = performance.now();
	const total = Math.floor(rate * seconds);
	const micros = [];
	let sent = 0;

	await new Promise((resolve, reject) => {
		function send() {
			const due = Math.min(total, Math.floor(((performance.now() - begin) / 1000) * rate));

			while (sent < due) {
				const at = begin + (sent++ / rate) * 1000;
				mode.call(anyKey()).then(() => {
					micros.push((performance.now() - at) * 1000);
					if (micros.length === total) resolve();
				}, reject);
			}
			if (sent < total) setImmediate(send);
		}
		send();
	});
	micros.sort((a, b) => a - b);
	return [0.5, 0.99, 0.999].map((p) => micros[Math.floor(total * p)]);
}

async function main(args) {
	const rate = args[0] === '--rate' ? Number(args.splice(0, 2)[1]) : 0;
	const [rounds, seconds, ...names] = args;
	const measure = (mode, s) => (rate ? latencies(mode, s, rate) : throughput(mode, s));
	const ready = [];

	for (const name of names) {
		const mode = await modes[name]();
		await measure(mode, WARM_UP);
		ready.push([name, mode]);
	}
	for (let round = 1; round <= rounds; round++) {
		for (const [name, mode] of ready) {
			const numbers = await measure(mode, Number(seconds));
			console.log(name, round, ...numbers.map((n) => n.toFixed(1)));
		}
		ready.reverse();	// each begins every other round
	}
	for (const [, mode] of ready) await mode.close();
}

main(process.argv.slice(2)).catch((error) => {
	console.error(error);
	process.exit(1);
});
