/* The review queue: keys that are flagged, for a person to look at. */
import { el, keyLink, nameNode, table } from '../dom.js';
import { number, time } from '../format.js';
import { actionButtons } from '../actions.js';

function render({ rows, total }) {
	return [
		el('p', {}, total === 0 ? 'Nothing is to be reviewed.' : `${number(total)} ${total === 1 ? 'key is' : 'keys are'} flagged. A flag denies nothing.`),
		table('Flagged, the last one first', [
			{ title: 'Key', heading: true, cell: ({ key, limiter }) => [keyLink(key, limiter), ' ', el('span', { class: 'badge denied' }, 'flagged')] },
			{ title: 'Limiter', cell: ({ limiter }) => nameNode(limiter) },
			{ title: 'Flagged', cell: ({ flagged_at: at }) => time(at) },
			{ title: 'Violations', number: true, cell: ({ rejected }) => number(rejected) },
			{ title: 'Why', cell: ({ reason }) => nameNode(reason) },
			{ title: 'Last denied', cell: ({ last_seen: at }) => time(at) },
			{ title: 'Actions', cell: (row) => actionButtons(row, ['clear_flag', 'block']) },
		], rows, 'The queue is empty.'),
		rows.length < total ? el('p', { class: 'dim' }, `The last ${rows.length} are shown.`) : null,
	];
}

export default { title: 'Review', path: () => '/api/review', render };
