/* The command line: what it takes, what it refuses, and that it stops when told to. */
'use strict';

const assert = require('node:assert');
const { spawnSync } = require('node:child_process');
const { test } = require('node:test');
const { COMMAND, newDatabase } = require('./support');
const { newProcess } = require('./process');
const { readSettings } = require('../../../clients/console/lib/settings');

const database = newDatabase('settings');
const ENV = { PGDATABASE: 'app' };

test('it listens on loopback unless told otherwise', () => {
	assert.deepStrictEqual(readSettings([], ENV).listen, { host: '127.0.0.1', port: 8432 });
	assert.deepStrictEqual(readSettings(['--listen', '9000'], ENV).listen, { host: '127.0.0.1', port: 9000 });
	assert.deepStrictEqual(readSettings(['--listen', '[::1]:9000'], ENV).listen, { host: '::1', port: 9000 });
	assert.deepStrictEqual(readSettings(['--listen', '0.0.0.0:9000', '--origin', 'https://console.example.com'], ENV).listen, { host: '0.0.0.0', port: 9000 });
});

test('what is not safe or not understood is refused', () => {
	for (const [args, env, message] of [
		[['--listen', '0.0.0.0:9000'], ENV, /is not loopback, so --origin/],
		[['--listen', '[::]:9000'], ENV, /is not loopback/],
		[['--listen', '127.0.0.1.example.com:9000'], ENV, /is not loopback/],
		[['--origin', 'http://console.example.com'], ENV, /must begin with https/],
		[['--origin', 'https://console.example.com/path'], ENV, /must be https:\/\/HOST/],
		[['--origin', 'console'], ENV, /must be a URL/],
		[['--listen', '99999'], ENV, /must be PORT/],
		[['--listen', 'a:b:1'], ENV, /must be PORT/],
		[['--timeout', '0'], ENV, /from 0.1 to 600/],
		[['--hops', '-1'], ENV, /hops/],
		[['--idle', '1e9'], ENV, /idle/],
		[['--nothing'], ENV, /nothing/],
		[['more'], ENV, /more/],
		[[], {}, /PGDATABASE/],
	]) assert.throws(() => readSettings(args, env), message, args.join(' '));
});

test('--help and --setup need no database and no package', () => {
	for (const [option, output] of [['--help', /^usage: ratelimit-console/], ['--setup', /CREATE SCHEMA IF NOT EXISTS ratelimit_console/]]) {
		const { status, stdout } = spawnSync(process.execPath, [COMMAND, option], { encoding: 'utf8', env: { PATH: process.env.PATH } });

		assert.strictEqual(status, 0);
		assert.match(stdout, output);
	}

	const { status, stderr } = spawnSync(process.execPath, [COMMAND, '--listen', '0.0.0.0:1'], { encoding: 'utf8' });

	assert.strictEqual(status, 1);
	assert.match(stderr, /^ratelimit-console: --listen 0.0.0.0:1 is not loopback[^\n]*\n$/);
});

test('it says where it is, and stops at SIGTERM', async (t) => {
	const console = await newProcess(t, database);

	assert.match(console.origin, /^http:\/\/127\.0\.0\.1:\d+$/);
	assert.strictEqual((await console.ask('GET', '/')).status, 200);
	assert.strictEqual(await console.stop(), 0);
});
