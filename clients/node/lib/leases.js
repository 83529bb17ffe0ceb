/*
 * Leases: this process takes tokens in portions, and decides calls by itself as long as
 * it has some.
 *
 * A portion is taken from the bucket before any call uses it, with rl_consume_upto().  So
 * the calls that all processes allow take no more tokens than the bucket has given, also
 * if a process is killed: then what it had left is lost.  A portion is what the key's calls
 * have used in "seconds" lately, and more, for up to ten times "idle", if that is a small part
 * of what the bucket has.  It at most doubles each time, and is at most a share of the capacity.
 * It is asked for before the last one is used up.  A key's first portion is one token, or what
 * other keys use in ten times "idle" if that is a small part of the capacity.
 *
 * If the bucket has less than was asked for, it is empty, and calls are denied here for a
 * short time before it is asked again.  It has room for what comes in that time, so nothing
 * is lost.
 *
 * What a key has left that has not been called for "idle" seconds is given back, with
 * rl_reward(), or after ten times as long if that is a small part of what the bucket has.  So
 * is what is left of a portion that was much too large, and everything when the limiter is
 * closed.
 */
'use strict';

const SHARE = 0.25;			// of the capacity, that one portion may have
const PLENTY = 0.01;		// of what the bucket has: a small part
const LONG = 10;			// times "idle", for which a small part may be held
const RECENT = 0.25;		// the weight of the last sweep in a rate
const LOW = 0.25;			// of a portion: when that is left, the next one is asked for
const MOST_PAUSE = 0.02;	// seconds for which an empty bucket is not asked again
const MAX_KEYS = 100000;

const ALLOWED = Promise.resolve(true);
const DENIED = Promise.resolve(false);

const seconds = () => performance.now() / 1000;

/* What this process has of one key's bucket. */
class Lease {
	constructor(at) {
		this.begun = at;
		this.tokens = 0;
		this.portion = 1;		// how many to ask for
		this.low = 0;			// the next portion is asked for below this
		this.used = 0;			// by calls, so far
		this.usedAsked = 0;		// of them when the last portion was asked for
		this.usedSwept = 0;		// and at the last sweep
		this.rate = 0;			// calls use so many a second, as of the last sweeps
		this.called = at;		// the last sweep before which there was a call
		this.at = 0;			// when the last portion came
		this.asked = 0;			// when it was asked for; 0: never
		this.asking = false;
		this.until = 0;			// an empty bucket is not asked before
		this.waiting = [];		// calls that need the portion that is asked for
		this.remaining = 0;		// in the bucket, when it was last asked
		this.blocked = 0;		// the key is blocked until
	}
}

class Leases {
	/*
	 * take(call) and giveBack(calls) run statements; decide(call, error) decides a call
	 * for which the first fails.  count(allowed, key) is told of decisions.
	 */
	constructor({ rule, options, take, giveBack, decide, count, report }) {
		this.rule = rule;
		this.span = options.seconds ?? 0.1;
		this.idle = options.idle ?? 1;
		this.take = take;
		this.giveBack = giveBack;
		this.decide = decide;
		this.count = count;
		this.report = report;
		this.most = Math.max(1, Math.floor(rule.capacity * SHARE));
		this.pause = rule.refill > 0 ? Math.min(MOST_PAUSE, Math.max(rule.capacity / rule.refill / 4, 0.001)) : MOST_PAUSE;
		this.leases = new Map();
		this.swept = 0;			// when the last sweep was
		this.usual = 1;			// what a key's calls use in ten times "idle": a mean of logarithms, so few of them do not matter
		this.returns = true;	// false: this role may not call rl_reward()
		this.timer = null;
		this.closed = false;
		this.backs = new Set();	// what is being given back
	}

	consume(key, cost, signal) {
		const lease = this.leases.get(key) ?? this.begin(key);

		if (lease.tokens >= cost && lease.waiting.length === 0) {
			lease.tokens -= cost;
			lease.used += cost;
			if (lease.tokens < lease.low && !lease.asking) this.ask(key, lease);
			this.count(true, key);
			return ALLOWED;
		}
		if (this.denies(lease, cost)) {
			this.count(false, key);
			return DENIED;
		}
		return this.wait(key, lease, cost, false, signal);
	}

	throttle(key, cost, signal) {
		const lease = this.leases.get(key) ?? this.begin(key);

		if (lease.tokens >= cost && lease.waiting.length === 0) {
			lease.tokens -= cost;
			lease.used += cost;
			if (lease.tokens < lease.low && !lease.asking) this.ask(key, lease);
			this.count(true, key);
			return Promise.resolve(this.result(lease, true, cost));
		}
		if (this.denies(lease, cost)) {
			this.count(false, key);
			return Promise.resolve(this.result(lease, false, cost));
		}
		return this.wait(key, lease, cost, true, signal);
	}

	begin(key) {
		const lease = new Lease(seconds());

		if (this.leases.size >= MAX_KEYS) this.sweep(true);
		this.leases.set(key, lease);
		// nobody waits for it
		this.timer ??= setInterval(() => this.sweep(false), this.idle * 500).unref();
		return lease;
	}

	/* Is a call denied without asking the bucket? */
	denies(lease, cost) {
		return cost > this.rule.capacity || this.rule.capacity === 0 ||
			(!lease.asking && seconds() < lease.until);
	}

	wait(key, lease, cost, whole, signal) {
		return new Promise((resolve, reject) => {
			const call = { key, cost, whole, signal, resolve, reject };

			lease.waiting.push(call);
			if (signal) {
				call.abort = () => {
					const i = lease.waiting.indexOf(call);

					if (i >= 0) lease.waiting.splice(i, 1);
					reject(signal.reason);
				};
				signal.addEventListener('abort', call.abort, { once: true });
			}
			if (!lease.asking) this.ask(key, lease);
		});
	}

	/* Ask the bucket for a portion. */
	ask(key, lease) {
		const at = seconds();

		if (lease.asked === 0) {
			lease.portion = Math.max(1, Math.floor(Math.min(this.usual, this.rule.capacity * PLENTY, this.most)));
		} else {
			const rate = (lease.used - lease.usedAsked) / (at - lease.asked);
			const portion = Math.max(rate * this.span, Math.min(rate * this.idle * LONG, lease.remaining * PLENTY));

			lease.portion = Math.max(1, Math.min(Math.ceil(portion), 2 * lease.portion, this.most));
		}
		lease.usedAsked = lease.used;
		lease.asked = at;
		lease.asking = true;

		const needed = lease.waiting.reduce((sum, { cost }) => sum + cost, 0) - lease.tokens;
		const call = {
			key,
			wanted: Math.max(lease.portion, Math.ceil(needed)),
			resolve: (answer) => this.taken(key, lease, call.wanted, answer),
			reject: (error) => this.failed(lease, error),
		};

		this.take(call);
	}

	taken(key, lease, wanted, { taken, remaining, retryAfter }) {
		const at = seconds();

		lease.asking = false;
		lease.at = at;
		lease.tokens += taken;
		lease.low = taken < 4 ? 0 : taken * LOW;
		lease.remaining = Math.max(0, remaining);
		lease.blocked = retryAfter > 0 ? at + retryAfter : 0;
		if (taken < wanted) lease.until = at + this.pause;

		let denied = false;

		while (lease.waiting.length > 0) {
			const [call] = lease.waiting;
			const { cost } = call;
			const allowed = lease.tokens >= cost;

			// more calls have come since the bucket was asked, and it may have more
			if (!allowed && taken === wanted) {
				this.ask(key, lease);
				return;
			}
			lease.waiting.shift();
			denied ||= !allowed;
			if (allowed) {
				lease.tokens -= cost;
				lease.used += cost;
			}
			call.signal?.removeEventListener('abort', call.abort);
			this.count(allowed, key);
			call.resolve(call.whole ? this.result(lease, allowed, cost) : allowed);
		}
		// what is too little for a call here may be enough for another process
		if (denied && lease.tokens >= 1 && this.returns) {
			const { tokens } = lease;

			lease.tokens = 0;
			this.back([{ key, tokens }]);
		}
	}

	failed(lease, error) {
		lease.asking = false;
		for (const call of lease.waiting.splice(0)) {
			call.signal?.removeEventListener('abort', call.abort);
			this.decide(call, error);
		}
	}

	/* What is known of the bucket: what it had when it was last asked, and has gained since. */
	result(lease, allowed, cost) {
		const { capacity, refill, limiter } = this.rule;
		const at = seconds();
		const tokens = Math.min(capacity, lease.remaining + (at - lease.at) * refill + lease.tokens);
		let retryAfter = 0;

		if (!allowed) {
			const missing = cost - tokens;

			retryAfter = cost > capacity || capacity === 0 || (missing > 0 && refill === 0) ? null :
				Math.max(missing > 0 ? missing / refill : 0, lease.until - at, lease.blocked - at, 0);
		}
		return {
			allowed,
			capacity,
			remaining: tokens,
			retryAfter,
			resetAfter: tokens >= capacity ? 0 : refill === 0 ? null : (capacity - tokens) / refill,
			limiter,
			shadowed: false,
			by: 'lease',
		};
	}

	/* Give back what is left of what is not used, or of all. */
	sweep(all) {
		const at = seconds();
		const long = this.idle * LONG;
		const since = Math.min(this.idle, at - this.swept);
		const calls = [];
		let logarithms = 0;

		this.swept = at;
		for (const [key, lease] of this.leases) {
			if (lease.used > lease.usedSwept) lease.called = at;
			lease.rate += ((lease.used - lease.usedSwept) / since - lease.rate) * RECENT;
			lease.usedSwept = lease.used;
			logarithms += Math.log(Math.max(1, lease.used * Math.min(1, long / (at - lease.begun))));
			// what this role cannot give back is used later
			if (lease.asking || (lease.tokens >= 1 && !this.returns && !this.closed)) continue;

			const plenty = lease.remaining * PLENTY;
			const idle = at - Math.max(lease.called, lease.at);

			if (all || idle > long || (idle > this.idle && lease.tokens > plenty)) {
				if (lease.tokens > 0) calls.push({ key, tokens: lease.tokens });
				this.leases.delete(key);
				continue;
			}
			if (at - lease.at > this.idle) {
				const expected = 2 * lease.rate * this.idle;
				const tokens = Math.floor(lease.tokens - Math.max(expected, Math.min(expected * LONG, plenty)));

				if (tokens < 1 || tokens < lease.tokens / 2) continue;
				lease.tokens -= tokens;
				calls.push({ key, tokens });
			}
		}
		if (this.leases.size > 0) this.usual = Math.exp(logarithms / this.leases.size);
		if (this.leases.size === 0) {
			clearInterval(this.timer);
			this.timer = null;
		}
		if (calls.length > 0 && this.returns) this.back(calls);
	}

	back(calls) {
		const back = this.sendBack(calls).finally(() => this.backs.delete(back));

		this.backs.add(back);
	}

	async sendBack(calls) {
		const tokens = calls.reduce((sum, call) => sum + call.tokens, 0);

		try {
			await this.giveBack(calls);
			this.report({ event: 'returned', keys: calls.length, tokens });
		} catch (error) {
			if (error.code === '42501') {
				this.returns = false;
				process.emitWarning('this role may not call rl_reward(), so portions that are not used cannot be given back',
					'RateLimitWarning');
			}
			this.report({ event: 'lost', keys: calls.length, tokens, error });
		}
	}

	async close() {
		this.closed = true;
		clearInterval(this.timer);
		this.timer = null;
		this.sweep(true);
		await Promise.all(this.backs);
	}
}

module.exports = { Leases };
