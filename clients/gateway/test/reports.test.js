/* What is a report, of all that may come in a datagram. */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { entryOf } = require('../lib/reports');

test('reports', () => {
	const entry = { key: '203.0.113.7', limiter: 'nginx_ip', rejected: 1 };

	assert.deepStrictEqual(entryOf('<190>Nov 27 20:00:00 host nginx: {"key":"203.0.113.7","limiter":"nginx_ip"}'), entry);
	assert.deepStrictEqual(entryOf('{"key":"203.0.113.7","limiter":"nginx_ip","rejected":7,"more":1}'), { ...entry, rejected: 7 });
});

test('what is not one', () => {
	for (const line of ['', 'x', '{', '{}', '[]', '{"key":"a"}', '{"key":"","limiter":"l"}', '{"key":"a","limiter":"l:m"}', '{"key":1,"limiter":"l"}',
		'{"key":"a","limiter":"l","rejected":0}', '{"key":"a","limiter":"l","rejected":1.5}', '{"key":"a","limiter":"l","rejected":1e30}',
		'{"key":"a\\u0000","limiter":"l"}', '{"key":"\\ud800","limiter":"l"}', `{"key":"${'x'.repeat(256)}","limiter":"l"}`,
		`{"key":"a","limiter":"${'x'.repeat(64)}"}`]) {
		assert.strictEqual(entryOf(line), null, line);
	}
});
