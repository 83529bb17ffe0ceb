/*
 * Drivers: one way to run a statement, whatever runs it.
 *
 * driverFor(db) takes a Pool or Client of node-postgres, or a postgres.js instance,
 * and gives an object with
 *
 *	query(statement, values, milliseconds)	resolves to the rows, as arrays of columns.
 *		It rejects with a TimeoutError after so many milliseconds: what was asked for
 *		may have happened all the same.
 *	most	how many queries it can have under way
 *
 * A statement is { name, text }.  Its columns are of the types text, boolean, double
 * precision and bigint only, and its parameters are numbers and text: so all drivers
 * give and take the same.  Nothing here knows what the statements do.
 *
 * A statement is prepared under its name, which no other text has.  Without a name it is not
 * prepared.
 */
'use strict';

class TimeoutError extends Error {
	constructor() {
		super('no answer from the database in time');
		this.name = 'TimeoutError';
		this.code = 'ETIMEDOUT';
	}
}

const BOOL = 16;
const INT8 = 20;
const FLOAT8 = 701;

/* What the application has set for these types does not matter. */
const PARSERS = new Map([
	[BOOL, (text) => text === 't'],
	[INT8, BigInt],
	[FLOAT8, Number],
]);
const asText = (text) => text;
const TYPES = { getTypeParser: (oid) => PARSERS.get(oid) ?? asText };

/* What node-postgres takes for a statement. */
const pgQuery = ({ name, text }, values) => ({ name, text, values, rowMode: 'array', types: TYPES });

/* The promise, or a rejection after so many milliseconds, when "late" is called. */
function within(promise, milliseconds, late) {
	return new Promise((resolve, reject) => {
		const timer = setTimeout(() => {
			const error = new TimeoutError();

			reject(error);
			late?.(error);
		}, milliseconds);

		promise.then((value) => {
			clearTimeout(timer);
			resolve(value);
		}, (error) => {
			clearTimeout(timer);
			reject(error);
		});
	});
}

/*
 * A pool of node-postgres.  A connection that has not answered in time is not given back:
 * the pool closes it, and so has room for another one.
 */
class PgPool {
	constructor(pool) {
		this.pool = pool;
		this.most = pool.options?.max ?? 10;
	}

	query(statement, values, milliseconds) {
		let client;
		let late;
		const ask = async () => {
			client = await this.pool.connect();
			if (late) {
				client.release();
				throw late;
			}
			// an error that ends the connection is given to the query as well
			client.on('error', ignore);
			try {
				const { rows } = await client.query(pgQuery(statement, values));

				if (!late) client.release();
				return rows;
			} catch (error) {
				// the server's own errors leave the connection as it was
				if (!late) client.release(error.severity === undefined || error.severity === 'FATAL' ? error : undefined);
				throw error;
			} finally {
				client.removeListener('error', ignore);
			}
		};

		return within(ask(), milliseconds, (error) => {
			late = error;
			if (client) {
				client.on('error', ignore);
				client.release(error);
			}
		});
	}
}

function ignore() {
}

/* A single connection of node-postgres, which does one query after the other. */
class PgClient {
	constructor(client) {
		this.client = client;
		this.most = 2;		// one that waits in the client while the other is answered
	}

	query(statement, values, milliseconds) {
		return within(this.client.query(pgQuery(statement, values)).then(({ rows }) => rows),
			milliseconds);
	}
}

/* postgres.js.  A query that has not been answered in time is cancelled. */
class PostgresJs {
	constructor(sql) {
		this.sql = sql;
		this.most = sql.options?.max ?? 10;
	}

	query({ name, text }, values, milliseconds) {
		// it names statements by itself, and prepares none if its own option says so
		const query = this.sql.unsafe(text, values, { prepare: name !== undefined }).values();

		return within(query.then((rows) => rows), milliseconds, () => query.cancel());
	}
}

/*
 * What the server says if a prepared statement is not on the connection, or already is.
 * Nothing has been executed then.
 */
const NOT_PREPARED = ['26000', '42P05'];

/*
 * Prepares statements until one is not where it has been prepared.  A pooler has then sent the
 * query to another connection, or somebody has discarded the statement, and either will
 * happen again: from then on nothing is prepared.
 */
class Preparing {
	constructor(driver, prepare) {
		this.driver = driver;
		this.prepare = prepare;
		this.most = driver.most;
	}

	async query(statement, values, milliseconds) {
		if (!this.prepare) return this.driver.query({ text: statement.text }, values, milliseconds);

		const began = performance.now();

		try {
			return await this.driver.query(statement, values, milliseconds);
		} catch (error) {
			if (!NOT_PREPARED.includes(error.code)) throw error;
			this.prepare = false;
			return this.query(statement, values, milliseconds - (performance.now() - began));
		}
	}
}

function driverFor(db, { prepare = true } = {}) {
	return new Preparing(bareDriverFor(db), prepare);
}

function bareDriverFor(db) {
	if (typeof db === 'function' && typeof db.unsafe === 'function') return new PostgresJs(db);
	if (typeof db?.query === 'function' && typeof db.connect === 'function') {
		return typeof db.totalCount === 'number' ? new PgPool(db) : new PgClient(db);
	}
	throw new TypeError('db must be a Pool or a Client of node-postgres, or a postgres.js instance');
}

module.exports = { driverFor, TimeoutError };
