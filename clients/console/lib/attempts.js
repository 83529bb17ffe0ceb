/*
 * Attempts to log in: limited by who asks and by the role that is named, before the
 * database is asked.  The buckets are those that the client of the extension keeps in its
 * process while the database is away, because nobody is connected yet who could ask the
 * extension itself.
 */
'use strict';

const { clientKey } = require('ratelimit-postgresql');
const { LocalBuckets } = require('ratelimit-postgresql/internal/local_buckets');
const { Refusal } = require('./errors');

const OF_AN_ADDRESS = { capacity: 10, refill: 1 / 30 };
const OF_A_ROLE = { capacity: 20, refill: 1 / 30 };		// from all addresses
const AT_A_TIME = 4;

class Attempts {
	#addresses = new LocalBuckets(OF_AN_ADDRESS);
	#roles = new LocalBuckets(OF_A_ROLE);
	#hops;
	#underWay = 0;

	constructor({ hops }) {
		this.#hops = hops;
	}

	/* Run the attempt if there may be another one. */
	async run(request, role, attempt) {
		const decisions = [this.#addresses.throttle(this.#addressOf(request), 1)];

		// what an address has no tokens for does not use up those of a role
		if (decisions[0].allowed) decisions.push(this.#roles.throttle(typeof role === 'string' ? role.slice(0, 64) : '', 1));

		const denied = decisions.find(({ allowed }) => !allowed);

		if (denied) {
			throw new Refusal(429, 'attempts', 'Too many attempts to log in. Wait a little.', { retryAfter: Math.ceil(denied.retryAfter) });
		}
		if (this.#underWay >= AT_A_TIME) throw new Refusal(503, 'attempts', 'Others are just logging in. Try again.', { retryAfter: 1 });
		this.#underWay++;
		try {
			return await attempt();
		} finally {
			this.#underWay--;
		}
	}

	#addressOf(request) {
		return clientKey(request, { hops: this.#hops });
	}
}

module.exports = { Attempts };
