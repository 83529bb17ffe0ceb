/* Plain charts in SVG.  What they show is also said in words, in the label. */
import { el } from './dom.js';
import { number } from './format.js';

const LEFT = 44;
const BOTTOM = 20;
const TOP = 8;

/* A round number that is not below the largest value. */
function ceiling(value) {
	const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));

	return [1, 2, 5, 10].map((factor) => factor * power).find((round) => round >= value);
}

function frame({ caption, label, width, height, most, from, to, series }, marks) {
	const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - value / most);

	return el('figure', {},
		el('figcaption', {}, caption),
		el('p', { class: 'legend', 'aria-hidden': 'true' }, series.map(({ name, kind }) => el('span', { class: kind }, name))),
		el('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label },
			[0, most / 2, most].map((value) => [
				el('line', { class: 'axis', x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
				el('text', { x: LEFT - 5, y: y(value) + 4, 'text-anchor': 'end' }, number(value))]),
			el('text', { x: LEFT, y: height - 4 }, from),
			el('text', { x: width, y: height - 4, 'text-anchor': 'end' }, to),
			marks(y)));
}

/* series: { name, kind, values }, equally long; the last values are at the right. */
export function lines({ caption, series, points, width, from, to }) {
	const height = 180;
	const most = ceiling(Math.max(1, ...series.flatMap(({ values }) => values)));
	const step = (width - LEFT) / Math.max(1, points - 1);
	const label = `${caption}. ${series.map(({ name, values }) => `${name}: ${number(values.at(-1) ?? 0)} now, at most ${number(Math.max(0, ...values))}`).join('; ')}`;

	return frame({ caption, label, width, height, most, from, to, series }, (y) => series.map(({ kind, values }) => el('g', { class: kind },
		el('polyline', { class: 'line', points: values.map((value, i) => `${(width - (values.length - 1 - i) * step).toFixed(1)},${y(value).toFixed(1)}`).join(' ') }))));
}

/* bars: { name, values }, a value for each of the series, one on top of the other. */
export function bars({ caption, series, bars: all, width, from, to }) {
	const height = 160;
	const sums = all.map(({ values }) => values.reduce((sum, value) => sum + value, 0));
	const most = ceiling(Math.max(1, ...sums));
	const step = (width - LEFT) / Math.max(1, all.length);
	const peak = sums.indexOf(Math.max(...sums));
	const label = `${caption}. ${series.map(({ name }, i) => `${name}: ${number(all.reduce((sum, { values }) => sum + values[i], 0))}`).join('; ')}` +
		`${sums[peak] > 0 ? `; most, ${number(sums[peak])}, at ${all[peak].name}` : ''}`;

	return frame({ caption, label, width, height, most, from, to, series }, (y) => all.map(({ name, values }, i) => {
		let below = 0;

		return values.map((value, j) => {
			const top = y(below + value);
			const rect = value > 0 && el('g', { class: series[j].kind }, el('rect', {
				class: 'bar', x: (LEFT + i * step + 1).toFixed(1), width: Math.max(1, step - 2).toFixed(1), y: top.toFixed(1), height: Math.max(1, y(below) - top).toFixed(1),
			}, el('title', {}, `${name}: ${number(value)} ${series[j].name}`)));

			below += value;
			return rect;
		});
	}));
}

/* The hours up to the last of them, with values from a map of their beginnings. */
export function hoursUpTo(last, count, valuesAt) {
	return Array.from({ length: count }, (_, i) => {
		const hour = new Date(last - (count - 1 - i) * 3600000);

		return { name: `${String(hour.getHours()).padStart(2, '0')}:${String(hour.getMinutes()).padStart(2, '0')}`, values: valuesAt(hour.getTime()) };
	});
}
