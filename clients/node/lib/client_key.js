/*
 * Whom a request is from, as a key: the address of the client, behind as many proxies as
 * the application trusts.
 *
 * Each proxy adds the address that it was asked from to the end of X-Forwarded-For.  So
 * with n proxies in front, the n-th address from the end is the client's, and what is
 * before it is what the client says.
 */
'use strict';

const { isIP, isIPv4 } = require('node:net');

/* An address without port, brackets and zone; undefined if there is none. */
function addressOf(text) {
	const inner = /^\[([^\]]*)\](?::\d+)?$/.exec(text)?.[1] ?? text;
	const address = inner.replace(/%.*$/, '').replace(/^([\d.]+):\d+$/, '$1');

	return isIP(address) ? address : undefined;
}

/* The 8 numbers of an IPv6 address. */
function groupsOf(address) {
	const last = address.slice(address.lastIndexOf(':') + 1);
	let hex = address;

	if (isIPv4(last)) {
		const [a, b, c, d] = last.split('.').map(Number);

		hex = `${address.slice(0, -last.length)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
	}

	const [before, after] = hex.split('::').map((half) => (half === '' ? [] : half.split(':')));
	const groups = after === undefined ? before : [...before, ...Array(8 - before.length - after.length).fill('0'), ...after];

	return groups.map((group) => parseInt(group, 16));
}

/*
 * An address as a key.  Of IPv6 only the first "prefix" bits count, as whoever has one
 * address of a network has them all; an IPv4 address within IPv6 is itself.
 */
function addressKey(address, prefix = 64) {
	if (isIPv4(address)) return address;

	const groups = groupsOf(address);

	if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
		return [groups[6] >> 8, groups[6] & 255, groups[7] >> 8, groups[7] & 255].join('.');
	}

	const masked = groups.map((group, i) => {
		const bits = Math.max(0, Math.min(16, prefix - 16 * i));

		return group & (0xffff << (16 - bits)) & 0xffff;
	});

	// a URL has the one short form of each address, in brackets
	return `${new URL(`http://[${masked.map((group) => group.toString(16)).join(':')}]`).hostname.slice(1, -1)}/${prefix}`;
}

/* The key of a request of node:http, behind so many trusted proxies. */
function clientKey(request, { hops = 0, ipv6Prefix = 64 } = {}) {
	let client = addressOf(request.socket?.remoteAddress ?? '');

	if (hops > 0) {
		const field = request.headers['x-forwarded-for'] ?? '';
		const forwarded = field.split(',').map((text) => text.trim()).filter(Boolean).reverse();

		// what is no address cannot be from a proxy that is trusted
		for (const text of forwarded.slice(0, hops)) {
			const address = addressOf(text);

			if (address === undefined) break;
			client = address;
		}
	}
	return client === undefined ? 'unknown' : addressKey(client, ipv6Prefix);
}

module.exports = { addressKey, clientKey };
