/*
 * The page: who is logged in, which part is shown, and when it is read again.
 *
 * A part has title, path(parameters), render(data, context), and perhaps every: the
 * milliseconds after which it is read again.
 */
import { currentSession, get, post, setSession } from './api.js';
import { onceDone } from './actions.js';
import { el, keyHref, message } from './dom.js';
import { clock } from './format.js';
import { loginForm } from './login.js';
import actions from './pages/actions.js';
import key from './pages/key.js';
import now from './pages/now.js';
import offenders from './pages/offenders.js';
import policies from './pages/policies.js';
import review from './pages/review.js';
import stores from './pages/stores.js';
import thresholds from './pages/thresholds.js';
import throttled from './pages/throttled.js';

const PAGES = { now, throttled, offenders, review, policies, stores, thresholds, actions };
const ALL = { ...PAGES, key };

const byId = (id) => document.getElementById(id);
const main = byId('main');
let shown = 0;			// counts what is shown, so that a late answer for something else is dropped
let timer = null;

function route() {
	const [, name = '', query = ''] = /^#\/([a-z]*)(?:\?(.*))?$/s.exec(location.hash) ?? [];

	return { name: Object.hasOwn(ALL, name) ? name : 'now', parameters: new URLSearchParams(query) };
}

function say(text) {
	byId('said').textContent = text;
	setTimeout(() => {
		if (byId('said').textContent === text) byId('said').textContent = '';
	}, 6000);
}

function heading(title, ...more) {
	return el('div', { class: 'top' }, el('h1', { tabindex: '-1', id: 'title' }, title), more);
}

function showLogin(text) {
	shown++;
	clearTimeout(timer);
	setSession(null);
	byId('header').hidden = true;
	document.title = 'ratelimit: Log in';
	main.replaceChildren(loginForm(text, (session) => {
		setSession(session);
		start();
	}));
	byId('field-role').focus();
}

/* Read what the address says, and show it. */
async function show({ automatic = false } = {}) {
	const { name, parameters } = route();
	const page = ALL[name];
	const mine = automatic ? shown : ++shown;

	clearTimeout(timer);
	if (!automatic) {
		document.title = `ratelimit: ${page.title}`;
		for (const link of byId('pages').querySelectorAll('a')) {
			if (link.dataset.page === name) link.setAttribute('aria-current', 'page');
			else link.removeAttribute('aria-current');
		}
		main.replaceChildren(heading(page.title), el('p', { class: 'dim' }, 'Reading …'));
		main.dataset.state = 'reading';
		byId('title').focus();
	}

	let problem = null;

	try {
		const data = await get(page.path(parameters), { automatic });

		if (mine !== shown) return;
		if (!automatic || !isBusy()) render(page, data, parameters);
	} catch (error) {
		if (mine !== shown) return;
		if (error.status === 401 || error.code === 'token') {
			showLogin(error.message);
			return;
		}
		if (error.status === undefined) throw error;
		problem = error;
	}
	showProblem(problem, automatic);
	main.dataset.page = name;
	main.dataset.state = problem ? 'problem' : 'shown';
	if (page.every) timer = setTimeout(() => show({ automatic: true }), page.every);
}

/* What somebody has begun is not taken away. */
const isBusy = () => document.querySelector('dialog') !== null || !document.getSelection().isCollapsed || document.hidden;

function render(page, data, parameters) {
	const focus = document.activeElement?.dataset?.focus;
	const onTitle = document.activeElement?.id === 'title';
	const context = { width: Math.max(280, main.clientWidth - 32), parameters, again: () => show(), get };

	main.replaceChildren(
		heading(page.title, el('p', { class: 'dim' }, `${page.every ? `Read again every ${page.every / 1000} s, last at` : 'Read at'} ${clock(new Date())} `,
			el('button', { type: 'button', 'data-focus': 'again', onclick: () => show() }, 'Read again'))),
		el('div', { id: 'problem' }),
		...[page.render(data, context)].flat(Infinity).filter((node) => node instanceof Node));
	if (onTitle) byId('title').focus({ preventScroll: true });
	else if (focus !== undefined) [...main.querySelectorAll('[data-focus]')].find((element) => element.dataset.focus === focus)?.focus({ preventScroll: true });
}

/* In place of the page, or above what it has shown before. */
function showProblem(problem, automatic) {
	const place = byId('problem');

	if (!problem) {
		place?.replaceChildren();
	} else if (automatic && place) {
		if (place.textContent !== problem.message) place.replaceChildren(message(problem.message));
	} else {
		main.replaceChildren(heading(ALL[route().name].title), el('div', { id: 'problem' }, message(problem.message)),
			el('button', { type: 'button', onclick: () => show() }, 'Try again'));
		byId('title').focus();
	}
}

function start() {
	const { role, database, mayAct } = currentSession();

	byId('header').hidden = false;
	byId('database').textContent = database;
	byId('who').textContent = `${role}${mayAct ? ', operator' : ''}`;
	byId('pages').replaceChildren(...Object.entries(PAGES).map(([name, { title }]) => el('li', {}, el('a', { href: `#/${name}`, 'data-page': name }, title))));
	show();
}

byId('skip').addEventListener('click', (event) => {
	event.preventDefault();
	byId('title')?.focus();
});
byId('search').addEventListener('submit', (event) => {
	event.preventDefault();

	const wanted = byId('search-key').value;

	if (wanted !== '') location.hash = keyHref(wanted);
});
byId('logout').addEventListener('click', async () => {
	await post('/api/logout', {}).catch(() => {});
	showLogin('');
});
window.addEventListener('hashchange', () => {
	if (currentSession() && location.hash.startsWith('#/')) show();
});
onceDone((result) => {
	say(`Done: ${result}.`);
	show();
});

get('/api/session').then((session) => {
	setSession(session);
	start();
}, (error) => showLogin(error.status === 401 || error.code === 'token' ? '' : error.message));
