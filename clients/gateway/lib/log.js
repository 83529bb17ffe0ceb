/* Messages to the standard error, each a line, whatever is in it. */
'use strict';

const PAUSE = 10000;		// ms between two messages about the same thing
const MAX_SUBJECTS = 1000;

const subjects = new Map();		// when it was last said, and how often it was not since

function log(message) {
	const line = String(message).slice(0, 4000).replace(/[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

	process.stderr.write(`ratelimit-gateway: ${line.replace(/\n/g, '\n\t')}\n`);
}

/* The same, but about one subject not more often than every few seconds. */
function logSometimes(subject, message) {
	const at = performance.now();
	const last = subjects.get(subject);

	if (last && at - last.at < PAUSE) {
		last.more++;
		return;
	}
	if (subjects.size >= MAX_SUBJECTS) subjects.clear();
	subjects.set(subject, { at, more: 0 });
	log(last?.more ? `${message} (and ${last.more} times before)` : message);
}

module.exports = { log, logSometimes };
