/*
 * A store of @fastify/rate-limit.
 *
 *	fastify.register(require('@fastify/rate-limit'), { max: 100, store: rateLimitStore(pool) })
 */
'use strict';

const { Counter } = require('../lib/counter');

/* The class that the plugin makes its stores of.  Options as of express-rate-limit's. */
function rateLimitStore(db, { limiter = 'fastify-rate-limit', prefix = '', ...options } = {}) {
	const counter = new Counter(db, { limiter, ...options });

	return class RateLimitStore {
		constructor({ continueExceeding, exponentialBackoff, timeWindow }, keys = prefix) {
			// windows are the same for all keys, so none begins again for one of them
			for (const [name, value] of Object.entries({ continueExceeding, exponentialBackoff })) {
				if (value) throw new TypeError(`${name} is not supported by this store: a window does not begin again`);
			}
			this.keys = keys;
			this.timeWindow = timeWindow;
		}

		incr(key, callback, timeWindow) {
			this.count(key, callback, timeWindow, 1);
		}

		read(key, callback, timeWindow) {
			this.count(key, callback, timeWindow, 0);
		}

		count(key, callback, timeWindow, n) {
			counter.count(this.keys + key, timeWindow ?? this.timeWindow, n).then(
				({ hits, milliseconds }) => callback(null, { current: hits, ttl: hits > 0 ? Math.ceil(milliseconds) : 0 }),
				(error) => callback(error, null));
		}

		/* The store of a route with a limit of its own. */
		child(routeOptions) {
			const { method = '', url = '' } = routeOptions.routeInfo ?? {};

			return new RateLimitStore(routeOptions, `${this.keys}${method}${url}-`);
		}
	};
}

module.exports = { rateLimitStore };
