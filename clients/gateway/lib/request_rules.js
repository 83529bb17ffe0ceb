/*
 * What an HTTP check asks for: the rules that match a request, as calls { policy, key,
 * cost, lease, away }.
 *
 * The proxy says in X-Forwarded-Method, -Uri, -Host and -For what the request is.  Whoever
 * reaches the gateway can say so: it listens for proxies only.
 *
 * Servers read some paths differently.  A rule limits a request if any of these readings
 * matches, and ends the list if all of them do: so no way to write a path leads around a rule.
 */
'use strict';

const { clientKey } = require('ratelimit-postgresql');
const { keyOf } = require('./keys');
const { pathMatcher, readingsOf, utf8 } = require('./paths');

/* The proxy has not said what a rule needs. */
class MissingError extends Error {
}

/* A request's parts, found when they are needed. */
class Parts {
	#request;
	#options;
	#found = new Map();

	constructor(request, options) {
		this.#request = request;
		this.#options = options;
	}

	/* "address", "method", "path", "host", or "header:NAME": a string, empty if there is none. */
	get(part) {
		return part === 'path' ? this.paths()[0] : this.#kept(part);
	}

	/* All readings of the path. */
	paths() {
		return this.#kept('paths');
	}

	#kept(part) {
		let value = this.#found.get(part);

		if (value === undefined) {
			value = this.#find(part);
			this.#found.set(part, value);
		}
		return value;
	}

	#find(part) {
		const { headers } = this.#request;

		if (part.startsWith('header:')) return utf8(String(headers[part.slice('header:'.length)] ?? ''));
		switch (part) {
			case 'address':
				if (this.#options.hops > 0) this.#said('x-forwarded-for');
				return clientKey(this.#request, this.#options);
			case 'method':
				return this.#said('x-forwarded-method');
			case 'host':
				return this.#said('x-forwarded-host').toLowerCase().replace(/:\d+$/, '').replace(/\.$/, '');
			default:
				return readingsOf(this.#said('x-forwarded-uri'));
		}
	}

	#said(name) {
		const value = this.#request.headers[name];

		if (!value) throw new MissingError(`the proxy has not sent ${name}`);
		return value;
	}
}

function hostMatcher(pattern) {
	const wanted = pattern.toLowerCase();

	return wanted.startsWith('*.') ? (host) => host.endsWith(wanted.slice(1)) && host.length > wanted.length - 1 :
		(host) => host === wanted;
}

const oneOf = (values) => (value) => values.includes(value);

/* The conditions of a rule on all but the path: [part, test]. */
function conditionsOf({ method, host, headers = {} }) {
	return [
		...(method ? [['method', oneOf(method)]] : []),
		...(host ? [['host', hostMatcher(host)]] : []),
		...Object.entries(headers).map(([name, wanted]) => [`header:${name}`,
			wanted === '*' ? (value) => value !== '' : (value) => value === wanted]),
	];
}

/* A function of a request of node:http that gives its calls. */
function requestRules({ hops, ipv6Prefix, rules }) {
	const compiled = rules.map((rule) => ({ ...rule, conditions: conditionsOf(rule.match), onPath: rule.match.path && pathMatcher(rule.match.path) }));

	return (request) => {
		const parts = new Parts(request, { hops, ipv6Prefix });
		const calls = [];

		for (const { conditions, onPath, policy, key, cost, lease, away, stop } of compiled) {
			if (!conditions.every(([part, test]) => test(parts.get(part)))) continue;
			if (onPath && !parts.paths().some(onPath)) continue;
			if (policy !== undefined) {
				const values = key.map((part) => parts.get(part));

				// without a key there is nobody to limit
				if (values.includes('')) continue;
				calls.push({ policy, key: keyOf(values), cost, lease, away });
			}
			if (stop && (!onPath || parts.paths().every(onPath))) break;
		}
		return calls;
	};
}

module.exports = { MissingError, requestRules };
