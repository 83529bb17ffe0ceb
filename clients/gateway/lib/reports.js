/*
 * Rejections of proxies that count by themselves, which come as lines of their log over
 * syslog: datagrams with an object {"key", "limiter", "rejected"} after whatever syslog has in
 * front.  They are summed up, and go to rl_report_batch() together.
 *
 * A batch that fails is sent again with the next one, unless the database will never take it.  Datagrams may be lost, as always with
 * syslog over UDP.
 */
'use strict';

const { createSocket } = require('node:dgram');
const { log, logSometimes } = require('./log');

const MAX_KEYS = 10000;			// of a batch; beyond it they are summed under OTHER
const OTHER = '(other)';
const MAX_REJECTED = 2 ** 40;	// as rl_report() has it

const quoted = (name) => `"${name.replace(/"/g, '""')}"`;

/* A name that JSON in the database can hold. */
const isName = (value, most) => typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= most &&
	!value.includes('\0') && !/\p{Surrogate}/u.test(value);

/* A line as an entry, or null. */
function entryOf(line) {
	const begin = line.indexOf('{');
	let value;

	if (begin < 0) return null;
	try {
		value = JSON.parse(line.slice(begin));
	} catch {
		return null;
	}

	const { key, limiter, rejected = 1 } = value;

	if (!isName(key, 255) || !isName(limiter, 63) || limiter.includes(':')) return null;
	if (!Number.isInteger(rejected) || rejected < 1 || rejected > MAX_REJECTED) return null;
	return { key, limiter, rejected };
}

class Reports {
	#pool;
	#policies;
	#text;
	#seconds;
	#socket;
	#sums = new Map();
	#timer = null;
	#sending = null;

	constructor({ pool, policies, schema, listen, seconds }) {
		this.#pool = pool;
		this.#policies = policies;
		this.#text = `SELECT accepted FROM ${schema === undefined ? '' : `${quoted(schema)}.`}rl_report_batch($1::jsonb)`;
		this.#seconds = seconds;
		this.#socket = createSocket(listen.host.includes(':') ? 'udp6' : 'udp4');
		this.#socket.on('message', (message) => this.#take(message.toString('utf8')));
	}

	/* Resolves to the port. */
	listen({ host, port }) {
		return new Promise((resolve, reject) => {
			this.#socket.once('error', reject);
			this.#socket.bind(port, host, () => {
				this.#socket.off('error', reject);
				this.#socket.on('error', (error) => log(`reports: ${error.message}`));
				this.#timer = setInterval(() => this.send(), this.#seconds * 1000);
				resolve(this.#socket.address().port);
			});
		});
	}

	#take(message) {
		for (const line of message.split('\n')) {
			if (line.trim() === '') continue;

			const entry = entryOf(line);

			if (entry) this.#add(entry);
			else logSometimes('reports', `not a report: ${line.slice(0, 200)}`);
		}
	}

	#add({ key: given, limiter, rejected }) {
		let key = this.#policies.keyFor(given);
		let name = JSON.stringify([limiter, key]);

		if (!this.#sums.has(name) && this.#sums.size >= MAX_KEYS) {
			key = OTHER;
			name = JSON.stringify([limiter, key]);
			// names of limiters come from the proxy's configuration, and are few
			if (!this.#sums.has(name) && this.#sums.size >= MAX_KEYS + 100) return;
		}

		const sum = this.#sums.get(name)?.rejected ?? 0;

		this.#sums.set(name, { key, limiter, rejected: Math.min(MAX_REJECTED, sum + rejected) });
	}

	/* Send what there is. */
	send() {
		this.#sending ??= this.#send().finally(() => {
			this.#sending = null;
		});
		return this.#sending;
	}

	async #send() {
		if (this.#sums.size === 0) return;

		const sums = this.#sums;

		this.#sums = new Map();
		try {
			await this.#pool.query(this.#text, [JSON.stringify([...sums.values()])]);
		} catch (error) {
			if (/^22/.test(error.code)) {
				logSometimes('lost', `reports of ${sums.size} keys are lost: ${error.message}`);
				return;
			}
			logSometimes('rl_report_batch', `cannot report ${sums.size} keys, and tries again: ${error.message}`);
			for (const entry of sums.values()) this.#add(entry);
		}
	}

	/* Take no more, and send the rest. */
	async close() {
		clearInterval(this.#timer);
		await new Promise((resolve) => {
			this.#socket.close(resolve);
		});
		await this.#sending;
		await this.send();
		if (this.#sums.size > 0) log(`reports of ${this.#sums.size} keys are lost`);
	}
}

module.exports = { Reports, entryOf };
