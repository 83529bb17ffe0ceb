/*
 * The rows of rate_limit_policies, read again each second.
 *
 * Decisions do not need them: the database obeys its own table at once.  They say which
 * policies do not exist, which of them can be leased, and whether the database is there at
 * all: the gateway is ready while the last reading has succeeded.
 */
'use strict';

const { asciiKey } = require('./keys');
const { logSometimes } = require('./log');

const INTERVAL = 1000;		// ms
const HOLD_ALL = ['UTF8', 'SQL_ASCII'];		// encodings of databases that take all that a client may send

const quoted = (name) => `"${name.replace(/"/g, '""')}"`;

class Policies {
	#pool;
	#text;
	#changed;
	#timer = null;
	#reading = null;
	#encoding = null;
	#stopped = false;

	/* changed() is told when the gateway becomes ready, or is not any more. */
	constructor({ pool, schema, changed }) {
		this.#pool = pool;
		this.#text = `SELECT policy, tier, capacity, refill, enabled,
			initial IS NULL AND period IS NULL AND NOT shadow AS plain
			FROM ${schema === undefined ? '' : `${quoted(schema)}.`}rate_limit_policies`;
		this.#changed = changed;
		this.ready = false;
		this.tiers = null;		// by policy; null: they have never been read
	}

	async start() {
		await this.read();
		if (!this.#stopped) this.#timer = setTimeout(() => this.start(), INTERVAL);
	}

	/* Read them now. */
	read() {
		this.#reading ??= this.#read().finally(() => {
			this.#reading = null;
		});
		return this.#reading;
	}

	async #read() {
		let ready = true;

		try {
			this.#encoding ??= (await this.#pool.query('SELECT pg_catalog.getdatabaseencoding() AS name')).rows[0].name;

			const { rows } = await this.#pool.query(this.#text);
			const tiers = new Map();

			for (const row of rows) tiers.set(row.policy, [...(tiers.get(row.policy) ?? []), row]);
			this.tiers = tiers;
		} catch (error) {
			// without the right to read them, decisions are made all the same
			ready = error.code === '42501';
			logSometimes('policies', `cannot read rate_limit_policies: ${error.message}`);
		}
		if (ready !== this.ready) {
			this.ready = ready;
			this.#changed(ready);
		}
	}

	/*
	 * A key as the database can hold it.  What it cannot would be an error of the query, and so
	 * of all requests that are decided with it.
	 */
	keyFor(key) {
		return this.#encoding === null || HOLD_ALL.includes(this.#encoding) ? key : asciiKey(key);
	}

	/* False: the policy does not exist; what is not known may. */
	exists(policy) {
		return this.tiers === null || this.tiers.has(policy);
	}

	/*
	 * The rule of a policy, as one that can be leased: { capacity, refill, limiter }.  Null:
	 * it has several tiers, or one that leases do not know.
	 */
	leasable(policy) {
		const tiers = this.tiers?.get(policy)?.filter(({ enabled }) => enabled) ?? [];

		if (tiers.length !== 1 || !tiers[0].plain) return null;

		const [{ tier, capacity, refill }] = tiers;

		return { capacity, refill, limiter: tier === 'default' ? policy : `${policy}/${tier}` };
	}

	async stop() {
		this.#stopped = true;
		clearTimeout(this.#timer);
		await this.#reading;
	}
}

module.exports = { Policies };
