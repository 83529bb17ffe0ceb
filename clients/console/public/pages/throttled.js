/* Who is throttled: the recent runs of violations. */
import { keyLink, most, nameNode, table } from '../dom.js';
import { number, time } from '../format.js';
import { actionButtons } from '../actions.js';

function render({ rows }) {
	return [
		table('Recent runs of violations, the last one first', [
			{ title: 'Key', heading: true, cell: ({ key, limiter }) => keyLink(key, limiter) },
			{ title: 'Limiter', cell: ({ limiter }) => nameNode(limiter) },
			{ title: 'Denied', number: true, cell: ({ rejected }) => number(rejected) },
			{ title: 'First', cell: ({ first_seen: at }) => time(at) },
			{ title: 'Last', cell: ({ last_seen: at }) => time(at) },
			{ title: 'Actions', cell: (row) => actionButtons(row, ['reset', 'block']) },
		], rows, 'Nobody is throttled.'),
		most(rows, 500),
	];
}

export default { title: 'Throttled', path: () => '/api/throttled', every: 5000, render };
