/*
 * One of several processes that use leases of one bucket: node lease_process.js OPTIONS.
 * It calls more often than the bucket allows, and writes how many calls it was allowed to
 * a file after each of them, so that the number is there when it is killed.  SIGTERM ends
 * it in order.
 */
'use strict';

const { openSync, writeSync } = require('node:fs');
const { Pool } = require('pg');
const { newLimiter, sleep } = require('./support');

const { file, rule, callers } = JSON.parse(process.argv[2]);
const out = openSync(file, 'w');
const count = Buffer.alloc(8);
let allowed = 0;
let ended = false;

process.on('SIGTERM', () => {
	ended = true;
});

async function main() {
	const pool = new Pool({ max: 4 });
	const limiter = newLimiter(pool, rule);

	await Promise.all(Array.from({ length: callers }, async () => {
		while (!ended) {
			if (await limiter.consume('bucket')) {
				count.writeBigInt64LE(BigInt(++allowed));
				writeSync(out, count, 0, 8, 0);
				await null;
			} else {
				await sleep(1);
			}
		}
	}));
	await limiter.close();
	await pool.end();
}

main();
