/*
 * The pages in a real browser: everything can be read and done, at 360 and at 1400 pixels,
 * in the light and in the dark, by keyboard; no key becomes markup; axe finds nothing
 * serious.  The short form does so with fewer keys, and at one of the four.
 */
'use strict';

const assert = require('node:assert');
const { writeFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { after, before, test } = require('node:test');
const { HOSTILE, HOSTILE_LIMITER, HOSTILE_POLICY, PASSWORD, fill, newConsole, newDatabase, newProxy, until } = require('./support');
const { axe, holds, keyHash, launch, missing, sees, shown, visit } = require('./browser');
const { newProcess } = require('./process');

const full = process.env.RATELIMIT_CONSOLE_FULL === '1';
const needed = missing.length > 0 && !full ? { skip: `not installed: ${missing.join(', ')}` } : {};

const PAGES = ['now', 'throttled', 'offenders', 'review', 'policies', 'stores', 'thresholds', 'actions'];
const inFull = full ? {} : { skip: 'in the full form only' };
const VIEWS = full ? [[360, 'light'], [360, 'dark'], [1400, 'light'], [1400, 'dark']] : [[360, 'dark']];

if (needed.skip) {
	test('the pages in a browser', needed);
} else {
	const database = newDatabase('browser');
	let browser;

	before(async () => {
		browser = await launch();
		await fill(database, full ? 10000 : 2000);
	});
	after(() => browser?.close());

	/* A window.  wrong: what has gone wrong in it. */
	async function newWindow(t, width, scheme, height = 800) {
		const context = await browser.createBrowserContext();
		const page = await context.newPage();

		t.after(() => context.close());
		page.wrong = [];
		await page.setViewport({ width, height, isMobile: width < 500, hasTouch: width < 500 });
		await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }, { name: 'prefers-reduced-motion', value: 'reduce' }]);
		page.on('pageerror', (error) => page.wrong.push(`error: ${error.message}`));
		page.on('console', (message) => {
			// statuses of 400 and more that a test provokes are no mistakes of the page
			if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) page.wrong.push(`console: ${message.text()}`);
		});
		page.on('dialog', (dialog) => {
			page.wrong.push(`a script of a key has run: ${dialog.message()}`);
			dialog.dismiss();
		});
		return page;
	}

	const text = (page, selector = 'main') => page.$eval(selector, (element) => element.textContent);

	async function logIn(page, origin, role = 'oscar', password = PASSWORD) {
		await page.goto(`${origin}/`);
		await sees(page, '#field-role');
		await page.type('#field-role', role);
		await page.type('#field-password', password);
		await page.keyboard.press('Enter');
	}

	/* Nothing is cut off or wider than the window, nothing has become markup, nothing has gone wrong. */
	async function check(page, where) {
		const found = await page.evaluate(() => ({
			wide: document.documentElement.scrollWidth - window.innerWidth,
			widest: [...document.querySelectorAll('body *')].filter((element) => element.getBoundingClientRect().right > window.innerWidth + 1 && getComputedStyle(element).position !== 'absolute').slice(0, 3).map((element) => element.outerHTML.slice(0, 200)),
			markup: [...document.querySelectorAll('main script, main img, main b, main i, main style, main iframe, main [style], main [onclick], main svg[onload]')].map((element) => element.outerHTML.slice(0, 100)),
			headings: document.querySelectorAll('h1').length,
		}));

		assert.ok(found.wide <= 0, `${where} is ${found.wide} pixels too wide: ${found.widest.join('\n')}`);
		assert.deepStrictEqual(found.markup, [], `${where}: no key becomes markup`);
		assert.strictEqual(found.headings, 1, where);
		assert.deepStrictEqual(page.wrong, [], where);
	}

	async function checkWithAxe(page, where) {
		await page.evaluate(axe.source);

		const violations = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }).then((result) => result.violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.slice(0, 3).map(({ html, failureSummary }) => `${html.slice(0, 200)} ${failureSummary}`) }))));

		assert.deepStrictEqual(violations.filter(({ impact }) => impact === 'serious' || impact === 'critical'), [], where);
		page.minor = [...(page.minor ?? []), ...violations.map(({ id, impact }) => `${impact} ${id}`)];
	}

	for (const [width, scheme] of VIEWS) {
		test(`each page can be read at ${width} pixels, in the ${scheme === 'dark' ? 'dark' : 'light'}`, async (t) => {
			const console = await newConsole(t, database);
			const page = await newWindow(t, width, scheme);

			await page.goto(`${console.origin}/`);
			await sees(page, '#field-role');
			await check(page, 'login');
			await checkWithAxe(page, 'login');
			await logIn(page, console.origin);
			await shown(page);

			for (const name of PAGES) {
				await visit(page, `#/${name}`);
				await check(page, name);
				if (full || name === 'policies') await checkWithAxe(page, name);
				assert.strictEqual(await page.$eval('[aria-current]', (element) => element.dataset.page), name);
			}
			// axe looks at the first of them, which takes long
			for (const [i, key] of (full ? HOSTILE : HOSTILE.slice(0, 3)).entries()) {
				await visit(page, keyHash(key));
				await check(page, `key ${JSON.stringify(key)}`);
				if (i === 0) await checkWithAxe(page, 'key');
			}
			await page.evaluate(() => document.querySelector('[data-action=block]').click());
			await sees(page, 'dialog[open]');
			await check(page, 'dialog');
			await checkWithAxe(page, 'dialog');

			const colours = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);

			assert.strictEqual(colours, scheme === 'dark' ? 'rgb(18, 22, 28)' : 'rgb(255, 255, 255)');
			if (page.minor.length > 0) t.diagnostic(`axe, below serious: ${[...new Set(page.minor)].join(', ')}`);
		});
	}

	test('hostile keys are shown as what they are', async (t) => {
		const console = await newConsole(t, database);
		const page = await newWindow(t, 1400, 'light');

		await logIn(page, console.origin, 'viola');
		await shown(page);
		for (const key of full ? HOSTILE : HOSTILE.filter((_, i) => i % 4 === 2)) {
			await visit(page, keyHash(key));

			const name = await page.$eval('main p .key', (element) => element.textContent);
			const visible = [...key].map((character) => (/[\p{Cc}\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/u.test(character) ?
				(character.codePointAt(0) < 256 ? `\\x${character.codePointAt(0).toString(16).padStart(2, '0')}` : `\\u{${character.codePointAt(0).toString(16)}}`) : character)).join('');

			assert.strictEqual(name, visible);
		}
		// and a link of a list leads to the key itself
		await visit(page, '#/offenders');
		await Promise.all([holds(page, (part) => location.hash.includes(part), 'key?'), page.$$eval('main a.key, main a[href^="#/key"]', (links, href) => links.find((link) => link.getAttribute('href') === href).click(), keyHash(HOSTILE[0]))]);
		await holds(page, () => document.querySelector('main[data-state=shown] [data-part=hours] figure'));
		assert.ok((await text(page)).includes(HOSTILE[0]));
		assert.deepStrictEqual(page.wrong, []);
	});

	test('a session is kept by a reload and in other tabs, and a page of another port cannot use it', async (t) => {
		const console = await newConsole(t, database);
		const page = await newWindow(t, 1400, 'light');
		let cookie;
		const other = createServer((request, response) => {
			cookie ??= request.headers.cookie;
			response.setHeader('Content-Type', 'text/html').end('<!doctype html><title>other</title>');
		});

		t.after(() => other.close());
		await new Promise((done) => {
			other.listen(0, '127.0.0.1', done);
		});
		await logIn(page, console.origin);
		await shown(page, 'now');
		await page.reload();
		await shown(page, 'now');

		const tab = await page.browserContext().newPage();

		await tab.goto(`${console.origin}/#/stores`);
		await shown(tab, 'stores');
		await tab.goto(`http://127.0.0.1:${other.address().port}/`);
		assert.match(cookie, /ratelimit-console/, 'browsers send it there');
		assert.strictEqual((await console.ask('GET', '/api/session', { as: { cookie } })).status, 403);
		assert.strictEqual((await console.ask('GET', '/api/now', { as: { cookie } })).status, 403);
	});

	test('whoever may only look has no buttons to act', inFull, async (t) => {
		const console = await newConsole(t, database);
		const page = await newWindow(t, 1400, 'light');

		await logIn(page, console.origin, 'viola');
		await shown(page);
		for (const name of [...PAGES.map((each) => `#/${each}`), keyHash(HOSTILE[0])]) {
			await visit(page, name);
			assert.strictEqual(await page.$('[data-action]'), null, name);
		}
	});

	/* Press the button of an action, fill the form, say why, and wait until it is done. */
	async function act(page, selector, fields = {}) {
		await page.evaluate((button) => document.querySelector(button).click(), selector);
		await sees(page, 'dialog[open]');
		for (const [name, value] of Object.entries(fields)) {
			await page.evaluate((id, content) => {
				const input = document.querySelector(`dialog #field-${id}`);

				if (input.type === 'checkbox') input.checked = content;
				else input.value = content;
			}, name, value);
		}
		await page.type('dialog #field-reason', 'because of <i>this</i>');
		await page.click('dialog button.main');
		await holds(page, () => document.querySelector('dialog') === null && document.querySelector('#said').textContent.startsWith('Done'));
		await shown(page);
		return text(page, '#said');
	}

	const lastAction = async () => (await database.query('SELECT who, action, limiter, key, reason, done FROM ratelimit_console.actions ORDER BY id DESC LIMIT 1'))[0];

	for (const [width, scheme] of full ? [[360, 'light'], [1400, 'dark']] : [[1400, 'light']]) {
		test(`each action can be done at ${width} pixels`, async (t) => {
			const console = await newConsole(t, database);
			const page = await newWindow(t, width, scheme);
			const key = HOSTILE[width === 360 ? 1 : 4];
			const status = async () => (await database.query("SELECT tokens, blocked_until FROM rate_limit_status WHERE key = $1 AND limiter = 'user' AND period IS NULL", [key]))[0];
			const button = (action, limiter = 'user', of = key, period = '') => `[data-focus=${JSON.stringify(`${action} ${limiter} ${of} ${period}`)}]`;
			const done = async (action, limiter = 'user', of = key) => assert.deepStrictEqual(await lastAction(), { who: 'oscar', action, limiter, key: of, reason: 'because of <i>this</i>', done: true });

			await logIn(page, console.origin);
			await shown(page);
			await visit(page, keyHash(key));
			assert.match(await text(page), /flagged/);

			await act(page, button('block'), { duration: '7 days' });
			await done('block');
			assert.ok((await status()).blocked_until - Date.now() > 6.9 * 86400000);
			assert.match(await text(page), /blocked until .*since .*by oscar/);
			await act(page, button('unblock'));
			await done('unblock');
			assert.strictEqual((await status()).blocked_until, null);
			await act(page, button('reward'), { tokens: '0.5' });
			await done('reward');
			assert.ok((await status()).tokens >= 0.5);
			await act(page, button('reset'));
			await done('reset');
			assert.strictEqual(await status(), undefined);

			await visit(page, '#/review');

			const before = await database.value('SELECT count(*)::int FROM rate_limit_flagged');

			await page.evaluate((of) => document.querySelector(`[data-action=clear_flag][data-focus=${JSON.stringify(`clear_flag user ${of} `)}]`).scrollIntoView(), key);
			await act(page, button('clear_flag'));
			await done('clear_flag');
			assert.strictEqual(await database.value('SELECT count(*)::int FROM rate_limit_flagged'), before - 1);

			await visit(page, '#/policies');
			await act(page, button('shadow', HOSTILE_POLICY, ''));
			await done('shadow', HOSTILE_POLICY, null);
			assert.strictEqual(await database.value('SELECT shadow FROM rate_limit_policies WHERE policy = $1', [HOSTILE_POLICY]), width === 360 || !full);
			await sees(page, '[data-part=policies][data-state]');
			await act(page, button('edit_policy', 'user', ''), { capacity: String(width), comment: '<i>edited</i>' });
			await done('edit_policy', 'user', null);
			assert.strictEqual(await database.value("SELECT capacity::int FROM rate_limit_policies WHERE policy = 'user' AND tier = 'default'"), width);

			await visit(page, '#/actions');
			assert.match(await text(page, 'tbody tr'), new RegExp(`oscaredit policy.*capacity ${width} in place of`));
			await check(page, 'actions');
		});
	}

	test('nothing is done without a reason, nor if somebody thinks better of it', inFull, async (t) => {
		const console = await newConsole(t, database);
		const page = await newWindow(t, 1400, 'light');
		const before = await database.value('SELECT count(*)::int FROM ratelimit_console.actions');

		await logIn(page, console.origin);
		await shown(page);
		await visit(page, keyHash('user:5'));
		await page.focus('[data-action=block]');
		await page.keyboard.press('Enter');
		await sees(page, 'dialog[open]');
		await page.click('dialog button.main');
		assert.match(await text(page, 'dialog'), /A reason is needed/);
		await page.keyboard.press('Escape');
		await holds(page, () => document.querySelector('dialog') === null);
		assert.strictEqual(await page.evaluate(() => document.activeElement.dataset.action), 'block', 'the focus is where it was');
		assert.strictEqual(await database.value('SELECT count(*)::int FROM ratelimit_console.actions'), before);

		// what the database refuses is said in the dialog
		await visit(page, '#/policies');
		await page.evaluate(() => document.querySelector('[data-action=edit_policy]').click());
		await sees(page, 'dialog[open]');
		await page.$eval('#field-refill', (input) => {
			input.value = '0';
		});
		await page.type('#field-reason', 'never again');
		await page.click('dialog button.main');
		await holds(page, () => /refill_0_only_for_a_quota/.test(document.querySelector('dialog').textContent));
	});

	test('everything can be done by keyboard', async (t) => {
		const console = await newConsole(t, database);
		const page = await newWindow(t, 1400, 'light');
		const focused = () => page.evaluate(() => {
			const { activeElement: element } = document;
			const { outlineStyle } = getComputedStyle(element);

			return { what: element.dataset.action ?? element.dataset.page ?? (element.id || element.textContent.trim()), ring: outlineStyle, body: element === document.body };
		});
		const tabTo = async (what, most = 60) => {
			for (let i = 0; i < most; i++) {
				await page.keyboard.press('Tab');

				const { what: at, ring, body } = await focused();

				// between the end of the page and its beginning
				if (body) continue;
				assert.notStrictEqual(ring, 'none', `the focus on ${at} can be seen`);
				if (at === what) return;
			}
			assert.fail(`the keyboard does not reach ${what}`);
		};

		await page.goto(`${console.origin}/`);
		await sees(page, '#field-role');
		await page.keyboard.type('oscar');
		await page.keyboard.press('Tab');
		await page.keyboard.type(PASSWORD);
		await page.keyboard.press('Enter');
		await shown(page);
		await tabTo('search-key');
		await page.keyboard.type('user:7');
		await page.keyboard.press('Enter');
		await holds(page, () => document.title === 'ratelimit: Key' && document.querySelector('main[data-state=shown]'));
		assert.strictEqual((await focused()).what, 'title', 'the focus is at the new page');
		await tabTo('block');
		await page.keyboard.press('Enter');
		await sees(page, 'dialog[open]');
		await tabTo('field-reason', 5);
		await page.keyboard.type('by keyboard');
		await page.keyboard.press('Tab');
		await page.keyboard.press('Enter');
		await holds(page, () => document.querySelector('#said').textContent.startsWith('Done'));
		assert.strictEqual((await lastAction()).reason, 'by keyboard');
		await shown(page);
		await page.evaluate(() => document.activeElement.blur());
		await tabTo('skip');
		await page.keyboard.press('Enter');
		assert.strictEqual((await focused()).what, 'title');
	});

	test('a log says what the policies would have done', inFull, async (t) => {
		const console = await newConsole(t, database);
		const page = await newWindow(t, 360, 'light');
		const file = join(tmpdir(), `log ${process.pid} <b>.tsv`);

		writeFileSync(file, HOSTILE.filter((key) => !/[\t\r\n]/.test(key) && key.trim() === key)
			.flatMap((key) => Array.from({ length: 30 }, (_, i) => `2026-01-01T00:${String(i).padStart(2, '0')}:00Z\t${key}`)).join('\n'));
		await logIn(page, console.origin, 'viola');
		await shown(page);
		await visit(page, '#/policies');
		await (await page.$('#log')).uploadFile(file);
		await sees(page, '[data-part=policies][data-state=log]');
		assert.match(await text(page), /of \d+ denied, of \d+ of \d+ keys/);
		await check(page, 'policies with a log');
		await page.select('#try-source', 'log');
		await page.$eval('#try-capacity', (input) => {
			input.value = '2';
		});
		await page.$eval('#try button', (button) => button.click());
		await sees(page, '[data-part=tried] figure');
		await check(page, 'other numbers on a log');
		await checkWithAxe(page, 'other numbers on a log');
	});

	test('now is live', inFull, async (t) => {
		const console = await newConsole(t, database);
		const page = await newWindow(t, 1400, 'light');

		await logIn(page, console.origin, 'viola');
		await shown(page);
		await visit(page, '#/now');

		let calls = 0;

		await until(async () => {
			await database.query("SELECT count(rl_consume('live ' || i, 2, 0.001, limiter => 'live')) FROM generate_series(1, 100) i, generate_series(1, 4)");
			calls += 400;
			return /live(?!ly)/.test(await text(page)) && await page.$$eval('tbody tr', (rows) => rows.some((row) => row.textContent.includes('live') && Number(row.children[1].textContent.replace(/,/g, '')) > 0 && Number(row.children[2].textContent.replace(/,/g, '')) > 0));
		}, `the page shows some of ${calls} calls`);
		assert.ok(await page.$eval('polyline', (line) => line.getAttribute('points').length > 0));
	});

	test('a lost database and an ended session are messages, not blank pages', inFull, async (t) => {
		const proxy = await newProxy(t);
		const console = await newProcess(t, database, { env: { PGHOST: proxy.options.host, PGPORT: '5432' } });
		const page = await newWindow(t, 360, 'dark');

		await logIn(page, console.origin);
		await shown(page);
		await visit(page, '#/now');
		await proxy.stop();
		await holds(page, () => /cannot be reached/.test(document.querySelector('#problem').textContent));
		assert.match(await text(page), /By limiter/, 'what was there stays');
		await page.evaluate(() => {
			location.hash = '#/review';
		});
		await sees(page, 'main[data-state=problem]');
		assert.match(await text(page), /cannot be reached.*Try again/);
		await checkWithAxe(page, 'a lost database');
		await proxy.start();
		await page.evaluate(() => [...document.querySelectorAll('main button')].find((button) => button.textContent === 'Try again').click());
		await shown(page);

		await console.stop();
		await page.evaluate(() => {
			location.hash = '#/stores';
		});
		await holds(page, () => /console itself cannot be reached/.test(document.querySelector('main').textContent));

		const other = await newConsole(t, database, { idle: 1000 });

		await logIn(page, other.origin);
		await shown(page);
		await sees(page, '#field-role');
		assert.match(await text(page), /session has ended/);
		page.wrong = [];
		await logIn(page, other.origin, 'oscar', 'wrong');
		await holds(page, () => /role or the password is wrong/.test(document.querySelector('main').textContent));
		await checkWithAxe(page, 'a wrong password');
	});
}
