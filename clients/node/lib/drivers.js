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
 * A statement is { name, text, row }.  Its columns are of the types text, boolean, double
 * precision and bigint only, and its parameters are numbers and text: so all drivers
 * give and take the same.  "row": it has one row, of columns of type text, none of them
 * null.  Nothing here knows what the statements do.
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

/*
 * A statement with one row, all of whose columns are text, as node-postgres runs it for
 * packages that bring a query of their own (like pg-cursor).  Nobody needs to be told of
 * the columns, or of more than this row: so it costs Node half as much.
 */
class RowQuery {
	constructor({ name, text }, values, callback) {
		this.name = name;
		this.text = text;
		this.values = values;
		this.callback = callback;
		this.rows = [];
	}

	submit(connection) {
		connection.stream.cork();
		try {
			if (connection.parsedStatements[this.name] === undefined) connection.parse({ name: this.name, text: this.text });
			connection.bind({ statement: this.name, values: this.values.map(String) });
			connection.execute({});
			connection.sync();
		} finally {
			connection.stream.uncork();
		}
		return null;
	}

	handleDataRow({ fields }) {
		this.rows.push(fields);
	}

	handleReadyForQuery() {
		this.callback(null, this);
	}

	handleError(error) {
		// its end has nothing more to say
		this.handleReadyForQuery = ignore;
		this.callback(error);
	}

	handleRowDescription() {
	}

	handleCommandComplete() {
	}
}

/* The rows of a statement, from a client of node-postgres. */
function pgRows(client, statement, values) {
	return new Promise((resolve, reject) => {
		const callback = (error, result) => (error ? reject(error) : resolve(result.rows));

		if (statement.row && statement.name !== undefined && !client.pipeline && client.connection?.stream) {
			client.query(new RowQuery(statement, values, callback));
		} else {
			client.query(pgQuery(statement, values), callback);
		}
	});
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

/* The server's own errors leave the connection as it was. */
const breaks = (error) => error.severity === undefined || error.severity === 'FATAL';

/*
 * A pool of node-postgres.  A connection that has not answered in time is not given back:
 * the pool closes it, and so has room for another one.
 *
 * Taking a connection out of the pool for each query would cost as much as the query.  So
 * one that has been answered is kept for the next query, unless somebody waits for it, and
 * goes back after a turn of the event loop in which there was none.
 */
class PgPool {
	constructor(pool) {
		this.pool = pool;
		this.most = pool.options?.max ?? 10;
		this.kept = [];
		this.turn = 0;
		this.looks = false;
	}

	query(statement, values, milliseconds) {
		let used;
		let late;
		const ask = async () => {
			used = this.kept.pop() ?? await this.take();
			if (late) {
				this.giveBack(used);
				throw late;
			}
			try {
				const rows = await pgRows(used.client, statement, values);

				if (!late) this.keep(used);
				return rows;
			} catch (error) {
				if (!late) this.giveBack(used, breaks(error) ? error : undefined);
				throw error;
			}
		};

		return within(ask(), milliseconds, (error) => {
			late = error;
			if (used) {
				used.client.on('error', ignore);
				this.giveBack(used, error);
			}
		});
	}

	async take() {
		const used = { client: await this.pool.connect(), error: undefined, since: 0 };

		// an error that ends the connection is given to the query as well
		used.listener = (error) => {
			used.error = error;
			if (this.kept.includes(used)) {
				this.kept.splice(this.kept.indexOf(used), 1);
				this.giveBack(used);
			}
		};
		used.client.on('error', used.listener);
		return used;
	}

	giveBack(used, error = used.error) {
		used.client.release(error);
		used.client.removeListener('error', used.listener);
	}

	keep(used) {
		if (used.error || this.pool.waitingCount > 0) {
			this.giveBack(used);
			return;
		}
		used.since = this.turn;
		this.kept.push(used);
		if (!this.looks) this.look();
	}

	look() {
		this.looks = this.kept.length > 0;
		if (!this.looks) return;
		setImmediate(() => {
			const old = this.kept.filter(({ since }) => since < this.turn);

			this.turn++;
			this.kept = this.kept.filter((used) => !old.includes(used));
			for (const used of old) this.giveBack(used);
			this.look();
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
		return within(pgRows(this.client, statement, values), milliseconds);
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
