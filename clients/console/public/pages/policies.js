/* Policies, and what each would have done: on the violations of the last 24 hours, or on a log. */
import { el, facts, keyLink, message, nameNode, nameText, table } from '../dom.js';
import { bars, hoursUpTo } from '../chart.js';
import { number, rule } from '../format.js';
import { post } from '../api.js';
import { actionButtons } from '../actions.js';

const MOST_RULES = 100;		// of a simulation
const PATIENCE = 600000;	// ms; each rule has the timeout of a query

/* The log that somebody has chosen: it stays while pages are read again. */
let log = null;

const ruleOf = ({ limiter, capacity, refill, period }) => ({ limiter, capacity, refill, period });

async function simulate(rules, withLog) {
	const { results } = await post('/api/simulate', { rules, ...(withLog ? { log: log.text } : {}) }, { patience: PATIENCE });

	return results;
}

/* What a rule would have done, in a cell. */
function verdict(result) {
	if (result === undefined) return '…';
	if (result.error !== undefined) return el('span', { class: 'denied' }, result.error);
	if (result.recorded !== undefined) {
		if (result.recorded === 0) return 'no violations';
		return [`${number(result.calls - result.denied)} of ${number(result.calls)} would be let through`,
			result.recorded > result.calls ? el('div', { class: 'dim' }, `${number(result.recorded - result.calls)} more are too many to try`) : null];
	}
	return [`${number(result.denied)} of ${number(result.calls)} denied, of ${number(result.keysDenied)} of ${number(result.keys)} keys`];
}

function resultNodes(result, title, width) {
	if (result.error !== undefined) return [message(result.error)];

	const byHour = new Map(result.hours.map(({ hour, allowed, denied }) => [new Date(hour).getTime(), [allowed, denied]]));
	const last = Math.max(...byHour.keys());

	return [
		facts([
			['Calls', number(result.calls)], ['Allowed', number(result.calls - result.denied)], ['Denied', number(result.denied)],
			['Keys', number(result.keys)], ['Keys denied', number(result.keysDenied)],
		]),
		result.recorded > result.calls ? el('p', { class: 'dim' }, `Of ${number(result.recorded)} violations of ${number(result.recordedKeys)} keys; the keys with the most are left out.`) : null,
		byHour.size === 0 ? null : bars({
			caption: title, width, from: 'first hour', to: 'last hour', series: [{ name: 'allowed', kind: 'allowed' }, { name: 'denied', kind: 'denied' }],
			bars: hoursUpTo(last, Math.min(48, Math.round((last - Math.min(...byHour.keys())) / 3600000) + 1), (hour) => byHour.get(hour) ?? [0, 0]),
		}),
		table('Most denied', [
			{ title: 'Key', heading: true, cell: ({ key }) => keyLink(key, 'simulated') },
			{ title: 'Denied', number: true, cell: ({ denied }) => number(denied) },
		], result.mostDenied, 'Nothing would be denied.'),
	];
}

const limiterOf = (tier) => tier.limiter;

function policiesTable(rows, results, logResults) {
	const shown = rows.map((row, i) => ({ ...row, result: results?.[i], logResult: logResults?.[i] }));

	return table('Tiers of policies', [
		{ title: 'Limiter', heading: true, cell: ({ limiter }) => nameNode(limiter) },
		{ title: 'Rule', cell: rule },
		{ title: 'State', cell: ({ enabled, shadow, initial, exceptions }) => [
			enabled ? (shadow ? el('span', { class: 'badge shadowed' }, 'shadow') : 'denies') : el('span', { class: 'badge denied' }, 'off'),
			initial === null ? null : el('div', { class: 'dim' }, `begins with ${number(initial)}`),
			exceptions === 0 ? null : el('div', { class: 'dim' }, `${number(exceptions)} ${exceptions === 1 ? 'exception' : 'exceptions'}`)] },
		{ title: 'Of the violations of 24 h', cell: ({ result }) => verdict(result) },
		...(logResults ? [{ title: 'Of the log', cell: ({ logResult }) => verdict(logResult) }] : []),
		{ title: 'Comment', cell: ({ comment }) => (comment === null ? '' : nameNode(comment)) },
		{ title: 'Actions', cell: (row) => actionButtons(row, ['edit_policy', 'shadow']) },
	], shown, 'There are no policies.');
}

/* The form to try other numbers. */
function tryForm(rows, width) {
	const select = el('select', { id: 'try-limiter', onchange: fill }, rows.map((row, i) => el('option', { value: i }, nameText(limiterOf(row)))));
	const capacity = el('input', { id: 'try-capacity', type: 'number', min: 0, step: 'any', required: true });
	const refill = el('input', { id: 'try-refill', type: 'number', min: 0, step: 'any' });
	const period = el('input', { id: 'try-period' });
	const source = el('select', { id: 'try-source' }, el('option', { value: 'violations' }, 'the violations of 24 h'), el('option', { value: 'log' }, 'the log'));
	const button = el('button', { class: 'main' }, 'Try');
	const place = el('div', { 'aria-live': 'polite', 'data-part': 'tried' });
	const field = (input, text) => el('div', { class: 'field' }, el('label', { for: input.id }, text), input);

	function fill() {
		const row = rows[select.value];

		capacity.value = row.capacity;
		refill.value = row.refill ?? '';
		period.value = row.period ?? '';
	}

	async function submit(event) {
		event.preventDefault();
		if (source.value === 'log' && !log) {
			place.replaceChildren(message('Choose a log first.'));
			return;
		}
		button.disabled = true;
		place.replaceChildren(el('p', { class: 'dim' }, 'Deciding …'));
		try {
			const [result] = await simulate([{
				limiter: limiterOf(rows[select.value]), capacity: Number(capacity.value),
				refill: refill.value === '' ? null : Number(refill.value), period: period.value === '' ? null : period.value,
			}], source.value === 'log');

			place.replaceChildren(...resultNodes(result, 'What the rule would have decided', width).filter(Boolean));
		} catch (error) {
			place.replaceChildren(message(error.message));
		}
		button.disabled = false;
	}

	if (rows.length > 0) fill();
	return [
		el('h2', {}, 'Try other numbers'),
		el('form', { class: 'wide', id: 'try', onsubmit: submit }, field(select, 'Limiter'), field(capacity, 'Capacity'), field(refill, 'Refill a second'),
			field(period, 'or period'), field(source, 'On'), el('div', { class: 'field' }, button)),
		place,
	];
}

function render({ rows }, { width }) {
	const tiers = rows.slice(0, MOST_RULES);
	const place = el('div', { 'data-part': 'policies' }, policiesTable(rows));
	const problem = el('div', { 'aria-live': 'polite' });
	const file = el('input', { id: 'log', type: 'file', accept: '.tsv,.csv,.txt,.log,text/*', onchange: choose });
	const chosen = el('p', { class: 'dim', 'data-part': 'log' }, log ? ['The log is ', nameNode(log.name)] : 'No log is chosen.');
	let results;
	let logResults;

	async function decide(withLog) {
		try {
			const found = tiers.length > 0 ? await simulate(tiers.map(ruleOf), withLog) : [];

			if (withLog) logResults = found;
			else results = found;
			problem.replaceChildren();
		} catch (error) {
			problem.replaceChildren(message(error.message));
			if (!withLog) results = tiers.map(() => ({ error: 'not known' }));
		}

		const focus = document.activeElement?.dataset?.focus;

		place.replaceChildren(policiesTable(rows, results, logResults));
		if (focus !== undefined) [...place.querySelectorAll('[data-focus]')].find((element) => element.dataset.focus === focus)?.focus({ preventScroll: true });
		place.dataset.state = withLog ? 'log' : 'violations';
	}

	async function choose() {
		const [given] = file.files;

		if (!given) return;
		if (given.size > 10 * 1024 * 1024) {
			problem.replaceChildren(message('The log has more than 10 MB. Take a part of it.'));
			return;
		}
		log = { name: given.name, text: await given.text() };
		chosen.replaceChildren('The log is ', nameNode(log.name));
		await decide(true);
	}

	decide(false).then(() => log && decide(true));
	return [
		place, problem,
		el('p', { class: 'dim' }, 'Violations are the calls that were denied. So they can only say how many of these a rule would let through. A log has all calls.'),
		el('h2', {}, 'What they would have done to a log'),
		el('div', { class: 'field' }, el('label', { for: 'log' }, 'A log: a line for each call, with time, key and perhaps cost, between tabs or commas'), file, chosen),
		rows.length > 0 ? tryForm(rows, width) : null,
	];
}

export default { title: 'Policies', path: () => '/api/policies', render };
