/*
 * node --require fastify_rate_limit.js TEST: a test of @fastify/rate-limit, with the store of
 * clients/node in place of the package's own ones.  RATELIMIT_SUITE=own: with its own in memory.
 *
 * The tests replace this thread's timers and clock, so the store works in another thread
 * (postgresql_store.js), which has real ones, and each call tells it what time it is here.
 * The tests for Redis get one that does nothing.
 */
'use strict';

const Module = require('node:module');
const { join } = require('node:path');
const { mock } = require('node:test');
const { Worker } = require('node:worker_threads');
const { rateLimitStore } = require('../../../clients/node/adapters/fastify-rate-limit');

let worker;
const waiting = new Map();
let last = 0;

function post(message) {
	if (!worker) {
		worker = new Worker(join(__dirname, 'postgresql_store.js'));
		worker.on('message', ({ id, error, result }) => {
			const callback = waiting.get(id);

			waiting.delete(id);
			// the process ends when nothing waits
			if (waiting.size === 0) worker.unref();
			callback(error ?? null, result);
		});
		worker.on('error', (error) => {
			throw error;
		});
		worker.unref();
	}
	worker.postMessage(message);
}

/* Raises what the store's constructor raises. */
const Checked = rateLimitStore({ query() {}, connect() {}, totalCount: 0 });

class Store {
	constructor(options, parent) {
		this.checked = parent ? parent.checked.child(options) : new Checked(options);
		this.id = ++last;

		const { timeWindow, routeInfo: { method, url } = {} } = options;

		post({
			kind: 'store',
			id: this.id,
			parent: parent?.id,
			options: { timeWindow: typeof timeWindow === 'number' ? timeWindow : undefined, routeInfo: { method, url } },
		});
	}

	call(method, key, callback, timeWindow) {
		const id = ++last;

		waiting.set(id, callback);
		post({ kind: 'call', id, store: this.id, method, key, timeWindow, now: Date.now() });
		worker.ref();
	}

	incr(key, callback, timeWindow) {
		this.call('incr', key, callback, timeWindow);
	}

	read(key, callback, timeWindow) {
		this.call('read', key, callback, timeWindow);
	}

	child(options) {
		return new Store(options, this);
	}
}

function OurStore(continueExceeding, exponentialBackoff) {
	return new Store({ continueExceeding, exponentialBackoff });
}

class NoRedis {
	async flushall() {
	}

	async quit() {
	}
}

/* What a case that has failed leaves behind does not matter to the next one. */
const enable = mock.timers.enable.bind(mock.timers);

mock.timers.enable = (...options) => {
	mock.timers.reset();
	enable(...options);
};

const load = Module._load;

Module._load = function loadOurs(request, ...others) {
	if (request === 'ioredis') return NoRedis;
	if (/^\.\/store\/(Local|Redis)Store$/.test(request)) {
		if (process.env.RATELIMIT_SUITE !== 'own') return OurStore;

		const LocalStore = load.call(this, './store/LocalStore', ...others);

		return request === './store/LocalStore' ? LocalStore : function InPlaceOfRedis(...options) {
			return new LocalStore(...options.slice(0, 2));
		};
	}
	return load.call(this, request, ...others);
};
