/*
 * The gateway's configuration, and what requests and descriptors make of it.
 *
 * usage: node gateway.js SECONDS SEED CORPUS FINDINGS
 *
 * Guided by coverage: V8 counts how often each block of the gateway's code runs, and an input
 * that brings a block to a count that it has not had, by powers of two, is changed further.  What
 * must hold:
 *
 * - A file is read, or there is a ConfigError, which begins with the file's name and has nothing
 *   of a password.
 * - No condition, rule or descriptor of the file is lost.
 * - A request or a descriptor is limited by policies of the file, with a key that the extension
 *   takes, or lacks what the proxy has to say (MissingError).
 *
 * The last line says how many inputs ran.  A finding ends it, and its input is in FINDINGS.
 */
'use strict';

const { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { Session } = require('node:inspector');
const Module = require('node:module');
const { tmpdir } = require('node:os');
const { join } = require('node:path');

const [seconds, seed, corpusFolder, findings] = process.argv.slice(2);
const clients = join(__dirname, '../../clients');
const find = Module._resolveFilename;

// the client, which nobody has installed here
Module._resolveFilename = (name, ...others) => find(name === 'ratelimit-postgresql' ? join(clients, 'node') : name, ...others);
const { ConfigError, readConfig } = require(`${clients}/gateway/lib/config`);
const { descriptorRules } = require(`${clients}/gateway/lib/descriptors`);
const { MissingError, requestRules } = require(`${clients}/gateway/lib/request_rules`);

const PASSWORD = 'sesame-opens';
const folder = mkdtempSync(join(tmpdir(), 'fuzz'));
const file = join(folder, 'gateway.json');

/* Random numbers (xorshift32), the same ones for the same seed. */
let state = (Number(seed) || 1) >>> 0;

function random(n) {
	state ^= state << 13;
	state ^= state >>> 17;
	state ^= state << 5;
	return (state >>> 0) % n;
}

const pick = (list) => list[random(list.length)];

/* Values that a file might have somewhere. */
const WORDS = ['address', 'host', 'method', 'path', 'header:x', 'header:X-A', 'deny', 'allow', '/a', '/a/**', '/*/b', '/**/b', '*.example.com', 'example.com', 'GET', '*', '',
	'__proto__', 'constructor', 'x-a', 'X-A', 'abc*', 'abc', '127.0.0.1:1', '[::1]:2', '[::]:99999', '\0', '\ud800', 'ä'.repeat(40), 'p'.repeat(63), 'a:b',
	'remote_address', `postgresql://u:${PASSWORD}@h/d`];
const KEYS = ['comment', 'match', 'method', 'host', 'path', 'headers', 'policy', 'key', 'cost', 'lease', 'away', 'stop', 'value', 'descriptors', 'database', 'schema',
	'connections', 'timeout', 'ipv6_prefix', 'http', 'listen', 'hops', 'rules', 'grpc', 'domains', 'reports', 'seconds', '__proto__', 'x-a', 'X-A', 'd', ''];

function anyValue(depth = 0) {
	switch (random(depth > 3 ? 6 : 9)) {
		case 0: return pick([0, 1, -1, 0.5, 64, 128, 1e12, 1e300, 1000, 70000]);
		case 1: return pick([true, false]);
		case 2: return null;
		case 6: return Array.from({ length: random(4) }, () => anyValue(depth + 1));
		case 7:
		case 8: return Object.fromEntries(Array.from({ length: random(4) }, () => [pick(KEYS), anyValue(depth + 1)]));
		default: return pick(WORDS);
	}
}

/* All places in a value: [container, key]. */
function placesOf(value, places = []) {
	for (const key of Object.keys(value)) {
		places.push([value, key]);
		if (typeof value[key] === 'object' && value[key] !== null) placesOf(value[key], places);
	}
	return places;
}

const put = (container, key, value) => Object.defineProperty(container, key, { value, enumerable: true, configurable: true, writable: true });

/* Another text, made of one that is in the corpus, and sometimes of a second one. */
function mutated(text, other) {
	let value;

	try {
		value = JSON.parse(text);
	} catch {
		value = undefined;
	}
	if (typeof value !== 'object' || value === null || random(8) === 0) {
		const at = random(text.length + 1);

		switch (random(5)) {
			case 0: return text.slice(0, at) + text.slice(at + 1 + random(4));
			case 1: return text.slice(0, at) + pick([...WORDS, '{', '}', '[', ']', '"', ',', ':', '\\u0000', '1e999']) + text.slice(at);
			case 2: return text.slice(0, at) + other.slice(random(other.length));
			case 3: return text.slice(0, at) + '[{"":'[random(2) * 2].repeat(1 << random(17)) + text.slice(at);
			default: return text.slice(0, at);
		}
	}
	for (let n = 1 + random(3); n > 0; n--) {
		const places = placesOf(value);
		const [container, key] = places.length > 0 ? pick(places) : [value, pick(KEYS)];

		switch (random(6)) {
			case 0: Array.isArray(container) ? container.splice(Number(key), 1) : delete container[key]; break;
			case 1: Array.isArray(container) ? container.push(anyValue()) : put(container, pick(KEYS), anyValue()); break;
			case 2: put(container, key, anyValue()); break;
			case 3: if (places.length > 1) { const [from, at] = pick(places); put(container, key, structuredClone(from[at])); } break;
			case 4: try { const [from, at] = pick(placesOf(JSON.parse(other))); put(container, key, from[at]); } catch { /* not an object */ } break;
			default: {	// deeper
				let deep = container[key];

				for (let i = random(2) ? 1 : 1 << random(15); i > 0; i--) deep = random(2) ? [deep] : { descriptors: [deep] };
				put(container, key, deep);
			}
		}
	}
	return JSON.stringify(value);
}

class Finding extends Error {
}

function check(holds, what) {
	if (!holds) throw new Finding(what);
}

/* A call that a request or a descriptor asks for. */
function checkCall({ policy, key, cost }, policies) {
	check(policies.has(policy), `policy ${policy} is not in the file`);
	check(typeof key === 'string' && key !== '' && Buffer.byteLength(key) <= 255 && !key.includes('\0'), `key ${JSON.stringify(key)}`);
	check(cost >= 0, `cost ${cost}`);
}

const HEADERS = ['x-forwarded-for', 'x-forwarded-method', 'x-forwarded-uri', 'x-forwarded-host', 'x', 'x-a'];
const VALUES = ['203.0.113.7', '::1', '1, 2', 'GET', '/a', '/a/../b', '/%61;x/b', 'a.example.com', '*', 'ä'.repeat(300), '%', '', '/a//b/.'];

function tryRequests({ http, grpc }) {
	if (http) {
		const policies = new Set(http.rules.map(({ policy }) => policy));
		const rules = requestRules(http);

		for (let i = 0; i < 4; i++) {
			const headers = Object.fromEntries(HEADERS.filter(() => random(8) > 0).map((name) => [name, pick(VALUES)]));

			try {
				for (const call of rules({ headers, socket: { remoteAddress: '127.0.0.1' } })) checkCall(call, policies);
			} catch (error) {
				if (!(error instanceof MissingError)) throw error;
			}
		}
	}
	if (grpc) {
		const all = (nodes) => nodes.flatMap(({ key, value, policy, descriptors }) => [{ key, value, policy }, ...all(descriptors)]);
		const nodes = Object.values(grpc.domains).flatMap(all);
		const policies = new Set(nodes.map(({ policy }) => policy));
		const rules = descriptorRules(grpc);

		for (let i = 0; i < 4; i++) {
			const entries = Array.from({ length: 1 + random(3) }, () => {
				const node = nodes.length > 0 && random(4) > 0 ? pick(nodes) : undefined;

				return { key: node?.key ?? pick(WORDS), value: node?.value ?? pick(VALUES) };
			});
			const call = rules(Object.keys(grpc.domains)[0] ?? 'd', entries, 1);

			if (call) checkCall(call, policies);
		}
	}
}

/* How many conditions on headers, rules and descriptors there are. */
function countOf(config, seen = [0, 0, 0]) {
	for (const rule of config.http?.rules ?? []) {
		seen[0] += Object.keys(rule.match?.headers ?? {}).length;
		seen[1]++;
	}
	const count = (nodes) => nodes.forEach(({ descriptors }) => { seen[2]++; count(descriptors ?? []); });

	Object.values(config.grpc?.domains ?? {}).forEach(count);
	return seen.join();
}

function tryInput(text) {
	let config;

	writeFileSync(file, text);
	try {
		config = readConfig(file);
	} catch (error) {
		check(error instanceof ConfigError, `${error.name}: ${error.message.slice(0, 200)}`);
		check(error.message.startsWith(`${file}: `), `an error without the file: ${error.message}`);
		if (!text.replaceAll(`: "postgresql://u:${PASSWORD}@h/d"`, '').replaceAll(`:"postgresql://u:${PASSWORD}@h/d"`, '').includes(PASSWORD)) {
			check(!error.message.includes(PASSWORD), `a password: ${error.message}`);
		}
		return;
	}
	check(countOf(config) === countOf(JSON.parse(text)), `${countOf(JSON.parse(text))} conditions, rules and descriptors became ${countOf(config)}`);
	tryRequests(config);
}

/* What the latest inputs ran that none before did. */
const session = new Session();
const seen = new Set();

function post(method, parameters) {
	let answer;

	session.post(method, parameters, (error, result) => {
		if (error) throw error;
		answer = result;
	});
	return answer;
}

function isNew() {
	const before = seen.size;

	for (const { url, functions } of post('Profiler.takePreciseCoverage').result) {
		if (!url.includes('/gateway/lib/')) continue;
		for (const { ranges } of functions) {
			for (const { startOffset, endOffset, count } of ranges) {
				if (count > 0) seen.add(`${url} ${startOffset} ${endOffset} ${Math.min(32 - Math.clz32(count), 6)}`);
			}
		}
	}
	return seen.size > before;
}

const corpus = readdirSync(corpusFolder).sort().map((name) => readFileSync(join(corpusFolder, name), 'utf8'));
const end = Date.now() + seconds * 1000;
let n = 0;
let text;

session.connect();
post('Profiler.enable');
post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
try {
	for (text of [...corpus]) {
		tryInput(text);
		n++;
	}
	isNew();
	const given = corpus.length;

	while (Date.now() < end) {
		try {
			text = mutated(pick(corpus), pick(corpus));
		} catch (error) {
			if (!(error instanceof RangeError)) throw error;
			continue;		// too deep for this fuzzer
		}
		tryInput(text);
		n++;
		if (isNew() && text.length < 10000) corpus.push(text);
	}
	console.log(`${n} inputs, ${corpus.length - given} of them new, ${seen.size} counts of blocks`);
} catch (error) {
	mkdirSync(findings, { recursive: true });
	writeFileSync(join(findings, 'crash-gateway.json'), text);
	console.log(`FINDING after ${n} inputs: ${error.stack.split('\n').slice(0, 4).join(' | ')}`);
	process.exitCode = 1;
}
