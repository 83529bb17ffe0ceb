/*
 * Gathers the calls that are made in one turn of the event loop, and runs each lot of
 * them as one query.
 *
 * How many queries are under way at a time, and so how many calls are in each, is found
 * from load.  Of the calls that are not answered yet, a query takes 1/n if n queries may
 * be under way.  More of them overlap the work of this process with that of the server,
 * and fewer cost both of them less for each call: which is better depends on the machine
 * and on what else it does.  So n is tried out.  While there is load, short stretches
 * with n and with one more or one less alternate, and what makes a call take less time
 * on average is kept.  That serves both kinds of load: callers that wait for answers
 * before they call again make most calls when a call takes least.
 *
 * The calls of a query are in the order in which they were made.  Queries that are under
 * way at the same time may be decided in any order.
 *
 * Nothing here knows what the calls are.
 */
'use strict';

const FEW = 8;				// calls that go into one query at any rate
const STRETCH = 16;			// queries until n changes when it is tried out
const ROUNDS = 6;			// stretches with either
const BETTER = 0.97;		// of the time: then it is kept
const NOT_WORSE = 1.01;		// of the time: then fewer queries are kept
const PAUSE = 2000;			// queries after a trial that has changed nothing

class Gatherer {
	/*
	 * run(calls, milliseconds) resolves to the calls' answers, in order, and rejects if
	 * the query fails or takes longer than that.  settle(calls, answers) or
	 * fail(calls, error) tells the callers.  report(calls, milliseconds, error) is told of
	 * each query.  now() is the time in milliseconds.
	 */
	constructor({ run, settle, fail, most, maxCalls, timeout, report, now = () => performance.now() }) {
		this.now = now;
		this.run = run;
		this.settle = settle;
		this.fail = fail;
		this.most = Math.max(1, most);
		this.maxCalls = maxCalls;
		this.timeout = timeout;
		this.report = report;
		this.queue = [];
		this.scheduled = false;
		this.turn = 0;			// when it was scheduled: the time of the turn's calls
		this.queries = 0;		// under way
		this.calls = 0;			// in them
		this.n = Math.min(2, this.most);
		this.trial = null;
		this.pause = 0;
		this.step = -1;			// what is tried next
		this.failures = 0;		// trials in turn that have changed nothing
		// of the stretch: calls that were answered, and the time that they took together
		this.answered = 0;
		this.time = 0;
		this.at = 0;
		this.idle = null;		// who wait until nothing is under way
	}

	add(call) {
		// all that is ready to run in this turn runs before
		if (!this.scheduled) this.schedule();
		call.since = this.turn;
		this.queue.push(call);
	}

	schedule() {
		this.scheduled = true;
		this.turn = this.now();
		setImmediate(() => {
			this.scheduled = false;
			this.flush();
		});
	}

	/* Take a call that is still waiting out of the queue.  Was it there? */
	remove(call) {
		const i = this.queue.indexOf(call);

		if (i >= 0) this.queue.splice(i, 1);
		return i >= 0;
	}

	/* Take all calls that are still waiting. */
	takeAll() {
		return this.queue.splice(0);
	}

	flush() {
		while (this.queue.length > 0 && this.queries < this.n) {
			const share = Math.ceil((this.queue.length + this.calls) / this.n);

			this.send(this.queue.splice(0, Math.min(Math.max(share, FEW), this.maxCalls)));
		}
	}

	/* The calls that are not answered have taken some more time. */
	pass(at) {
		this.time += (this.queue.length + this.calls) * (at - this.at);
		this.at = at;
	}

	async send(calls) {
		const began = this.now();
		let answers;
		let failed;

		this.pass(began);
		this.queries++;
		this.calls += calls.length;
		try {
			// what waited in the queue has less time left
			answers = await this.run(calls, Math.max(1, this.timeout - (began - calls[0].since)));
		} catch (error) {
			failed = error;
		}

		const ended = this.now();

		this.pass(ended);
		this.queries--;
		this.calls -= calls.length;
		this.answered += calls.length;
		this.report(calls.length, ended - began, failed);
		if (failed) this.fail(calls, failed);
		else this.settle(calls, answers);
		if (this.queue.length > 0 && !this.scheduled) this.schedule();
		this.adjust(calls.length);
		if (this.queries === 0 && this.queue.length === 0) {
			this.idle?.resolve();
			this.idle = null;
		}
	}

	/* Once nothing waits and nothing is under way. */
	settled() {
		if (this.queries === 0 && this.queue.length === 0) return Promise.resolve();
		if (!this.idle) {
			this.idle = {};
			this.idle.promise = new Promise((resolve) => {
				this.idle.resolve = resolve;
			});
		}
		return this.idle.promise;
	}

	/* A query has been answered: does n change? */
	adjust(size) {
		if (this.pause > 0) {
			this.pause--;
			return;
		}
		if (!this.trial) {
			// of few calls there is nothing to learn
			if (size + this.calls + this.queue.length <= FEW) return;
			const other = this.n + this.step;

			if (other < 1 || other > this.most) {
				this.end(false);
				return;
			}
			this.trial = { usual: this.n, other, left: 2 * ROUNDS, queries: 0, times: [0, 0], calls: [0, 0] };
			this.answered = this.time = 0;
			return;
		}

		const { trial } = this;

		if (++trial.queries < STRETCH) return;

		const which = this.n === trial.other ? 1 : 0;

		trial.times[which] += this.time;
		trial.calls[which] += this.answered;
		trial.queries = this.answered = this.time = 0;
		trial.left--;
		if (trial.left > 0) {
			// usual, other, other, usual: what drifts meets both alike
			this.n = trial.left % 4 === 0 || trial.left % 4 === 3 ? trial.usual : trial.other;
			return;
		}

		const ratio = (trial.times[1] / trial.calls[1]) / (trial.times[0] / trial.calls[0]);

		this.n = trial.usual;
		this.end(ratio < (trial.other < trial.usual ? NOT_WORSE : BETTER));
	}

	/* A trial has ended.  If it was a success, the next one goes further this way. */
	end(success) {
		if (success) {
			this.n = this.trial.other;
			this.failures = 0;
		} else {
			this.step = -this.step;
			this.failures++;
		}
		// neither way is better
		this.pause = this.failures > 0 && this.failures % 2 === 0 ? PAUSE : 0;
		this.trial = null;
	}
}

module.exports = { Gatherer };
