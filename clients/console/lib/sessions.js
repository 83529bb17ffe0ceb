/*
 * Sessions: who has logged in, known by a cookie that scripts cannot read.  They are in
 * the memory of this process only, so they end with it.
 *
 * A session ends when its person has done nothing for a while; what a page asks by itself
 * does not count.  It ends in any case after a longer while.
 */
'use strict';

const { randomBytes } = require('node:crypto');
const { Refusal } = require('./errors');

const MOST = 100;			// sessions
const MOST_OF_A_ROLE = 10;
const SWEEP = 10000;		// ms between two looks for those that have ended

const secret = () => randomBytes(32).toString('base64url');

class Sessions {
	#sessions = new Map();
	#settings;
	#cookie;
	#timer;

	constructor(settings, origin) {
		this.#settings = settings;
		// with this prefix a browser takes the cookie over TLS only, and from this host only
		this.#cookie = origin.startsWith('https:') ? '__Host-ratelimit-console' : `ratelimit-console-${new URL(origin).port}`;
		this.#timer = setInterval(() => this.#sweep(), SWEEP).unref();
	}

	/* Make one.  It has connections, facts, and the token that our page must send. */
	open({ connections, facts }) {
		this.#sweep();

		const own = [...this.#sessions.values()].filter((session) => session.facts.role === facts.role);

		if (own.length >= MOST_OF_A_ROLE) this.end(own[0]);
		if (this.#sessions.size >= MOST) {
			connections.end();
			throw new Refusal(503, 'full', 'Too many people are logged in.');
		}

		const now = performance.now();
		const session = { id: secret(), token: secret(), connections, facts, began: now, used: now };

		this.#sessions.set(session.id, session);
		return session;
	}

	/* The session of a request; undefined: none. */
	find(request) {
		const cookies = (request.headers.cookie ?? '').split(/; */);
		const id = cookies.find((cookie) => cookie.startsWith(`${this.#cookie}=`))?.slice(this.#cookie.length + 1);
		const session = this.#sessions.get(id);

		if (!session) return undefined;
		if (this.#hasEnded(session)) {
			this.end(session);
			return undefined;
		}
		return session;
	}

	/* Somebody has done something with it. */
	use(session) {
		session.used = performance.now();
	}

	end(session) {
		this.#sessions.delete(session.id);
		session.connections.end();
	}

	/* Set-Cookie: of a session, or, to forget it, of null. */
	cookieFor(session) {
		return `${this.#cookie}=${session ? session.id : ''}; Path=/; HttpOnly; SameSite=Strict` +
			`${this.#cookie.startsWith('__Host-') ? '; Secure' : ''}${session ? '' : '; Max-Age=0'}`;
	}

	async close() {
		clearInterval(this.#timer);
		await Promise.all([...this.#sessions.values()].map((session) => session.connections.end()));
		this.#sessions.clear();
	}

	#hasEnded({ began, used }) {
		const now = performance.now();

		return now - used > this.#settings.idle || now - began > this.#settings.session;
	}

	#sweep() {
		for (const session of this.#sessions.values()) if (this.#hasEnded(session)) this.end(session);
	}
}

module.exports = { Sessions };
