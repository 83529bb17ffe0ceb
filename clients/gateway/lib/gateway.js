/*
 * The gateway as a whole: what listens, what decides, and the file that says how.
 *
 * A change of the file holds within a second.  A file that is wrong is reported and the one
 * before stays in force.  Where the gateway listens, and its database, need a restart.
 */
'use strict';

const { unwatchFile, watchFile } = require('node:fs');
const { Pool } = require('pg');
const { readConfig } = require('./config');
const { Decider } = require('./decider');
const { descriptorRules } = require('./descriptors');
const { HttpServer } = require('./http_server');
const { log, logSometimes } = require('./log');
const { Policies } = require('./policies');
const { Reports } = require('./reports');
const { requestRules } = require('./request_rules');

const LOOK_AT_FILE = 1000;		// ms
const MOST_STOPPING = 10000;	// ms: what is not answered by then is not waited for

/* What of a configuration a restart is needed for. */
const fixed = ({ database, schema, connections, timeout, http, grpc, reports }) => (
	{ database, schema, connections, timeout, 'http.listen': http?.listen.text, 'grpc.listen': grpc?.listen.text,
		'reports.listen': reports?.listen.text, 'reports.seconds': reports?.seconds });

class Gateway {
	#file;
	#config;
	#callsOf;
	#callOf;
	#pool;
	#policies;
	#decider;
	#servers = {};
	#stopping = false;

	constructor(file) {
		this.#file = file;
		this.#config = readConfig(file);
		this.#compile(this.#config);

		const { database, schema, connections, timeout, http, grpc, reports } = this.#config;
		const ready = () => this.#policies.ready && !this.#stopping;

		this.#pool = new Pool({
			...(database === undefined ? {} : { connectionString: database }),
			max: connections,
			connectionTimeoutMillis: timeout,
			// those of the limiters end before
			query_timeout: 2 * timeout,
			fallback_application_name: 'ratelimit-gateway',
		});
		this.#pool.on('error', (error) => logSometimes('pool', error.message));
		this.#policies = new Policies({ pool: this.#pool, schema, changed: (is) => {
			log(is ? 'ready' : 'not ready: the database is away');
			this.#servers.grpc?.tell();
		} });
		this.#decider = new Decider({ pool: this.#pool, policies: this.#policies, timeout, schema });

		const common = { decider: this.#decider, ready };

		if (http) this.#servers.http = new HttpServer({ calls: (request) => this.#callsOf(request), ...common });
		if (grpc) {
			const { GrpcServer } = require('./grpc_server');

			this.#servers.grpc = new GrpcServer({ callOf: (...descriptor) => this.#callOf(...descriptor), ...common });
		}
		if (reports) this.#servers.reports = new Reports({ pool: this.#pool, policies: this.#policies, schema, ...reports });
	}

	#compile({ http, grpc }) {
		if (http) this.#callsOf = requestRules(http);
		if (grpc) this.#callOf = descriptorRules(grpc);
	}

	async start() {
		await this.#policies.start();
		for (const [name, server] of Object.entries(this.#servers)) {
			const { listen } = this.#config[name];
			const port = await server.listen(listen);

			log(`${name} listens on ${listen.text.replace(/\d+$/, port)}`);
		}
		watchFile(this.#file, { interval: LOOK_AT_FILE }, ({ mtimeMs }, before) => {
			if (mtimeMs !== before.mtimeMs) this.reload();
		});
	}

	/* Read the file again. */
	reload() {
		let config;

		try {
			config = readConfig(this.#file);
		} catch (error) {
			log(`${error.message}; the configuration stays as it was`);
			return;
		}

		const before = fixed(this.#config);
		const after = fixed(config);
		const differs = Object.keys(before).filter((key) => before[key] !== after[key]);

		if (differs.length > 0) log(`${this.#file}: a change of ${differs.join(', ')} needs a restart`);
		this.#compile({ http: this.#config.http && config.http, grpc: this.#config.grpc && config.grpc });
		log(`${this.#file} is in force`);
	}

	/*
	 * Answer what has been asked, report and give back what is left, and end.  Resolves to
	 * whether that was done in time.
	 */
	async stop() {
		this.#stopping = true;
		unwatchFile(this.#file);

		const { http, grpc, reports } = this.#servers;
		const timer = setTimeout(() => {
			http?.kill();
			grpc?.kill();
		}, MOST_STOPPING / 2);
		const all = (async () => {
			await Promise.all([http?.close(), grpc?.close()]);
			await Promise.all([this.#decider.close(), reports?.close(), this.#policies.stop()]);
			await this.#pool.end();
			return true;
		})();
		const inTime = await Promise.race([all, new Promise((resolve) => {
			setTimeout(resolve, MOST_STOPPING, false);
		})]);

		clearTimeout(timer);
		return inTime;
	}
}

module.exports = { Gateway };
