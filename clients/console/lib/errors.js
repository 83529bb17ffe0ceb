/*
 * Errors: what a browser is told.  A Refusal is ours; others are the database's, whose
 * messages about what somebody has entered are shown, and the rest are not.
 */
'use strict';

class Refusal extends Error {
	constructor(status, code, message, { retryAfter } = {}) {
		super(message);
		this.status = status;
		this.code = code;
		this.retryAfter = retryAfter;
	}
}

const LOST = 'The database cannot be reached. The console tries again with each request.';

/* By SQLSTATE or the first two characters of it. */
const OF_THE_SERVER = new Map([
	['57014', [504, 'timeout', 'The database did not answer in time. It is busy, or there is more to read than it can within --timeout.']],
	['55P03', [504, 'timeout', 'Somebody holds a lock on a table that this needs. Try again.']],
	['42501', [403, 'privilege', 'Your role may not do this.']],
	['42P01', [500, 'setup', 'Something is missing in the database. Run ratelimit-console --setup again.']],
	['42883', [500, 'setup', 'Something is missing in the database. Run ratelimit-console --setup again.']],
	['42703', [500, 'setup', 'The extension in the database is of another version than the console.']],
	['3F', [500, 'setup', 'Something is missing in the database. Run ratelimit-console --setup again.']],
	['3D', [503, 'away', 'The database does not exist. PGDATABASE says which one the console uses.']],
	['28', [401, 'session', 'The database does not accept your role and password any more. Log in again.']],
	['08', [503, 'away', LOST]],
	['53', [503, 'away', 'The database has no room for another connection, or no memory. Try again.']],
	['57', [503, 'away', LOST]],
]);

/* Gives { status, code, message, retryAfter }. */
function answerFor(error) {
	if (error instanceof Refusal) return error;
	if (typeof error?.severity === 'string') {
		const [status, code, message] = OF_THE_SERVER.get(error.code) ?? OF_THE_SERVER.get(error.code.slice(0, 2)) ??
			// what is entered is wrong: P0001 is an error of the functions of --setup
			(/^(22|23|P0001|54)/.test(error.code) ? [400, 'argument', sentence(error.message)] :
				[500, 'database', 'The database has answered with an error, which the console\'s log has.']);

		return { status, code, message };
	}
	if (error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError || error instanceof SyntaxError) {
		return { status: 500, code: 'console', message: 'The console has made a mistake, which its log has.' };
	}
	return { status: 503, code: 'away', message: LOST };
}

const sentence = (message) => `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;

module.exports = { Refusal, answerFor, sentence };
