/*
 * The stores are what the packages' own types say that stores are: that is the contract of
 * those packages that publish no tests.
 */
'use strict';

const assert = require('node:assert');
const { spawnSync } = require('node:child_process');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { dirname, join, resolve } = require('node:path');
const { test } = require('node:test');
const { needs } = require('../../../clients/node/test/support');

const CODE = `
	import type { Store } from 'express-rate-limit';
	import type { FastifyRateLimitStoreCtor } from '@fastify/rate-limit';
	import type { ThrottlerStorage as Storage } from '@nestjs/throttler';
	import { RateLimitStore } from 'ratelimit-postgresql/express-rate-limit';
	import { rateLimitStore } from 'ratelimit-postgresql/fastify-rate-limit';
	import { ThrottlerStorage } from 'ratelimit-postgresql/nestjs-throttler';

	const pool = { connect: async () => ({}), query: async () => ({ rows: [] }), totalCount: 0 };
	const store: Store = new RateLimitStore(pool, { prefix: 'a' });
	const Ctor: FastifyRateLimitStoreCtor = rateLimitStore(pool);
	const storage: Storage = new ThrottlerStorage(pool, { limiter: 'a' });
	// @ts-expect-error
	const none: Store = new ThrottlerStorage(pool);
	// @ts-expect-error
	const nor: Storage = new RateLimitStore(pool);
`;

test('stores have the types that their packages ask for', needs('typescript', 'express-rate-limit', '@fastify/rate-limit', '@nestjs/throttler'), (t) => {
	const folder = mkdtempSync(join(tmpdir(), 'ratelimit'));
	const compiler = require.resolve('typescript').replace(/lib.typescript\.js$/, 'bin/tsc');
	const modules = resolve(dirname(require.resolve('typescript/package.json')), '..');

	t.after(() => rmSync(folder, { recursive: true }));
	writeFileSync(join(folder, 'stores.mts'), CODE);
	writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({
		compilerOptions: {
			noEmit: true,
			strict: true,
			skipLibCheck: true,
			experimentalDecorators: true,
			target: 'es2022',
			module: 'nodenext',
			types: ['node'],
			typeRoots: [join(modules, '@types')],
			paths: {
				'ratelimit-postgresql/*': [resolve(__dirname, '../../../clients/node/adapters/*.d.ts')],
				'express-rate-limit': [join(modules, 'express-rate-limit/dist/index.d.ts')],
				'@fastify/rate-limit': [join(modules, '@fastify/rate-limit/types/index.d.ts')],
				'@nestjs/throttler': [join(modules, '@nestjs/throttler/dist/index.d.ts')],
			},
		},
		files: ['stores.mts'],
	}));

	const { status, stdout } = spawnSync(process.execPath, [compiler, '-p', folder], { encoding: 'utf8' });

	assert.strictEqual(status, 0, stdout);
});
