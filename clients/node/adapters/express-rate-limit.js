/*
 * A store of express-rate-limit.
 *
 *	rateLimit({ windowMs: 60000, limit: 100, store: new RateLimitStore(pool) })
 */
'use strict';

const { Counter } = require('../lib/counter');

class RateLimitStore {
	/* Options: limiter, under which hits are counted; prefix of keys; schema, timeout, prepare. */
	constructor(db, { limiter = 'express-rate-limit', prefix = '', ...options } = {}) {
		this.counter = new Counter(db, { limiter, ...options });
		this.prefix = prefix;
		this.localKeys = false;
		this.windowMs = undefined;
	}

	init({ windowMs }) {
		this.windowMs = windowMs;
	}

	async increment(key) {
		const { hits, milliseconds } = await this.counter.count(this.prefix + key, this.windowMs);

		return { totalHits: hits, resetTime: new Date(Date.now() + milliseconds) };
	}

	async get(key) {
		const { hits, milliseconds } = await this.counter.count(this.prefix + key, this.windowMs, 0);

		return hits > 0 ? { totalHits: hits, resetTime: new Date(Date.now() + milliseconds) } : undefined;
	}

	async decrement(key) {
		await this.counter.count(this.prefix + key, this.windowMs, -1);
	}

	async resetKey(key) {
		await this.counter.reset(this.prefix + key, this.windowMs);
	}

	async shutdown() {
		await this.counter.close();
	}
}

module.exports = { RateLimitStore };
