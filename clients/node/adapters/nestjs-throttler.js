/*
 * A storage of @nestjs/throttler.
 *
 *	ThrottlerModule.forRoot({ throttlers: [...], storage: new ThrottlerStorage(pool) })
 */
'use strict';

const { Counter } = require('../lib/counter');

class ThrottlerStorage {
	/* Options: limiter, under which hits are counted; schema, timeout, prepare. */
	constructor(db, { limiter = 'nestjs-throttler', ...options } = {}) {
		this.counter = new Counter(db, { limiter, ...options });
	}

	/*
	 * Times are milliseconds, and those of the answer seconds.  A key with too many hits
	 * is blocked until its window ends, or for blockDuration if that is longer than the
	 * window: then the role needs the right to call rl_block().
	 */
	async increment(key, ttl, limit, blockDuration, throttlerName) {
		const name = `${throttlerName}:${key}`;
		const { hits, milliseconds, blocked } = await this.counter.count(name, ttl);
		let wait = hits > limit ? Math.max(milliseconds, blocked) : blocked;

		// the first call that is too many
		if (hits > limit && hits <= limit + 1 && blocked === 0 && blockDuration > ttl) {
			await this.counter.block(name, blockDuration);
			wait = blockDuration;
		}
		return {
			totalHits: hits,
			timeToExpire: Math.ceil(milliseconds / 1000),
			isBlocked: wait > 0,
			timeToBlockExpire: Math.ceil(wait / 1000),
		};
	}

	async onApplicationShutdown() {
		await this.counter.close();
	}
}

module.exports = { ThrottlerStorage };
