/*
 * The server: takes a request, checks it (lib/csrf.js), finds its session
 * (lib/sessions.js), has its route answer (lib/routes.js), or sends a file of public/.
 */
'use strict';

const { createServer } = require('node:http');
const { join } = require('node:path');
const { Attempts } = require('./attempts');
const { checkHost, checkOrigin, checkToken, originsOf } = require('./csrf');
const { Refusal, answerFor } = require('./errors');
const { routes } = require('./routes');
const { Sessions } = require('./sessions');
const { staticFiles } = require('./static_files');

const LAST_ANSWERS = 2000;		// ms for requests under way when the server stops
const HEAVY = 4;				// requests at a time whose bodies are large
const HEAVY_OF_A_ROLE = 2;

/* Scripts and styles are files of our own, and no text ever becomes markup. */
const HEADERS = {
	'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	'X-Content-Type-Options': 'nosniff',
	'X-Frame-Options': 'DENY',
	'Referrer-Policy': 'no-referrer',
	'Cross-Origin-Opener-Policy': 'same-origin',
	'Cross-Origin-Resource-Policy': 'same-origin',
	'Permissions-Policy': 'camera=(), geolocation=(), microphone=(), payment=(), usb=()',
};

async function readBody(request, most) {
	const chunks = [];
	let length = 0;

	if (!/^application\/json\s*(;|$)/i.test(request.headers['content-type'] ?? '')) throw new Refusal(415, 'argument', 'The body must be JSON.');
	if (Number(request.headers['content-length']) > most) throw new Refusal(413, 'argument', 'That is too much.');
	for await (const chunk of request) {
		length += chunk.length;
		if (length > most) throw new Refusal(413, 'argument', 'That is too much.');
		chunks.push(chunk);
	}
	try {
		const body = JSON.parse(Buffer.concat(chunks).toString('utf8'));

		if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body;
	} catch {
		// as below
	}
	throw new Refusal(400, 'argument', 'The body must be a JSON object.');
}

/* Starts to listen.  Gives { origin, port, stop() }. */
async function startServer(settings) {
	const files = staticFiles(join(__dirname, '../public'));
	const attempts = new Attempts(settings);
	const heavy = [];			// the roles whose large requests are under way
	let origins;
	let sessions;

	async function inTurn(role, run) {
		if (heavy.length >= HEAVY || heavy.filter((other) => other === role).length >= HEAVY_OF_A_ROLE) {
			throw new Refusal(503, 'busy', 'The console already has as many simulations as it can. Try again in a little while.', { retryAfter: 5 });
		}
		heavy.push(role);
		try {
			return await run();
		} finally {
			heavy.splice(heavy.indexOf(role), 1);
		}
	}

	async function api(request, url, response) {
		const route = routes[`${request.method} ${url.pathname}`];

		checkOrigin(request, origins);
		if (!route) throw new Refusal(404, 'path', 'There is no such page.');

		const session = sessions.find(request);

		if (!route.open) {
			if (!session) throw new Refusal(401, 'session', 'Your session has ended. Log in again.');
			checkToken(request, session);
			if (request.headers['x-automatic'] === undefined) sessions.use(session);
		}
		try {
			const run = async () => {
				const body = route.most ? await readBody(request, route.most) : undefined;

				return route.handle({ request, parameters: url.searchParams, body, session, sessions, attempts, settings });
			};
			const { answer, cookie } = await (route.heavy ? inTurn(session.facts.role, run) : run());

			if (cookie) response.setHeader('Set-Cookie', cookie);
			send(response, 200, answer);
		} catch (error) {
			// the role's password has changed, or the role is gone
			if (session && /^28/.test(error.code)) sessions.end(session);
			throw error;
		}
	}

	function send(response, status, answer) {
		response.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8', 'Cache-Control': 'no-store' });
		response.end(typeof answer === 'string' ? answer : JSON.stringify(answer));
	}

	function sendFile(request, response, { body, type, tag }) {
		const same = request.headers['if-none-match'] === tag;

		response.writeHead(same ? 304 : 200, { 'Content-Type': type, ETag: tag, 'Cache-Control': 'no-cache' });
		response.end(same || request.method === 'HEAD' ? undefined : body);
	}

	async function handle(request, response) {
		for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
		checkHost(request, origins);

		let url;

		try {
			url = new URL(request.url, origins[0]);
		} catch {
			throw new Refusal(400, 'path', 'There is no such page.');
		}
		if (url.pathname.startsWith('/api/')) return api(request, url, response);
		if (request.method !== 'GET' && request.method !== 'HEAD') throw new Refusal(405, 'path', 'There is no such page.');
		if (!files.has(url.pathname)) throw new Refusal(404, 'path', 'There is no such page.');
		return sendFile(request, response, files.get(url.pathname));
	}

	const server = createServer({ requestTimeout: 60000, headersTimeout: 10000 }, (request, response) => {
		handle(request, response).catch((error) => {
			const { status, code, message, retryAfter } = answerFor(error);

			if (status === 500) console.error(error);
			if (response.headersSent) {
				response.destroy();
				return;
			}
			if (retryAfter) response.setHeader('Retry-After', retryAfter);
			// what is left of the body is thrown away, or the answer would not arrive
			request.resume();
			send(response, status, { error: code, message });
		});
	});

	server.maxConnections = 500;
	await new Promise((resolve, reject) => {
		server.once('error', reject);
		server.listen(settings.listen.port, settings.listen.host, resolve);
	});
	origins = originsOf(settings, server.address().port);
	sessions = new Sessions(settings, origins[0]);
	return {
		origin: origins[0],
		port: server.address().port,
		async stop() {
			const closed = new Promise((resolve) => {
				server.close(resolve);
			});

			server.closeIdleConnections();
			setTimeout(() => server.closeAllConnections(), LAST_ANSWERS).unref();
			await sessions.close();
			await closed;
		},
	};
}

module.exports = { startServer };
