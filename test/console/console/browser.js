/*
 * Chromium, and how tests wait for what it shows.  Waiting is done from here: what
 * puppeteer would run in the page for it, the page's own policy forbids.
 */
'use strict';

const { existsSync } = require('node:fs');
const { optional } = require('./support');

const CHROMIUM = '/usr/bin/chromium';
const puppeteer = optional('puppeteer-core');
const axe = optional('axe-core');

/* What tests in a browser need and is not installed. */
const missing = [...(existsSync(CHROMIUM) ? [] : ['chromium']), ...(puppeteer ? [] : ['puppeteer-core']), ...(axe ? [] : ['axe-core'])];

const launch = () => puppeteer.launch({ executablePath: CHROMIUM, headless: true, timeout: 120000, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--lang=en'] });

const PATIENCE = 60000;		// ms that a busy machine may need

/* Until a function holds in the page. */
async function holds(page, condition, ...args) {
	const end = performance.now() + PATIENCE;

	while (!await page.evaluate(condition, ...args).catch((error) => {
		// the page is about to be another one
		if (/context was destroyed|detached/.test(error.message)) return false;
		throw error;
	})) {
		if (performance.now() > end) throw new Error(`not within ${PATIENCE} ms: ${condition} ${JSON.stringify(args)}`);
		await new Promise((resolve) => {
			setTimeout(resolve, 20);
		});
	}
}

const sees = (page, selector) => holds(page, (of) => document.querySelector(of) !== null, selector);

/* Until a page has been read, whichever it is.  Not if it is a message instead. */
const shown = (page, name) => holds(page, (selector) => {
	const main = document.querySelector('main');

	if (main.dataset.state === 'problem' || (main.dataset.state && document.querySelector('#field-role'))) throw new Error(main.textContent);
	return document.querySelector(selector) !== null;
}, `main[data-state=shown]${name ? `[data-page=${name}]` : ''}`);

/* Go to a page, and wait until all of it has been read. */
async function visit(page, hash) {
	const [, name] = /^#\/([a-z]+)/.exec(hash);

	await page.evaluate((to) => {
		const main = document.querySelector('main');

		main.dataset.state = main.dataset.page = 'left';
		if (location.hash === to) window.dispatchEvent(new HashChangeEvent('hashchange'));
		else location.hash = to;
	}, hash);
	await shown(page, name);
	if (name === 'policies') await sees(page, '[data-part=policies][data-state]');
	if (name === 'key') await sees(page, '[data-part=hours] figure');
}

const keyHash = (key) => `#/key?${new URLSearchParams({ key })}`;

module.exports = { axe, missing, launch, holds, sees, shown, visit, keyHash };
