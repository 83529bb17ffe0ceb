/*
 * The HTTP check, for proxies that ask before they pass a request on; and health.
 *
 *	/check				200, or 429 with Retry-After
 *	/check?denied=403	the same with status 403, for a proxy that knows only that
 *	/healthz			200 while the process runs
 *	/readyz				200 while the database decides, 503 otherwise
 */
'use strict';

const { createServer } = require('node:http');
const { fieldsOf } = require('./answer');
const { log } = require('./log');
const { MissingError } = require('./request_rules');

const MAX_HEADER = 64 * 1024;		// bytes of all header fields of a request
const MAX_CONNECTIONS = 10000;
const KEEP_ALIVE = 75000;			// ms, longer than proxies keep an idle connection

/* The status of a denial.  A proxy may leave the client's own query where it is. */
const CHECKS = new Map([401, 403].map((status) => [`/check?denied=${status}`, status]));
const deniedStatus = (url) => CHECKS.get(url) ?? (url === '/check' || url.startsWith('/check?') ? 429 : undefined);

class HttpServer {
	#server;
	#calls;
	#decider;
	#ready;
	#pending = 0;		// requests that are not answered
	#closing = false;

	/* calls(request) gives what to decide; ready() says whether the database is there. */
	constructor({ calls, decider, ready }) {
		this.#calls = calls;
		this.#decider = decider;
		this.#ready = ready;
		this.#server = createServer({ maxHeaderSize: MAX_HEADER, keepAliveTimeout: KEEP_ALIVE, requestTimeout: 10000 },
			(request, response) => this.#answer(request, response));
		this.#server.maxConnections = MAX_CONNECTIONS;
		// the headers of a proxy are at once there
		this.#server.headersTimeout = 10000;
	}

	/* Resolves to the port. */
	listen({ host, port }) {
		return new Promise((resolve, reject) => {
			this.#server.once('error', reject);
			this.#server.listen(port, host, () => {
				this.#server.off('error', reject);
				resolve(this.#server.address().port);
			});
		});
	}

	async #answer(request, response) {
		const denied = deniedStatus(request.url);

		this.#pending++;
		response.on('close', () => this.#pending--);
		if (this.#closing) response.shouldKeepAlive = false;
		// whatever body there is, it is not wanted
		request.resume();
		try {
			if (denied !== undefined) await this.#check(request, response, denied);
			else if (request.url === '/healthz') this.#end(response, 200, {}, 'ok\n');
			else if (request.url === '/readyz') this.#end(response, this.#ready() ? 200 : 503, {}, this.#ready() ? 'ready\n' : 'not ready\n');
			else this.#end(response, 404, {}, 'there are /check, /healthz and /readyz\n');
		} catch (error) {
			if (error instanceof MissingError) {
				this.#end(response, 400, {}, `${error.message}\n`);
				return;
			}
			log(error.stack);
			this.#end(response, 500, {}, 'internal error\n');
		}
	}

	async #check(request, response, denied) {
		const decision = await this.#decider.decide(this.#calls(request));

		if (decision.allowed) this.#end(response, 200, fieldsOf(decision), '');
		else this.#end(response, denied, fieldsOf(decision), 'Too many requests\n');
	}

	#end(response, status, fields, body) {
		response.writeHead(status, { ...fields, 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': Buffer.byteLength(body) });
		response.end(body);
	}

	/*
	 * Answer what has been asked, and take nothing more.  A connection whose request has
	 * not come whole once all others are answered is not waited for.
	 */
	async close() {
		let quiet = 0;
		const closed = new Promise((resolve) => {
			this.#server.close(resolve);
		});
		const timer = setInterval(() => {
			quiet = this.#pending === 0 ? quiet + 1 : 0;
			if (quiet < 10) this.#server.closeIdleConnections();
			else this.#server.closeAllConnections();
		}, 20);

		this.#closing = true;
		this.#server.closeIdleConnections();
		await closed;
		clearInterval(timer);
	}

	/* Do not wait for answers any more. */
	kill() {
		this.#server.closeAllConnections();
	}
}

module.exports = { HttpServer };
