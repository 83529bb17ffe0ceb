/* The file: what is right, and that an error names the file, the key and the value. */
'use strict';

const assert = require('node:assert');
const { mkdtempSync, readdirSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { after, test } = require('node:test');
const { readConfig } = require('../lib/config');

const folder = mkdtempSync(join(tmpdir(), 'ratelimit'));
const file = join(folder, 'gateway.json');

after(() => rmSync(folder, { recursive: true }));

function read(value) {
	writeFileSync(file, typeof value === 'string' ? value : JSON.stringify(value));
	return readConfig(file);
}

test('what is not said has a default', () => {
	const { away, timeout, connections, http, grpc, reports } = read({ http: { rules: [{ policy: 'web' }] }, grpc: { domains: {} }, reports: {} });

	assert.deepStrictEqual([away, timeout, connections], ['allow', 1000, 10]);
	assert.deepStrictEqual([http.listen.text, grpc.listen.text, reports.listen.text], ['127.0.0.1:8081', '127.0.0.1:8082', '127.0.0.1:8083'], 'loopback');
	assert.deepStrictEqual([http.hops, http.ipv6Prefix], [1, 64]);
	assert.deepStrictEqual(http.rules, [{ comment: undefined, match: {}, policy: 'web', key: ['address'], cost: 1, lease: false, away: 'allow', stop: false }]);
});

test('away is that of the file where a rule says nothing', () => {
	const { http, grpc } = read({
		away: 'deny',
		http: { rules: [{ policy: 'a' }, { policy: 'b', away: 'allow' }] },
		grpc: { domains: { d: [{ key: 'k', descriptors: [{ key: 'l', policy: 'c' }, { key: 'm', away: 'allow' }] }] } },
	});

	assert.deepStrictEqual(http.rules.map(({ away }) => away), ['deny', 'allow']);
	assert.deepStrictEqual(grpc.domains.d[0].descriptors.map(({ away }) => away), ['deny', 'allow']);
});

test('a password is in no message', () => {
	for (const value of [{ database: 'postgresql://u:secret@h/d' }, { database: 'postgres:/u:secret@h' }, { http: { database: 'postgresql://u:secret@h/d' } }, { databse: 'postgresql://u:secret@h/d' }, { x: { database: 'u:secret@h' } },
		'{"database": "u:secret"@h"}', '{"database": secret}']) {
		assert.throws(() => read(value), (error) => !error.message.includes('secret'), JSON.stringify(value));
	}
});

const rule = (fields) => ({ http: { rules: [{ policy: 'web', ...fields }] } });
const tree = (...descriptors) => ({ grpc: { domains: { d: descriptors } } });

const WRONG = [
	['{', /: not JSON: /],
	[`{"http": ${'['.repeat(100000)}${']'.repeat(100000)}}`, /: it is nested too deeply$/],
	[[], /: it must be an object, not \[\]$/],
	[{}, /: it must have "http", "grpc" or "reports", not \{\}$/],
	[{ htpp: {} }, /: htpp is not known: \{\}\. The file may have comment, database, /],
	[{ http: {}, away: 'open' }, /: away must be "allow" or "deny", not "open"$/],
	[{ http: { listen: '8081' } }, /: http\.listen must be an address and a port, such as "127\.0\.0\.1:8081" or "\[::1\]:8081", not "8081"$/],
	[{ http: { listen: 'localhost:8081' } }, /not "localhost:8081"$/],
	[{ http: { listen: '127.0.0.1:99999' } }, /not "127\.0\.0\.1:99999"$/],
	[{ http: { hops: -1 } }, /: http\.hops must be a whole number from 0 to 100, not -1$/],
	[{ http: {}, timeout: '1s' }, /: timeout must be a number from 1 to 60000, not "1s"$/],
	[{ http: {}, database: 'host=x' }, /: database must begin with "postgresql:\/\/", not what it is$/],
	[rule({ policy: 'a:b' }), /: http\.rules\[0\]\.policy must be the name of a policy, of 1 to 63 bytes without ":", not "a:b"$/],
	[rule({ policy: 'ä'.repeat(32) }), /http\.rules\[0\]\.policy must be/],
	[rule({ polcy: 'a' }), /: http\.rules\[0\]\.polcy is not known: "a"\. http\.rules\[0\] may have comment, match, policy/],
	[rule({ policy: undefined }), /: http\.rules\[0\] must have "policy" or "stop", not \{\}$/],
	[rule({ match: { path: 'login' } }), /: http\.rules\[0\]\.match\.path must begin with "\/", and have "\*" only for a whole segment or "\*\*" for the last one, not "login"$/],
	[rule({ match: { path: '/a*' } }), /not "\/a\*"$/],
	[rule({ match: { path: '/**/a' } }), /not "\/\*\*\/a"$/],
	[rule({ match: { method: 'GET POST' } }), /: http\.rules\[0\]\.match\.method must be a method, such as "POST", not "GET POST"$/],
	[rule({ match: { method: [] } }), /match\.method must be a method/],
	[rule({ match: { host: 'a:80' } }), /: http\.rules\[0\]\.match\.host must be a host without port, or one that begins with "\*\.", not "a:80"$/],
	[rule({ match: { headers: { 'a b': 'x' } } }), /must be the name of a header, not "a b"$/],
	[rule({ match: { headers: { a: 1 } } }), /: http\.rules\[0\]\.match\.headers\.a must be a string that is not empty, not 1$/],
	[rule({ match: { headers: { 'X-A': '1', 'x-a': '2' } } }), /: http\.rules\[0\]\.match\.headers must have each name only once, not \{"X-A":"1","x-a":"2"\}$/],
	[rule({ key: 'user' }), /: http\.rules\[0\]\.key must be "address", "host", "method", "path" or "header:" and a name, not "user"$/],
	[rule({ key: ['address', 'header:'] }), /http\.rules\[0\]\.key\[1\] must be the name of a header, not ""$/],
	[rule({ cost: -1 }), /: http\.rules\[0\]\.cost must be a number from 0 to 1000000000000, not -1$/],
	[rule({ lease: 'yes' }), /: http\.rules\[0\]\.lease must be true or false, not "yes"$/],
	[tree({ value: 'x' }), /: grpc\.domains\.d\[0\] must have "key", not \{"value":"x"\}$/],
	[tree({ key: 'a', value: 'x' }, { key: 'a', value: 'x' }), /: grpc\.domains\.d\[1\] must differ from those before in "key" or "value"/],
	[{ reports: { seconds: 0 } }, /: reports\.seconds must be a number from 0\.01 to 3600, not 0$/],
	[rule({ comment: 'x'.repeat(200), cost: 'y'.repeat(200) }), /not "y{79}\.\.\.$/],
];

for (const [value, message] of WRONG) {
	test(`wrong: ${JSON.stringify(value).slice(0, 70)}`, () => {
		assert.throws(() => read(value), (error) => {
			assert.ok(error.message.startsWith(`${file}: `), error.message);
			assert.match(error.message, message);
			return true;
		});
	});
}

test('no file, and a file that is too large', () => {
	assert.throws(() => readConfig(join(folder, 'none.json')), /none\.json: ENOENT/);
	assert.throws(() => read(' '.repeat(2 * 1024 * 1024)), /it has more than 1048576 bytes/);
});

test('a tree that is too deep', () => {
	let node = { key: 'a', policy: 'web' };

	for (let i = 0; i < 20; i++) node = { key: 'a', descriptors: [node] };
	assert.throws(() => read(tree(node)), /must not be deeper than 16 levels/);
});

test('names that JavaScript knows are only names', () => {
	const { grpc } = read('{"grpc": {"domains": {"__proto__": [{"key": "constructor", "policy": "p"}]}}}');

	assert.deepStrictEqual(Object.keys(grpc.domains), ['__proto__']);
	assert.throws(() => read('{"http": {"__proto__": 1}}'), /http\.__proto__ is not known: 1/);
});

test('all recipes are right', () => {
	const recipes = join(__dirname, '../recipes');
	const names = readdirSync(recipes).filter((name) => name.endsWith('.json'));

	assert.ok(names.length >= 3);
	for (const name of names) readConfig(join(recipes, name));
});
