/* How many queries are under way at a time follows from what is faster. */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { Gatherer } = require('../lib/gatherer');

const turn = () => new Promise(setImmediate);

/*
 * 64 callers that call again once they are answered, on a server whose query takes what
 * milliseconds(calls, queries) says, by a clock of its own.  Returns how many queries are
 * under way in the end.
 */
async function settles(milliseconds) {
	const running = [];
	let time = 0;
	let queries = 0;
	const gatherer = new Gatherer({
		most: 8,
		maxCalls: 1000,
		timeout: 10000,
		now: () => time,
		report() {},
		fail() {},
		settle: (calls) => calls.forEach(({ resolve }) => resolve()),
		run: (calls) => new Promise((resolve) => {
			queries++;
			running.push({ at: time + milliseconds(calls.length, running.length + 1), resolve });
		}),
	});
	let callers = 64;

	for (let i = 0; i < 64; i++) {
		(async () => {
			while (queries < 2500) {
				await new Promise((resolve) => {
					gatherer.add({ resolve });
				});
			}
			callers--;
		})();
	}
	while (callers > 0) {
		await turn();
		if (running.length === 0) continue;
		running.sort((a, b) => a.at - b.at);

		const { at, resolve } = running.shift();

		time = at;
		resolve();
		await turn();
	}
	return gatherer.trial?.usual ?? gatherer.n;
}

test('queries that do not disturb each other, and take longer with more calls: several', async () => {
	assert.strictEqual(await settles((calls) => 0.1 + calls / 20), 8);
});

test('a server that does one after the other, and takes as long for few calls: one', async () => {
	assert.strictEqual(await settles((calls, queries) => queries), 1);
});

test('what takes least in between is found', async () => {
	// two processors: a third query waits for one of them
	assert.strictEqual(await settles((calls, queries) => (0.3 + calls / 20) * Math.max(1, queries / 2)), 2);
});

test('a call waits no longer than others take to be answered', async () => {
	let answer;
	const waits = [];
	const sizes = [];
	const gatherer = new Gatherer({
		most: 1,
		maxCalls: 5,
		timeout: 1000,
		report() {},
		fail() {},
		settle() {},
		run: (calls, milliseconds) => new Promise((resolve) => {
			sizes.push(calls.length);
			waits.push(milliseconds);
			answer = resolve;
		}),
	});

	for (let i = 0; i < 3; i++) gatherer.add({});
	await turn();
	for (let i = 0; i < 7; i++) gatherer.add({});
	await turn();
	assert.deepStrictEqual(sizes, [3], 'one at a time');
	await new Promise((resolve) => {
		setTimeout(resolve, 50);
	});
	answer([]);
	for (let i = 0; i < 3; i++) await turn();
	assert.deepStrictEqual(sizes, [3, 5], 'as many as a query may have');
	assert.ok(waits[1] < 960, `what has waited has less time left: ${waits[1]}`);
	answer([]);
	for (let i = 0; i < 3; i++) await turn();
	assert.deepStrictEqual(sizes, [3, 5, 2]);
	answer([]);
	await gatherer.settled();
});
