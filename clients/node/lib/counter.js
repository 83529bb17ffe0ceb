/*
 * Counts of hits in windows, for the stores of other packages: rl_count(), and rl_block().
 *
 * A window is a period of the extension, and so the same for all keys: one of 60,000 ms
 * begins with each minute.  Counts of one turn of the event loop go into one query.
 */
'use strict';

const { driverFor } = require('./drivers');
const { Gatherer } = require('./gatherer');
const { statement } = require('./statements');

const quoted = (name) => `"${name.replace(/"/g, '""')}"`;
const textArray = (calls, name) => `{"${calls.map((call) => (/["\\]/.test(call[name]) ?
	call[name].replace(/["\\]/g, '\\$&') : call[name])).join('","')}"}`;

/* A key of the extension has 1 to 255 bytes, and those of other packages may be longer. */
function keyOf(key) {
	const text = String(key);

	if (text !== '' && Buffer.byteLength(text) <= 255 && !text.includes('\0')) return text;
	return `sha256:${require('node:crypto').createHash('sha256').update(text).digest('hex')}`;
}

class Counter {
	constructor(db, { limiter = 'default', schema, timeout = 1000, prepare } = {}) {
		const f = (name) => (schema === undefined ? name : `${quoted(schema)}.${name}`);
		const driver = driverFor(db, { prepare });

		this.limiter = limiter;
		this.timeout = timeout;
		this.driver = driver;
		// cost 0 is denied only while the key is blocked: then nothing is added
		this.statement = statement(`SELECT c.hits, extract(epoch FROM c.resets_at - pg_catalog.clock_timestamp())::float8,
				CASE WHEN b.allowed THEN 0 ELSE extract(epoch FROM b.retry_after)::float8 END
				FROM unnest($1::text[], $2::text[], $3::float8[]) AS k (key, period, n),
				LATERAL ${f('rl_peek_period')}(k.key, 1, k.period, 0, $4) AS b,
				LATERAL ${f('rl_count')}(k.key, k.period, CASE WHEN b.allowed OR k.n < 0 THEN k.n ELSE 0 END, $4) AS c`);
		this.blocking = statement(`SELECT ${f('rl_block')}($1, pg_catalog.make_interval(secs => $2), $3)::text`);
		this.unblocking = statement(`SELECT ${f('rl_unblock')}($1, $2)`);
		this.gatherer = new Gatherer({
			most: Math.min(8, Math.ceil(driver.most / 2)),
			maxCalls: 1000,
			timeout,
			report() {},
			run: (calls, milliseconds) => driver.query(this.statement,
				[textArray(calls, 'key'), textArray(calls, 'period'), `{${calls.map(({ n }) => n).join(',')}}`, limiter], milliseconds),
			settle: (calls, rows) => calls.forEach(({ resolve }, i) => {
				const [hits, seconds, blocked] = rows[i];

				resolve({ hits, milliseconds: Math.max(0, seconds * 1000), blocked: (blocked ?? Infinity) * 1000 });
			}),
			fail: (calls, error) => calls.forEach(({ reject }) => reject(error)),
		});
	}

	/*
	 * Add n to the hits of a key in the present window, unless it is blocked.  Resolves to the
	 * hits, the milliseconds until the window ends, and for how many the key is blocked.
	 */
	count(key, windowMilliseconds, n = 1) {
		const milliseconds = Number(windowMilliseconds);

		if (!(milliseconds >= 1 && milliseconds <= Number.MAX_SAFE_INTEGER)) {
			return Promise.reject(new RangeError(`a window must have 1 ms or more, not ${windowMilliseconds}`));
		}
		return new Promise((resolve, reject) => {
			this.gatherer.add({ key: keyOf(key), period: `${Math.round(milliseconds)} milliseconds`, n, resolve, reject });
		});
	}

	reset(key, windowMilliseconds) {
		return this.count(key, windowMilliseconds, -1e18);
	}

	/* Deny a key for so long, whatever its windows.  Needs the right to call rl_block(). */
	block(key, milliseconds) {
		return this.driver.query(this.blocking, [keyOf(key), milliseconds / 1000, this.limiter], this.timeout);
	}

	async unblock(key) {
		const [[was]] = await this.driver.query(this.unblocking, [keyOf(key), this.limiter], this.timeout);

		return was;
	}

	close() {
		return this.gatherer.settled();
	}
}

module.exports = { Counter };
