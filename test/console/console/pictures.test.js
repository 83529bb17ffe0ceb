/* The pictures of docs/console.md, if RATELIMIT_SCREENSHOTS says where they go. */
'use strict';

const { join } = require('node:path');
const { test } = require('node:test');
const { PASSWORD, newConsole, newDatabase } = require('./support');
const { holds, launch, sees, shown, visit } = require('./browser');

const folder = process.env.RATELIMIT_SCREENSHOTS;

if (!folder) {
	test('pictures', { skip: 'nobody wants them' });
} else {
	const database = newDatabase('shop');

	test('pictures', async (t) => {
		// the calls of a flush are those of a minute, as they usually are
		await database.query("ALTER SYSTEM SET ratelimit.flush_interval = '60s'");
		await database.query('SELECT pg_reload_conf()');
		t.after(async () => {
			await database.query('ALTER SYSTEM RESET ratelimit.flush_interval');
			await database.query('SELECT pg_reload_conf()');
		});
		await database.query("SET ratelimit.gateway_name = 'api-1'");
		await database.query(`INSERT INTO rate_limit_policies (policy, tier, capacity, refill, period, quota, shadow, comment) VALUES
			('user', 'default', 20, 0.5, NULL, false, false, 'each account'), ('user', 'day', 5000, NULL, 'day Europe/Berlin', false, true, 'to be tried'),
			('login_ip', 'default', 5, rl_per(5, '1 minute'), NULL, false, false, 'each address'), ('trial', 'default', 100, 0, NULL, true, false, NULL)`);
		await database.query(`SELECT count(rl_consume_policy('user', key)) FROM (VALUES ('alice', 12), ('bob', 40), ('carol', 25), ('mallory', 1500)) v (key, calls), generate_series(1, calls);
			SELECT count(rl_consume_policy('login_ip', key)) FROM (VALUES ('203.0.113.7', 60), ('2001:db8::bad', 90), ('198.51.100.23', 9)) v (key, calls), generate_series(1, calls);
			SELECT count(rl_consume_policy('user', 'user:' || i)) FROM generate_series(1, 3000) i;
			SELECT rl_flag('mallory', 'user', '1480 violations within 10 minutes'), rl_flag('2001:db8::bad', 'login_ip', 'asked for by legal');
			SELECT rl_flush()`);
		// violations of hours that have passed
		await database.query(`INSERT INTO rate_limit_violations (gateway_name, total_count, details, created_at)
			SELECT 'api-1', n, jsonb_build_object('mallory:user', n), now() AT TIME ZONE 'UTC' - h * interval '1 hour'
			FROM (SELECT h, (200 + 150 * sin(h / 4.0) + h * 37 % 90)::int AS n FROM generate_series(1, 46) h WHERE h % 11 < 8) v`);

		const browser = await launch();
		const console = await newConsole(t, database);

		t.after(() => browser.close());

		const page = await browser.newPage();
		const picture = async (name, height = 560) => {
			await page.setViewport({ width: page.viewport().width, height });
			await page.screenshot({ path: join(folder, `${name}.png`) });
		};

		await page.setViewport({ width: 1000, height: 560 });
		await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'light' }]);
		await page.goto(`${console.origin}/`);
		await sees(page, '#field-role');
		await page.type('#field-role', 'oscar');
		await page.type('#field-password', PASSWORD);
		await page.keyboard.press('Enter');
		await shown(page, 'now');

		// some traffic for the live page
		for (let i = 0; i < 12; i++) {
			await database.query("SELECT count(rl_consume_policy('user', 'live:' || k)) FROM generate_series(1, $1) k, generate_series(1, 30)", [20 + 10 * (i % 5)]);
			await holds(page, (text) => document.querySelector('.top .dim').textContent !== text, await page.$eval('.top .dim', (element) => element.textContent));
		}
		await picture('now', 700);
		for (const name of ['throttled', 'offenders', 'review', 'policies', 'stores', 'thresholds']) {
			await visit(page, `#/${name}`);
			await picture(name);
		}
		await visit(page, '#/key?key=mallory');
		await page.evaluate(() => document.querySelector('[data-action=block]').click());
		await sees(page, 'dialog[open]');
		await page.type('#field-reason', 'Scrapes the catalogue, see ticket 4711');
		await picture('block');
		await page.click('dialog button.main');
		await holds(page, () => document.querySelector('dialog') === null);
		await visit(page, '#/actions');
		await picture('actions', 420);
		await visit(page, '#/key?key=mallory');
		await holds(page, () => document.querySelector('#said').textContent === '');
		await picture('key', 1080);

		// a phone, in the dark
		await page.setViewport({ width: 360, height: 720 });
		await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
		await visit(page, '#/now');
		await picture('phone', 720);
	});
}
