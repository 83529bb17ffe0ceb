/* Numbers, times and rules as people read them. */
import { el } from './dom.js';

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

export const number = (value) => (value === null || value === undefined ? 'none' : Math.abs(value) >= 100 || Number.isInteger(value) ? whole.format(value) : short.format(value));

const UNITS = [['day', 86400], ['h', 3600], ['min', 60], ['s', 1]];

export function span(seconds) {
	const [unit, size] = UNITS.find(([, length]) => seconds >= length * 1.5) ?? UNITS.at(-1);
	const count = Math.round(seconds / size);

	return `${count} ${unit}${unit === 'day' && count !== 1 ? 's' : ''}`;
}

const pad = (value) => String(value).padStart(2, '0');

/* In the time of the browser; the time element has the exact one. */
export function clock(date) {
	const now = new Date();
	const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
	const today = date.toDateString() === now.toDateString();

	return `${today ? '' : `${day} `}${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
}

export function time(text) {
	if (text === null || text === undefined) return 'none';
	if (text === 'infinity') return 'never';

	const date = new Date(text);

	// a year that the browser does not know
	if (Number.isNaN(date.getTime())) return text;

	const seconds = (Date.now() - date) / 1000;
	const ago = seconds >= 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;

	return el('time', { datetime: date.toISOString() }, `${clock(date)} (${ago})`);
}

/* "20 at once, 30 a minute" */
export function rule({ capacity, refill, period }) {
	if (capacity === null) return 'none';
	return `${number(capacity)} ${period !== null ? `each ${period}` : refill === 0 ? 'once' : `at once, ${rate(refill)}`}`;
}

/* Tokens a second, in the unit that reads best. */
export function rate(refill) {
	const [unit, size] = [['second', 1], ['minute', 60], ['hour', 3600], ['day', 86400]].find(([, length]) => refill * length >= 1) ?? ['day', 86400];

	return `${number(refill * size)} a ${unit}`;
}
