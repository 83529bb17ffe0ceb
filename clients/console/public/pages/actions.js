/* The actions of operators, as the database has written them down. */
import { el, keyLink, most, nameNode, table } from '../dom.js';
import { time } from '../format.js';

const NAMES = { clear_flag: 'clear flag', edit_policy: 'edit policy' };

function outcome({ done, done_at: at, result }) {
	if (at === null) return el('span', { class: 'denied' }, 'asked for; not known to be done');
	return done ? nameNode(result) : el('span', { class: 'denied' }, 'failed: ', nameNode(result));
}

/* What the action was given, without what is in columns of its own. */
function detailsOf({ action, details: { before, policy, tier, ...rest } }) {
	const given = action === 'edit_policy' ? rest.set ?? {} : rest;

	return Object.entries(given).map(([name, value]) => el('div', {}, `${name} `, nameNode(String(value)),
		before && name in before ? [' in place of ', nameNode(String(before[name]))] : null));
}

export function actionsTable(caption, rows) {
	return table(caption, [
		{ title: 'When', heading: true, cell: ({ asked_at: at }) => time(at) },
		{ title: 'Who', cell: ({ who }) => nameNode(who) },
		{ title: 'What', cell: (row) => [NAMES[row.action] ?? row.action, detailsOf(row)] },
		{ title: 'Limiter', cell: ({ limiter }) => nameNode(limiter) },
		{ title: 'Key', cell: ({ id, key }) => (key === null ? 'all' : keyLink(key, `action ${id}`)) },
		{ title: 'Reason', cell: ({ reason }) => nameNode(reason) },
		{ title: 'Result', cell: outcome },
	], rows, 'Nothing was done.');
}

const render = ({ rows }) => [actionsTable('Actions, the last one first', rows), most(rows, 500)];

export default { title: 'Actions', path: () => '/api/actions', render };
