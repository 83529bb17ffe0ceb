/*
 * Limits for HTTP servers: node:http, Express, Fastify and Koa.
 *
 * All of them decide a request in the same way, and answer it in the framework's own: an
 * allowed request gets the RateLimit fields and goes on, and a denied one gets status 429
 * and Retry-After as well.
 */
'use strict';

const { clientKey } = require('./client_key');
const { rateLimitFields } = require('./fields');

const BODY = 'Too many requests\n';

const isNumber = (value, most) => Number.isInteger(value) && value >= 0 && value <= most;

/*
 * What a request gets: undefined if the limit does not concern it, or the result of
 * throttle() and the header fields.
 */
function decider(limiter, options = {}) {
	const { hops = 0, ipv6Prefix = 64, skip, cost, name, unit, fields: withFields = true } = options;
	const key = options.key ?? ((request) => clientKey(request, { hops, ipv6Prefix }));
	const { refill } = limiter.rule;

	if (!isNumber(hops, 100)) throw new RangeError(`hops must be a number of proxies from 0 to 100, not ${hops}`);
	if (!isNumber(ipv6Prefix, 128)) throw new RangeError(`ipv6Prefix must be a number of bits from 0 to 128, not ${ipv6Prefix}`);
	for (const [option, value] of Object.entries({ key, skip, 'cost, if it is not a number,': typeof cost === 'number' ? undefined : cost })) {
		if (value !== undefined && typeof value !== 'function') throw new TypeError(`${option} must be a function`);
	}
	return async (request, framework) => {
		if (await skip?.(request, framework)) return undefined;

		const [whom, tokens] = await Promise.all([
			key(request, framework),
			typeof cost === 'function' ? cost(request, framework) : cost,
		]);
		const result = await limiter.throttle(whom, { cost: tokens });
		const fields = rateLimitFields(result, { name, unit, refill });

		if (!withFields) {
			delete fields.RateLimit;
			delete fields['RateLimit-Policy'];
		}
		return { result, fields };
	};
}

/* A field that several limits of one request share is a list. */
function joined(name, before, value) {
	return before === undefined || name === 'Retry-After' ? value : `${before}, ${value}`;
}

function setFields(response, fields) {
	for (const [name, value] of Object.entries(fields)) {
		response.setHeader(name, joined(name, response.getHeader(name), value));
	}
}

function deny(response, fields, body) {
	setFields(response, fields);
	response.statusCode = 429;
	response.setHeader('Content-Type', 'text/plain; charset=utf-8');
	response.end(body);
}

/*
 * node:http: limit(request, response) resolves to true if the request may go on, and to
 * false if it has been answered.
 */
function httpLimit(limiter, options = {}) {
	const decide = decider(limiter, options);
	const { denied, body = BODY } = options;

	return async (request, response) => {
		const decision = await decide(request);

		if (!decision || decision.result.allowed) {
			if (decision) setFields(response, decision.fields);
			return true;
		}
		if (denied) {
			setFields(response, decision.fields);
			response.statusCode = 429;
			await denied(request, response, decision.result);
		} else {
			deny(response, decision.fields, body);
		}
		return false;
	};
}

/* Express, and whatever else takes (request, response, next). */
function expressLimit(limiter, options = {}) {
	const limit = httpLimit(limiter, options);

	return (request, response, next) => {
		limit(request, response).then((goOn) => goOn && next(), next);
	};
}

/* Koa. */
function koaLimit(limiter, options = {}) {
	const decide = decider(limiter, options);
	const { denied, body = BODY } = options;

	return async (context, next) => {
		const decision = await decide(context.req, context);

		if (decision) {
			for (const [name, value] of Object.entries(decision.fields)) {
				context.set(name, joined(name, context.response.get(name) || undefined, value));
			}
			if (!decision.result.allowed) {
				context.status = 429;
				if (denied) await denied(context, decision.result);
				else context.body = body;
				return;
			}
		}
		await next();
	};
}

/*
 * Fastify: fastify.register(fastifyLimit, { limiter, ... }) limits the routes of where
 * it is registered, before their bodies are read.
 */
async function fastifyLimit(fastify, options) {
	const { limiter, denied, body = BODY, hook = 'onRequest', ...others } = options;
	const decide = decider(limiter, others);

	fastify.addHook(hook, async (request, reply) => {
		const decision = await decide(request.raw, request);

		if (!decision) return undefined;
		for (const [name, value] of Object.entries(decision.fields)) {
			reply.header(name, joined(name, reply.getHeader(name), value));
		}
		if (decision.result.allowed) return undefined;
		reply.code(429);
		if (denied) {
			await denied(request, reply, decision.result);
			return reply;
		}
		return reply.type('text/plain; charset=utf-8').send(body);
	});
}

/* The routes beside the plugin are limited as well, not only those within it. */
fastifyLimit[Symbol.for('skip-override')] = true;
fastifyLimit[Symbol.for('fastify.display-name')] = 'ratelimit';

module.exports = { httpLimit, expressLimit, koaLimit, fastifyLimit };
