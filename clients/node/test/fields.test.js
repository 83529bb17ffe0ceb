/* Header fields are those of rl_headers(), and keys are the addresses of clients. */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { clientKey, per, rateLimitFields } = require('..');
const { fresh, newLimiter, newPool } = require('./support');

/* Decisions r as objects, with what rl_headers() makes of them. */
const decisions = async (pool, from) => (await pool.query(`SELECT r.allowed, r.capacity, r.remaining,
	extract(epoch FROM r.retry_after)::float8 AS "retryAfter", extract(epoch FROM r.reset_after)::float8 AS "resetAfter", r.limiter, r.shadowed,
	rl_headers(r, 'p') AS plain, rl_headers(r, E'a "b" \\\\ \u00e9', 'content-bytes') AS named FROM ${from}`)).rows;

test('the fields are those of rl_headers()', async (t) => {
	const pool = newPool(t);

	await pool.query("SELECT rl_block('blocked', '1 hour', 'fields'), rl_penalize('debt', 5, 0.1, 7, 'fields')");

	const all = [
		...await decisions(pool, `(VALUES (0::float8), (0.5), (1), (2.5), (60), (1e6), (1e12)) c (capacity),
			(VALUES (0::float8), (3.17e-8), (0.3), (100 / 60.0), (7), (1e9)) f (refill),
			(VALUES (0::float8), (0.1), (1), (3), (1e7)) q (cost), generate_series(1, 2),
			LATERAL rl_throttle(format('%s %s %s', capacity, refill, cost), capacity, refill, cost, 'fields') r`),
		...await decisions(pool, "rl_throttle('blocked', 5, 1, 1, 'fields') r"),
		...await decisions(pool, "rl_throttle('debt', 5, 0.1, 1, 'fields') r"),
		...await decisions(pool, `json_populate_record(NULL::rl_result, '{"allowed": false, "capacity": 5, "limiter": "fields", "shadowed": false}') r`),
	];

	assert.strictEqual(all.length, 423);
	for (const { plain, named, ...result } of all) {
		assert.deepStrictEqual(rateLimitFields(result, { name: 'p' }), plain, JSON.stringify(result));
		assert.deepStrictEqual(rateLimitFields(result, { name: 'a "b" \\ é', unit: 'content-bytes' }), named, JSON.stringify(result));
	}
	assert.ok(all.filter(({ plain }) => plain['Retry-After']).length > 4);
});

test('with the rule known, w is the time in which an empty bucket fills', async (t) => {
	const limiter = newLimiter(newPool(t), { capacity: 100, refill: per(100, 'minute'), limiter: fresh('window') });
	const fields = rateLimitFields(await limiter.throttle('a', 0), { name: 'api', refill: limiter.rule.refill });

	assert.deepStrictEqual(fields, { RateLimit: '"api";r=100', 'RateLimit-Policy': '"api";q=100;w=60' });
});

/* The key of a request from an address, with X-Forwarded-For. */
const keyOf = (remoteAddress, forwarded, options) => clientKey(
	{ socket: { remoteAddress }, headers: forwarded === undefined ? {} : { 'x-forwarded-for': forwarded } }, options);

test('IPv6 addresses of a network are one key', () => {
	const key = (address, ipv6Prefix) => keyOf(address, undefined, { ipv6Prefix });

	assert.strictEqual(key('192.0.2.1'), '192.0.2.1');
	assert.strictEqual(key('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2::/64');
	assert.strictEqual(key('2001:DB8:1:2::7'), '2001:db8:1:2::/64');
	assert.strictEqual(key('2001:db8:1:2ff:3:4:5:6', 56), '2001:db8:1:200::/56');
	assert.strictEqual(key('2001:db8:1:2:3:4:5:6', 49), '2001:db8:1::/49');
	assert.strictEqual(key('2001:db8:ffff::', 33), '2001:db8:8000::/33');
	assert.strictEqual(key('2001:db8::1', 128), '2001:db8::1/128');
	assert.strictEqual(key('2001:db8::1', 0), '::/0');
	assert.strictEqual(key('::1'), '::/64');
	assert.strictEqual(key('fe80::1%eth0', 128), 'fe80::1/128');
	assert.strictEqual(key('::ffff:192.0.2.1'), '192.0.2.1', 'an IPv4 address is itself');
	assert.strictEqual(key('::ffff:c000:201'), '192.0.2.1');
	assert.strictEqual(key('64:ff9b::192.0.2.1', 128), '64:ff9b::c000:201/128');
	assert.strictEqual(key(undefined), 'unknown');
});

test('behind proxies, the address is the one that the outermost trusted one has seen', () => {
	assert.strictEqual(keyOf('192.0.2.1', '203.0.113.9'), '192.0.2.1', 'without proxies, the client says what it likes');
	assert.strictEqual(keyOf('10.0.0.1', '198.51.100.7, 203.0.113.9', { hops: 1 }), '203.0.113.9');
	assert.strictEqual(keyOf('10.0.0.1', '198.51.100.7, 203.0.113.9, 10.0.0.2', { hops: 2 }), '203.0.113.9');
	assert.strictEqual(keyOf('10.0.0.1', '203.0.113.9', { hops: 3 }), '203.0.113.9', 'fewer than said');
	assert.strictEqual(keyOf('10.0.0.1', undefined, { hops: 1 }), '10.0.0.1');
	assert.strictEqual(keyOf('10.0.0.1', ' , 203.0.113.9 ,', { hops: 1 }), '203.0.113.9');
	assert.strictEqual(keyOf('10.0.0.1', '203.0.113.9:4711', { hops: 1 }), '203.0.113.9', 'with a port');
	assert.strictEqual(keyOf('10.0.0.1', '[2001:db8:1:2::5]:4711', { hops: 1 }), '2001:db8:1:2::/64');
	assert.strictEqual(keyOf('10.0.0.1', '203.0.113.9, unknown, 10.0.0.2', { hops: 3 }), '10.0.0.2', 'what is no address is not believed');
});
