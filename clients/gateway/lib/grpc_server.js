/*
 * Envoy's rate limit service v3, and grpc.health.v1, over gRPC.
 *
 * The packages @grpc/grpc-js and @grpc/proto-loader are needed only here.
 */
'use strict';

const { join } = require('node:path');
const { fieldsOf } = require('./answer');
const { log } = require('./log');

const PROTO = join(__dirname, '../proto');
const SERVICE = 'envoy.service.ratelimit.v3.RateLimitService';
const MAX_MESSAGE = 64 * 1024;		// bytes
const MAX_DESCRIPTORS = 64;			// of a request: as many as rl_consume_policies() takes
const MAX_STREAMS = 10000;			// calls at a time of a connection
const MAX_WATCHERS = 100;
const UINT32_MAX = 4294967295;

function load() {
	try {
		return { grpc: require('@grpc/grpc-js'), loader: require('@grpc/proto-loader') };
	} catch (error) {
		if (error.code !== 'MODULE_NOT_FOUND') throw error;
		throw Object.assign(new Error('"grpc" in the configuration needs the packages @grpc/grpc-js and @grpc/proto-loader'), { code: error.code });
	}
}

const uint32 = (value) => Math.max(0, Math.min(UINT32_MAX, Math.floor(value)));

/* Seconds as a google.protobuf.Duration.  A result has whole microseconds. */
function duration(seconds) {
	const micros = Math.round(seconds * 1e6);

	return { seconds: Math.floor(micros / 1e6), nanos: (micros % 1e6) * 1000 };
}

/* What one descriptor is told: of a result of throttle(), or undefined if it is not limited. */
function statusOf(result, allowed) {
	if (!result) return { code: allowed ? 'OK' : 'OVER_LIMIT' };

	const { capacity, remaining, limiter } = result;
	const status = { code: result.allowed ? 'OK' : 'OVER_LIMIT' };
	// when it would be allowed, or, if it is, when the bucket is full
	const reset = result.allowed ? result.resetAfter : result.retryAfter;

	if (capacity !== null) status.current_limit = { requests_per_unit: uint32(capacity), unit: 'UNKNOWN', name: limiter ?? '' };
	if (remaining !== null) status.limit_remaining = uint32(remaining);
	if (reset !== null) status.duration_until_reset = duration(reset);
	return status;
}

class GrpcServer {
	#grpc;
	#server;
	#callOf;
	#decider;
	#ready;
	#watchers = new Map();		// stream: the last status it was told
	#closing = false;

	/* callOf(domain, entries, cost) gives what to decide, or undefined; ready() as for HTTP. */
	constructor({ callOf, decider, ready }) {
		const { grpc, loader } = load();
		const definition = loader.loadSync(['envoy/service/ratelimit/v3/rls.proto', 'grpc/health/v1/health.proto'],
			{ keepCase: true, longs: Number, enums: String, defaults: true, includeDirs: [PROTO] });

		this.#grpc = grpc;
		this.#callOf = callOf;
		this.#decider = decider;
		this.#ready = ready;
		this.#server = new grpc.Server({
			'grpc.max_receive_message_length': MAX_MESSAGE,
			'grpc.max_concurrent_streams': MAX_STREAMS,
		});
		this.#server.addService(definition[SERVICE], {
			ShouldRateLimit: (call, callback) => this.#shouldRateLimit(call.request).then((response) => callback(null, response), (error) => {
				if (error.code === undefined) log(error.stack);
				callback(error.code === undefined ? { code: grpc.status.INTERNAL, details: 'internal error' } : error);
			}),
		});
		this.#server.addService(definition['grpc.health.v1.Health'], {
			Check: (call, callback) => {
				const status = this.#statusOf(call.request.service);

				if (status === 'SERVICE_UNKNOWN') callback({ code: grpc.status.NOT_FOUND, details: 'unknown service' });
				else callback(null, { status });
			},
			Watch: (call) => this.#watch(call),
		});
	}

	/* Resolves to the port. */
	listen({ text }) {
		return new Promise((resolve, reject) => {
			this.#server.bindAsync(text, this.#grpc.ServerCredentials.createInsecure(), (error, port) => {
				if (error) reject(error);
				else resolve(port);
			});
		});
	}

	#bad(details) {
		return Object.assign(new Error(details), { code: this.#grpc.status.INVALID_ARGUMENT, details });
	}

	async #shouldRateLimit({ domain, descriptors, hits_addend: hits }) {
		if (domain === '') throw this.#bad('domain must not be empty');
		if (descriptors.length === 0) throw this.#bad('descriptors must not be empty');
		if (descriptors.length > MAX_DESCRIPTORS) {
			throw this.#bad(`descriptors must not be more than ${MAX_DESCRIPTORS}, not ${descriptors.length}`);
		}

		const calls = [];
		// the place of each descriptor's call
		const places = descriptors.map(({ entries, hits_addend: own, is_negative_hits: negative }) => {
			if (negative) throw this.#bad('is_negative_hits is not supported');

			const call = this.#callOf(domain, entries, own ? own.value : hits || 1);

			return call ? calls.push(call) - 1 : -1;
		});
		const decision = await this.#decider.decide(calls);

		return {
			overall_code: decision.allowed ? 'OK' : 'OVER_LIMIT',
			statuses: places.map((i) => (i < 0 ? { code: 'OK' } :
				statusOf(decision.results[i], decision.allowed || decision.results.some(Boolean)))),
			response_headers_to_add: Object.entries(fieldsOf(decision)).map(([key, value]) => ({ key, value })),
		};
	}

	#statusOf(service) {
		if (service !== '' && service !== SERVICE) return 'SERVICE_UNKNOWN';
		return this.#ready() && !this.#closing ? 'SERVING' : 'NOT_SERVING';
	}

	#watch(call) {
		if (this.#watchers.size >= MAX_WATCHERS) {
			call.emit('error', { code: this.#grpc.status.RESOURCE_EXHAUSTED, details: 'too many watchers' });
			return;
		}
		this.#watchers.set(call, undefined);
		for (const event of ['cancelled', 'close', 'error']) call.on(event, () => this.#watchers.delete(call));
		this.tell();
	}

	/* Readiness may have changed. */
	tell() {
		for (const [call, last] of this.#watchers) {
			const status = this.#statusOf(call.request.service);

			if (status === last) continue;
			this.#watchers.set(call, status);
			call.write({ status });
		}
	}

	/* Answer what has been asked, and take nothing more. */
	close() {
		this.#closing = true;
		this.tell();
		for (const call of this.#watchers.keys()) call.end();
		return new Promise((resolve) => {
			this.#server.tryShutdown(resolve);
		});
	}

	kill() {
		this.#server.forceShutdown();
	}
}

module.exports = { GrpcServer };
