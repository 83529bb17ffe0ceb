/*
 * A limiter of rate-limiter-flexible, made with the application's own copy of it, so that
 * it works together with the package's other classes.
 *
 *	const RateLimiterRatelimit = rateLimiterRatelimit(require('rate-limiter-flexible'));
 *	const limiter = new RateLimiterRatelimit({ storeClient: pool, points: 100, duration: 60 });
 */
'use strict';

const { Counter } = require('../lib/counter');

function rateLimiterRatelimit({ RateLimiterPostgres, RateLimiterRes }) {
	// the class that the limiters with a store have in common is not exported
	const RateLimiterStoreAbstract = Object.getPrototypeOf(RateLimiterPostgres);

	return class RateLimiterRatelimit extends RateLimiterStoreAbstract {
		/* Options: those of the package; also limiter, schema, timeout and prepare. */
		constructor(options) {
			super(options);

			const { storeClient, limiter = 'rate-limiter-flexible', schema, timeout, prepare } = options;

			if (!(this.duration > 0)) throw new TypeError('duration must be above 0: hits are counted in windows that end');
			this.client = storeClient;
			this.counter = new Counter(storeClient, { limiter, schema, timeout, prepare });
		}

		/*
		 * consume, penalty and reward add points.  set and block (forceExpire) say how many
		 * there are: more than the limiter's mean that the key is blocked.
		 */
		async _upsert(key, points, milliseconds, forceExpire = false) {
			if (!forceExpire) return this.counter.count(key, milliseconds, points);
			if (points <= this.points && milliseconds !== this.msDuration) {
				throw new RangeError(`set() can say how many points there are in a window of ${this.duration} s only, not in ${milliseconds / 1000} s`);
			}
			await this.counter.reset(key, this.msDuration);
			if (points <= this.points) return this.counter.count(key, this.msDuration, points);
			await this.counter.block(key, milliseconds > 0 ? milliseconds : 1e12);
			return this.counter.count(key, this.msDuration, 0);
		}

		async _get(key) {
			const counted = await this.counter.count(key, this.msDuration, 0);

			return counted.hits > 0 || counted.blocked > 0 ? counted : null;
		}

		async _delete(key) {
			const { hits, blocked } = await this.counter.count(key, this.msDuration, 0);

			if (blocked > 0) await this.counter.unblock(key);
			await this.counter.reset(key, this.msDuration);
			return hits > 0 || blocked > 0;
		}

		/* What is blocked has more points than those at which the package blocks it. */
		_getRateLimiterRes(key, changedPoints, { hits, milliseconds, blocked }) {
			const least = Math.max(this.points + 1, this.blockOnConsumed || 0) + Math.max(changedPoints, 0);
			const consumed = blocked > 0 ? Math.max(hits, least) : hits;
			const result = new RateLimiterRes();

			result.consumedPoints = consumed;
			result.isFirstInDuration = blocked === 0 && changedPoints !== 0 && hits === changedPoints;
			result.remainingPoints = Math.max(this.points - consumed, 0);
			result.msBeforeNext = Math.ceil(blocked > 0 ? blocked : milliseconds);
			return result;
		}
	};
}

module.exports = { rateLimiterRatelimit };
