/* Stores and workers: how full memory is, what is in the table, and how writing goes. */
import { el, facts, message, nameNode, table } from '../dom.js';
import { bars } from '../chart.js';
import { number, time } from '../format.js';

function render({ total, partitions, workers }, { width }) {
	const sum = (name) => partitions.reduce((all, partition) => all + partition[name], 0);
	const spilled = partitions.filter((partition) => partition.spilled);
	const slots = sum('slots');

	return [
		total.last_error === null ? null : message(`The worker has failed, last at ${total.last_error_at}: ${total.last_error}`),
		spilled.length === 0 ? null : message(`${spilled.length} of ${partitions.length} partitions have spilled: new buckets of theirs are in the table, which is slower.`),
		facts([
			['Memory, full to', slots > 0 ? `${number(100 * sum('living') / slots)} %` : 'no shared memory'],
			['Buckets in memory', `${number(total.buckets_used)} of ${number(slots)}`],
			['Buckets in the table', number(total.buckets_in_table)],
			['Decided in the table', number(total.decided_in_table)],
			['Evicted', number(total.buckets_evicted)],
			['Partitions spilled', `${spilled.length} of ${partitions.length}`],
			['Violations pending', number(total.violations_pending)],
			['Violations written', number(total.violations_flushed)],
			['Violations lost', number(total.violations_lost)],
			['Last flush', time(total.last_flush)],
			['Flushes failed', number(total.flush_failures)],
			['Last error', total.last_error === null ? 'none' : time(total.last_error_at)],
		]),
		slots === 0 ? null : bars({
			caption: 'Living buckets by partition', width, from: 'first partition', to: 'last partition',
			series: [{ name: 'in memory', kind: 'allowed' }, { name: 'in memory, spilled', kind: 'denied' }],
			bars: partitions.map((partition) => ({ name: `partition ${partition.partition}`,
				values: partition.spilled ? [0, partition.living] : [partition.living, 0] })),
		}),
		table('Workers', [
			{ title: 'Process', heading: true, cell: ({ kind }) => nameNode(kind) },
			{ title: 'Database', cell: ({ database }) => nameNode(database ?? 'all') },
			{ title: 'Since', cell: ({ since }) => time(since) },
			{ title: 'Waits for', cell: ({ waits_for: event }) => event ?? 'nothing, it works' },
			{ title: 'Pid', number: true, cell: ({ pid }) => String(pid) },
		], workers, 'No worker of the extension runs.'),
		el('p', { class: 'dim' }, 'Workers of a database come and go; the launcher stays.'),
	];
}

export default { title: 'Stores', path: () => '/api/stores', every: 5000, render };
