/*
 * The configuration: one file of JSON, checked when it is read.  An error names the file, the key
 * and the value.  docs/gateway.md says what the keys mean.
 */
'use strict';

const { readFileSync, statSync } = require('node:fs');
const { isIP } = require('node:net');

const MAX_BYTES = 1024 * 1024;
const METHOD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const HEADER = /^[!#$%&'*+.^_`|~0-9a-z-]+$/;

class ConfigError extends Error {
	constructor(file, message) {
		super(`${file}: ${message}`);
		this.name = 'ConfigError';
	}
}

/* What is wrong with a value; the file is added by readConfig(). */
class WrongValue extends Error {
	constructor(where, must, value) {
		super(`${where || 'it'} must ${must}, not ${where === 'database' ? 'what it is' : shown(value)}`);
	}
}

class UnknownKey extends WrongValue {
	constructor(where, key, value, known) {
		super();
		this.message = `${below(where, key)} is not known: ${shown(value)}. ${where || 'The file'} may have ${known.join(', ')}`;
	}
}

/* Where there may be a password. */
const isSecret = (key, value) => key === 'database' || (typeof value === 'string' && /^postgres.*@/i.test(value));

function shown(value) {
	const text = JSON.stringify(value, (key, each) => (isSecret(key, each) ? '...' : each)) ?? 'nothing';

	return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

/*
 * Checks are functions of a value and the key where it is, which return what the program
 * uses.
 */
const below = (where, key) => (where === '' ? key : `${where}.${key}`);
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/* Fields are [check], which must be there, or [check, what there is otherwise]. */
const object = (fields) => (value, where) => {
	if (!isObject(value)) throw new WrongValue(where, 'be an object', value);
	for (const key of Object.keys(value)) {
		if (!Object.hasOwn(fields, key)) throw new UnknownKey(where, key, value[key], Object.keys(fields));
	}
	return Object.fromEntries(Object.entries(fields).map(([key, [check, ...otherwise]]) => {
		if (!Object.hasOwn(value, key)) {
			if (otherwise.length === 0) throw new WrongValue(where, `have "${key}"`, value);
			return [key, otherwise[0]];
		}
		return [key, check(value[key], below(where, key))];
	}));
};

const mapOf = (checkKey, check) => (value, where) => {
	if (!isObject(value)) throw new WrongValue(where, 'be an object', value);
	const entries = Object.entries(value).map(([key, each]) => [checkKey(key, below(where, key)), check(each, below(where, key))]);

	// as X-User and x-user: a rule must not lose a condition
	if (new Set(entries.map(([key]) => key)).size < entries.length) throw new WrongValue(where, 'have each name only once', value);
	return Object.fromEntries(entries);
};

const arrayOf = (check, most = 10000) => (value, where) => {
	if (!Array.isArray(value)) throw new WrongValue(where, 'be an array', value);
	if (value.length > most) throw new WrongValue(where, `have at most ${most} elements`, value.length);
	return value.map((each, i) => check(each, `${where}[${i}]`));
};

/* One, or an array of them. */
const oneOrMore = (check) => (value, where) => (Array.isArray(value) && value.length > 0 ? arrayOf(check, 16)(value, where) : [check(value, where)]);

const number = (from, to, { whole = false } = {}) => (value, where) => {
	if (typeof value !== 'number' || !(value >= from && value <= to) || (whole && !Number.isInteger(value))) {
		throw new WrongValue(where, `be a ${whole ? 'whole ' : ''}number from ${from} to ${to}`, value);
	}
	return value;
};

const string = (test = () => true, must = 'be a string that is not empty') => (value, where) => {
	if (typeof value !== 'string' || value === '' || value.includes('\0') || !test(value)) throw new WrongValue(where, must, value);
	return value;
};

const boolean = (value, where) => {
	if (typeof value !== 'boolean') throw new WrongValue(where, 'be true or false', value);
	return value;
};

const oneOf = (...values) => (value, where) => {
	if (!values.includes(value)) throw new WrongValue(where, `be ${values.map((each) => `"${each}"`).join(' or ')}`, value);
	return value;
};

/* "127.0.0.1:8081" or "[::1]:8081" */
const address = (value, where) => {
	const [, six, four, port] = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(typeof value === 'string' ? value : '') ?? [];

	if (isIP(six ?? four ?? '') !== (six === undefined ? 4 : 6) || port > 65535) {
		throw new WrongValue(where, 'be an address and a port, such as "127.0.0.1:8081" or "[::1]:8081"', value);
	}
	return { host: six ?? four, port: Number(port), text: value };
};

const comment = [string(), undefined];
const policy = string((value) => Buffer.byteLength(value) <= 63 && !value.includes(':'),
	'be the name of a policy, of 1 to 63 bytes without ":"');
const away = oneOf('allow', 'deny');

const path = string((value) => value.startsWith('/') && !value.includes('//') &&
	value.split('/').every((segment, i, all) => !segment.includes('*') || segment === '*' || (segment === '**' && i === all.length - 1)),
'begin with "/", and have "*" only for a whole segment or "**" for the last one');
const host = string((value) => !value.replace(/^\*\./, '').includes('*') && !/[/:\s]/.test(value),
	'be a host without port, or one that begins with "*."');
const header = (value, where) => string((name) => HEADER.test(name.toLowerCase()), 'be the name of a header')(value, where).toLowerCase();
const part = (value, where) => {
	if (['address', 'host', 'method', 'path'].includes(value)) return value;
	if (typeof value === 'string' && value.startsWith('header:')) return `header:${header(value.slice('header:'.length), where)}`;
	throw new WrongValue(where, 'be "address", "host", "method", "path" or "header:" and a name', value);
};

const rule = object({
	comment,
	match: [object({
		method: [oneOrMore(string((value) => METHOD.test(value), 'be a method, such as "POST"')), undefined],
		host: [host, undefined],
		path: [path, undefined],
		headers: [mapOf(header, string()), undefined],
	}), {}],
	policy: [policy, undefined],
	key: [oneOrMore(part), ['address']],
	cost: [number(0, 1e12), 1],
	lease: [boolean, false],
	away: [away, undefined],
	stop: [boolean, false],
});

/* A rule does something. */
const someRule = (value, where) => {
	const checked = rule(value, where);

	if (checked.policy === undefined && !checked.stop) throw new WrongValue(where, 'have "policy" or "stop"', value);
	return checked;
};

function descriptor(value, where, depth = 1) {
	if (depth > 16) throw new WrongValue(where, 'not be deeper than 16 levels', value);
	return object({
		comment,
		key: [string()],
		value: [string(), undefined],
		policy: [policy, undefined],
		lease: [boolean, false],
		away: [away, undefined],
		descriptors: [descriptors(depth + 1), []],
	})(value, where);
}

function descriptors(depth) {
	return (value, where) => {
		const checked = arrayOf((each, at) => descriptor(each, at, depth))(value, where);
		const seen = new Set();

		checked.forEach((each, i) => {
			const name = JSON.stringify([each.key, each.value]);

			if (seen.has(name)) throw new WrongValue(`${where}[${i}]`, 'differ from those before in "key" or "value"', { key: each.key, value: each.value });
			seen.add(name);
		});
		return checked;
	};
}

const file = object({
	comment,
	database: [string((value) => /^postgres(ql)?:\/\//.test(value), 'begin with "postgresql://"'), undefined],
	schema: [string(), undefined],
	connections: [number(1, 1000, { whole: true }), 10],
	timeout: [number(1, 60000), 1000],
	away: [away, 'allow'],
	ipv6_prefix: [number(0, 128, { whole: true }), 64],
	http: [object({
		listen: [address, address('127.0.0.1:8081')],
		hops: [number(0, 100, { whole: true }), 1],
		rules: [arrayOf(someRule), []],
	}), undefined],
	grpc: [object({
		listen: [address, address('127.0.0.1:8082')],
		domains: [mapOf(string(), descriptors(1))],
	}), undefined],
	reports: [object({
		listen: [address, address('127.0.0.1:8083')],
		seconds: [number(0.01, 3600), 1],
	}), undefined],
});

/* What does not say what happens while the database is away does as the whole file says. */
function withAway(nodes, otherwise) {
	return nodes.map((node) => ({ ...node, away: node.away ?? otherwise,
		...(node.descriptors ? { descriptors: withAway(node.descriptors, otherwise) } : {}) }));
}

function checked(value) {
	const { comment: _, ipv6_prefix: ipv6Prefix, http, grpc, reports, ...others } = file(value, '');

	if (!http && !grpc && !reports) throw new WrongValue('', 'have "http", "grpc" or "reports"', value);
	return {
		...others,
		http: http && { ...http, ipv6Prefix, rules: withAway(http.rules, others.away) },
		grpc: grpc && { ...grpc, ipv6Prefix,
			domains: Object.fromEntries(Object.entries(grpc.domains).map(([name, nodes]) => [name, withAway(nodes, others.away)])) },
		reports,
	};
}

function readConfig(name) {
	let text;
	let value;

	try {
		if (statSync(name).size > MAX_BYTES) throw new Error(`it has more than ${MAX_BYTES} bytes`);
		text = readFileSync(name, 'utf8');
	} catch (error) {
		throw new ConfigError(name, error.message);
	}
	try {
		value = JSON.parse(text);
	} catch (error) {
		// some messages have a part of the text, in which may be a password
		throw new ConfigError(name, `not JSON: ${error.message.replace(/, (\.\.\.)?"[^]*$/, '')}`);
	}
	try {
		return checked(value);
	} catch (error) {
		if (error instanceof RangeError) throw new ConfigError(name, 'it is nested too deeply');
		throw error instanceof WrongValue ? new ConfigError(name, error.message) : error;
	}
}

module.exports = { ConfigError, readConfig };
