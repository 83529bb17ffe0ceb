/* Thresholds in force: the settings of the extension. */
import { el, nameNode, table } from '../dom.js';

const FIRST = ['ratelimit.flag_threshold', 'ratelimit.flag_window', 'ratelimit.flag_limiters', 'ratelimit.enabled', 'ratelimit.shadow'];
const CHANGED_BY = { postmaster: 'a restart', sighup: 'a reload', superuser: 'superusers', user: 'anybody', backend: 'a new session', 'superuser-backend': 'a new session' };

const place = ({ name }) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);

function render({ rows }) {
	return [
		table('Settings of the extension, those of flags first', [
			{ title: 'Setting', heading: true, cell: ({ name }) => nameNode(name) },
			{ title: 'Value', cell: ({ setting, unit, pending_restart: pending }) => [nameNode(setting === '' ? '(empty)' : setting), unit ? ` ${unit}` : '',
				pending ? el('span', { class: 'denied' }, ' changes with a restart') : null] },
			{ title: 'Default', cell: ({ boot_val: value, unit }) => [nameNode(value === '' || value === null ? '(empty)' : value), unit ? ` ${unit}` : ''] },
			{ title: 'Changed by', cell: ({ context }) => CHANGED_BY[context] ?? context },
			{ title: 'Set in', cell: ({ source }) => source },
			{ title: 'What it is', cell: ({ short_desc: text }) => text },
		], [...rows].sort((a, b) => place(a) - place(b)), 'The library is not loaded: it is not in shared_preload_libraries.'),
		el('p', { class: 'dim' }, 'What is shown is what counts for your role: a role or a database may have settings of its own.'),
	];
}

export default { title: 'Thresholds', path: () => '/api/thresholds', render };
