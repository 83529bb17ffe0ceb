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
const MAX_POLICIES = 64;	// in a call

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

/*
 * The policies that a call names: [{ policy, key, cost }].  They are as many as
 * rl_consume_policies() takes.
 */
function checkPolicies(entries, cost) {
	if (!Array.isArray(entries)) throw new TypeError(`policies must be an array, not ${typeof entries}`);
	if (entries.length < 1 || entries.length > MAX_POLICIES) {
		throw new RangeError(`policies must be from 1 to ${MAX_POLICIES}, not ${entries.length}`);
	}
	return entries.map((entry) => ({
		policy: checkName('policy', entry?.policy, 63),
		key: checkKey(entry.key),
		cost: entry.cost === undefined ? cost : checkNumber('cost', entry.cost),
	}));
}

/* Which options make a rule of each kind: the first one says that it is of that kind. */
const KINDS = [['policies'], ['policy'], ['slots', 'limiter'], ['period', 'allowance', 'limiter'], ['capacity', 'refill', 'limiter']];

function ruleOf(options) {
	const kind = KINDS.find(([first]) => options[first] !== undefined) ?? KINDS.at(-1);

	for (const name of new Set(KINDS.flat())) {
		if (options[name] !== undefined && !kind.includes(name)) throw new TypeError(`${name} must not be given with ${kind[0]}`);
	}

	const { policies, policy, slots, period, allowance, capacity, refill, limiter } = options;

	if (policies !== undefined) {
		if (policies !== true) throw new TypeError('policies must be true: each call names its own');
		return { policies: true, limiter: 'policies' };
	}
	if (policy !== undefined) return { policy: checkName('policy', policy, 63), limiter: policy };

	const rule = { limiter: checkName('limiter', limiter ?? 'default', 63) };

	if (slots !== undefined) {
		rule.slots = checkNumber('slots', slots);
	} else if (period !== undefined) {
		rule.period = checkName('period', period, 255);
		rule.allowance = checkNumber('allowance', allowance);
	} else {
		rule.capacity = checkNumber('capacity', capacity);
		rule.refill = checkNumber('refill', refill);
	}
	if (rule.limiter.includes(':')) throw new RangeError(`limiter must not contain ":": "${rule.limiter}"`);
	return rule;
}

function awayOf(away, rule) {
	if (['throw', 'allow', 'deny'].includes(away)) return away;
	if (away === 'local' && rule.capacity !== undefined) return { capacity: rule.capacity, refill: rule.refill };
	if (typeof away === 'object' && away !== null && rule.slots === undefined && !rule.policies) {
		return { capacity: checkNumber('away.capacity', away.capacity), refill: checkNumber('away.refill', away.refill) };
	}
	throw new TypeError("away must be 'throw', 'allow', 'deny', but for slots and policies { capacity, refill }, or, with capacity and refill, 'local'");
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
			if (this.#rule.capacity === undefined) throw new TypeError('lease must be given with capacity and refill only');
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

	/*
	 * Take tokens before it is known how many will be used.  Resolves to a reservation,
	 * or null if they are not there.  expires: seconds, after which all are used.
	 */
	async reserve(key, tokens, { expires = 60, signal } = {}) {
		const id = await this.#handle('reserve', key, { cost: checkNumber('tokens', tokens), expires: checkNumber('expires', expires), signal });

		return id === null ? null : new Reservation(id, (used) => this.#handle('settle', null, { id, cost: checkNumber('used', used) }));
	}

	/*
	 * Hold some of the rule's slots.  Resolves to what holds them, or null if there are not
	 * so many.  hold: seconds, after which they are free.
	 */
	async acquire(key, { weight = 1, hold = 30, signal } = {}) {
		const id = await this.#handle('acquire', key, { cost: checkNumber('weight', weight), hold: checkNumber('hold', hold), signal });

		return id === null ? null : new Slots(id, () => this.#handle('release', null, { id }),
			(seconds) => this.#handle('renew', null, { id, hold: checkNumber('hold', seconds) }));
	}

	/* A call about something with a number.  Number 0 stands for nothing. */
	#handle(kind, key, { signal, ...options }) {
		const about = options.id !== undefined;

		if (!this.#statements[kind]) throw new TypeError(`${kind}() needs another rule`);
		if (!about) checkKey(key);
		signal?.throwIfAborted();
		// what is held can be given back while the limiter closes
		if (this.#closed && !about) throw new Error('the limiter is closed');
		return new Promise((resolve, reject) => {
			const call = Object.assign(new Call(key, 0, false, signal, resolve, reject), options, { kind });

			if (signal) this.#listen(call);
			this.#send(kind, call);
		});
	}

	#call(key, options, whole) {
		let cost = this.#cost;
		let signal;

		try {
			if (!this.#rule.policies) checkKey(key);
			if (typeof options === 'number') {
				cost = checkNumber('cost', options);
			} else if (options !== undefined) {
				if (options.cost !== undefined) cost = checkNumber('cost', options.cost);
				({ signal } = options);
				signal?.throwIfAborted();
			}
			if (this.#rule.policies) key = checkPolicies(key, cost);
			if (this.#closed) throw new Error('the limiter is closed');
			if (!this.#statements.consume) throw new TypeError('slots are acquired, not consumed');
		} catch (error) {
			return Promise.reject(error);
		}
		if (this.#leases) {
			return whole ? this.#leases.throttle(key, cost, signal) : this.#leases.consume(key, cost, signal);
		}
		return new Promise((resolve, reject) => {
			const call = new Call(key, cost, whole, signal, resolve, reject);

			if (signal) this.#listen(call);
			this.#send(call.kind, call);
		});
	}

	/* A call that is aborted is not sent, unless it is already under way. */
	#listen(call) {
		const { signal } = call;
		const abort = () => {
			this.#gatherers[call.kind]?.remove(call);
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
			this.#fail(call, this.#away.error);
			return;
		}
		(this.#gatherers[kind] ??= this.#gatherer(kind)).add(call);
	}

	#gatherer(kind) {
		const { ask, answers } = this.#statements[kind];
		const decides = kind === 'consume' || kind === 'throttle';
		const holds = kind === 'reserve' || kind === 'acquire';

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
					else if (holds) this.#count(answer[i] !== null, calls[i].key, 'database');
					calls[i].resolve(answer[i]);
				}
			},
			fail: (calls, error) => {
				const waiting = this.#failed(error) ? this.#takeAll() : [];

				for (const call of [...calls, ...waiting]) this.#fail(call, error);
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

	/* A call has failed: it is decided otherwise, unless it is not for a decision. */
	#fail(call, error) {
		if (call.kind === undefined || call.id !== undefined) call.reject(error);
		else this.#decide(call, error);
	}

	/* Decide a call that the database cannot decide. */
	#decide({ kind, key, cost, whole, resolve, reject }, error) {
		let result;

		try {
			result = this.#away.decide(key, cost, error);
		} catch (thrown) {
			this.#stats.failed++;
			reject(thrown);
			return;
		}
		this.#count(result.allowed, key, result.by);
		// nothing is held, so there is nothing to give back
		if (kind === 'reserve' || kind === 'acquire') resolve(result.allowed ? 0n : null);
		else resolve(whole ? result : result.allowed);
	}

	#count(allowed, key, by) {
		if (allowed) this.#stats.allowed++;
		else this.#stats.denied++;
		if (this.#metrics) this.#report({ event: 'decision', allowed, key, by });
	}

	/* An error of the application's hook is not one of the call.  Without a hook, a warning says that the database is away. */
	#report(event) {
		if (!this.#metrics) {
			if (event.event === 'away') {
				// of several addresses that refuse, Node's error has only a code
				const why = event.error.message || event.error.code;

				process.emitWarning(`the database of limiter "${this.#rule.limiter}" is away: ${why}`, { code: 'RATELIMIT_AWAY' });
			}
			return;
		}
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

/* What reserve() resolves to. */
class Reservation {
	#settle;

	constructor(id, settle) {
		this.id = id;
		this.#settle = settle;
	}

	/*
	 * Say how many tokens were used; the others go back.  Resolves to the tokens left in the
	 * bucket, or null if the reservation is not outstanding.
	 */
	async settle(used) {
		return this.id === 0n ? null : this.#settle(used);
	}
}

/* What acquire() resolves to. */
class Slots {
	#release;
	#renew;

	constructor(id, release, renew) {
		this.id = id;
		this.#release = release;
		this.#renew = renew;
	}

	/* Free the slots.  Resolves to false if they were not held any more. */
	async release() {
		return this.id === 0n ? true : this.#release();
	}

	/* Hold the slots for so many seconds from now.  Resolves to false if they are not held any more. */
	async renew(hold = 30) {
		return this.id === 0n ? true : this.#renew(hold);
	}
}

class Call {
	constructor(key, cost, whole, signal, resolve, reject) {
		this.kind = whole ? 'throttle' : 'consume';
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
