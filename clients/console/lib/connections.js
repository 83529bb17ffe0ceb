/*
 * The connections of a person: a few, as the role that has logged in, with its password.
 * So the database says what the person may see and do, and nothing here has to.
 */
'use strict';

const { Pool } = require('pg');
const { driverFor } = require('ratelimit-postgresql/internal/drivers');
const { Refusal } = require('./errors');
const { facts } = require('./queries');

const MOST = 3;				// of a session
const CONNECT = 3000;		// ms for a new one
const LIFETIME = 60;		// seconds, after which the server is asked again whether the role may log in

/* A zero byte would end the name and begin another startup parameter. */
const isName = (text, most) => typeof text === 'string' && text !== '' && Buffer.byteLength(text) <= most && !text.includes('\0');

class Connections {
	#pool;
	#driver;
	#timeout;

	constructor(role, password, { database, timeout, lifetime = LIFETIME }) {
		this.asked = false;		// has the server asked for the password?
		this.#timeout = timeout;
		this.#pool = new Pool({
			user: role,
			password: () => {
				this.asked = true;
				return password;
			},
			database,
			max: MOST,
			connectionTimeoutMillis: CONNECT,
			idleTimeoutMillis: 60000,
			maxLifetimeSeconds: lifetime,
			application_name: 'ratelimit-console',
			statement_timeout: Math.ceil(timeout),
			// the planner expects many rows of the views, and compiling takes longer than reading them
			options: `-c jit=off -c search_path=pg_catalog,pg_temp -c TimeZone=UTC -c DateStyle=ISO -c lock_timeout=${Math.ceil(timeout / 2)}`,
		});
		this.#pool.on('error', () => {});		// the next query says so
		this.#driver = driverFor(this.#pool, { prepare: false });
	}

	/* The text of the only column of the only row. */
	async value(text, values = []) {
		// the server is to be the first to say that it takes too long
		const [[value]] = await this.#driver.query({ text }, values, this.#timeout + CONNECT + 1000);

		return value;
	}

	async end() {
		await this.#pool.end().catch(() => {});
	}
}

/*
 * Log in.  Gives { connections, facts }.  A server that does not ask for a password would
 * let in everybody who can reach the console, as whatever role they name.
 */
async function logIn(role, password, settings) {
	if (!isName(role, 63) || !isName(password, 1000)) throw new Refusal(401, 'password', 'The role or the password is wrong.');

	const connections = new Connections(role, password, settings);

	try {
		const found = JSON.parse(await connections.value(facts));

		if (!connections.asked) {
			throw new Refusal(403, 'trust', 'The database has not asked for your password, so the console cannot know who you are. ' +
				'In pg_hba.conf, the line for the console\'s connections must say scram-sha-256.');
		}
		if (found.schema === null) throw new Refusal(403, 'setup', `Extension ratelimit does not exist in database ${found.database}.`);
		if (!found.setUp) throw new Refusal(403, 'setup', `Database ${found.database} is not set up: run ratelimit-console --setup, and give what it prints to psql.`);
		if (!found.mayLook) throw new Refusal(403, 'privilege', `Role ${found.role} may not look: GRANT ratelimit_viewer TO the role, or ratelimit_operator.`);
		return { connections, facts: found };
	} catch (error) {
		await connections.end();
		if (/^28/.test(error.code)) throw new Refusal(401, 'password', 'The role or the password is wrong.');
		throw error;
	}
}

module.exports = { logIn };
