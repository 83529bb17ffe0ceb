/*
 * Actions: what an operator does.  The database writes an action down, and then does it,
 * with functions of sql/setup.sql: it decides who may, and checks everything.
 */
'use strict';

const { Refusal, sentence } = require('./errors');
const { queries } = require('./queries');

/* Gives { id, result }. */
async function act(session, { action, limiter, key = null, details = {}, reason } = {}) {
	for (const text of [action, limiter, reason]) {
		if (typeof text !== 'string') throw new Refusal(400, 'argument', 'An action has a name, a limiter and a reason.');
	}
	if ((key !== null && typeof key !== 'string') || typeof details !== 'object') throw new Refusal(400, 'argument', 'A key is a text, and details are an object.');

	const id = await session.ask(queries.ask, [action, limiter, key, JSON.stringify(details), reason]);
	const { done, result } = JSON.parse(await session.ask(queries.perform, [id]));

	// it is written down that it has failed
	if (!done) throw new Refusal(422, 'failed', sentence(result));
	return { id, result };
}

module.exports = { act };
