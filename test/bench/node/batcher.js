/*
 * Gathers the calls that are made in one turn of the event loop and decides them
 * with one query: rl_consume_each().  Copy this file; it needs nothing but a pool
 * or client of node-postgres.
 *
 *	const { Batcher } = require('./batcher');
 *	const limiter = new Batcher(pool);
 *	if (!await limiter.consume('user:42', 100, 10)) return response.sendStatus(429);
 *
 * Each call still gets a decision of its own, in the order of the query's calls; calls
 * with different rules go into queries of their own, and so do those beyond maxKeys.
 * If a query fails, its calls fail with its error.  A key that would make it fail is
 * refused before, so that it does not fail the calls of others.
 */
'use strict';

const QUERY = {
	name: 'rl_consume_each',
	text: 'SELECT rl_consume_each($1, $2, $3, $4, $5)',
	rowMode: 'array',
	types: { getTypeParser: () => (text) => text },	// {t,f,...}: as it comes
};

/* The text of a PostgreSQL array. */
const arrayOf = (keys) => `{"${keys.map((key) => (/["\\]/.test(key) ?
	key.replace(/["\\]/g, '\\$&') : key)).join('","')}"}`;

class Batcher {
	constructor(pool, { maxKeys = 1000 } = {}) {
		this.pool = pool;
		this.maxKeys = maxKeys;
		this.batches = [];		// of this turn: one for each rule
	}

	/* Resolves to true: go on, or false: too many. */
	consume(key, capacity, refill, cost = 1, limiter = 'default') {
		if (typeof key !== 'string' || key === '' || key.includes('\0') ||
			(key.length > 85 && Buffer.byteLength(key) > 255)) {
			return Promise.reject(new RangeError('key must be text of 1 to 255 bytes'));
		}
		return new Promise((resolve, reject) => {
			const batch = this.batchFor(capacity, refill, cost, limiter);

			batch.keys.push(key);
			batch.callers.push({ resolve, reject });
		});
	}

	batchFor(capacity, refill, cost, limiter) {
		let batch = this.batches.find(({ keys, rule }) => keys.length < this.maxKeys &&
			rule[0] === capacity && rule[1] === refill && rule[2] === cost && rule[3] === limiter);

		if (!batch) {
			// all that is ready to run in this turn runs before
			if (this.batches.length === 0) setImmediate(() => this.sendAll());
			batch = { rule: [capacity, refill, cost, limiter], keys: [], callers: [] };
			this.batches.push(batch);
		}
		return batch;
	}

	sendAll() {
		const { batches } = this;

		this.batches = [];
		for (const batch of batches) this.send(batch);
	}

	async send({ rule, keys, callers }) {
		try {
			const { rows } = await this.pool.query({ ...QUERY, values: [arrayOf(keys), ...rule] });
			const answer = rows[0][0];

			callers.forEach(({ resolve }, i) => resolve(answer[1 + 2 * i] === 't'));
		} catch (error) {
			callers.forEach(({ reject }) => reject(error));
		}
	}
}

module.exports = { Batcher };
