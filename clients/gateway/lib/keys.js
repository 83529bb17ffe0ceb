/*
 * Keys: what the parts of a request make.
 *
 * One part is the key as it is, so that applications that limit the same client by
 * themselves have the same bucket.  Several parts are put together with a blank, which is
 * encoded in the parts, so that no client can choose parts that make the key of another.
 */
'use strict';

const { createHash } = require('node:crypto');
const { isIP } = require('node:net');
const { clientKey } = require('ratelimit-postgresql');

const MAX_BYTES = 255;		// that a key of the extension has

const encoded = (part) => part.replace(/[% ]/g, (c) => (c === '%' ? '%25' : '%20'));

function keyOf(parts) {
	const text = parts.length === 1 ? parts[0] : parts.map(encoded).join(' ');

	// no character has more than 3 bytes for each of its units
	if ((text.length * 3 <= MAX_BYTES || Buffer.byteLength(text) <= MAX_BYTES) && !text.includes('\0')) return text;
	return hashed(text);
}

const hashed = (text) => `sha256:${createHash('sha256').update(text).digest('hex')}`;

/* A key that a database of any encoding can hold. */
const asciiKey = (key) => (/^[\0-\x7f]*$/.test(key) ? key : hashed(key));

/* An address as the key that clientKey() makes of it; anything else as it is. */
function addressKey(text, ipv6Prefix) {
	return isIP(text) === 0 ? text : clientKey({ headers: {}, socket: { remoteAddress: text } }, { ipv6Prefix });
}

module.exports = { addressKey, asciiKey, keyOf };
