/*
 * A decision as HTTP header fields: RateLimit and RateLimit-Policy as in
 * draft-ietf-httpapi-ratelimit-headers-10, and Retry-After.
 *
 * They are those of the extension's function rl_headers(), whose page in the reference
 * says what the parameters mean.
 */
'use strict';

const SF_INTEGER_MAX = 999999999999999;
const RESULT_ERROR = 1e-6;		// seconds: an rl_result has whole microseconds
const ROUNDING = 1e-12;			// relative, of a division

/* An integer of a structured field, rounded down. */
const sfInteger = (value) => String(Math.floor(Math.max(Math.min(value, SF_INTEGER_MAX), 0)));

/* A string of a structured field.  Bytes that it cannot hold become %XX. */
function sfString(text) {
	let out = '';

	for (const byte of Buffer.from(text)) {
		if (byte === 0x22 || byte === 0x5c) out += '\\';
		out += byte < 0x20 || byte > 0x7e ? `%${byte.toString(16).toUpperCase().padStart(2, '0')}` : String.fromCharCode(byte);
	}
	return `"${out}"`;
}

/* Seconds in which an empty bucket fills, or undefined. */
function windowOf(capacity, remaining, full) {
	const missing = capacity - remaining;

	if (!(full > 0 && missing > 0)) return undefined;

	const window = capacity * (full / missing);
	const error = window * (RESULT_ERROR / full + ROUNDING);

	return error > 0.5 ? undefined : Math.max(Math.ceil(window - error), 1);
}

/* Seconds until there is more, or undefined if there never is. */
function moreAfter(capacity, remaining, full, retryAfter) {
	const next = Math.max(Math.floor(remaining) + 1, 1);

	if (full === null || !(next <= capacity)) return undefined;

	const more = full * ((next - remaining) / (capacity - remaining));

	return retryAfter > 0 && more > retryAfter ? retryAfter : more;
}

/*
 * The fields of a result of throttle(): an object of strings, without those that say
 * nothing.  "name" is the name that they give the limit, "unit" what a token stands for,
 * and "refill" the rule's refill, if it is known.
 */
function rateLimitFields(result, { name = result.limiter, unit, refill } = {}) {
	const { allowed, capacity, resetAfter: full } = result;
	const retryAfter = allowed ? 0 : result.retryAfter;
	const label = sfString(name);
	const fields = {};
	let { remaining } = result;
	let more;

	if (remaining !== null) {
		if (retryAfter !== null && retryAfter > Math.max(full ?? -1, 0)) {
			// a call that has to wait until after the bucket is full is blocked
			remaining = 0;
			more = retryAfter;
		} else {
			more = moreAfter(capacity, remaining, full, retryAfter);
		}
		fields.RateLimit = `${label};r=${sfInteger(remaining)}${more === undefined ? '' :
			`;t=${sfInteger(Math.ceil(more - RESULT_ERROR))}`}`;
	}
	if (capacity !== null) {
		const window = refill > 0 ? Math.max(Math.ceil((capacity / refill) * (1 - ROUNDING)), 1) :
			windowOf(capacity, result.remaining, full);

		fields['RateLimit-Policy'] = `${label};q=${sfInteger(capacity)}${unit === undefined ? '' : `;qu=${sfString(unit)}`}` +
			`${window === undefined ? '' : `;w=${sfInteger(window)}`}`;
	}
	if (retryAfter > 0) fields['Retry-After'] = sfInteger(Math.ceil(retryAfter));
	return fields;
}

module.exports = { rateLimitFields };
