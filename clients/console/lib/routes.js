/*
 * Routes: what is under /api/.  A handler gets { session, sessions, attempts, settings,
 * request, parameters, body } and gives the answer: an object, or JSON text that the
 * database has made; and perhaps a cookie.
 */
'use strict';

const { act } = require('./actions');
const { logIn } = require('./connections');
const { Refusal, answerFor } = require('./errors');
const { queries, withSchema } = require('./queries');
const { simulate } = require('./simulation');

/* What our page is told of its session; and, when it has logged in, its token. */
const shown = ({ facts: { role, database, server, mayAct } }) => ({ role, database, server, mayAct });

/* With the extension's schema. */
const asker = ({ connections, facts }) => ({
	ask: (text, values) => connections.value(withSchema(text, facts.schema), values),
});

const page = (name) => ({ session }) => asker(session).ask(queries[name]);

function keyOf(parameters) {
	const key = parameters.get('key') ?? '';

	if (key === '' || Buffer.byteLength(key) > 255 || key.includes('\0')) throw new Refusal(400, 'argument', 'A key has 1 to 255 bytes.');
	return key;
}

const ofKey = (name) => ({ session, parameters }) => asker(session).ask(queries[name], [keyOf(parameters)]);

const SMALL = 16 * 1024;
const LOG = 12 * 1024 * 1024;

/* open: without a session.  most: bytes of the body.  heavy: only a few at a time. */
const routes = {
	'POST /api/login': {
		open: true,
		most: SMALL,
		async handle({ request, sessions, attempts, settings, session: old, body: { role, password } }) {
			const session = sessions.open(await attempts.run(request, role, () => logIn(role, password, settings)));

			if (old) sessions.end(old);
			return { answer: { ...shown(session), token: session.token }, cookie: sessions.cookieFor(session) };
		},
	},
	'POST /api/logout': {
		most: SMALL,
		async handle({ sessions, session }) {
			sessions.end(session);
			return { answer: {}, cookie: sessions.cookieFor(null) };
		},
	},
	'POST /api/actions': { most: SMALL, handle: async ({ session, body }) => ({ answer: await act(asker(session), body) }) },
	'POST /api/simulate': {
		most: LOG,
		heavy: true,
		async handle({ request, session, body }) {
			return { answer: await simulate(asker(session), body, answerFor, () => request.socket.destroyed) };
		},
	},
	'GET /api/session': { handle: async ({ session }) => ({ answer: shown(session) }) },
};

for (const name of ['now', 'throttled', 'offenders', 'review', 'policies', 'stores', 'thresholds', 'actions']) {
	routes[`GET /api/${name}`] = { handle: async (call) => ({ answer: await page(name)(call) }) };
}
for (const name of ['key', 'hours']) {
	routes[`GET /api/${name}`] = { handle: async (call) => ({ answer: await ofKey(name)(call) }) };
}

module.exports = { routes };
