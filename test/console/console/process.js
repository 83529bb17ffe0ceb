/* The command as a process of its own, which reaches the server as the environment says. */
'use strict';

const { spawn } = require('node:child_process');
const { COMMAND, ask } = require('./support');

/* Gives { origin, ask(), stop(), output() }; stop() resolves to its exit status. */
async function newProcess(t, database, { args = [], env = {} } = {}) {
	const child = spawn(process.execPath, [COMMAND, '--listen', '127.0.0.1:0', ...args], { env: { ...process.env, PGDATABASE: database.name, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
	let output = '';
	const ended = new Promise((done) => {
		child.on('close', done);
	});
	const origin = await new Promise((done, failed) => {
		for (const stream of [child.stdout, child.stderr]) {
			stream.on('data', (data) => {
				output += data;

				const [, found] = /open (http\S+)\/\n/.exec(output) ?? [];

				if (found) done(found);
			});
		}
		child.on('close', () => failed(new Error(output)));
	});
	const stop = () => {
		child.kill('SIGTERM');
		return ended;
	};

	t.after(stop);
	return { origin, stop, output: () => output, ask: (method, path, options) => ask(origin, method, path, options) };
}

module.exports = { newProcess };
