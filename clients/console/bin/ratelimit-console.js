#!/usr/bin/env node
/* The command: says what it is asked for, or serves the console until it is told to stop. */
'use strict';

const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { readSettings, HELP } = require('../lib/settings');

async function main() {
	const settings = readSettings(process.argv.slice(2), process.env);

	if (settings.help) {
		process.stdout.write(HELP);
		return;
	}
	if (settings.setup) {
		process.stdout.write(readFileSync(join(__dirname, '../sql/setup.sql')));
		return;
	}

	// not before: what is above needs no package
	const { startServer } = require('../lib/server');
	const server = await startServer(settings);

	if (settings.origin?.startsWith('https:') && settings.hops === 0) {
		console.error('ratelimit-console: --hops is 0, so whoever uses up the attempts to log in of the proxy keeps all others out. If it adds to X-Forwarded-For, --hops 1 tells them apart.');
	}
	console.log(`ratelimit-console: open ${server.origin}/`);
	for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => server.stop());
}

main().catch((error) => {
	console.error(`ratelimit-console: ${error.message}`);
	process.exitCode = 1;
});
