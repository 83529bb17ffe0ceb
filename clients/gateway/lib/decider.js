/*
 * Decides what one request asks for: calls { policy, key, cost, lease, away }.
 *
 * All calls that are not leased go to the database together, and take their tokens all or
 * none.  Leased ones are decided before them by this process, one after the other: if one
 * is denied, nothing else is taken.
 *
 * What cannot be decided, because the database is away, a policy does not exist or so many
 * requests wait already, is allowed or denied as each call says.
 */
'use strict';

const { RateLimiter } = require('ratelimit-postgresql');
const { logSometimes } = require('./log');

const MOST_WAITING = 10000;		// requests at a time
const UNDEFINED_OBJECT = '42704';
const UNTRANSLATABLE = '22P05';		// a character that the encoding of the database does not have

class Decider {
	#pool;
	#options;
	#policies;
	#together;
	#leased = new Map();		// by policy: { rule, limiter }
	#closing = new Set();
	#waiting = 0;

	constructor({ pool, policies, timeout, schema }) {
		this.#pool = pool;
		this.#policies = policies;
		this.#options = { timeout, schema, away: 'throw' };
		this.#together = new RateLimiter(pool, { policies: true, ...this.#options });
	}

	/*
	 * Resolves to { allowed, results }: results of throttle() in the order of the calls,
	 * undefined where nobody was asked.
	 */
	async decide(calls) {
		if (calls.length === 0) return { allowed: true, results: [] };
		if (this.#waiting >= MOST_WAITING) {
			return this.#without(calls, new Error(`${MOST_WAITING} requests wait already`));
		}
		this.#waiting++;
		try {
			return await this.#ask(calls);
		} catch (error) {
			return this.#without(calls, error);
		} finally {
			this.#waiting--;
		}
	}

	async #ask(calls) {
		try {
			return await this.#once(calls);
		} catch (error) {
			if (error.code !== UNDEFINED_OBJECT && error.code !== UNTRANSLATABLE) throw error;
			// the query of several requests has failed because of a policy or a key that one of them names
			await this.#policies.read();
			return this.#once(calls);
		}
	}

	async #once(asked) {
		const calls = asked.map((call) => ({ ...call, key: this.#policies.keyFor(call.key) }));
		const results = calls.map(() => undefined);
		const together = [];

		for (const { policy, away } of calls) {
			if (this.#policies.exists(policy)) continue;
			logSometimes(`policy ${policy}`, `policy ${JSON.stringify(policy)} does not exist, so away decides: ${away}`);
			if (away === 'deny') return { allowed: false, results };
		}
		for (const [i, { policy, key, cost, lease }] of calls.entries()) {
			if (!this.#policies.exists(policy)) continue;

			const limiter = lease ? this.#leaseOf(policy) : null;

			if (limiter) {
				results[i] = await limiter.throttle(key, cost);
				if (!results[i].allowed) return { allowed: false, results };
			} else {
				together.push(i);
			}
		}
		if (together.length === 0) return { allowed: true, results };

		const answer = await this.#together.throttle(together.map((i) => calls[i]));

		together.forEach((i, j) => {
			results[i] = answer.results[j];
		});
		return { allowed: answer.allowed, results };
	}

	/* The limiter that leases a policy's tokens; null: they cannot be leased. */
	#leaseOf(policy) {
		const rule = this.#policies.leasable(policy);
		const present = this.#leased.get(policy);

		if (present && rule && present.rule.capacity === rule.capacity && present.rule.refill === rule.refill &&
			present.rule.limiter === rule.limiter) return present.limiter;
		if (present) {
			// with another rule, what is left of the portions goes back
			this.#leased.delete(policy);
			const closing = present.limiter.close().finally(() => this.#closing.delete(closing));

			this.#closing.add(closing);
		}
		if (!rule) {
			logSometimes(`lease ${policy}`, `policy ${JSON.stringify(policy)} cannot be leased, so each call is decided by its buckets: ` +
				'that needs one enabled tier with a refill, not in shadow and without initial');
			return null;
		}

		const limiter = new RateLimiter(this.#pool, { ...rule, lease: true, ...this.#options });

		this.#leased.set(policy, { rule, limiter });
		return limiter;
	}

	#without(calls, error) {
		logSometimes(`undecided ${error.code ?? error.message}`, `cannot decide, so away does: ${error.message}`);
		return { allowed: calls.every(({ away }) => away === 'allow'), results: calls.map(() => undefined) };
	}

	/* Wait for what is under way, and give back the rest of all portions. */
	async close() {
		await Promise.all([this.#together.close(), ...[...this.#leased.values()].map(({ limiter }) => limiter.close()), ...this.#closing]);
	}
}

module.exports = { Decider };
