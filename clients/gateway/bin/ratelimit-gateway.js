#!/usr/bin/env node
/* The command: reads its arguments and signals.  lib/gateway.js does the rest. */
'use strict';

const { ConfigError, readConfig } = require('../lib/config');
const { log } = require('../lib/log');

const USAGE = `usage: ratelimit-gateway FILE           run with this configuration
       ratelimit-gateway --check FILE   only check it
       ratelimit-gateway --version

The database is that of the configuration or of PGHOST, PGDATABASE, PGUSER and so on.
SIGHUP reads the configuration again, SIGTERM and SIGINT stop.
`;

async function main(args) {
	if (args.length === 1 && args[0] === '--version') {
		process.stdout.write(`ratelimit-gateway ${require('../package.json').version}\n`);
		return;
	}
	if (args.length === 1 && args[0] === '--help') {
		process.stdout.write(USAGE);
		return;
	}

	const check = args[0] === '--check';
	const [file, ...others] = check ? args.slice(1) : args;

	if (file === undefined || file.startsWith('-') || others.length > 0) {
		process.stderr.write(USAGE);
		process.exitCode = 2;
		return;
	}
	if (check) {
		readConfig(file);
		process.stdout.write(`${file} is right\n`);
		return;
	}

	const { Gateway } = require('../lib/gateway');
	const gateway = new Gateway(file);
	let stopping = false;
	const stop = async (signal) => {
		// whoever asks twice does not want to wait
		if (stopping) process.exit(1);
		stopping = true;
		log(`${signal}: stopping`);
		process.exit(await gateway.stop() ? 0 : 1);
	};

	process.on('SIGTERM', stop);
	process.on('SIGINT', stop);
	process.on('SIGHUP', () => gateway.reload());
	await gateway.start();
}

main(process.argv.slice(2)).catch((error) => {
	log(error instanceof ConfigError || error.code ? error.message : error.stack);
	process.exit(1);
});
