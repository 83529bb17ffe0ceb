/* Now: decisions and denials a second, by limiter, from the differences of what is counted. */
import { el, facts, nameNode, table } from '../dom.js';
import { lines } from '../chart.js';
import { number, time } from '../format.js';

const EVERY = 2000;
const KEPT = 150;		// readings: five minutes
const SHOWN = 100;		// limiters

/* { at, limiters: a map from limiter, or null for all, to its row } */
let readings = [];

const COUNTED = ['allowed', 'denied', 'shadowed'];

/* Counts a second between two readings; 0 if the counts have begun anew. */
function ratesBetween(before, after, limiter) {
	const a = before.limiters.get(limiter);
	const b = after.limiters.get(limiter);
	const seconds = Math.max(0.001, after.at - before.at);

	return Object.fromEntries(COUNTED.map((name) => [name, b ? Math.max(0, ((b[name] ?? 0) - (a?.[name] ?? 0)) / seconds) : 0]));
}

function remember(data) {
	const reading = { at: data.at, limiters: new Map(data.limiters.map((row) => [row.limiter, row])) };
	const last = readings.at(-1);

	// after a while in another page, what was before is of no use
	if (last && (reading.at - last.at > 15 || reading.at <= last.at)) readings = [];
	readings = [...readings, reading].slice(-KEPT);
}

function render(data, { width }) {
	remember(data);

	const all = readings.slice(1).map((reading, i) => ratesBetween(readings[i], reading, null));
	// over some readings, so that figures can be read
	const since = readings.at(-Math.min(readings.length, 4));
	const total = readings.at(-1).limiters.get(null);
	const rateOf = (limiter) => (readings.length > 1 ? ratesBetween(since, readings.at(-1), limiter) : null);
	const rows = data.limiters.filter(({ limiter }) => limiter !== null).map((row) => ({ ...row, rates: rateOf(row.limiter) }))
		.sort((a, b) => (b.allowed ?? 0) + (b.denied ?? 0) - (a.allowed ?? 0) - (a.denied ?? 0));
	const perSecond = (rates, names) => (rates ? number(names.reduce((sum, name) => sum + rates[name], 0)) : '…');
	const now = rateOf(null);

	return [
		facts([
			['Decisions a second', perSecond(now, COUNTED)],
			['Denied a second', el('span', { class: 'denied' }, perSecond(now, ['denied']))],
			['Would be denied, in shadow', el('span', { class: 'shadowed' }, perSecond(now, ['shadowed']))],
			['Living buckets', number((total?.buckets_used ?? 0) + (total?.buckets_in_table ?? 0))],
			['Violations not written yet', number(total?.violations_pending)],
			['Counted since', time(total?.stats_since)],
		]),
		lines({
			caption: 'Decisions a second, all limiters', width, points: KEPT, from: '5 minutes ago', to: 'now',
			series: [
				{ name: 'allowed', kind: 'allowed', values: all.map(({ allowed, shadowed }) => allowed + shadowed) },
				{ name: 'denied', kind: 'denied', values: all.map(({ denied }) => denied) },
			],
		}),
		table('By limiter', [
			{ title: 'Limiter', heading: true, cell: ({ limiter }) => nameNode(limiter) },
			{ title: 'Decisions/s', number: true, cell: ({ rates }) => perSecond(rates, COUNTED) },
			{ title: 'Denied/s', number: true, cell: ({ rates }) => perSecond(rates, ['denied']) },
			{ title: 'Shadow/s', number: true, cell: ({ rates }) => perSecond(rates, ['shadowed']) },
			{ title: 'Allowed', number: true, cell: ({ allowed }) => number(allowed) },
			{ title: 'Denied', number: true, cell: ({ denied }) => number(denied) },
			{ title: 'Living', number: true, cell: (row) => number(row.buckets_used + row.buckets_in_table) },
		], rows.slice(0, SHOWN), 'Nothing has been decided yet.'),
		rows.length > SHOWN ? el('p', { class: 'dim' }, `The ${SHOWN} busiest of ${rows.length} limiters are shown.`) : null,
	];
}

export default { title: 'Now', path: () => '/api/now', every: EVERY, render };
