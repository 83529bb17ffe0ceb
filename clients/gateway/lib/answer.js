/* What a decision tells the client: header fields of all its results. */
'use strict';

const { rateLimitFields } = require('ratelimit-postgresql');

/* Of a decision { allowed, results }: an object of fields. */
function fieldsOf({ allowed, results }) {
	const fields = {};
	let wait = 0;

	for (const result of results) {
		if (!result) continue;

		const { 'Retry-After': after, ...others } = rateLimitFields(result);

		for (const [name, value] of Object.entries(others)) {
			fields[name] = fields[name] === undefined ? value : `${fields[name]}, ${value}`;
		}
		// a client that waits for the longest needs to wait once
		if (!result.allowed) wait = Math.max(wait, after === undefined ? Infinity : Number(after));
	}
	if (!allowed && wait > 0 && wait < Infinity) fields['Retry-After'] = String(wait);
	return fields;
}

module.exports = { fieldsOf };
