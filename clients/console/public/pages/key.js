/* One key: its buckets in every limiter, its violations by hour, its blocks and flags. */
import { el, facts, message, nameNode, table } from '../dom.js';
import { bars, hoursUpTo } from '../chart.js';
import { number, rule, time } from '../format.js';
import { actionButtons } from '../actions.js';
import { actionsTable } from './actions.js';

const HOURS = 48;

/* Since when is it blocked?  The extension knows only until when; our own actions know the rest. */
function blockedSince(actions, limiter) {
	const last = actions.find(({ action, done, limiter: of }) => done && of === limiter && (action === 'block' || action === 'unblock'));

	return last?.action === 'block' ? [', since ', time(last.done_at), ', by ', nameNode(last.who)] : ', not by this console';
}

function tokensOf({ tokens, capacity, period, exception }) {
	// of a period that is only counted, nobody has said how many it allows
	const text = tokens === null ? (period === null ? 'full' : 'counted') : `${number(tokens)} of ${number(capacity)}`;

	return [text, exception ? el('div', { class: 'dim' }, `by exception ${exception}`) : null];
}

function buckets({ key, data }) {
	const living = data.buckets.map(({ limiter, period }) => JSON.stringify([limiter, period]));
	// buckets of policies that are full are not living, but somebody may want to see or block them
	const full = data.policies.filter(({ limiter, period }) => !living.includes(JSON.stringify([limiter, period])));
	const rows = [
		...data.buckets,
		...full.map((tier) => ({ ...tier, full_at: null, store: null })),
	];

	return table('Its buckets', [
		{ title: 'Limiter', heading: true, cell: ({ limiter }) => nameNode(limiter) },
		{ title: 'Tokens', cell: tokensOf },
		{ title: 'Rule', cell: rule },
		{ title: 'Full', cell: ({ full_at: at }) => time(at) },
		{ title: 'Blocked', cell: ({ blocked_until: until, limiter }) => (until === null ? 'no' :
			[el('span', { class: 'badge denied' }, 'blocked'), ' until ', time(until), blockedSince(data.actions, limiter)]) },
		{ title: 'Store', cell: ({ store }) => store ?? 'none' },
		{ title: 'Actions', cell: (row) => actionButtons({ limiter: row.limiter, key, period: row.period },
			[...(row.blocked_until === null ? ['block'] : ['unblock', 'block']), 'reset', ...(row.period === null ? ['reward'] : [])]) },
	], rows, 'It has no bucket that is not full, and no policy has one for it.');
}

function hours({ now, rows }, width) {
	const counts = new Map();
	const last = new Date(now).getTime();

	for (const { hour, count } of rows) counts.set(new Date(hour).getTime(), (counts.get(new Date(hour).getTime()) ?? 0) + count);
	return bars({
		caption: 'Violations by hour', width, from: `${HOURS} hours ago`, to: 'now', series: [{ name: 'denied', kind: 'denied' }],
		bars: hoursUpTo(last, HOURS, (hour) => [counts.get(hour) ?? 0]),
	});
}

function render(data, { parameters, width, get }) {
	const key = parameters.get('key') ?? '';
	const flagged = data.flags.filter(({ cleared_at: at }) => at === null);
	const blocked = data.buckets.filter(({ blocked_until: until }) => until !== null);
	const chart = el('div', { 'data-part': 'hours' }, el('p', { class: 'dim' }, 'Reading the violations …'));

	// they may take longer than the rest, which does not wait for them
	get(`/api/hours?${new URLSearchParams({ key })}`, { automatic: true }).then(
		(answer) => chart.replaceChildren(hours(answer, width)),
		(error) => chart.replaceChildren(message(`The violations by hour are missing. ${error.message}`)));

	return [
		el('p', {}, nameNode(key), ' ', flagged.length > 0 ? el('span', { class: 'badge denied' }, 'flagged') : null,
			' ', blocked.length > 0 ? el('span', { class: 'badge denied' }, 'blocked') : null),
		facts([
			['Flagged since', flagged.length > 0 ? time(flagged[0].flagged_at) : 'not flagged'],
			['Blocked until', blocked.length > 0 ? time(blocked[0].blocked_until) : 'not blocked'],
			['Denied recently', number(data.episodes.reduce((sum, { rejected }) => sum + rejected, 0))],
			['Not written yet', number(data.pending.reduce((sum, { count }) => sum + count, 0))],
		]),
		buckets({ key, data }),
		chart,
		table('Its flags', [
			{ title: 'Limiter', heading: true, cell: ({ limiter }) => nameNode(limiter) },
			{ title: 'Flagged', cell: ({ flagged_at: at }) => time(at) },
			{ title: 'Why', cell: ({ reason }) => nameNode(reason) },
			{ title: 'Cleared', cell: ({ cleared_at: at }) => (at === null ? 'no' : time(at)) },
			{ title: 'Actions', cell: (row) => (row.cleared_at === null ? actionButtons({ limiter: row.limiter, key }, ['clear_flag']) : null) },
		], data.flags, 'It has never been flagged.'),
		actionsTable('What was done about it', data.actions),
	];
}

export default { title: 'Key', path: (parameters) => `/api/key?${new URLSearchParams({ key: parameters.get('key') ?? '' })}`, render };
