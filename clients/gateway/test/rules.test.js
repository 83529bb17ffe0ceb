/* What a request or a descriptor asks for, without a server. */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { descriptorRules } = require('../lib/descriptors');
const { keyOf } = require('../lib/keys');
const { normalPath, pathMatcher } = require('../lib/paths');
const { MissingError, requestRules } = require('../lib/request_rules');

test('ways to write a path', () => {
	const login = ['/login', '//login', '/./login', '/x/../login', '/%6cogin', '/%6Cogin', '/../login', '/login?next=/', '/login#x', '/x/%2e%2e/login',
		'http://host/login', '/login?/../..', '/%2Flogin', '/\u00e4/../login'];

	for (const path of login) assert.strictEqual(normalPath(path), '/login', path);
	for (const [path, wanted] of [['/', '/'], ['', '/'], ['/a/', '/a/'], ['/a/.', '/a/'], ['/a/..', '/'], ['/a/b/..', '/a/'], ['*', '/*'],
		['/%', '/%'], ['/%zz', '/%zz'], ['/%c3%a4', '/ä'], ['/\u00c3\u00a4', '/ä'], ['/%00', '/\0'], ['/%ff', '/\ufffd'], ['/LOGIN', '/LOGIN'],
		['http://host', '/'], ['/a%3fb', '/a?b']]) {
		assert.strictEqual(normalPath(path), wanted, path);
	}
});

test('patterns for paths', () => {
	for (const [pattern, yes, no] of [
		['/', ['/'], ['/a', '/a/']],
		['/login', ['/login'], ['/login/', '/loginx', '/x/login']],
		['/api/**', ['/api', '/api/', '/api/a/b'], ['/apix', '/', '/x/api/a']],
		['/**', ['/', '/a', '/a/b/'], []],
		['/users/*/posts', ['/users/1/posts'], ['/users//posts', '/users/1/2/posts', '/users/posts']],
		['/a.b', ['/a.b'], ['/axb']],
	]) {
		const matches = pathMatcher(pattern);

		for (const path of yes) assert.ok(matches(path), `${pattern} ${path}`);
		for (const path of no) assert.ok(!matches(path), `${pattern} ${path}`);
	}
});

test('keys', () => {
	assert.strictEqual(keyOf(['a b%']), 'a b%', 'one part is as it is');
	assert.strictEqual(keyOf(['a b', 'c']), 'a%20b c');
	assert.notStrictEqual(keyOf(['a', 'b c']), keyOf(['a b', 'c']));
	assert.notStrictEqual(keyOf(['a%20b', 'c']), keyOf(['a b', 'c']));
	assert.strictEqual(keyOf(['x'.repeat(255)]).length, 255);
	assert.match(keyOf(['x'.repeat(256)]), /^sha256:[0-9a-f]{64}$/);
	assert.match(keyOf(['ä'.repeat(128)]), /^sha256:/);
	assert.notStrictEqual(keyOf(['x'.repeat(256)]), keyOf(['x'.repeat(257)]));
	assert.match(keyOf(['a\0']), /^sha256:/, 'what no key of the database holds');
});

const request = (headers, remoteAddress = '127.0.0.1') => ({ headers: {
	'x-forwarded-for': '203.0.113.7', 'x-forwarded-method': 'GET', 'x-forwarded-uri': '/', 'x-forwarded-host': 'example.com', ...headers,
}, socket: { remoteAddress } });
const rulesOf = (rules, options) => requestRules({ hops: 1, ipv6Prefix: 64,
	rules: rules.map((rule) => ({ match: {}, key: ['address'], cost: 1, lease: false, away: 'allow', stop: false, ...rule })), ...options });
const policies = (calls) => calls.map(({ policy }) => policy);

test('all rules that match, until one stops', () => {
	const rules = rulesOf([
		{ match: { path: '/static/**' }, stop: true },
		{ match: { path: '/login', method: ['POST', 'PUT'] }, policy: 'login' },
		{ match: { host: '*.api.example.com' }, policy: 'api', stop: true },
		{ match: { headers: { 'x-plan': 'gold' } }, policy: 'gold' },
		{ match: { headers: { 'x-plan': '*' } }, policy: 'plan' },
		{ policy: 'web' },
	]);
	const of = (headers) => policies(rules(request(headers)));

	assert.deepStrictEqual(of({ 'x-forwarded-uri': '/static/a.css' }), []);
	assert.deepStrictEqual(of({ 'x-forwarded-uri': '/login' }), ['web']);
	assert.deepStrictEqual(of({ 'x-forwarded-uri': '/login', 'x-forwarded-method': 'PUT' }), ['login', 'web']);
	assert.deepStrictEqual(of({ 'x-forwarded-host': 'EU.API.example.com:443' }), ['api']);
	assert.deepStrictEqual(of({ 'x-forwarded-host': 'api.example.com' }), ['web']);
	assert.deepStrictEqual(of({ 'x-plan': 'gold' }), ['gold', 'plan', 'web']);
	assert.deepStrictEqual(of({ 'x-plan': 'x' }), ['plan', 'web']);
});

test('no way to write a path leads around a rule', () => {
	const rules = rulesOf([{ match: { path: '/static/**' }, stop: true }, { match: { path: '/api/**' }, policy: 'api' }, { policy: 'web' }]);
	const of = (path) => policies(rules(request({ 'x-forwarded-uri': path })));

	for (const path of ['/static/a.css', '/static/a/../b', '/static//./a', '/static/a;v=1']) assert.deepStrictEqual(of(path), [], path);
	for (const path of ['/api/x/../../static/y', '/api/x/%2e%2e/%2E%2e/static/y', '/api/..;/static/y', '/static/../api/y', '/static/..;/api/y', '/static/%2e.%3b%2fapi/y', '/api;v=1/y', '/x/../api']) {
		assert.deepStrictEqual(of(path), ['api', 'web'], path);
	}
	for (const path of ['/x/../static/y', '/static/../x', '/static;/y']) assert.deepStrictEqual(of(path), ['web'], path);
	// a path of the largest size
	assert.deepStrictEqual(of(`/${'a;/../'.repeat(10000)}api/y`), ['api', 'web']);
});

test('whom', () => {
	const key = (headers, options, parts = ['address'], from) => rulesOf([{ policy: 'web', key: parts }], options)(request(headers, from))[0]?.key;

	assert.strictEqual(key({}), '203.0.113.7');
	assert.strictEqual(key({ 'x-forwarded-for': '1.2.3.4, 203.0.113.7' }), '203.0.113.7', 'what the client says does not count');
	assert.strictEqual(key({ 'x-forwarded-for': '1.2.3.4, 203.0.113.7, 10.0.0.1' }, { hops: 2 }), '203.0.113.7');
	assert.strictEqual(key({ 'x-forwarded-for': '2001:db8::7' }), '2001:db8::/64');
	assert.strictEqual(key({ 'x-forwarded-for': '2001:db8::7' }, { ipv6Prefix: 128 }), '2001:db8::7/128');
	assert.strictEqual(key({ 'x-forwarded-for': '1.2.3.4' }, { hops: 0 }, ['address'], '192.0.2.9'), '192.0.2.9');
	assert.strictEqual(key({ 'x-key': 'a b' }, {}, ['header:x-key', 'address']), 'a%20b 203.0.113.7');
	assert.strictEqual(key({}, {}, ['header:x-key']), undefined, 'nobody to limit');
	assert.strictEqual(key({ 'x-key': '\u00c3\u00a4' }, {}, ['header:x-key']), 'ä', 'bytes are UTF-8');
	assert.strictEqual(key({ 'x-forwarded-uri': '/a//b?c' }, {}, ['path']), '/a/b');
	assert.strictEqual(key({}, {}, ['host', 'method']), 'example.com GET');
});

test('a proxy that does not say what a rule needs is an error', () => {
	for (const [name, rule] of [['x-forwarded-for', {}], ['x-forwarded-uri', { match: { path: '/**' } }], ['x-forwarded-method', { match: { method: ['GET'] } }],
		['x-forwarded-host', { match: { host: 'a' } }]]) {
		assert.throws(() => rulesOf([{ policy: 'web', ...rule }])(request({ [name]: undefined })), (error) => (
			error instanceof MissingError && error.message === `the proxy has not sent ${name}`));
	}
});

const entries = (...pairs) => pairs.map(([key, value]) => ({ key, value }));
const node = (key, value, fields) => ({ key, value, lease: false, away: 'allow', descriptors: [], ...fields });
const callOf = descriptorRules({ ipv6Prefix: 64, domains: { edge: [
	node('remote_address', undefined, { policy: 'ip' }),
	node('remote_address', '192.0.2.1', { policy: 'monitor' }),
	node('generic_key', 'all', { policy: 'all' }),
	node('path', undefined, { policy: 'path' }),
	node('path', '/login', { policy: 'login', descriptors: [node('remote_address', undefined, { policy: 'login_ip' }), node('user', undefined, {
		descriptors: [node('method', 'POST', { policy: 'deep' })] })] }),
	node('path', '/api/*', { policy: 'api', descriptors: [node('user', undefined, { policy: 'api_user' })] }),
	node('path', '/api/v2/*', { policy: 'api2' }),
] } });

test('descriptors', () => {
	for (const [pairs, policy, key] of [
		[[['remote_address', '203.0.113.7']], 'ip', '203.0.113.7'],
		[[['remote_address', '2001:db8:0:0::7']], 'ip', '2001:db8::/64'],
		[[['remote_address', '192.0.2.1']], 'monitor', '192.0.2.1'],
		[[['generic_key', 'all']], 'all', 'all'],
		[[['path', '/login']], 'login', '/login'],
		[[['path', '/x']], 'path', '/x'],
		[[['path', '/api/a']], 'api', '/api/a'],
		[[['path', '/api/v2/a']], 'api2', '/api/v2/a'],
		[[['path', '/login'], ['remote_address', '203.0.113.7']], 'login_ip', '203.0.113.7'],
		[[['path', '/login'], ['user', 'a'], ['method', 'POST']], 'deep', 'a'],
		[[['path', '/api/a b'], ['user', 'u']], 'api_user', '/api/a%20b u'],
		[[['path', '']], 'path', '(empty)'],
	]) {
		const call = callOf('edge', entries(...pairs), 3);

		assert.deepStrictEqual([call?.policy, call?.key, call?.cost], [policy, key, 3], JSON.stringify(pairs));
	}
	for (const pairs of [[], [['generic_key', 'x']], [['user', 'a']], [['path', '/login'], ['user', 'a']], [['path', '/login'], ['user', 'a'], ['method', 'GET']],
		[['remote_address', '203.0.113.7'], ['path', '/']], [['path', '/api/v2/a'], ['user', 'u']], [['__proto__', 'x']]]) {
		assert.strictEqual(callOf('edge', entries(...pairs), 1), undefined, JSON.stringify(pairs));
	}
	assert.strictEqual(callOf('other', entries(['remote_address', '203.0.113.7']), 1), undefined);
});
