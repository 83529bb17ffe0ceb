/*
 * What happens while the database is away.
 *
 * A query that gets no answer, because there is no connection, the server is shutting
 * down, or it takes too long, means that the database is away.  From then on calls are
 * decided at once, as the application has chosen, and a query that decides nothing is
 * sent from time to time.  Once it is answered, the database is back.
 */
'use strict';

const { TimeoutError } = require('./drivers');
const { LocalBuckets } = require('./local_buckets');

const FIRST_PROBE = 50;		// ms after the database went away
const LAST_PROBE = 5000;	// ms between two probes at most

class RateLimitUnavailableError extends Error {
	constructor(cause) {
		super(`the database cannot decide: ${cause.message}`, { cause });
		this.name = 'RateLimitUnavailableError';
		this.code = 'RATELIMIT_UNAVAILABLE';
	}
}

/* Errors of the server have a severity in both drivers. */
const fromServer = (error) => typeof error?.severity === 'string' && typeof error.code === 'string';

/* Whatever the caller or the administrator has to correct: classes of SQLSTATE. */
const MISTAKES = ['0A', '22', '28', '3D', '3F', '42', '54'];

/* Is an error one that the application's choice is for? */
function cannotDecide(error) {
	if (fromServer(error)) return !MISTAKES.includes(error.code.slice(0, 2));
	return error instanceof TimeoutError || !(error instanceof TypeError || error instanceof RangeError);
}

/* Does it mean that the database is away, for other calls as well? */
function isAway(error) {
	return cannotDecide(error) &&
		(!fromServer(error) || (['08', '53', '57'].includes(error.code.slice(0, 2)) && error.code !== '57014'));
}

class Away {
	/*
	 * choice: 'throw', 'allow', 'deny', or the { capacity, refill } of buckets of this
	 * process.  probe(milliseconds) resolves if the database is there.  report(event).
	 */
	constructor({ choice, limiter, probe, timeout, report }) {
		this.choice = choice;
		this.limiter = limiter;
		this.probe = probe;
		this.timeout = timeout;
		this.report = report;
		this.error = null;		// why the database is away; null: it is there
		this.since = 0;
		this.local = null;		// buckets, while it is away
		this.timer = null;
		this.closed = false;
	}

	/* A query has failed.  Is the database away? */
	failed(error) {
		if (this.error || this.closed || !isAway(error)) return;
		this.error = error;
		this.since = performance.now();
		this.report({ event: 'away', error });
		this.later(FIRST_PROBE);
	}

	later(milliseconds) {
		this.timer = setTimeout(async () => {
			try {
				await this.probe(this.timeout);
			} catch (error) {
				if (isAway(error)) {
					if (!this.closed) this.later(Math.min(LAST_PROBE, milliseconds * (1.5 + Math.random())));
					return;
				}
				// whatever it says, it is there
			}
			this.error = this.local = null;
			this.report({ event: 'back', milliseconds: performance.now() - this.since });
		}, milliseconds);
		// nobody waits for it
		this.timer.unref();
	}

	/* A decision of its own on a call that the database cannot decide because of an error. */
	decide(key, cost, error) {
		const { choice, limiter } = this;

		if (!cannotDecide(error)) throw error;
		if (choice === 'throw') throw new RateLimitUnavailableError(error);
		if (choice === 'allow' || choice === 'deny') {
			return {
				allowed: choice === 'allow',
				capacity: null,
				remaining: null,
				retryAfter: choice === 'allow' ? 0 : null,
				resetAfter: null,
				limiter,
				shadowed: false,
				by: choice,
			};
		}
		this.local ??= new LocalBuckets(choice);
		return this.local.throttle(key, cost, limiter);
	}

	close() {
		this.closed = true;
		clearTimeout(this.timer);
	}
}

module.exports = { Away, RateLimitUnavailableError };
