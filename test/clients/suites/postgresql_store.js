/*
 * The thread in which the stores of fastify_rate_limit.js work.  Each that is not another
 * one's child counts under a name of its own, as the package's store in memory does.
 *
 * The server's clock is that of RATELIMIT_SEAM (test/seam/seam.c).  For each call it is set
 * to what the test says, so that the first call of a store is at the beginning of a window,
 * however long a window is.
 */
'use strict';

const { openSync, writeSync } = require('node:fs');
const { parentPort } = require('node:worker_threads');
const { Pool } = require('pg');
const { rateLimitStore } = require('../../../clients/node/adapters/fastify-rate-limit');

const BEGINNING = 18144000000 * 100;	// ms, of windows of all lengths that the tests have
const CLOCK_AT = 11 * 8;				// in the file: microseconds

const pool = new Pool({ max: 2 });
const seam = openSync(process.env.RATELIMIT_SEAM, 'r+');
const stores = new Map();

function setClock(milliseconds) {
	const bytes = Buffer.alloc(8);

	bytes.writeBigInt64LE(BigInt(Math.round(milliseconds * 1000)));
	writeSync(seam, bytes, 0, 8, CLOCK_AT);
}

parentPort.on('message', (message) => {
	const { id } = message;

	if (message.kind === 'store') {
		const { parent, options } = message;

		if (parent) {
			const { root, store } = stores.get(parent);

			stores.set(id, { root, store: store.child(options) });
		} else {
			const Store = rateLimitStore(pool, { limiter: `suite ${process.pid} ${id}`, timeout: 30000 });

			stores.set(id, { root: { began: undefined }, store: new Store(options) });
		}
		return;
	}

	const { root, store } = stores.get(message.store);
	const { method, key, timeWindow, now } = message;

	root.began ??= now;
	setClock(BEGINNING + now - root.began);
	store[method](key, (error, result) => parentPort.postMessage({ id, error, result }), timeWindow);
});
