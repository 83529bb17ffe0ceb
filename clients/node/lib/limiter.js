/*
 * RateLimiter: what an application calls.  It checks arguments, sends calls to where
 * they are decided, and counts: lib/gatherer.js gathers them into queries, lib/leases.js
 * decides them by portions, and lib/away.js does while the database is away.
 */
'use strict';

const { Away } = require('./away');
const { driverFor } = require('./drivers');
const { Gatherer } = require('./gatherer');
const { Leases } = require('./leases');
const { statementsFor } = require('./statements');

const MAX_CALLS = 1000;		// in a query
const MAX_QUERIES = 8;		// under way, of a kind

function checkNumber(name, value) {
	if (typeof value !== 'number') throw new TypeError(`${name} must be a number, not ${typeof value}`);
	if (!(value >= 0 && value < Infinity)) throw new RangeError(`${name} must be a finite number not below 0, not ${value}`);
	return value;
}

function checkName(name, value, most) {
	if (typeof value !== 'string') throw new TypeError(`${name} must be a string, not ${typeof value}`);
	if (value === '') throw new RangeError(`${name} must not be empty: ""`);
	// no character has more than 3 bytes for each of its units
	if (value.length * 3 > most && Buffer.byteLength(value) > most) {
		throw new RangeError(`${name} must not be longer than ${most} bytes, not "${value.slice(0, 32)}..." of ${Buffer.byteLength(value)} bytes`);
	}
	if (value.includes('\0')) throw new RangeError(`${name} must not contain a zero byte`);
	return value;
}

/* What is a bad argument of one call must not fail the others of its query. */
const checkKey = (key) => checkName('key', key, 255);

function ruleOf({ capacity, refill, limiter, policy }) {
	if (policy !== undefined) {
		for (const [name, value] of Object.entries({ capacity, refill, limiter })) {
			if (value !== undefined) throw new TypeError(`${name} is of the policy, and must not be given with policy`);
		}
		return { policy: checkName('policy', policy, 63), limiter: policy };
	}

	const rule = {
		capacity: checkNumber('capacity', capacity),
		refill: checkNumber('refill', refill),
		limiter: checkName('limiter', limiter ?? 'default', 63),
	};

	if (rule.limiter.includes(':')) throw new RangeError(`limiter must not contain ":": "${rule.limiter}"`);
	return rule;
}

function awayOf(away, rule) {
	if (['throw', 'allow', 'deny'].includes(away)) return away;
	if (away === 'local' && rule.policy === undefined) return { capacity: rule.capacity, refill: rule.refill };
	if (typeof away === 'object' && away !== null) {
		return { capacity: checkNumber('away.capacity', away.capacity), refill: checkNumber('away.refill', away.refill) };
	}
	throw new TypeError("away must be 'throw', 'allow', 'deny', { capacity, refill }, or, with a rule, 'local'");
}

class RateLimiter {
	#rule;
	#cost;
	#driver;
	#statements;
	#away;
	#timeout;
	#metrics;
	#gatherers = {};
	#leases = null;
	#closed = false;
	#stats = { allowed: 0, denied: 0, failed: 0, queries: 0, errors: 0 };

	constructor(db, options = {}) {
		const { cost = 1, schema, timeout = 1000, away = 'throw', lease = false, metrics, prepare } = options;

		this.#rule = ruleOf(options);
		this.#cost = checkNumber('cost', cost);
		this.#timeout = checkNumber('timeout', timeout);
		if (metrics !== undefined && typeof metrics !== 'function') throw new TypeError('metrics must be a function');
		this.#metrics = metrics;
		this.#driver = driverFor(db, { prepare });
		this.#statements = statementsFor(this.#rule, schema);
		this.#away = new Away({
			choice: awayOf(away, this.#rule),
			limiter: this.#rule.limiter,
			probe: (milliseconds) => this.#query(this.#statements.nothing, milliseconds),
			timeout,
			report: (event) => this.#report(event),
		});
		if (lease) {
			if (this.#rule.policy !== undefined) throw new TypeError('lease must not be given with policy');
			for (const name of ['seconds', 'idle']) {
				if (lease[name] !== undefined) checkNumber(`lease.${name}`, lease[name]);
			}
			this.#leases = new Leases({
				rule: this.#rule,
				options: lease === true ? {} : lease,
				take: (call) => this.#send('take', call),
				giveBack: (calls) => this.#giveBack(calls),
				decide: (call, error) => this.#decide(call, error),
				count: (allowed, key) => this.#count(allowed, key, 'lease'),
				report: (event) => this.#report(event),
			});
		}
	}

	/* The rule: { capacity, refill, limiter }, or { policy, limiter }. */
	get rule() {
		return { ...this.#rule };
	}

	/* What this limiter has decided since it was made, and whether the database is away. */
	get stats() {
		return { ...this.#stats, away: this.#away.error !== null };
	}

	/* Resolves to true: go on, or false: too many. */
	consume(key, options) {
		return this.#call(key, options, false);
	}

	/* Resolves to the decision with what an HTTP answer needs. */
	throttle(key, options) {
		return this.#call(key, options, true);
	}

	#call(key, options, whole) {
		let cost = this.#cost;
		let signal;

		try {
			checkKey(key);
			if (typeof options === 'number') {
				cost = checkNumber('cost', options);
			} else if (options !== undefined) {
				if (options.cost !== undefined) cost = checkNumber('cost', options.cost);
				({ signal } = options);
				signal?.throwIfAborted();
			}
			if (this.#closed) throw new Error('the limiter is closed');
		} catch (error) {
			return Promise.reject(error);
		}
		if (this.#leases) {
			return whole ? this.#leases.throttle(key, cost, signal) : this.#leases.consume(key, cost, signal);
		}
		return new Promise((resolve, reject) => {
			const call = new Call(key, cost, whole, signal, resolve, reject);

			if (signal) this.#listen(call);
			this.#send(whole ? 'throttle' : 'consume', call);
		});
	}

	/* A call that is aborted is not sent, unless it is already under way. */
	#listen(call) {
		const { signal } = call;
		const abort = () => {
			this.#gatherers[call.whole ? 'throttle' : 'consume']?.remove(call);
			call.settle.reject(signal.reason);
		};

		call.settle = { resolve: call.resolve, reject: call.reject };
		call.resolve = (value) => {
			signal.removeEventListener('abort', abort);
			call.settle.resolve(value);
		};
		call.reject = (error) => {
			signal.removeEventListener('abort', abort);
			call.settle.reject(error);
		};
		signal.addEventListener('abort', abort, { once: true });
	}

	/* To the database, if it is there. */
	#send(kind, call) {
		if (this.#away.error) {
			if (kind === 'take') call.reject(this.#away.error);
			else this.#decide(call, this.#away.error);
			return;
		}
		(this.#gatherers[kind] ??= this.#gatherer(kind)).add(call);
	}

	#gatherer(kind) {
		const { ask, answers } = this.#statements[kind];
		const decides = kind !== 'take';

		return new Gatherer({
			most: Math.min(MAX_QUERIES, Math.ceil(this.#driver.most / 2)),
			maxCalls: MAX_CALLS,
			timeout: this.#timeout,
			run: async (calls, milliseconds) => {
				const { statement, values } = ask(calls);
				const rows = await this.#driver.query(statement, values, milliseconds);

				return answers(rows, calls);
			},
			settle: (calls, answer) => {
				for (let i = 0; i < calls.length; i++) {
					if (decides) this.#count(answer[i] === true || answer[i].allowed === true, calls[i].key, 'database');
					calls[i].resolve(answer[i]);
				}
			},
			fail: (calls, error) => {
				const waiting = this.#failed(error) ? this.#takeAll() : [];

				for (const call of [...calls, ...waiting]) {
					if (call.wanted !== undefined) call.reject(error);
					else this.#decide(call, error);
				}
			},
			report: (calls, milliseconds, error) => {
				this.#stats.queries++;
				if (error) this.#stats.errors++;
				if (this.#metrics) this.#report({ event: 'query', kind, calls, milliseconds, error });
			},
		});
	}

	/* Is the database away now? */
	#failed(error) {
		this.#away.failed(error);
		return this.#away.error !== null;
	}

	/* All calls that have not been sent. */
	#takeAll() {
		return Object.values(this.#gatherers).flatMap((gatherer) => gatherer.takeAll());
	}

	#query({ statement, values }, milliseconds) {
		return this.#driver.query(statement, values, milliseconds);
	}

	async #giveBack(calls) {
		if (this.#away.error) throw this.#away.error;
		for (let i = 0; i < calls.length; i += MAX_CALLS) {
			await this.#query(this.#statements.giveBack.ask(calls.slice(i, i + MAX_CALLS)), this.#timeout);
		}
	}

	/* Decide a call that the database cannot decide. */
	#decide({ key, cost, whole, resolve, reject }, error) {
		let result;

		try {
			result = this.#away.decide(key, cost, error);
		} catch (thrown) {
			this.#stats.failed++;
			reject(thrown);
			return;
		}
		this.#count(result.allowed, key, result.by);
		resolve(whole ? result : result.allowed);
	}

	#count(allowed, key, by) {
		if (allowed) this.#stats.allowed++;
		else this.#stats.denied++;
		if (this.#metrics) this.#report({ event: 'decision', allowed, key, by });
	}

	/* An error of the application's hook is not one of the call. */
	#report(event) {
		if (!this.#metrics) return;
		try {
			this.#metrics(event);
		} catch (error) {
			process.emitWarning(error);
		}
	}

	/*
	 * Take no more calls, wait for those that are under way, and give back the rest of all
	 * portions.  The application's pool or client stays open.
	 */
	async close() {
		if (this.#closed) return;
		this.#closed = true;
		await Promise.all(Object.values(this.#gatherers).map((gatherer) => gatherer.settled()));
		await this.#leases?.close();
		this.#away.close();
	}
}

class Call {
	constructor(key, cost, whole, signal, resolve, reject) {
		this.key = key;
		this.cost = cost;
		this.whole = whole;
		this.signal = signal;
		this.resolve = resolve;
		this.reject = reject;
		this.since = 0;
	}
}

if (Symbol.asyncDispose) {
	Object.defineProperty(RateLimiter.prototype, Symbol.asyncDispose, { value: RateLimiter.prototype.close, writable: true, configurable: true });
}

const SECONDS = { second: 1, minute: 60, hour: 3600, day: 86400 };

/* The refill for so many tokens per span of time, in tokens per second. */
function per(tokens, span) {
	const seconds = typeof span === 'string' ? SECONDS[span] : span;

	checkNumber('tokens', tokens);
	if (typeof seconds !== 'number' || !(seconds > 0 && seconds < Infinity)) {
		throw new RangeError(`span must be a number of seconds above 0, or ${Object.keys(SECONDS).join(', ')}, not ${span}`);
	}
	return tokens / seconds;
}

module.exports = { RateLimiter, per };
