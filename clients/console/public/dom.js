/*
 * Elements.  All that comes from elsewhere becomes the text of a node or the value of an
 * attribute, never markup; names of elements and attributes are those in our files.
 */

const SVG = new Set(['svg', 'g', 'path', 'rect', 'line', 'text', 'title', 'polyline']);

/* el('td', { class: 'number', onclick }, child, ...): children are nodes, texts and lists of these. */
export function el(name, attributes = {}, ...children) {
	const element = SVG.has(name) ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);

	for (const [attribute, value] of Object.entries(attributes)) {
		if (typeof value === 'function') element.addEventListener(attribute.slice(2), value);
		else if (value === true) element.setAttribute(attribute, '');
		else if (value !== undefined && value !== null && value !== false) element.setAttribute(attribute, value);
	}
	element.append(...nodesOf(children));
	return element;
}

function nodesOf(children) {
	return children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false)
		.map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/* Control characters, and those that turn or hide text: shown as what they are. */
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff]|[\u{e0000}-\u{e0fff}]/u;

function escaped(character) {
	const code = character.codePointAt(0);

	return el('span', { class: 'escape' }, code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`);
}

/* A key, limiter or other name from outside. */
export function nameNode(text) {
	return el('bdi', { class: 'key' }, [...splitHidden(text)].map((part) => (HIDDEN.test(part) ? escaped(part) : part)));
}

function* splitHidden(text) {
	let plain = '';

	for (const character of text) {
		if (HIDDEN.test(character)) {
			if (plain) yield plain;
			yield character;
			plain = '';
		} else {
			plain += character;
		}
	}
	if (plain) yield plain;
}

/* The same as plain text, for labels. */
export const nameText = (text) => nameNode(text).textContent;

export const keyHref = (key) => `#/key?${new URLSearchParams({ key })}`;

export function keyLink(key, limiter = '') {
	return el('a', { href: keyHref(key), 'data-focus': `key ${limiter} ${key}` }, nameNode(key));
}

/* columns: { title, cell(row), number, heading }.  A row of a phone is a card, so each cell says what it is. */
export function table(caption, columns, rows, empty = 'Nothing.') {
	const cell = ({ title, cell: content, number, heading }, row) => el(heading ? 'th' : 'td', {
		role: heading ? 'rowheader' : 'cell', scope: heading ? 'row' : undefined, class: number ? 'number' : undefined, 'data-column': title,
	}, el('div', {}, content(row)));

	return el('table', { role: 'table' },
		el('caption', {}, caption),
		el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' }, columns.map(({ title, number }) =>
			el('th', { role: 'columnheader', scope: 'col', class: number ? 'number' : undefined }, title)))),
		el('tbody', { role: 'rowgroup' }, rows.length > 0 ? rows.map((row) => el('tr', { role: 'row' }, columns.map((column) => cell(column, row)))) :
			el('tr', { role: 'row' }, el('td', { role: 'cell', colspan: columns.length, class: 'empty dim' }, empty))));
}

/* pairs: [name, value] */
export const facts = (pairs) => el('dl', { class: 'facts' }, pairs.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));

export const message = (text) => el('p', { class: 'message', role: 'alert' }, text);

export const most = (rows, number) => (rows.length >= number ? el('p', { class: 'dim' }, `Only the first ${number} are shown.`) : null);
