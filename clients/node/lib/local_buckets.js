/*
 * Buckets of this process, of one rule.  They decide while the database is away, and
 * whatever has to be decided without one.
 */
'use strict';

const MAX_BUCKETS = 100000;	// of a process

class LocalBuckets {
	constructor({ capacity, refill }) {
		this.capacity = capacity;
		this.refill = refill;
		this.buckets = new Map();		// of those that are not full; the oldest first
	}

	throttle(key, cost, limiter) {
		const { capacity, refill } = this;
		const at = performance.now() / 1000;
		const bucket = this.buckets.get(key);
		let tokens = bucket ? Math.min(capacity, bucket.tokens + (at - bucket.at) * refill) : capacity;
		const allowed = capacity > 0 && tokens >= cost;

		if (allowed) tokens -= cost;
		this.buckets.delete(key);
		this.buckets.set(key, { tokens, at });
		// of all buckets the oldest is most likely to be full
		if (this.buckets.size > MAX_BUCKETS) this.buckets.delete(this.buckets.keys().next().value);
		return {
			allowed,
			capacity,
			remaining: tokens,
			retryAfter: allowed ? 0 : cost > capacity || capacity === 0 || refill === 0 ? null : (cost - tokens) / refill,
			resetAfter: capacity === tokens ? 0 : refill === 0 ? null : (capacity - tokens) / refill,
			limiter,
			shadowed: false,
			by: 'local',
		};
	}
}

module.exports = { LocalBuckets };
