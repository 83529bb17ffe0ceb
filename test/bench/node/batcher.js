/*
 * Gathers the calls that are made in one turn of the event loop and decides them
 * with one query: rl_consume_each().  Copy this file; it needs nothing but a pool
 * or client of node-postgres.
 *
 *	const { Batcher } = require('./batcher');
 *	const limiter = new Batcher(pool);
 *	if (!await limiter.consume('user:42', 100, 10)) return response.sendStatus(429);
 *
 * Each call still gets a decision of its own, in the order of the calls; calls with
 * different rules go into queries of their own.  If a query fails, its calls fail with
 * its error.  A key that would make it fail is refused before, so that it does not
 * fail the calls of others.
 */
'use strict';

const QUERY = {
	name: 'rl_consume_each',
	text: 'SELECT rl_consume_each($1, $2, $3, $4, $5) AS allowed',
};

class Batcher {
	constructor(pool, { maxKeys = 1000 } = {}) {
		this.pool = pool;
		this.maxKeys = maxKeys;
		this.batches = new Map();	// of this turn, by rule
	}

	/* Resolves to true: go on, or false: too many. */
	consume(key, capacity, refill, cost = 1, limiter = 'default') {
		if (typeof key !== 'string' || key === '' || key.includes('\0') ||
			Buffer.byteLength(key) > 255) {
			return Promise.reject(new RangeError('key must be text of 1 to 255 bytes'));
		}

		const rule = `${capacity} ${refill} ${cost} ${limiter}`;
		let batch = this.batches.get(rule);

		if (!batch) {
			// all that is ready to run in this turn runs before
			if (this.batches.size === 0) setImmediate(() => this.sendAll());
			batch = { keys: [], callers: [], rule: [capacity, refill, cost, limiter] };
			this.batches.set(rule, batch);
		}
		return new Promise((resolve, reject) => {
			batch.keys.push(key);
			batch.callers.push({ resolve, reject });
			if (batch.keys.length === this.maxKeys) {
				this.batches.delete(rule);
				this.send(batch);
			}
		});
	}

	sendAll() {
		const { batches } = this;

		this.batches = new Map();
		for (const batch of batches.values()) this.send(batch);
	}

	async send({ keys, callers, rule }) {
		try {
			const { rows } = await this.pool.query({ ...QUERY, values: [keys, ...rule] });

			callers.forEach((caller, i) => caller.resolve(rows[0].allowed[i]));
		} catch (error) {
			callers.forEach((caller) => caller.reject(error));
		}
	}
}

module.exports = { Batcher };
