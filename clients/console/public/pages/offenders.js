/* Top offenders: who violates most, written and pending violations together. */
import { el, keyLink, most, nameNode, table } from '../dom.js';
import { number, time } from '../format.js';
import { actionButtons } from '../actions.js';

function render({ rows }) {
	return [
		table('Violations by key, the most of the last hour first', [
			{ title: 'Key', heading: true, cell: ({ key, limiter }) => (key === '(other)' ? 'further keys' : keyLink(key, limiter)) },
			{ title: 'Limiter', cell: ({ limiter }) => nameNode(limiter) },
			{ title: 'Last hour', number: true, cell: ({ last_hour: count }) => number(count) },
			{ title: 'Last day', number: true, cell: ({ last_day: count }) => number(count) },
			{ title: 'All', number: true, cell: ({ total }) => number(total) },
			{ title: 'Last seen', cell: ({ last_seen: at }) => time(at) },
			{ title: 'Flag', cell: ({ flagged }) => (flagged ? el('span', { class: 'badge denied' }, 'flagged') : 'none') },
			{ title: 'Actions', cell: (row) => (row.key === '(other)' ? null : actionButtons(row, [...(row.flagged ? ['clear_flag'] : []), 'block'])) },
		], rows, 'There are no violations.'),
		most(rows, 500),
	];
}

export default { title: 'Offenders', path: () => '/api/offenders', render };
