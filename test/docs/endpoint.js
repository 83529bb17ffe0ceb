/*
 * node endpoint.js URL: asks an endpoint of docs/clients.md, which has 100 tokens and 10 a second,
 * once it answers, by 300 requests, 20 at a time.  100 of them, and what comes meanwhile, have to be
 * allowed, and a request that is denied has to be allowed after Retry-After.
 */
'use strict';

const assert = require('node:assert');
const http = require('node:http');

const ask = () => new Promise((resolve, reject) => {
	http.get(process.argv[2], { agent: false }, (response) => {
		let body = '';

		response.on('data', (data) => {
			body += data;
		});
		response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
	}).on('error', reject);
});

const sleep = (milliseconds) => new Promise((resolve) => {
	setTimeout(resolve, milliseconds);
});

async function main() {
	for (let i = 0; ; i++) {
		if (await ask().catch(() => null)) break;
		assert.ok(i < 300, 'it does not answer');
		await sleep(100);
	}

	const began = performance.now();
	const answers = [];
	let asked = 0;

	await Promise.all(Array.from({ length: 20 }, async () => {
		while (asked++ < 300) answers.push(await ask());
	}));

	const seconds = (performance.now() - began) / 1000;
	const allowed = answers.filter(({ status, body }) => status === 200 && body === 'hello\n');
	const denied = answers.filter(({ status }) => status === 429);

	console.log(`${allowed.length} of 300 allowed in ${seconds.toFixed(1)} s, ${denied.length} denied`);
	assert.strictEqual(allowed.length + denied.length, 300);
	assert.ok(allowed.length >= 99 && allowed.length <= 100 + 10 * (seconds + 1), 'as many as there are');
	assert.ok(denied.every(({ headers }) => headers['ratelimit-policy'].endsWith('";q=100;w=10')));

	const wait = Number(denied[0].headers['retry-after']);

	assert.ok(wait >= 1 && wait <= 10, `Retry-After: ${wait}`);
	await sleep(wait * 1000);
	assert.strictEqual((await ask()).status, 200, 'Retry-After holds');
	console.log(`after ${wait} s, as Retry-After says, the next is allowed`);
}

main().catch((error) => {
	console.error(error);
	process.exit(1);
});
