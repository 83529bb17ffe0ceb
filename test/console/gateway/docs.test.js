/* docs/gateway.md shows the very files that the tests run. */
'use strict';

const assert = require('node:assert');
const { readFileSync, readdirSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');
const { RECIPES, TOP } = require('./support');

test('each recipe is in docs/gateway.md as it is', () => {
	const page = readFileSync(join(TOP, 'docs/gateway.md'), 'utf8');
	const shown = Object.fromEntries([...page.matchAll(/\(\.\.\/clients\/gateway\/recipes\/([\w.-]+)\)[^\n]*\n(?:[^\n]+\n)*\n```\w*\n([^]*?)```/g)]
		.map(([, name, text]) => [name, text]));

	assert.deepStrictEqual(Object.keys(shown).sort(), readdirSync(RECIPES).sort());
	for (const [name, text] of Object.entries(shown)) assert.strictEqual(text, readFileSync(join(RECIPES, name), 'utf8'), name);
});
