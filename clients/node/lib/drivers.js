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
function pgQuery({ name, text }, values, prepare) {
	return { name: prepare ? name : undefined, text, values, rowMode: 'array', types: TYPES };
}

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
	constructor(pool, prepare) {
		this.pool = pool;
		this.prepare = prepare;
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
				const { rows } = await client.query(pgQuery(statement, values, this.prepare));

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
	constructor(client, prepare) {
		this.client = client;
		this.prepare = prepare;
		this.most = 2;		// one that waits in the client while the other is answered
	}

	query(statement, values, milliseconds) {
		return within(this.client.query(pgQuery(statement, values, this.prepare)).then(({ rows }) => rows),
			milliseconds);
	}
}

/* postgres.js.  A query that has not been answered in time is cancelled. */
class PostgresJs {
	constructor(sql, prepare) {
		this.sql = sql;
		this.prepare = prepare && sql.options?.prepare !== false;
		this.most = sql.options?.max ?? 10;
	}

	query({ text }, values, milliseconds) {
		const query = this.sql.unsafe(text, values, { prepare: this.prepare }).values();

		return within(query.then((rows) => rows), milliseconds, () => query.cancel());
	}
}

function driverFor(db, { prepare = true } = {}) {
	if (typeof db === 'function' && typeof db.unsafe === 'function') return new PostgresJs(db, prepare);
	if (typeof db?.query === 'function' && typeof db.connect === 'function') {
		return typeof db.totalCount === 'number' ? new PgPool(db, prepare) : new PgClient(db, prepare);
	}
	throw new TypeError('db must be a Pool or a Client of node-postgres, or a postgres.js instance');
}

module.exports = { driverFor, TimeoutError };
